"""Published numbers of study 3 beside a run's: the right ones, and what forbids to take them for a reproduction."""

import pytest

from tests.report.aggregation.made import Made
from vitprobe_jax.backbones.untrained import OBJECTIVE as UNTRAINED
from vitprobe_jax.metrics.measurements import make_measurements
from vitprobe_jax.report.aggregation.page import AGGREGATION
from vitprobe_jax.report.aggregation.paper import compare_with_paper, facts
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
    expected += 6 * 2 + 3  # Table 7 less AbMILP's numbers of Table 1, CAPI whole
    assert counts == {"attention": 6, "probing": expected, "untrained": 5 * 2, "localisation": 4}
    assert all(0 < fact.published < 1 for fact in found if "entropy" not in fact.measure)


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
    assert {row.what.split(", ")[-1] for row in found.rows} == {"MAE (ViT-B)", "trained by SGD"}
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
    said = "augreg_vitb16: not compared; pretrained on ImageNet-21k, the paper's supervised ViT on ImageNet-1k alone."
    assert said in found.caveats


def test_controls_and_several_labels_compare_to_nothing():
    _, found = compare(backbones=(("mae_vitb16", "mae", UNTRAINED),))
    assert found.rows == found.caveats == ()
    _, found = compare(parts=("probing",), measure="map")
    assert found.rows == ()


def test_what_forbids_a_reproduction_is_told():
    config = {"epochs": 3, "optimizer": "sgd", "train_share": 0.01, "tokens": ["x2"], "train_list": "one.txt"}
    config |= {"probe_seeds": 1}
    _, found = compare(config)
    assert found.caveats[0].startswith("Not a reproduction: ")
    for wanted in (
        "Other protocol: optimizer is sgd, the paper's lars.",
        "Other protocol: train_share is 0.01, the paper's 1.0.",
        "Other protocol: tokens is x2, the paper's x2_raw.",
        "Other protocol: classifiers are trained on the images of a list alone, the paper's on all.",
        "Other protocol: probe_seeds is 1, the paper's 3.",
        "Other protocol: epochs is 3, the paper's 90 or 50 by size.",
    ):
        assert wanted in found.caveats
    assert any(text.startswith("Other data: imagefolder:birds, over 90 held-out images") for text in found.caveats)


def test_the_same_protocol_on_as_many_images_cannot_be_told_apart():
    config = {"epochs": 0, "optimizer": "lars", "train_share": 1.0, "tokens": ["x2_raw"], "train_batch": 16384}
    config |= {"probe_seeds": 3}
    _, found = compare(config, images=50_000, parts=("attention", "probing"))
    assert found.caveats[0].startswith("A reproduction only if what cannot be seen from here is the same")
    unseen = "Whether images and labels of imagefolder:birds are those of ImageNet-1k cannot be seen from here."
    assert unseen in found.caveats
