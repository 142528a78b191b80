"""The numbers that the paper of study 3 prints, each with its place, its model and the settings that it was measured under.

They stand in `paper_numbers.json` under `cls`, in percent, which are shares of 1 here. What the paper prints of COCO's Mask
R-CNN is no part of the study.
"""

import dataclasses
from collections.abc import Mapping

from vitprobe_jax.report.aggregation.representations import REFERENCE, title
from vitprobe_jax.report.measured.paper import Model, each_once
from vitprobe_jax.report.paper import paper_numbers
from vitprobe_jax.report.settings import OneOf

MODELS = {
    "mae_vitb": Model("MAE", ("mae",), ("mae_vitb16", "mae_vitb16_decoder"), "a ViT-B"),
    "mae_vits": Model("MAE", ("mae",), ("mae_vits16",), "a ViT-S", leads=False, unpublished=True),
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
    "maeft_vitb": Model("fine-tuned MAE", ("mae_finetuned",), ("mae_finetuned_vitb16",), "a ViT-B", unpublished=True),
    "supervised_vitb": Model(
        "supervised ViT",
        ("torchvision", "deit", "deit_distilled"),
        ("torchvision_vitb16",),
        "a ViT-B",
    ),
}
"""The paper's models. Its MAE of ViT-S and its fine-tuned MAE were trained by its authors (B.1). For its supervised ViT it
cites Dosovitskiy et al. and names no file: torchvision's is trained as theirs on ImageNet-1k alone, DeiT's by another
recipe."""
OTHER_DATA = ("augreg",)
"""Supervised families that are not compared: pretrained on ImageNet-21k, the paper's on ImageNet-1k alone (A.1)."""
DEPTHS = {"vits": 12, "vitb": 12, "vitl": 24, "vith": 32}
"""Blocks, by size. What is probed is the output of the last one (Section 5)."""
EPOCHS = {"vits": 90, "vitb": 90, "vitl": 50, "vith": 50}
"""Of probing, by size; `--epochs=0` stands for them."""
IMAGES, TRAINING_IMAGES, CLASSES = 50_000, 1_281_167, 1_000
"""Of ImageNet-1k: held-out images, training images, classes."""
_BLOCKS = {"simmim_vitb": 7}
"""Index of the block whose output the paper probes, where it is not the last: SimMIM's 8th (Section 5, footnote 5)."""
_OF_ENTROPIES = {
    "mae": "mae_vitb",
    "simmim": "simmim_vitb",
    "beitv2": "beitv2_vitb",
    "ijepa": "ijepa_vith",
    "capi": "capi_vitl",
    "dino": "dino_vitb",
}
"""Which models those of Table 3, which names none by size, are taken to be."""
_OF_DEEP_BLOCKS = {
    "mae": ("mae_vitb",),
    "joint_embedding": ("dino_vitb", "mocov3_vitb", "ibot_vitb"),
    "mae_finetuned": ("maeft_vitb",),
    "supervised": ("supervised_vitb",),
}
"""The models of Section 4.1, which are ViT-Bs."""
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
_VARIANTS = {"tanh_depth_2": "abmilp_2_tanh", "relu_depth_2": "abmilp_2_relu", "depth_1": "abmilp_1"}
"""The lines of the preprint's Table 3, and ours."""

