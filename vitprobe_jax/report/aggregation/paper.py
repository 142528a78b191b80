"""The numbers that the paper of study 3 prints, beside those of a run, and what forbids to take these for a reproduction.

They stand in `paper_numbers.json` under `cls`, in percent, which are shares of 1 here. A number of the run is that of the
same part, representation and measure at the shown cell, at its best rate. A run of any data set is set beside the paper's
ImageNet-1k, with a caveat where it is another one; numbers of several labels an image are not. For a model of the paper
stands the run's trained backbone of the same family and size; of a family's other sizes, the paper's ViT-B or the only one
that it has. What it prints of COCO's Mask R-CNN is no part of the study.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from vitprobe_jax.report.aggregation.representations import title
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
from vitprobe_jax.report.measured.rows import PartTable, Row
from vitprobe_jax.report.paper import paper_numbers
from vitprobe_jax.report.sentences import listed
from vitprobe_jax.report.settings import differing_protocol

MODELS = {
    "mae_vitb": Model("MAE", ("mae",), ("mae_vitb16", "mae_vitb16_decoder"), "a ViT-B"),
    "mae_vits": Model("MAE", ("mae",), ("mae_vits16",), "a ViT-S", leads=False),
    "mae_vitl": Model("MAE", ("mae",), ("mae_vitl16", "mae_vitl16_decoder"), "a ViT-L", leads=False),
    "mae_vith": Model("MAE", ("mae",), ("mae_vith14", "mae_vith14_decoder"), "a ViT-H", leads=False),
    "simmim_vitb": Model("SimMIM", ("simmim",), ("simmim_vitb16",), "a ViT-B"),
    "maskfeat_vitb": Model("MaskFeat", ("maskfeat",), ("maskfeat_vitb16",), "a ViT-B"),
    "beitv2_vitb": Model("BEiT-v2", ("beitv2",), ("beitv2_vitb16",), "a ViT-B"),
    "ijepa_vith": Model("I-JEPA", ("ijepa",), ("ijepa_vith14",), "a ViT-H"),
    "capi_vitl": Model("CAPI", ("capi",), ("capi_vitl14_in1k",), "a ViT-L"),
    "dino_vitb": Model("DINO", ("dino",), ("dino_vitb16",), "a ViT-B"),
    "mocov3_vitb": Model("MoCo-v3", ("mocov3",), ("mocov3_vitb16",), "a ViT-B"),
    "ibot_vitb": Model("iBOT", ("ibot",), ("ibot_vitb16",), "a ViT-B"),
    "maeft_vitb": Model("fine-tuned MAE", ("mae_finetuned",), ("mae_finetuned_vitb16",), "a ViT-B"),
    "supervised_vitb": Model(
        "supervised ViT",
        ("deit", "torchvision", "deit_distilled"),
        ("deit_vitb16", "torchvision_vitb16"),
        "a ViT-B",
    ),
}
_BLOCKS = {"simmim_vitb": 7}
"""Index of the block whose output the paper probes, where it is not the last: SimMIM's 8th (Section 5, footnote 5)."""
_OTHER_DATA = ("augreg",)
"""Supervised families that are not compared: pretrained on ImageNet-21k, the paper's on ImageNet-1k alone (A.1)."""
_OF_ENTROPIES = {
    "mae": "mae_vitb",
    "simmim": "simmim_vitb",
    "beitv2": "beitv2_vitb",
    "ijepa": "ijepa_vith",
    "capi": "capi_vitl",
    "dino": "dino_vitb",
}
"""Which models those of Table 3, which names none by size, are taken to be."""
_REPRESENTATIONS = {
    "avg_patch": "mean",
    "cls": "cls",
    "abmilp": "abmilp_1",
    "ap_1_head": "attentive_1",
    "ap_12_heads": "attentive_12",
    "avg_cls_attention": "cls_attention",
    "lowest_entropy_cls_attention": "lowest_entropy_cls",
    "central_patch_attention": "central_patch",
    "avg_dino_cls_attention": "other_cls_attention",
    "cls_attention": "cls_attention",
    "selective_aggregation": "abmilp_1",
}
"""The paper's columns, and ours."""
_IMAGES = 50_000
"""Held-out images of ImageNet-1k."""
_PROTOCOL = {
    "tokens": ("x2_raw",),
    "train_share": 1.0,
    "optimizer": "lars",
    "rates": (0.1,),
    "train_batch": 16384,
    "warmup_epochs": 10,
    "probe_seeds": 3,
    "max_images": 0,
}
_EPOCHS = {"vits": 90, "vitb": 90, "vitl": 50, "vith": 50}
"""Of probing, by size; `--epochs=0` stands for them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fact:
    """One published number.

    Attributes:
        where: place in the paper.
        part: of the study.
        model: a key of `MODELS`.
        measure: of the run's row.
        method: the representation, None where there is none.
        published: the number, a share of 1 or an entropy.
        more: what else to know of the number; "" for nothing.
        layer: index of the block that the paper probes; None for the last.
    """

    where: str
    part: str
    model: str
    measure: str
    method: str | None
    published: float
    more: str = ""
    layer: int | None = None

    @property
    def words(self) -> str:
        """The number in words, as published."""
        model = MODELS[self.model]
        what = {
            "top1_best": "top-1",
            "weights_entropy": "entropy",
            "aggregation_entropy": "entropy from [CLS] to patches over all blocks",
            "maxboxaccv2": "MaxBoxAccV2",
        }[self.measure]
        by = f" by {title(self.method)}" if self.method else ""
        block = "" if self.layer is None else f", block {self.layer}"
        return f"{what}{by}, {model.title} ({model.size.removeprefix('a ')}){block}{self.more}"


def facts() -> list[Fact]:
    """All published numbers of what the study measures, each once."""
    numbers = paper_numbers()["cls"]
    found = [
        *_entropy_facts(numbers["aggregation_entropy"]),
        *_table_facts(numbers["imagenet_linear_top1_percent"], "probing", "top1_best"),
        *_depth_facts(numbers["abmilp_depth_top1_percent"]),
        *_table_facts(numbers["attentive_probing_top1_percent"], "probing", "top1_best"),
        *_untrained_facts(numbers["aggregation_top1_percent_and_entropy"]),
        *_table_facts(numbers["maxboxaccv2_percent"], "localisation", "maxboxaccv2"),
    ]
    return each_once(found)  # Tables 5 and 7 print AbMILP's numbers of Table 1 again


def compare_with_paper(parts: Sequence[PartTable], config: Mapping) -> PaperComparison:
    """Sets the published numbers of study 3 beside a run's.

    Args:
        parts: of the run.
        config: every flag as resolved; what is not in it is not checked.
    """
    chosen = stand_ins(parts, MODELS)
    return compare(
        "cls",
        parts,
        facts(),
        find=lambda part, fact: _find(part, fact, chosen),
        caveats=lambda rows: _caveats(parts, chosen, rows, config),
    )


def _share(percent: float) -> float:
    return round(percent / 100, 6)


def _entropy_facts(table: Mapping) -> list[Fact]:
    return [
        Fact(
            where=table["where"],
            part="attention",
            model=model,
            measure="aggregation_entropy",
            method=None,
            published=table[name],
        )
        for name, model in _OF_ENTROPIES.items()
    ]


def _table_facts(table: Mapping, part: str, measure: str) -> list[Fact]:
    """A table with a line for each model and a column for each representation."""
    return [
        Fact(
            where=table["where"],
            part=part,
            model=model,
            measure=measure,
            method=_REPRESENTATIONS[column],
            published=_share(percent),
            layer=_BLOCKS.get(model),
        )
        for model in MODELS
        if model in table
        for column, percent in zip(table["columns"], table[model], strict=True)
        if percent is not None
    ]


def _depth_facts(table: Mapping) -> list[Fact]:
    """AbMILPs by depth and activation, and SA-AbMILP, all of MAE's ViT-B."""
    shapes = {
        "abmilp_1" if depth == 1 else f"abmilp_{depth}_{activation}": percent
        for activation in ("relu", "gelu", "tanh")
        for depth, percent in zip(table["columns"], table[activation], strict=True)
        if percent is not None
    }
    return [
        Fact(
            where=table["where"],
            part="probing",
            model="mae_vitb",
            measure="top1_best",
            method=method,
            published=_share(percent),
            more=", trained by SGD" if method == "sa_abmilp" else "",
        )
        for method, percent in (shapes | {"sa_abmilp": table["sa_abmilp_sgd"]}).items()
    ]


