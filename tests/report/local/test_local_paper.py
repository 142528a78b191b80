"""Published numbers of study 2 beside a run's: the right ones, and what forbids to take them for a reproduction."""

import pytest

from tests.report.local.made import Made
from vitprobe_jax.backbones.untrained import OBJECTIVE as UNTRAINED
from vitprobe_jax.metrics.measurements import make_measurements
from vitprobe_jax.report.local.page import LOCAL
from vitprobe_jax.report.local.paper import compare_with_paper, facts
from vitprobe_jax.report.paper import paper_numbers

EXACT = (("dino_vitb16", "dino", "DINO"), ("mae_vitb16", "mae", "MAE"))


def compare(config=None, **options):
    made = Made(**{"parts": ("patches", "variance", "context"), "backbones": EXACT} | options)
    return made.rows(), compare_with_paper(LOCAL.tables(make_measurements(made.rows())), config or {})


def test_every_printed_number_is_a_fact_once():
    printed = paper_numbers()["local"]
    expected = sum(value is not None for name in ("dino", "mae200", "simmim") for value in printed["patch_miou"][name])
    # The other models; removal; whole images of Table 5; context; overlap; failed matches; bus at two layers.
    expected += 3 * 4 + 3 + 4 + 4 * 4 + 2 + 1 + 2
    assert len(facts()) == len({fact.words for fact in facts()}) == expected


def test_numbers_of_the_run_are_those_of_the_same_place():
    rows, found = compare(parts=("patches",))
    row = next(row for row in found.rows if row.what == "mIoU by 1-NN, tiles, mae-200, Cityscapes")
    (own,) = (
        row["value"]
        for row in rows
        if (row["dataset"], row["backbone"], row["dropped"], row["method"], row["tiling"], row["shots"], row["measure"])
        == ("cityscapes:streets", "mae_vitb16", 200, "1-nn", "tiles", 4, "miou")
    )
    assert (row.where, row.variant, row.value) == ("Table 2", "mae_vitb16-200", own)
    assert row.published == 0.295
    assert row.difference == pytest.approx(own - 0.295, abs=1e-12)
    whole = next(row for row in found.rows if row.what == "mIoU by a linear probe, whole images, dino, Cityscapes")
    assert (whole.where, whole.published) == ("Table 5", 0.34)
    assert {row.dataset for row in found.rows if "ADE20K" in row.what} == {"ade20k:rooms"}


def test_removal_overlap_and_context_have_their_counterparts():
    rows, found = compare(parts=("variance", "context"))
    by_what = {row.what: row for row in found.rows}
    curve = by_what["mIoU by 1-NN, mae-10, Cityscapes"]
    assert (curve.part, curve.published) == ("variance", 0.17)
    assert curve.value == next(
        row["value"]
        for row in rows
        if (row["part"], row["backbone"], row.get("dropped"), row.get("method"), row["measure"])
        == ("variance", "mae_vitb16", 10, "1-nn", "miou")
    )
    overlap = by_what["share of the top 200 features that are the same, mae, Cityscapes and ADE20K"]
    assert (overlap.value, overlap.published) == (0.975, 0.98)
    means = [row for row in found.rows if row.what.startswith("R2, mean, ")]
    assert [row.variant for row in means] == [
        "mae_vitb16",
        "mae_vitb16-200",
        "mae_vitb16, only 200 at random",
        "mae_vitb16, only the top 200",
    ]
    assert [row.published for row in means] == [0.6754, 0.671, 0.651, 0.55]
    assert "share of the top 200 features that are the same, mae, Cityscapes and FAIR1M" in found.absent


def test_linear_probes_of_mae_are_behind_batchnorm_and_those_of_others_are_not():
    """Section 4: BatchNorm is for MAE alone."""
    of_probes = {fact.model: fact.columns["method"] for fact in facts() if "linear probe" in fact.what}
    assert of_probes == {
        "supervised": "linear",
        "dino": "linear",
        "dinov2": "linear",
        "mae": "linear_batchnorm",
        "simmim": "linear",
    }


def test_controls_never_stand_for_a_model():
    _, found = compare(backbones=(("mae_vitb16", "mae", UNTRAINED),), parts=("patches",))
    assert found.rows == found.caveats == ()
    assert len(found.absent) == sum(fact.part == "patches" for fact in facts())