_EVALUATED = {"image_size": (224, 224), "max_images": 0}
"""Grids of 14 x 14 patches of 16 pixels, or 16 x 16 of 14, on all held-out images (B.1, C.1)."""
_CROPPED = {"crop": OneOf(("family", "auto"))}
"""MAE's evaluation: resized and cropped (B.2). Boxes need whole images."""
_BOXED = {"box_thresholds": 1000}
"""MaxBoxAccV2 in the code of its benchmark, clovaai/wsolevaluation (C.3)."""
_TRAINED = {
    "tokens": ("x2_raw",),
    "train_share": 1.0,
    "rates": (0.1,),
    "warmup_epochs": 10,
    "probe_seeds": 3,
}
"""Linear probing, whatever the optimiser (B.2)."""
_BY_LARS = {"optimizer": "lars", "momentum": 0.9, "train_batch": 16384, "micro_batch": 2048}
"""MAE's protocol; 4 GPUs with half of 16,384 images in each of two passes share 2,048 images' BatchNorm statistics (B.2)."""
_BY_SGD = {"optimizer": "sgd", "momentum": 0.0}
"""SA-AbMILP, whose batch is not stated (C.2); the momentum is that of the code."""
SGD_ALONE = ("sa_abmilp",)
"""Representations that the paper could train by SGD only (C.2)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fact:
    """One published number.

    Attributes:
        where: place in the paper.
        part: of the study.
        model: a key of `MODELS`.
        measure: of the run's row.
        method: the representation, None where there is none.
        setting: of the run's row, None for any.
        published: the number, a share of 1 or an entropy.
        more: what else to know of the number; "" for nothing.
    """

    where: str
    part: str
    model: str
    measure: str
    method: str | None
    published: float
    setting: str | None = None
    more: str = ""

    @property
    def layer(self) -> int:
        """Index of the block that the number is of, unless it is of all."""
        if self.part != "attention" and self.model in _BLOCKS:
            return _BLOCKS[self.model]
        return DEPTHS[self.model.rpartition("_")[2]] - 1

    @property
    def is_trained(self) -> bool:
        """Whether something was trained for the number: a classifier, or the weights of patches."""
        return self.measure == "top1_best" or self.method == REFERENCE

    @property
    def protocol(self) -> Mapping:
        """Every setting that the paper states of the number, for `differing_protocol`."""
        stated = _EVALUATED | (_BOXED if self.part == "localisation" else _CROPPED)
        if not self.is_trained:
            return stated
        return stated | _TRAINED | (_BY_SGD if self.method in SGD_ALONE else _BY_LARS)

    @property
    def words(self) -> str:
        """The number in words, as published."""
        model = MODELS[self.model]
        what = {
            "top1_best": "top-1",
            "weights_entropy": "entropy",
            "aggregation_entropy": "entropy from [CLS] to patches over all blocks",
            "cls_entropy": "entropy from [CLS] to patches in the last block",
            "cls_to_cls": "attention of [CLS] to itself in the last block",
            "maxboxaccv2": "MaxBoxAccV2",
        }[self.measure]
        by = f" by {title(self.method)}" if self.method else ""
        block = f", block {self.layer}" if self.part != "attention" and self.model in _BLOCKS else ""
        return f"{what}{by}, {model.title} ({model.size.removeprefix('a ')}){block}{self.more}"


def facts() -> list[Fact]:
    """All published numbers of what the study measures, each once."""
    numbers = paper_numbers()["cls"]
    found = [
        *_entropy_facts(numbers["aggregation_entropy"]),
        *_deep_block_facts(numbers["deep_block_entropy"], numbers["cls_to_cls_range"]),
        *_table_facts(numbers["imagenet_linear_top1_percent"], "probing", "top1_best"),
        *_depth_facts(numbers["abmilp_depth_top1_percent"]),
        *_variant_facts(numbers["abmilp_variants_top1_percent"]),
        *_table_facts(numbers["attentive_probing_top1_percent"], "probing", "top1_best"),
        *_untrained_facts(numbers["aggregation_top1_percent_and_entropy"]),
        *_table_facts(numbers["maxboxaccv2_percent"], "localisation", "maxboxaccv2"),
    ]
    return each_once(found)  # Tables 5 and 7 print AbMILP's numbers of Table 1 again


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


def _deep_block_facts(entropies: Mapping, shares: Mapping) -> list[Fact]:
    """What the text says of deep blocks in round numbers, held against the last block."""
    found = [
        Fact(
            where=entropies["where"],
            part="attention",
            model=model,
            measure="cls_entropy",
            method=None,
            setting="all heads",
            published=entropies[name],
            more=", about",
        )
        for name, models in _OF_DEEP_BLOCKS.items()
        for model in models
    ]
    return found + [
        Fact(
            where=shares["where"],
            part="attention",
            model=_OF_DEEP_BLOCKS[name][0],
            measure="cls_to_cls",
            method=None,
            setting="all heads",
            published=share,
            more=f", {end} end of about 40 to 50%",
        )
        for name in ("mae", "mae_finetuned")
        for end, share in zip(("lower", "upper"), shares[name], strict=True)
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
        )
        for model in MODELS
        if model in table
        for column, percent in zip(table["columns"], table[model], strict=True)
        if percent is not None
    ]


def _depth_facts(table: Mapping) -> list[Fact]:
    """AbMILPs by depth and activation, all of MAE's ViT-B."""
    shapes = {
        "abmilp_1" if depth == 1 else f"abmilp_{depth}_{activation}": percent
        for activation in ("relu", "gelu", "tanh")
        for depth, percent in zip(table["columns"], table[activation], strict=True)
        if percent is not None
    }
    return [_abmilp(table["where"], method, percent) for method, percent in shapes.items()]


def _variant_facts(table: Mapping) -> list[Fact]:
    """The preprint's table: some numbers of the table of depths with their second decimals, and SA-AbMILP."""
    decimals = " (second decimals)"
    return [
        *(_abmilp(table["where"], method, table[line], decimals) for line, method in _VARIANTS.items()),
        _abmilp(table["sa_abmilp_where"], "sa_abmilp", table["sa_abmilp_sgd"], ", trained by SGD"),
    ]


def _abmilp(where: str, method: str, percent: float, more: str = "") -> Fact:
    return Fact(
        where=where,
        part="probing",
        model="mae_vitb",
        measure="top1_best",
        method=method,
        published=_share(percent),
        more=more,
    )


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
