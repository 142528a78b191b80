"""The numbers that the paper of study 2 prints, beside those of a run, and what forbids to take these for a reproduction.

They stand in `paper_numbers.json` under `local`: values from text and tables only. A number of the run is that of the same
part, method, features, tiling and measure at the shown cell, from the paper's training draw, or else from the largest.

A data set of the paper's kind stands for the paper's own; one of a kind that the paper does not have stands for Cityscapes,
with a caveat. For a model of the paper stands the run's trained backbone of the same family, the ViT-B if there are several.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence

from vitprobe_jax.report.local.methods import DRAWS, largest_draw, shots_title
from vitprobe_jax.report.measured.paper import (
    Model,
    PaperComparison,
    PaperRow,
    compare,
    each_once,
    judged,
    stand_ins,
    weights_caveats,
)
from vitprobe_jax.report.measured.rows import PartTable, Row, variant_name
from vitprobe_jax.report.paper import paper_numbers
from vitprobe_jax.report.sentences import listed
from vitprobe_jax.report.settings import OneOf, differing_protocol

_KINDS = {"cityscapes": "Cityscapes", "ade20k": "ADE20K", "fair1m": "FAIR1M", "bdd100k": "BDD100K"}
_STAND_IN = "cityscapes"
"""What data sets of kinds that the paper does not have are held against."""
_CLASSES = {"cityscapes": 19, "ade20k": 150}
MODELS = {
    "supervised": Model("supervised ViT", ("torchvision",), ("torchvision_vitb16",)),
    "dino": Model("DINO", ("dino",), ("dino_vitb16",)),
    "dinov2": Model("DINOv2", ("dinov2",), ("dinov2_vitb14",)),
    "mae": Model("MAE", ("mae",), ("mae_vitb16", "mae_vitb16_decoder")),
    "simmim": Model("SimMIM", ("simmim",), ("simmim_vitb16",)),
}
"""The paper's models, taken to be ViT-Bs, with 768 features."""
_OTHER_SUPERVISED = ("deit", "deit_distilled", "augreg")
"""Supervised families that are not compared: the paper's is torchvision's vit_b_16 (A.1, footnote 1)."""
_PROTOCOL = {
    "max_images": 0,
    "metric": "l2",
    "feature_norm": "none",
    "image_size": (224, 224),
}
"""Images and tiles are of 224 pixels, features those behind the final norm of the last block (Section 3, A.1)."""
_PROTOCOL_OF = {
    "cityscapes": {"tile": OneOf((256, 0)), "whole_size": (1024, 2048)},
    "ade20k": {"tile": OneOf((224, 0))},
    "fair1m": {"tile": OneOf((224, 0))},
}
"""Tiles of Cityscapes are of 256 pixels (A.8); those of ADE20K's images of 672 x 448 are of 224, as FAIR1M's are."""
_HELD_OUT = {"cityscapes": 10, "ade20k": 2}
"""The same of the held-out draw; FAIR1M's is not stated."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fact:
    """One published number.

    Attributes:
        where: place in the paper.
        part: of the study.
        kind: of data set, a key of `_KINDS`.
        model: a key of `MODELS`.
        features: which are used, see `measurements.FEATURES`.
        dropped: how many are not.
        what: measure, method and the rest, in words.
        columns: what the columns of the run's row are, beside these.
        published: the number.
        other_kind: of a number about two data sets, the kind of the second one.
        layer: index of the block that the number is of; None for the last.
    """

    where: str
    part: str
    kind: str
    model: str
    features: str = "all"
    dropped: int = 0
    what: str
    columns: Mapping[str, str]
    published: float
    other_kind: str | None = None
    layer: int | None = None

    @property
    def words(self) -> str:
        """The number in words, as published."""
        over = f"{_KINDS[self.kind]} and {_KINDS[self.other_kind]}" if self.other_kind else _KINDS[self.kind]
        return f"{self.what}, {variant_name(self.model, self.features, self.dropped)}, {over}"


def facts() -> list[Fact]:
    """All published numbers, each once."""
    numbers = paper_numbers()["local"]
    found = [
        *_patch_facts(numbers["patch_miou"]),
        *_removal_facts(numbers["mae_1nn_by_features_removed"]),
        *_tiling_facts(numbers["tiling_miou"]),
        *_context_facts(numbers["global_context_r2"]),
        *_overlap_facts(numbers["top200_overlap"]),
        _failure_fact(numbers["failed_matches_of_the_right_category"]),
        *_layer_facts(numbers["layer_iou"]),
    ]
    return each_once(found)  # Table 5 prints some of Table 2 again


def compare_with_paper(parts: Sequence[PartTable], config: Mapping) -> PaperComparison:
    """Sets the published numbers of study 2 beside a run's.

    Args:
        parts: of the run.
        config: every flag as resolved; what is not in it is not checked.
    """
    chosen = stand_ins(parts, MODELS)
    return compare(
        "local",
        parts,
        facts(),
        find=lambda part, fact: _find(part, fact, chosen),
        caveats=lambda rows: _caveats(parts, chosen, rows, config),
    )


def _patch_facts(table: Mapping) -> list[Fact]:
    found = []
    for model in ("supervised", "dino", "dinov2", "mae", "mae200", "simmim"):
        for column, published in zip(table["columns"], table[model], strict=True):
            kind, method = column.split("_")
            if published is not None:
                found.append(_miou("patches", table["where"], kind, model, method, "tiles", published))
    return found


def _tiling_facts(table: Mapping) -> list[Fact]:
    sizes = {"256": "tiles", "1024x2048": "whole"}
    return [
        _miou("patches", table["where"], "cityscapes", model, method, tiling, published)
        for model in ("dino", "mae")
        for size, tiling in sizes.items()
        for method, published in zip(table["columns"], table[f"{model}_{size}"], strict=True)
    ]


def _removal_facts(table: Mapping) -> list[Fact]:
    return [
        Fact(
            where=table["where"],
            part="variance",
            kind="cityscapes",
            model="mae",
            features="without top" if dropped else "all",
            dropped=dropped,
            what="mIoU by 1-NN",
            columns={"measure": "miou", "method": "1-nn", "setting": "removed"},
            published=table[str(dropped)],
        )
        for dropped in (0, 10, 200)
    ]


def _context_facts(table: Mapping) -> list[Fact]:
    features = {
        "mae": ("all", 0),
        "mae200": ("without top", 200),
        "mae_random": ("only random", 200),
        "mae_junk": ("only top", 200),
    }
    found = []
    for concept in ("road", "building", "vegetation", "mean"):
        # The mean is that of the three classes that are printed, the commonest of Cityscapes.
        columns = {"measure": "r2", "name": concept} if concept != "mean" else {"measure": "mean_r2_commonest"}
        for column, published in zip(table["columns"], table[concept], strict=True):
            used, dropped = features[column]
            found.append(
                Fact(
                    where=table["where"],
                    part="context",
                    kind="cityscapes",
                    model="mae",
                    features=used,
                    dropped=dropped,
                    what=f"R2, {concept}",
                    columns=columns,
                    published=published,
                )
            )
    return found


def _overlap_facts(table: Mapping) -> list[Fact]:
    return [
        Fact(
            where=table["where"],
            part="variance",
            kind="cityscapes",
            model="mae",
            features="all",
            dropped=200,
            what="share of the top 200 features that are the same",
            columns={"measure": "overlap", "setting": "other data set"},
            published=table[f"cityscapes_{other}"] / 200,
            other_kind=other,
        )
        for other in ("ade20k", "fair1m")
    ]


def _failure_fact(table: Mapping) -> Fact:
    return Fact(
        where=table["where"],
        part="tracking",
        kind="bdd100k",
        model="dinov2",
        what=f"share of failed matches whose category is right, tiles (printed: more than {table['dinov2']:g})",
        columns={"measure": "failed_same_category", "setting": "all gaps", "tiling": "tiles"},
        published=table["dinov2"],
    )


def _layer_facts(table: Mapping) -> list[Fact]:
    return [
        Fact(
            where=table["where"],
            part="layers",
            kind="cityscapes",
            model="dinov2",
            what=f"IoU of bus by 1-NN at block {layer - 1} (layer {layer} of the paper)",
            columns={"measure": "iou", "method": "1-nn", "name": "bus"},
            published=published,
            layer=layer - 1,  # The paper counts from 1: its 12th layer is the last.
        )
        for layer, published in zip(table["layers"], table["dinov2_bus"], strict=True)
    ]


def _miou(part: str, where: str, kind: str, model: str, method: str, tiling: str, published: float) -> Fact:
    dropped = 200 if model == "mae200" else 0
    # Section 4: MAE's linear probes are behind BatchNorm, those of the others are not.
    told = "1-nn" if method == "1nn" else "linear_batchnorm" if model.startswith("mae") else "linear"
    by = {"1-nn": "1-NN", "linear": "a linear probe", "linear_batchnorm": "a linear probe behind BatchNorm"}[told]
    return Fact(
        where=where,
        part=part,
        kind=kind,
        model=model.removesuffix("200"),
        features="without top" if dropped else "all",
        dropped=dropped,
        what=f"mIoU by {by}, {'tiles' if tiling == 'tiles' else 'whole images'}",
        columns={"measure": "miou", "method": told, "tiling": tiling},
        published=published,
    )


def _find(part: PartTable, fact: Fact, chosen: Mapping[str, str]) -> Row | None:
    """The run's number of a published one; of a part on one data set."""
    if fact.model not in chosen:
        return None
    kind = _kind(part.dataset)
    if kind != fact.kind and not (kind not in _KINDS and fact.kind == _STAND_IN and fact.other_kind is None):
        return None
    measure = fact.columns["measure"]
    rest = {name: value for name, value in fact.columns.items() if name != "measure"}
    layers = "last" if fact.layer is None else "all"
    rows = [
        row
        for row in part.rows(measure, layers=layers, backbone=chosen[fact.model], dropped=fact.dropped, **rest)
        if fact.layer in (None, row.layer)
        and row.features == fact.features
        and (fact.other_kind is None or _kind(row.name or "") == fact.other_kind)
    ]
    own = [row for row in rows if row.shots == DRAWS.get(fact.kind)]
    rows = own or [row for row in rows if row.shots == largest_draw(rows)]
    return rows[0] if rows else None


