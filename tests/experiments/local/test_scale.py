"""Neighbours of whole images over ground sample distances, where they are known by construction."""

import dataclasses
import itertools

import numpy as np
import pytest
from PIL import Image

from experiments.local.parts.scale import measure
from tests.backbones.random_folder import save_random
from tests.backbones.random_vit import tiny
from tests.experiments.local.make_bench import Painted, make_bench, painted
from vitprobe_jax.backbones.config import BackboneSpec
from vitprobe_jax.backbones.loading import Backbone, load_backbone
from vitprobe_jax.data.imagefolder import open_imagefolder
from vitprobe_jax.metrics.measurements import make_measurements

CELL = (1, "x2")
PATCH, WIDTH = 4, 24
BACKBONE = Backbone(
    BackboneSpec(name="planted", family="dino", objective="none", config=tiny("dino", patch_size=PATCH, width=WIDTH)),
    {},
)
NAMES = ("river", "forest", "harbour", "runway")
TRAIN, VAL = (1, 2, 3) * 4, (3, 2, 1, 4, 4) * 3
"""Runways are in no training image."""
NOISE = [2, 9, 17]


def planted(view, split):
    """[CLS] is a code of the class; the mean of the patches too, but for some features that are loud and know nothing."""
    labels = TRAIN if split == "train" else VAL
    rng = np.random.default_rng([1, split == "train"])
    codes = np.random.default_rng(2).normal(size=(5, WIDTH))[list(labels)]
    noisy = codes.copy()
    noisy[:, NOISE] = rng.normal(scale=50, size=(len(labels), len(NOISE)))
    if view.rows == "pools":
        return np.stack([codes, noisy], axis=1)
    assert split == "train", "only training images say which features are left out"
    return np.repeat(noisy[:, None], 4, axis=1)


def bench_of(out, *flags, planted=planted, backbone=BACKBONE, side=(24, 24), **fields):
    blank = np.zeros((*side, 3), np.uint8)
    splits = (Painted((blank,) * len(labels), labels=labels) for labels in (TRAIN, VAL))
    return make_bench(out, painted(*splits, NAMES, **fields), backbone, *flags, planted=planted)


def rows_of(bench):
    return make_measurements(measure(bench, CELL, [CELL]).rows).to_pylist()


def test_loud_features_ruin_the_mean_and_are_left_out_by_name(tmp_path):
    rows = rows_of(bench_of(tmp_path, f"--drop_features=0,{len(NOISE)}", "--neighbours=1,3", "--native_gsd=0.5"))
    (lacking,) = (row for row in rows if row["skipped"] is not None)
    assert (lacking["concept"], lacking["name"], lacking["category"]) == (4, "runway", "class")
    assert lacking["skipped"] == "no training image shows it"
    measured = {
        (row["level"], row["method"], row["name"], row["dropped"]): row for row in rows if row["skipped"] is None
    }
    assert measured.keys() == set(
        itertools.product((0.5, 1.0, 2.0), ("1-nn", "3-nn", "20-nn weighted"), ("class", "mean"), (0, len(NOISE)))
    )
    for (_, _, name, dropped), row in measured.items():
        # Nine of the fifteen held-out images are of classes that training images show.
        assert row["count"] == 9
        assert row["setting"] == "gsd"
        assert row["features"] == ("without top" if dropped else "all")
        assert (row["value"] < 0.8) if (name, dropped) == ("mean", 0) else (row["value"] == 1)


def test_a_resized_image_covers_the_same_ground(tmp_path):
    seen = []

    def watched(view, split):
        seen.append(view)
        return planted(view, split)

    flags = ("--gsds=0.3,0.5,0.7,2.4", "--native_gsd=0.3", "--drop_features=0,3")
    rows = rows_of(bench_of(tmp_path, *flags, planted=watched, side=(25, 36)))
    for view in seen:
        height, width = view.size
        assert height == width
        assert height % PATCH == 0
        assert height * view.gsd == pytest.approx(30 * 0.3)
    # 30, 18, 12.9 and 3.75 pixels; the last is no two patches wide.
    assert [view.size[0] for view in dict.fromkeys(view for view in seen if view.rows == "pools")] == [32, 16, 12]
    assert {view.size[0] for view in seen if view.rows == "segmentation"} == {32}
    (small,) = (row for row in rows if row["level"] == 2.4)
    assert small["skipped"] == "images of 4 pixels are no 2 patches of 4 wide"


