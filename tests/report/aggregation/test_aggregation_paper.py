"""Published numbers of study 3 beside a run's: the right ones, and what forbids to take them for a reproduction."""

import pytest

from tests.report.aggregation.made import Made
from vitprobe_jax.backbones.families import FAMILIES
from vitprobe_jax.backbones.untrained import OBJECTIVE as UNTRAINED
from vitprobe_jax.metrics.measurements import make_measurements
from vitprobe_jax.report.aggregation.facts import MODELS, facts
from vitprobe_jax.report.aggregation.page import AGGREGATION
from vitprobe_jax.report.aggregation.paper import compare_with_paper
from vitprobe_jax.report.measured.paper import official_file
from vitprobe_jax.report.paper import paper_numbers

EXACT = (("mae_vitb16", "mae", "MAE"), ("mae_vitl16", "mae", "MAE"), ("ijepa_vith14", "ijepa", "I-JEPA"))


def compare(config=None, **options):
    made = Made(**{"backbones": EXACT, "rates": (0.1,), "epochs": 1} | options)
    rows = made.rows()
    return rows, compare_with_paper(AGGREGATION.tables(make_measurements(rows)), config or {})


def value(rows, **wanted):
    (found,) = [row["value"] for row in rows if all(row.get(name) == own for name, own in wanted.items())]
    return found


def test_every_printed_number_is_a_fact_once_in_shares():
    found, printed = facts(), paper_numbers()["cls"]
    assert len(found) == len({(fact.part, fact.words) for fact in found})
    counts = {part: sum(fact.part == part for fact in found) for part in AGGREGATION.parts}
    table_1 = [line for line in printed["imagenet_linear_top1_percent"].values() if isinstance(line, list)][1:]
    expected = sum(number is not None for line in table_1 for number in line)
    expected += 3 * 3 + 1  # Table 5 less its first column, and SA-AbMILP
    expected += 3  # the preprint's Table 3
    expected += 6 * 2 + 3  # Table 7 less AbMILP's numbers of Table 1, CAPI whole
    # Table 3; entropies of Section 4.1; both ends of the share that [CLS] keeps.
    assert counts == {"attention": 6 + 6 + 4, "probing": expected, "untrained": 5 * 2, "localisation": 4}
    assert all(0 < fact.published < 1 for fact in found if "entropy" not in fact.measure)


def test_numbers_of_the_text_stand_at_their_places():
    published = {(fact.where, fact.words): fact.published for fact in facts()}
    text, shares, preprint = "Section 4.1 of the preprint", "Appendix C.1", "Appendix Table 3 of the preprint"
    deep = "entropy from [CLS] to patches in the last block"
    for model, value in (("MAE", 5), ("DINO", 4.5), ("MoCo-v3", 4.5), ("iBOT", 4.5), ("fine-tuned MAE", 4.5)):
        assert published[text, f"{deep}, {model} (ViT-B), about"] == value
    assert published[text, f"{deep}, supervised ViT (ViT-B), about"] == 3.5
    for model in ("MAE", "fine-tuned MAE"):
        for end, value in (("lower", 0.4), ("upper", 0.5)):
            words = f"attention of [CLS] to itself in the last block, {model} (ViT-B), {end} end of about 40 to 50%"
            assert published[shares, words] == value
    for shape, value in (("AbMILP (depth 2, tanh)", 0.687), ("AbMILP (depth 2, ReLU)", 0.7165), ("AbMILP", 0.7158)):
        assert published[preprint, f"top-1 by {shape}, MAE (ViT-B) (second decimals)"] == value
    by_sgd = "top-1 by SA-AbMILP, MAE (ViT-B), trained by SGD"
    assert published["Appendix C.2; Appendix Table 3 of the preprint", by_sgd] == 0.7483


def test_deep_blocks_are_held_against_the_last_one():
    rows, found = compare(parts=("attention",), depth=12)
    by_what = {row.what: row for row in found.rows}
    for measure, words in (
        ("cls_entropy", "entropy from [CLS] to patches in the last block, MAE (ViT-B), about"),
        ("cls_to_cls", "attention of [CLS] to itself in the last block, MAE (ViT-B), lower end of about 40 to 50%"),
    ):
        of = {"backbone": "mae_vitb16", "measure": measure, "setting": "all heads"}
        assert by_what[words].value == value(rows, **of, layer=11) != value(rows, **of, layer=10)


