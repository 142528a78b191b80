"""The axis glossary and the few types that every room shares.

Axis letters, in jaxtyping signatures and as suffixes in dense maths:

    B  image of a batch            D  feature
    I  image of a split            K  concept
    T  token: prefix, then patches L  layer
    P  patch (row-major)           H  head
    R  row of an image: its patches, or one global row     S  shots
    N  row of a feature table, N = I * R                   M  label slot of a row
"""

import dataclasses
from typing import Literal, get_args

Token = Literal["q", "k", "v", "x1", "xn", "x2", "q_rotated", "k_rotated", "x2_raw"]
"""A token that can be probed. `x2` is the final norm applied to the block's output, `x2_raw` that output itself; `q_rotated`
and `k_rotated` are queries and keys after RoPE, which equal `q` and `k` in models without it."""

Intermediate = Literal["q", "k", "v", "x1", "xn", "x2_raw", "x2", "attn", "q_rotated", "k_rotated"]
"""All that can be taken from a block: the tokens, the un-normalised output and the attention maps."""

Task = Literal["segmentation", "classification"]
Rows = Literal["segmentation", "classification", "pools"]
"""The rows of an image: those of a task, or the two that may stand for all of it, [CLS] and the mean of its patches."""

Rule = Literal["hyperplane", "hyperplane_paper", "cosine", "cosine_centered"]
"""How a template decides. `hyperplane` is a logistic regression at its minimum, `hyperplane_paper` the same regression where
the paper's SGD leaves it; `cosine_centered` is the cosine rule on features less the mean of the training rows."""

Evaluation = Literal["patch", "image", "pixel"]
"""What a metric counts: patches (segmentation), images (classification), or pixels under score maps that were upsampled."""

Split = Literal["train", "val"]
FeatureNorm = Literal["none", "center", "standardize", "l2"]
PatchLabel = Literal["majority", "nearest"]

TOKENS: tuple[Token, ...] = ("q", "k", "v", "x1", "xn", "x2")
"""The six tokens of the study, which every model has."""
ALL_TOKENS: tuple[Token, ...] = get_args(Token)
INTERMEDIATES: tuple[Intermediate, ...] = get_args(Intermediate)
TASKS: tuple[Task, ...] = get_args(Task)
RULES: tuple[Rule, ...] = get_args(Rule)
HYPERPLANE_RULES: tuple[Rule, ...] = ("hyperplane", "hyperplane_paper")
EVALUATIONS: tuple[Evaluation, ...] = get_args(Evaluation)
SPLITS: tuple[Split, ...] = get_args(Split)
FEATURE_NORMS: tuple[FeatureNorm, ...] = get_args(FeatureNorm)
PATCH_LABELS: tuple[PatchLabel, ...] = get_args(PatchLabel)


@dataclasses.dataclass(frozen=True, order=True)
class Concept:
    """A visual concept: what a probe decides about.

    A label of two categories is two concepts; `(number, category)` is the identity. A sweep probes one of them unless asked
    for all (`Dataset.primary_concepts`).

    Attributes:
        number: the label number of the data set, at least 1.
        name: what people call it.
        category: `object`, `part`, `material`, `scene`, `texture`, `color`, `class`, ...
    """

    number: int
    name: str
    category: str