def _kind(dataset: str) -> str:
    return dataset.split(":")[0]


def _other_features(parts: Sequence[PartTable], compared: Collection[tuple[str, str]], config: Mapping) -> list[str]:
    """A sentence for another token or block than the paper's, x2 of the last; further ones beside it are left alone."""
    shown = {part.token for part in parts if (part.dataset, part.part) in compared} - {None, "x2"}
    tokens, layers = config.get("tokens") or ["x2"], config.get("layers") or "last"
    if "x2" not in tokens:
        shown |= set(tokens)
    told = [f"Other protocol: tokens is {token}, the paper's x2." for token in sorted(shown)]
    if not isinstance(layers, str) and not {11, "last"} & set(layers):
        told.append(f"Other protocol: layers is {', '.join(map(str, layers))}, the paper's last.")
    return told


def _other_draws(parts: Sequence[PartTable], chosen: Mapping[str, str], config: Mapping) -> list[str]:
    """A sentence for each part of the comparison that is measured on another draw than the paper's."""
    told, held_out, published = [], config.get("val_images_per_group"), facts()
    for part in parts:
        for fact in published:
            row = _find(part, fact, chosen) if part.part == fact.part else None
            if row is None:
                continue
            wanted, of_paper = DRAWS.get(fact.kind), _HELD_OUT.get(fact.kind)
            if row.shots is not None and row.shots != wanted:
                told.append(
                    f"Other draw: {part.part} of {part.dataset} is measured on {shots_title(row.shots)}, the paper's number "
                    f"on {wanted}."
                )
            if None not in (held_out, of_paper) and held_out != of_paper:
                told.append(
                    f"Other draw: {shots_title(held_out)} of {part.dataset} are held out, in the paper {of_paper} a group."
                )
    return list(dict.fromkeys(told))