def test_numbers_of_the_run_are_those_of_the_same_place():
    rows, found = compare()
    by_what = {(row.part, row.what): row for row in found.rows}
    one = by_what["probing", "top-1 by AbMILP, MAE (ViT-L)"]
    assert (one.where, one.backbone, one.published) == ("Table 1", "mae_vitl16", 0.774)
    of = {"backbone": "mae_vitl16", "method": "abmilp_1", "measure": "top1_best", "part": "probing"}
    assert one.value == value(rows, **of)
    assert one.difference == pytest.approx(one.value - 0.774, abs=1e-12)
    heads = by_what["probing", "top-1 by attentive (12 heads), MAE (ViT-B)"]
    assert (heads.where, heads.published) == ("Appendix Table 7", 0.754)
    entropy = by_what["untrained", "entropy by central patch's attention, MAE (ViT-B)"]
    of = {"backbone": "mae_vitb16", "method": "central_patch", "measure": "weights_entropy"}
    assert (entropy.value, entropy.published) == (value(rows, **of), 4.7)
    assert by_what["attention", "entropy from [CLS] to patches over all blocks, I-JEPA (ViT-H)"].published == 5.28
    own = by_what["attention", "entropy from [CLS] to patches over all blocks, MAE (ViT-B)"]
    of = {"backbone": "mae_vitb16", "measure": "cls_entropy", "setting": "all heads"}
    assert own.value == pytest.approx(sum(value(rows, **of, layer=layer) for layer in range(6)) / 6)
    boxes = by_what["localisation", "MaxBoxAccV2 by [CLS] attention, MAE (ViT-B)"]
    assert (boxes.published, boxes.where) == (0.533, "Appendix Table 8")
    of = {"backbone": "mae_vitb16", "method": "cls_attention"}
    assert boxes.value == value(rows, **of, measure="maxboxaccv2") != value(rows, **of, measure="largest_box")
    assert "top-1 by AbMILP, CAPI (ViT-L)" in found.absent


def test_other_sizes_stand_for_the_leading_model_alone():
    _, found = compare(backbones=(("mae_vitt16", "mae", "MAE"),), parts=("probing",))
    assert {row.what.split(", ")[1].removesuffix(" (second decimals)") for row in found.rows} == {"MAE (ViT-B)"}
    assert "Other weights: mae_vitt16 stands for the paper's MAE, a ViT-B." in found.caveats


def test_simmim_is_compared_at_its_8th_block():
    simmim = {"backbones": (("simmim_vitb16", "simmim", "SimMIM"), EXACT[0]), "parts": ("probing",)}
    told = (
        "Other protocol: simmim_vitb16 is probed at block 11, the paper's SimMIM at block 7, counted from 0 (add 7 to "
        "--layers)."
    )
    for cells, layer in (([11], 11), ([7, 11], 7), ([7], 7)):
        rows, found = compare(cells=[(block, "x2_raw") for block in cells], **simmim)
        by_what = {row.what: row for row in found.rows}
        of = {"method": "abmilp_1", "measure": "top1_best"}
        one = by_what["top-1 by AbMILP, SimMIM (ViT-B), block 7"]
        assert one.published == 0.628
        assert one.value == value(rows, **of, backbone="simmim_vitb16", layer=layer)
        other = by_what["top-1 by AbMILP, MAE (ViT-B)"]
        assert other.value == value(rows, **of, backbone="mae_vitb16", layer=cells[-1])
        assert (told in found.caveats) == (layer == 11)


def test_only_weights_of_imagenet_1k_stand_for_the_supervised_vit():
    augreg, deit = ("augreg_vitb16", "augreg", "supervised"), ("deit_vitb16", "deit", "supervised")
    _, found = compare(backbones=(augreg,), parts=("probing",))
    assert found.rows == ()
    _, found = compare(backbones=(augreg, deit), parts=("probing",))
    assert {row.backbone for row in found.rows} == {"deit_vitb16"}
    assert "Other weights: deit_vitb16 stands for the paper's supervised ViT, a ViT-B." in found.caveats
    own = ("torchvision_vitb16", "torchvision", "supervised")
    _, other = compare(backbones=(augreg, deit, own), parts=("probing",))
    assert {row.backbone for row in other.rows} == {"torchvision_vitb16"}
    said = "augreg_vitb16: not compared; pretrained on ImageNet-21k, the paper's supervised ViT on ImageNet-1k alone."
    assert said in found.caveats