def test_the_supervised_vit_is_that_of_torchvision_alone():
    """A.1, footnote 1."""
    others = (("deit_vitb16", "deit", "supervised (DeiT)"), ("augreg_vitb16", "augreg", "supervised (AugReg)"))
    _, found = compare(backbones=others, parts=("patches",))
    assert found.rows == ()
    own = ("torchvision_vitb16", "torchvision", "supervised (torchvision)")
    _, found = compare(backbones=(*others, own), parts=("patches",))
    assert {row.backbone for row in found.rows} == {"torchvision_vitb16"}
    told = "augreg_vitb16 and deit_vitb16: not compared; the paper's supervised ViT is torchvision's vit_b_16."
    assert told in found.caveats


def test_bus_is_compared_at_its_layers():
    """The 9th and 12th of 12 (Section 6), which are blocks 8 and 11 counted from 0."""
    dinov2 = (("dinov2_vitb14", "dinov2", "DINOv2"),)
    concepts = ((1, "road", "class"), (2, "bus", "class"), (3, "sky", "class"))
    options = {"backbones": dinov2, "parts": ("layers",), "datasets": ("cityscapes:streets",), "concepts": concepts}
    rows, found = compare(**options, depth=12, shots=(4,))
    values = {row.what: (row.where, row.published, row.value) for row in found.rows}
    assert len(values) == 2
    for layer, published in ((9, 0.059), (12, 0.729)):
        of = ("iou", "bus", layer - 1, 0)
        own = [r["value"] for r in rows if (r["measure"], r.get("name"), r["layer"], r.get("dropped")) == of]
        what = f"IoU of bus by 1-NN at block {layer - 1} (layer {layer} of the paper), dinov2, Cityscapes"
        assert values[what] == ("section 6, Fig. 3", published, *own)


def test_the_papers_contradiction_is_told_beside_its_context():
    _, found = compare(parts=("context",))
    (told,) = (caveat for caveat in found.caveats if "contradicts itself" in caveat)
    assert "Section 6 prints mean R2 of 0.676, 0.672, 0.666, 0.55 (" in told
    assert "its Table 6, compared here, 0.6754, 0.671, 0.651, 0.55." in told
    _, found = compare(parts=("patches",))
    assert not any("contradicts itself" in caveat for caveat in found.caveats)


def test_the_file_of_a_backbone_is_the_official_one():
    for file, differs in (("mae_pretrain_vit_base.pth", False), ("", False), ("mae.pth", True)):
        _, found = compare({"backbone_files": {"mae_vitb16": file}}, parts=("patches",))
        told = [
            caveat for caveat in found.caveats if caveat.startswith("Other file: mae_vitb16 was converted from mae.pth")
        ]
        assert len(told) == differs


def test_other_backbones_data_and_protocol_are_told():
    backbones = (("dino_vits16", "dino", "DINO"), ("torchvision_vitl16", "torchvision", "supervised (torchvision)"))
    config = {"max_images": 40, "metric": "cosine", "images_per_group": [1], "tile": 0}
    _, found = compare(config, backbones=backbones, datasets=("shapes:40",), parts=("patches",))
    assert found.caveats[0].startswith("Not a reproduction: ")
    for wanted in (
        "Other data: shapes:40 is set beside the paper's Cityscapes.",
        "Other weights: dino_vits16 stands for the paper's DINO, taken to be a ViT-B.",
        "Other weights: torchvision_vitl16 stands for the paper's supervised ViT, taken to be a ViT-B.",
        "Other protocol: max_images is 40, the paper's 0.",
        "Other protocol: metric is cosine, the paper's l2.",
    ):
        assert wanted in found.caveats
    _, found = compare({"val_images_per_group": 3}, parts=("patches",), shots=(2, 8))
    dataset = found.rows[0].dataset
    assert (
        f"Other draw: patches of {dataset} is measured on 8 images a group, the paper's number on 4." in found.caveats
    )
    assert f"Other draw: 3 images a group of {dataset} are held out, in the paper 10 a group." in found.caveats


SETTINGS = {
    "max_images": 0,
    "metric": "l2",
    "tokens": ["x2"],
    "layers": "last",
    "image_size": [224, 224],
    "whole_size": None,
    "tile": 0,
    "val_images_per_group": None,
}
"""What the paper states, as a run records it."""


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("max_images", 40, "max_images is 40, the paper's 0"),
        ("metric", "cosine", "metric is cosine, the paper's l2"),
        ("tokens", ["x1"], "tokens is x1, the paper's x2"),
        ("layers", [5], "layers is 5, the paper's last"),
        ("feature_norm", "standardize", "feature_norm is standardize, the paper's none"),
        ("image_size", [112, 112], "image_size is 112, 112, the paper's 224, 224"),
        ("whole_size", [256, 512], "whole_size is 256, 512, the paper's 1024, 2048"),
        ("tile", 128, "tile is 128, the paper's 256"),
        ("val_images_per_group", 5, "5 images a group of cityscapes:streets are held out, in the paper 10 a group"),
    ],
)
def test_each_setting_that_differs_is_on_the_page_and_none_that_does_not(name, value, words):
    classes = tuple((i, f"class {i}", "class") for i in range(1, 21))  # the last one of the made ones has no pixel
    options = {"parts": ("patches",), "datasets": ("cityscapes:streets",), "concepts": classes, "shots": (4,)}
    _, found = compare(SETTINGS, **options)
    assert found.caveats[0].startswith("A reproduction only if")
    _, found = compare(SETTINGS | {name: value}, **options)
    assert found.caveats[0].startswith("Not a reproduction")
    assert sum(words in caveat for caveat in found.caveats) == 1