def test_distances_are_relative_where_nobody_knows_them(tmp_path):
    bench = bench_of(tmp_path, "--drop_features=0")
    assert {row["level"] for row in rows_of(bench) if row["level"]} == {1.0, 2.0, 4.0}
    (note,) = bench.rows.folder.notes
    assert "--native_gsd" in note


def test_a_model_without_cls_has_a_mean_only(tmp_path):
    config = tiny("ijepa", patch_size=PATCH, width=WIDTH)
    backbone = dataclasses.replace(BACKBONE, spec=dataclasses.replace(BACKBONE.spec, config=config))
    rows = rows_of(bench_of(tmp_path, "--drop_features=3", "--gsds=1", backbone=backbone))
    assert [row["skipped"] for row in rows if row["name"] == "class"] == ["it has no [CLS] token"]
    assert [row["value"] for row in rows if row["name"] == "mean"] == [1, 1]


def test_weighted_votes_are_scale_maes_whatever_the_flags(tmp_path):
    """20 neighbours by cosine, each with a vote of exp(s / 0.07), in plain NumPy."""
    rng = np.random.default_rng(5)
    labels = {"train": rng.integers(1, 5, 60), "val": rng.integers(1, 5, 40)}
    codes = rng.normal(size=(5, WIDTH))
    rows = {split: codes[own] + rng.normal(scale=1.8, size=(len(own), WIDTH)) for split, own in labels.items()}
    rows = {split: own * rng.uniform(0.2, 5, (len(own), 1)) for split, own in rows.items()}

    def planted(view, split):
        of_split = rows[split].astype(np.float32)
        return np.stack([of_split, of_split], axis=1) if view.rows == "pools" else of_split[:, None]

    blank = np.zeros((24, 24, 3), np.uint8)
    splits = [Painted((blank,) * len(own), labels=tuple(own.tolist())) for own in labels.values()]
    flags = ("--drop_features=0", "--gsds=1", "--native_gsd=1", "--neighbours=1", "--metric=l2")
    found = rows_of(make_bench(tmp_path, painted(*splits, NAMES), BACKBONE, *flags, planted=planted))
    train, val = (own / np.linalg.norm(own, axis=1, keepdims=True) for own in rows.values())
    cosines = val @ train.T
    told = []
    for of_one in cosines:
        nearest = np.argsort(-of_one)[:20]
        votes = [np.exp(of_one[nearest] / 0.07)[labels["train"][nearest] == k].sum() for k in range(5)]
        told.append(int(np.argmax(votes)))
    own = {row["method"]: row["value"] for row in found if row["name"] == "class"}
    assert own["20-nn weighted"] == pytest.approx(np.mean(told == labels["val"]))
    assert own["20-nn weighted"] != own["1-nn"]


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """Class folders of plain colours with a little noise, of 32 x 32 pixels; some files are no images."""
    root, rng = tmp_path_factory.mktemp("colours"), np.random.default_rng(3)
    for split, count in (("train", 4), ("val", 3)):
        for name, colour in {"blue": (20, 40, 220), "green": (30, 200, 40), "red": (220, 30, 30)}.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(rng.normal(colour, 8, (32, 32, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
        (root / split / "grey").mkdir()
    (root / "train" / "blue" / "0.png").write_bytes(b"no image")
    (root / "val" / "green" / "1.png").write_bytes(b"no image")
    (root / "train" / "grey" / "0.png").write_bytes(b"no image")
    Image.new("RGB", (32, 32), (90, 90, 90)).save(root / "val" / "grey" / "0.png")
    return root


@pytest.mark.slow
def test_colours_are_known_again_by_a_backbone_at_every_distance(colours, tmp_path):
    backbone = load_backbone(str(save_random(tmp_path, "scalemae", depth=1)))
    data = open_imagefolder(colours, "imagefolder:colours")
    bench = make_bench(tmp_path / "out", data, backbone, "--mesh=1", "--drop_features=0,2", "--native_gsd=2")
    rows = make_measurements(measure(bench, (0, "x2"), [(0, "x2")]).rows).to_pylist()
    measured = [row for row in rows if row["skipped"] is None]
    assert {(row["level"], row["name"], row["dropped"]) for row in measured} == set(
        itertools.product((2.0, 4.0), ("class", "mean"), (0, 2))
    )
    assert {(row["value"], row["count"]) for row in measured} == {(1.0, 8)}
    assert {row["name"]: row["skipped"] for row in rows if row["skipped"] is not None} == {
        "grey": "no training image shows it",
        None: "images of 8 pixels are no 2 patches of 8 wide",
    }