def _untrained_facts(table: Mapping) -> list[Fact]:
    """Accuracies and entropies, all of MAE's ViT-B."""
    return [
        Fact(
            where=table["where"],
            part="untrained",
            model="mae_vitb",
            measure=measure,
            method=_REPRESENTATIONS[name],
            published=_share(value) if measure == "top1_best" else value,
        )
        for name, values in table.items()
        if name in _REPRESENTATIONS
        for measure, value in zip(("top1_best", "weights_entropy"), values, strict=True)
    ]


def _find(part: PartTable, fact: Fact, chosen: Mapping[str, str]) -> Row | None:
    """The run's number of a published one; of a part on one data set; of the last block where the paper's is not there."""
    if fact.model not in chosen:
        return None
    equal = {} if fact.method is None else {"method": fact.method}
    if fact.layer is not None:
        for row in part.rows(fact.measure, layers="all", backbone=chosen[fact.model], **equal):
            if row.layer == fact.layer:
                return row
    layers = "every cell" if fact.part == "attention" else "last"
    rows = part.rows(fact.measure, layers=layers, backbone=chosen[fact.model], **equal)
    return rows[0] if rows else None


def _caveats(
    parts: Sequence[PartTable], chosen: Mapping[str, str], rows: Sequence[PaperRow], config: Mapping
) -> list[str]:
    shown = {row.backbone for row in rows}
    differing, unknown = weights_caveats(chosen, MODELS, shown)
    larger = sorted({name for part in parts for name, family in part.trained.items() if family in _OTHER_DATA})
    if larger:
        unknown.append(
            f"{listed(larger)}: not compared; pretrained on ImageNet-21k, the paper's supervised ViT on ImageNet-1k alone."
        )
    differing += _other_blocks(parts, chosen)
    compared = {(row.part, row.dataset) for row in rows}
    for dataset in dict.fromkeys(row.dataset for row in rows):
        counts = {
            row.count
            for part in parts
            if (part.part, part.dataset) in compared and part.dataset == dataset
            for row in part.rows("top1_best", "weights_entropy", "maxboxaccv2", "cls_entropy", layers="every cell")
        }
        if counts and counts != {_IMAGES}:
            differing.append(
                f"Other data: {dataset}, over {min(counts):,} held-out images at least; the paper's are ImageNet-1k's "
                f"{_IMAGES:,}."
            )
        else:
            unknown.append(f"Whether images and labels of {dataset} are those of ImageNet-1k cannot be seen from here.")
    differing += differing_protocol(config, _PROTOCOL)
    if config.get("train_list"):
        differing.append("Other protocol: classifiers are trained on the images of a list alone, the paper's on all.")
    trained = any(row.part != "attention" for row in rows)
    sizes = {model.rpartition("_")[2] for model, backbone in chosen.items() if backbone in shown}
    wanted = sorted({_EPOCHS[size] for size in sizes}, reverse=True)
    epochs = config.get("epochs")
    if trained and epochs and wanted != [epochs]:
        differing.append(f"Other protocol: epochs is {epochs}, the paper's {' or '.join(map(str, wanted))} by size.")
    if trained:
        unknown.append("The paper averages 3 seeds; which ones is not known.")
    return judged(
        differing,
        unknown,
        "the paper's numbers come from ImageNet-1k, with official weights and classifiers of its own.",
    )


def _other_blocks(parts: Sequence[PartTable], chosen: Mapping[str, str]) -> list[str]:
    """A sentence for each model whose numbers are of another block than the paper's."""
    sentences = {}
    for part in parts:
        for fact in facts():
            if fact.part != part.part or fact.layer is None or (row := _find(part, fact, chosen)) is None:
                continue
            if row.layer != fact.layer:
                sentence = (
                    f"Other protocol: {row.backbone} is probed at block {row.layer}, the paper's "
                    f"{MODELS[fact.model].title} at block {fact.layer}, counted from 0 (add {fact.layer} to --layers)."
                )
                sentences[sentence] = None
    return list(sentences)
