"""Published numbers of study 3 beside those of a run, and what differs between the two.

A number of the run is that of the same part, representation and measure at the paper's block, or else at the last measured
one, at its best rate. A run of any data set is set beside the paper's ImageNet-1k, with a caveat where it is another one;
numbers of several labels an image are not compared. For a model of the paper stands the run's trained backbone of the same
family and size; of a family's other sizes, the paper's ViT-B or the only one that it has.

Each published number states its settings (`facts.Fact.protocol`), and every one that differs in the run is a sentence.
"""

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from vitprobe_jax.report.aggregation.facts import (
    CLASSES,
    EPOCHS,
    IMAGES,
    MODELS,
    OTHER_DATA,
    SGD_ALONE,
    TRAINING_IMAGES,
    Fact,
    facts,
)
from vitprobe_jax.report.aggregation.representations import title
from vitprobe_jax.report.measured.paper import PaperComparison, compare, judged, stand_ins, weights_caveats
from vitprobe_jax.report.measured.rows import PartTable, Row
from vitprobe_jax.report.sentences import listed
from vitprobe_jax.report.settings import OneOf, differing_protocol


class _Pair(NamedTuple):
    """A published number and the run's."""

    part: PartTable
    fact: Fact
    row: Row


def compare_with_paper(parts: Sequence[PartTable], config: Mapping) -> PaperComparison:
    """Sets the published numbers of study 3 beside a run's.

    Args:
        parts: of the run.
        config: every flag as resolved, and `backbone_files`, the file that each backbone was converted from; what is not in
            it is not checked.
    """
    chosen = stand_ins(parts, MODELS)
    published = facts()
    pairs = [
        _Pair(part, fact, row)
        for part in parts
        for fact in published
        if fact.part == part.part and (row := _find(part, fact, chosen)) is not None
    ]
    by_place = {(pair.part.part, pair.part.dataset, pair.fact.words): pair.row for pair in pairs}
    return compare(
        "cls",
        parts,
        published,
        find=lambda part, fact: by_place.get((part.part, part.dataset, fact.words)),
        caveats=lambda rows: _caveats(parts, pairs, chosen, config),
    )


def _find(part: PartTable, fact: Fact, chosen: Mapping[str, str]) -> Row | None:
    """The run's number of a published one; of a part on one data set; of the last block where the paper's is not there."""
    if fact.model not in chosen:
        return None
    equal = {name: value for name in ("method", "setting") if (value := getattr(fact, name)) is not None}
    rows = part.rows(fact.measure, layers="all", backbone=chosen[fact.model], **equal)
    at_block = [row for row in rows if row.layer == fact.layer]
    return max(at_block or rows, key=lambda row: -1 if row.layer is None else row.layer, default=None)


def _caveats(
    parts: Sequence[PartTable], pairs: Sequence[_Pair], chosen: Mapping[str, str], config: Mapping
) -> list[str]:
    shown = {pair.row.backbone for pair in pairs}
    differing, unknown = weights_caveats(chosen, MODELS, shown, config.get("backbone_files") or {})
    larger = sorted({name for part in parts for name, family in part.trained.items() if family in OTHER_DATA})
    if larger:
        unknown.append(
            f"{listed(larger)}: not compared; pretrained on ImageNet-21k, the paper's supervised ViT on ImageNet-1k alone."
        )
    for dataset in dict.fromkeys(pair.part.dataset for pair in pairs):
        own = _other_data(dataset, [pair for pair in pairs if pair.part.dataset == dataset])
        differing += own
        if not own:
            unknown.append(f"Whether images and labels of {dataset} are those of ImageNet-1k cannot be seen from here.")
    differing += _other_blocks(pairs, config)
    differing += _other_settings(pairs, config)
    differing += _other_attention(parts, pairs, config)
    if any(pair.fact.is_trained for pair in pairs):
        unknown.append("The paper averages 3 seeds; which ones is not known.")
    if any(pair.fact.method in SGD_ALONE for pair in pairs):
        unknown.append("Images of a step and learning rate of the paper's SA-AbMILP are not stated (Appendix C.2).")
    return judged(
        differing,
        unknown,
        "the paper's numbers come from ImageNet-1k, with official weights and classifiers of its own.",
    )