def test_controls_and_several_labels_compare_to_nothing():
    _, found = compare(backbones=(("mae_vitb16", "mae", UNTRAINED),))
    assert found.rows == found.caveats == ()
    _, found = compare(parts=("probing",), measure="map")
    assert found.rows == ()


def test_what_forbids_a_reproduction_is_told():
    config = {"epochs": 3, "optimizer": "sgd", "train_share": 0.01, "train_list": "one.txt", "probe_seeds": 1}
    _, found = compare(config, cells=((5, "x2"),))
    assert found.caveats[0].startswith("Not a reproduction: ")
    for wanted in (
        "Other protocol: optimizer is sgd, the paper's lars.",
        "Other protocol: train_share is 0.01, the paper's 1.0.",
        "Other protocol: tokens is x2, the paper's x2_raw.",
        "Other protocol: heads are trained on the images of --train_list alone, the paper's on all.",
        "Other protocol: mae_vitl16 is probed at block 5, the paper's MAE at block 23, counted from 0 (add 23 to --layers).",
        "Other protocol: probe_seeds is 1, the paper's 3.",
        "Other protocol: epochs is 3, the paper's 90 or 50 by size.",
    ):
        assert wanted in found.caveats
    assert any(text.startswith("Other data: imagefolder:birds, over 90 held-out images") for text in found.caveats)


SETTINGS = {
    "image_size": [224, 224],
    "max_images": 0,
    "crop": "auto",
    "layers": "last",
    "tokens": ["x2_raw"],
    "train_share": 1.0,
    "train_list": "",
    "optimizer": "lars",
    "momentum": 0.9,
    "rates": [0.1],
    "train_batch": 16384,
    "micro_batch": 2048,
    "epochs": 0,
    "warmup_epochs": 10,
    "probe_seeds": 3,
    "other_backbone": "weights/dino_vitb16",
    "backbone_files": {"mae_vitb16": "mae_pretrain_vit_base.pth"},
}
"""What the paper states, as a run by LARS records it."""
MATCHING = {
    "backbones": EXACT[:1],
    "representations": ("mean", "cls", "abmilp_1", "attentive_1", "attentive_12"),
    "cells": ((11, "x2_raw"),),
    "depth": 12,
    "images": 50_000,
    "classes": 1_000,
    "train_images": 1_281_167,
    "parts": ("attention", "probing", "untrained"),
}
"""What it measured, but for SA-AbMILP."""
BY_SGD = {"optimizer": "sgd", "momentum": 0.0, "train_batch": 1024, "micro_batch": 512}


def test_the_papers_own_settings_cannot_be_told_apart():
    for config in (SETTINGS, SETTINGS | {"epochs": 90, "image_size": None, "crop": "family"}, {}):
        _, found = compare(config, **MATCHING)
        assert found.caveats[0].startswith("A reproduction only if what cannot be seen from here is the same")
        assert len(found.caveats) == 4
    unseen = "Whether images and labels of imagefolder:birds are those of ImageNet-1k cannot be seen from here."
    assert unseen in found.caveats


CHANGES = [
    ("image_size", [96, 96], "image_size is 96, 96, the paper's 224, 224"),
    ("max_images", 100, "max_images is 100, the paper's 0"),
    ("crop", "none", "crop is none, the paper's family"),
    ("train_share", 0.1, "train_share is 0.1, the paper's 1.0"),
    ("train_list", "one.txt", "heads are trained on the images of --train_list alone, the paper's on all"),
    ("optimizer", "sgd", "optimizer is sgd, the paper's lars"),
    ("momentum", 0.5, "momentum is 0.5, the paper's 0.9"),
    ("rates", [0.1, 1.0], "rates is 0.1, 1.0, the paper's 0.1"),
    ("train_batch", 4096, "train_batch is 4096, the paper's 16384"),
    ("micro_batch", 512, "micro_batch is 512, the paper's 2048"),
    ("epochs", 30, "epochs is 30, the paper's 90 by size"),
    ("warmup_epochs", 0, "warmup_epochs is 0, the paper's 10"),
    ("probe_seeds", 1, "probe_seeds is 1, the paper's 3"),
    ("other_backbone", "weights/dino_vits16/", "other_cls_attention is that of dino_vits16, the paper's of DINO"),
    (
        "backbone_files",
        {"mae_vitb16": "mae.pth"},
        "Other file: mae_vitb16 was converted from mae.pth, the official file",
    ),
]