def _other_means(numbers: Mapping) -> str:
    """Where the paper contradicts itself: the means of its text and of its table."""
    text, table = numbers["global_context_r2_text"], numbers["global_context_r2"]
    printed = [", ".join(f"{value:g}" for value in source["mean"]) for source in (text, table)]
    return (
        f"The paper contradicts itself: {text['where'].capitalize()} prints mean R2 of {printed[0]} (all features, without "
        f"the top 200, only 200 at random, only the top 200), its {table['where']}, compared here, {printed[1]}."
    )


def _caveats(
    parts: Sequence[PartTable], chosen: Mapping[str, str], rows: Sequence[PaperRow], config: Mapping
) -> list[str]:
    differing, unknown = [], []
    for dataset in dict.fromkeys(row.dataset for row in rows):
        kind = _kind(dataset)
        classes = max((part.num_concepts for part in parts if part.dataset == dataset), default=0)
        if kind not in _KINDS:
            differing.append(f"Other data: {dataset} is set beside the paper's {_KINDS[_STAND_IN]}.")
        elif 0 < classes < _CLASSES.get(kind, 0):
            differing.append(
                f"Other data, or a part: {classes} concepts of {dataset} have held-out pixels, of {_KINDS[kind]} there are "
                f"{_CLASSES[kind]}."
            )
        else:
            unknown.append(
                f"Whether images and annotations of {dataset} are those of {_KINDS[kind]} cannot be seen from here."
            )
    shown, files = {row.backbone for row in rows}, config.get("backbone_files") or {}
    other_weights, unseen_weights = weights_caveats(chosen, MODELS, shown, files)
    others = sorted({name for part in parts for name, family in part.trained.items() if family in _OTHER_SUPERVISED})
    if others:
        unknown.append(f"{listed(others)}: not compared; the paper's supervised ViT is torchvision's vit_b_16.")
    differing += other_weights
    unknown += unseen_weights
    differing += differing_protocol(config, _PROTOCOL)
    differing += _other_features(parts, {(row.dataset, row.part) for row in rows}, config)
    for kind in dict.fromkeys(_kind(row.dataset) for row in rows):
        differing += differing_protocol(config, _PROTOCOL_OF.get(kind, {}))
    differing += _other_draws(parts, chosen, config)
    if any(row.part == "tracking" for row in rows):
        differing.append("Other data, or a part: the paper's tracking is on 4 videos that it does not name (A.8.2).")
        unknown.append(
            "At which gap the paper counts failed matches is not stated; those of all gaps are counted here."
        )
    unknown.append("How the paper's linear probes are trained is not known.")
    if any(row.part == "context" for row in rows):
        unknown.append(_other_means(paper_numbers()["local"]))
    return judged(differing, unknown, "the paper's numbers come from its own draws of images, with official weights.")
