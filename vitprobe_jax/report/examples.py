"""Images with what templates found on them, kept beside the results so that a report needs neither data nor backbones."""

import dataclasses
import io
import json
from collections.abc import Mapping
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath
from jaxtyping import UInt8

from vitprobe_jax.atomic import write_whole
from vitprobe_jax.errors import InputError
from vitprobe_jax.types import Rule, Token

NEGATIVE, POSITIVE, LEFT_OUT = 0, 1, 2
"""Values of `Example.truth`: another concept of its category, the concept, nothing of its category."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    """What one template found on one held-out image.

    Attributes:
        kind: why this image: `coverage`, the one that the concept covers most of; `iou`, one of those where this template
            agrees best with the truth.
        backbone: of the template.
        layer: its block.
        token: its token.
        rule: its rule.
        shots: support images of a cosine template, of which the first trial is shown; None for hyperplanes.
        concept: label number.
        name: of the concept.
        category: of the concept.
        image: name of the image, a key of `Examples.images`.
        iou: intersection over union of found and true patches, among those that take part; in [0, 1].
        truth: of every patch: `NEGATIVE`, `POSITIVE` or `LEFT_OUT`.
        found: of every patch: 1 where the template is positive.
    """

    kind: Literal["coverage", "iou"]
    backbone: str
    layer: int
    token: Token
    rule: Rule
    shots: int | None
    concept: int
    name: str
    category: str
    image: str
    iou: float
    truth: UInt8[np.ndarray, "rows columns"]
    found: UInt8[np.ndarray, "rows columns"]


@dataclasses.dataclass(frozen=True)
class Examples:
    """All examples of a results folder.

    Attributes:
        rows: by kind, backbone, rule and concept; `iou` ones of a template from the best image down.
        images: JPEG files of the images as the backbone saw them, by name.
    """

    rows: tuple[Example, ...]
    images: Mapping[str, bytes]