@pytest.mark.parametrize(("name", "changed", "words"), CHANGES)
def test_each_setting_that_differs_is_on_the_page(name, changed, words):
    _, found = compare(SETTINGS | {name: changed}, **MATCHING)
    assert found.caveats[0].startswith("Not a reproduction")
    assert sum(words in caveat for caveat in found.caveats) == 1
    assert sum(caveat.startswith("Other") for caveat in found.caveats) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"images": 400}, "over 400 held-out images at least; the paper's are ImageNet-1k's 50,000"),
        (
            {"classes": 100},
            "heads are trained on 1,281,167 images of 100 classes of imagefolder:birds; ImageNet-1k has",
        ),
        ({"train_images": 12_811}, "heads are trained on 12,811 images of 1,000 classes of imagefolder:birds"),
        ({"cells": ((2, "x2_raw"),)}, "mae_vitb16 is probed at block 2, the paper's MAE at block 11"),
        ({"cells": ((11, "x2"),)}, "tokens is x2, the paper's x2_raw"),
        ({"backbones": (("mae_vith14_448", "mae", "MAE"),)}, "mae_vith14_448 stands for the paper's MAE, a ViT-B"),
    ],
)
def test_each_thing_of_the_table_that_differs_is_on_the_page(options, words):
    _, found = compare(SETTINGS, **MATCHING | options)
    assert found.caveats[0].startswith("Not a reproduction")
    assert sum(words in caveat for caveat in found.caveats) == 1
    assert sum(caveat.startswith("Other") for caveat in found.caveats) == 1


def test_of_another_backbone_the_flag_says_whether_its_last_block_is_compared():
    """Its depth is not known."""
    for layers, differs in (("last", False), ("all", False), ([2], True)):
        _, found = compare(SETTINGS | {"layers": layers}, **MATCHING | {"backbones": (("mae_vitt16", "mae", "MAE"),)})
        assert ("Other protocol: layers is 2, the paper's last." in found.caveats) == differs
        assert not any("is probed at block" in caveat for caveat in found.caveats)


def test_attention_alone_has_no_settings_of_training():
    """Statistics of attention are of no classifier, and boxes of no crop."""
    config = SETTINGS | {name: changed for name, changed, _ in CHANGES[3:13]}
    _, found = compare(config, **MATCHING | {"parts": ("attention",)})
    assert found.caveats[0].startswith("A reproduction only if")
    boxed = MATCHING | {"parts": ("localisation",)}
    for thresholds, differs in ((1000, False), (100, True)):
        _, found = compare(SETTINGS | {"crop": "none", "box_thresholds": thresholds}, **boxed)
        assert not any("crop" in caveat for caveat in found.caveats)
        told = "Other protocol: box_thresholds is 100, the paper's 1000."
        assert (told in found.caveats) == differs


def test_sa_abmilp_was_trained_by_sgd():
    """Appendix C.2: by LARS the paper could not train it, so a run by LARS has another number beside 74.83."""
    alone = MATCHING | {"representations": ("sa_abmilp",), "parts": ("probing",)}
    for options in (alone, MATCHING | {"representations": ("mean", "sa_abmilp"), "parts": ("probing",)}):
        _, found = compare(SETTINGS, **options)
        assert found.caveats[0].startswith("Not a reproduction")
        assert "Other protocol for SA-AbMILP: optimizer is lars, the paper's sgd." in found.caveats
    assert not any(caveat.startswith("Other protocol: ") for caveat in found.caveats)
    _, found = compare(SETTINGS | BY_SGD, **alone)
    assert found.caveats[0].startswith("A reproduction only if")
    assert any("SA-AbMILP are not stated" in caveat for caveat in found.caveats)


def test_weights_that_the_authors_trained_are_nobody_elses():
    backbones = (("mae_vits16", "mae", "MAE"), ("mae_finetuned_vitb16", "mae_finetuned", "MAE, fine-tuned"))
    _, found = compare(SETTINGS, **MATCHING | {"backbones": backbones})
    for words in ("mae_vits16 stands for the paper's MAE, a ViT-S", "mae_finetuned_vitb16 stands for the paper's fine"):
        assert sum(words in caveat and "that its authors trained" in caveat for caveat in found.caveats) == 1


def test_names_of_the_papers_models_are_of_published_files_for_224_pixels():
    """Else a default size or a name would not be the paper's."""
    for model in MODELS.values():
        for name in model.names:
            assert official_file(name) or model.unpublished
            family = FAMILIES[next(family for family in model.families if name.startswith(f"{family}_"))]
            assert family.image_size == 224
            assert family.preprocess.size in (None, 224)