def _other_data(dataset: str, pairs: Sequence[_Pair]) -> list[str]:
    """Sentences about the images of a data set: those held out, those trained on, and the number of classes."""
    sentences, fewest = [], min(pair.row.count for pair in pairs)
    if any(pair.row.count != IMAGES for pair in pairs):
        sentences.append(
            f"Other data: {dataset}, over {fewest:,} held-out images at least; the paper's are ImageNet-1k's {IMAGES:,}."
        )
    tables = {pair.part.part: pair.part for pair in pairs if pair.fact.is_trained}
    for row in (row for part in tables.values() for row in part.rows("classes", layers="all")):
        if (row.value, row.count) != (CLASSES, TRAINING_IMAGES):
            sentences.append(
                f"Other data: heads are trained on {row.count:,} images of {row.value:,.0f} classes of {dataset}; "
                f"ImageNet-1k has {TRAINING_IMAGES:,} of {CLASSES:,}."
            )
    return list(dict.fromkeys(sentences))


def _other_blocks(pairs: Sequence[_Pair], config: Mapping) -> list[str]:
    """A sentence for each model whose numbers are of another block than the paper's.

    A backbone of another name may have any depth: of it the flag alone says whether the last block was measured.
    """
    sentences = []
    for _, fact, row in pairs:
        model = MODELS[fact.model]
        if row.backbone not in model.names:
            if fact.part != "attention":
                sentences += differing_protocol(config, {"layers": OneOf(("last", "all"))})
        elif row.layer not in (None, fact.layer):
            sentences.append(
                f"Other protocol: {row.backbone} is probed at block {row.layer}, the paper's {model.title} at block "
                f"{fact.layer}, counted from 0 (add {fact.layer} to --layers)."
            )
    return list(dict.fromkeys(sentences))


def _other_settings(pairs: Sequence[_Pair], config: Mapping) -> list[str]:
    """A sentence for each setting of the compared numbers that differs in the run."""
    sentences = []
    for _, fact, row in pairs:
        # Of several tokens in a run one is compared: not what the flag names, but that of the row.
        own = {"tokens": [row.token]} if row.token is not None else {}
        subject = f"for {title(fact.method)}" if fact.method in SGD_ALONE else ""
        sentences += differing_protocol(dict(config) | own, fact.protocol, subject)
    sizes = {pair.fact.model.rpartition("_")[2] for pair in pairs if pair.fact.is_trained}
    if sizes and config.get("train_list"):
        sentences.append("Other protocol: heads are trained on the images of --train_list alone, the paper's on all.")
    wanted, epochs = sorted({EPOCHS[size] for size in sizes}, reverse=True), config.get("epochs")
    if epochs and wanted and wanted != [epochs]:
        sentences.append(f"Other protocol: epochs is {epochs}, the paper's {' or '.join(map(str, wanted))} by size.")
    return list(dict.fromkeys(sentences))


def _other_attention(parts: Sequence[PartTable], pairs: Sequence[_Pair], config: Mapping) -> list[str]:
    """A sentence where aggregation by another model's attention is not by DINO's."""
    if "other_backbone" not in config or not any(pair.fact.method == "other_cls_attention" for pair in pairs):
        return []
    families = {name: family for part in parts for name, family in part.trained.items()}
    first = next((name for name, family in families.items() if family == "dino"), "")
    other = os.path.basename(config["other_backbone"].rstrip("/")) or first
    dino = MODELS["dino_vitb"]
    if other in dino.names:
        return []
    return [
        f"Other protocol: other_cls_attention is that of {other}, the paper's of {dino.title}, taken to be a ViT-B."
    ]