def test_what_is_measured_beside_the_papers_token_and_block_does_not_count():
    options = {"parts": ("patches",), "datasets": ("cityscapes:streets",), "shots": (4,)}
    for changed in ({"layers": "all"}, {"layers": [3, 11]}, {"layers": [3, "last"]}, {"tokens": ["x1", "x2"]}):
        _, found = compare(SETTINGS | changed, **options)
        assert not any("Other protocol" in caveat for caveat in found.caveats), changed


def test_tiles_of_ade20k_are_of_224_pixels():
    options = {"parts": ("patches",), "datasets": ("ade20k:scenes",), "shots": (4,)}
    for tile, told in ((0, False), (224, False), (112, True)):
        _, found = compare(SETTINGS | {"tile": tile}, **options)
        assert ("Other protocol: tile is 112, the paper's 224." in found.caveats) == told


def test_numbers_are_compared_at_the_papers_draw():
    rows, found = compare(parts=("patches",), shots=(2, 4, 8))
    assert not any("Other draw" in caveat for caveat in found.caveats)
    shown = next(row for row in found.rows if row.what == "mIoU by 1-NN, tiles, dino, Cityscapes")
    assert shown.value == next(
        row["value"]
        for row in rows
        if (row["backbone"], row.get("method"), row.get("tiling"), row["measure"], row.get("shots"), row.get("dropped"))
        == (shown.backbone, "1-nn", "tiles", "miou", 4, 0)
    )


def test_a_few_classes_are_other_data_and_all_of_them_cannot_be_told_apart():
    _, found = compare(parts=("patches",), datasets=("cityscapes:streets",))
    assert any(caveat.startswith("Other data, or a part: 6 concepts of cityscapes:streets") for caveat in found.caveats)
    classes = tuple((i, f"class {i}", "class") for i in range(1, 21))  # the last one of the made ones has no pixel
    _, found = compare(parts=("patches",), datasets=("cityscapes:streets",), concepts=classes, shots=(4,))
    assert found.caveats[0].startswith("A reproduction only if what cannot be seen from here is the same")
    unseen = "Whether images and annotations of cityscapes:streets are those of Cityscapes cannot be seen from here."
    assert unseen in found.caveats
    assert "Whether mae_vitb16 holds the paper's weights of MAE cannot be seen from here." in found.caveats


def test_the_vit_b_stands_before_others_of_its_family():
    backbones = (("mae_vitl16", "mae", "MAE"), ("mae_vitb16_decoder", "mae", "MAE"))
    _, found = compare(backbones=backbones, parts=("patches",))
    assert {row.backbone for row in found.rows} == {"mae_vitb16_decoder"}


def test_parts_without_printed_numbers_compare_to_nothing():
    _, found = compare(parts=("retrieval", "scale"))
    assert (found.rows, found.absent, found.caveats) == ((), (), ())
    assert found.source


def test_failed_matches_of_dinov2_are_beside_the_paper_on_bdd100k_alone():
    backbones = (("dinov2_vitb14", "dinov2", "DINOv2"), ("mae_vitb16", "mae", "MAE"))
    rows, found = compare(parts=("tracking",), backbones=backbones, tracks="bdd100k:drives")
    (row,) = found.rows
    assert (
        row.what == "share of failed matches whose category is right, tiles (printed: more than 0.95), dinov2, BDD100K"
    )
    assert (row.where, row.published, row.variant) == ("Section 5.3", 0.95, "dinov2_vitb14")
    assert row.value == next(
        own["value"]
        for own in rows
        if (own["backbone"], own["measure"], own["setting"], own["tiling"], own.get("dropped"))
        == ("dinov2_vitb14", "failed_same_category", "all gaps", "tiles", 0)
    )
    assert found.caveats[0].startswith("Not a reproduction")
    assert sum("4 videos" in caveat for caveat in found.caveats) == 1
    _, found = compare(parts=("tracking",), backbones=backbones, tracks="mot17:walks")
    assert found.rows == ()
    assert len(found.absent) == 1
