"""What a central patch knows of its image, where that is known by construction."""

import numpy as np
import pytest
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score

from experiments.local.parts.context import STRENGTHS, concept_pixels, measure
from tests.backbones.random_vit import tiny
from tests.experiments.local.make_bench import Painted, make_bench, painted
from vitprobe_jax.backbones.config import BackboneSpec
from vitprobe_jax.backbones.loading import Backbone
from vitprobe_jax.metrics.measurements import make_measurements

PATCH, WIDTH, TILE, DROPPED = 4, 24, 12, 6
CELL = (1, "x2")
NAMES = ("road", "sky", "tree", "wall", "car", "bird")
CAR, BIRD = 5, 6
NOISE = np.arange(3, 3 + DROPPED)
"""Features of high variance that know nothing."""
BACKBONE = Backbone(
    BackboneSpec(name="planted", family="dino", objective="none", config=tiny("dino", patch_size=PATCH, width=WIDTH)),
    {},
)


def masks(count, seed, *, absent=()):
    """Masks of 20 x 28 pixels, bands of concepts, most of road, sky and tree; 0 is no concept, and all of the first one."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        present = [number for number in range(7) if number not in absent]
        mask = np.repeat(rng.choice(present, 7), 4)[None] * np.ones((20, 1), int)
        mask[: rng.integers(1, 20)] = rng.choice(present[1:4])
        made.append(mask)
    made[0][:] = 0
    return tuple(made)


def shares_of(mask):
    """Of each concept among all pixels, one by one."""
    counts = np.array([(mask == number).sum() for number in range(1, len(NAMES) + 1)])
    return counts / mask.size


def tiles_of(mask):
    """Tiles of 12 pixels: the last row and column are moved back."""
    return [mask[top : top + TILE, left : left + TILE] for top in (0, 8) for left in (0, 12, 16)]


TRAIN, VAL = masks(30, 0, absent=(BIRD,)), masks(12, 1, absent=(CAR, BIRD))
PROJECTION = np.random.default_rng(2).normal(size=(len(NAMES), WIDTH))


def planted(view, split):
    """Rows of the central patch are linear in the shares, and noise in some features; other patches are noise alone."""
    parts = [tile for mask in (TRAIN if split == "train" else VAL) for tile in tiles_of(mask)]
    rng = np.random.default_rng([3, split == "train"])
    rows = rng.normal(size=(len(parts), (TILE // PATCH) ** 2, WIDTH))
    rows[:, 4] = 2 + np.array([shares_of(part) for part in parts]) @ PROJECTION
    rows[..., NOISE] = rng.normal(scale=9, size=(*rows.shape[:2], DROPPED))
    return rows


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    blank = np.zeros((20, 28, 3), np.uint8)
    data = painted(
        *(Painted((blank,) * len(split), split) for split in (TRAIN, VAL)), NAMES, tile=TILE, skip_corrupt=False
    )
    flags = (f"--image_size={TILE}", f"--drop_features=0,{DROPPED}", "--seed=4")
    return make_bench(tmp_path_factory.mktemp("run"), data, BACKBONE, *flags, planted=planted)


@pytest.fixture(scope="module")
def rows(bench):
    return make_measurements(measure(bench, CELL, [CELL]).rows).to_pylist()


def test_the_pixels_of_a_sample_are_all_that_it_shows(bench):
    for split, own in (("train", TRAIN), ("val", VAL)):
        for tiling, parts in (("tiles", [tile for mask in own for tile in tiles_of(mask)]), ("whole", own)):
            counted = [[(part == number).sum() for number in range(len(NAMES) + 1)] for part in parts]
            np.testing.assert_array_equal(concept_pixels(bench, tiling, split), counted)
    # Nothing is resized here, so whole images have what their patches have together.
    of_patches = bench.counts("whole", "val").counts.sum(axis=1)
    np.testing.assert_array_equal(concept_pixels(bench, "whole", "val"), of_patches)


def r2_of(rows, features, name):
    (row,) = (row for row in rows if (row["features"], row["name"], row["measure"]) == (features, name, "r2"))
    return row


def test_a_linear_relation_is_found_but_not_in_features_of_noise(rows):
    for name in NAMES[:4]:
        assert r2_of(rows, "all", name)["value"] > 0.999
        assert r2_of(rows, "without top", name)["value"] > 0.999
        assert r2_of(rows, "only top", name)["value"] < 0.1
        assert r2_of(rows, "only random", name)["value"] < 0.999
    assert {(row["features"], row["dropped"]) for row in rows} == {
        ("all", 0),
        *((features, DROPPED) for features in ("without top", "only random", "only top")),
    }


def test_concepts_of_which_nothing_can_be_said_are_skipped_with_their_reason(rows):
    for features in ("all", "without top", "only random", "only top"):
        assert r2_of(rows, features, "car")["skipped"] == "no held-out image shows it"
        assert r2_of(rows, features, "bird")["skipped"] == "no training image shows it"
        of_variant = [row for row in rows if row["features"] == features]
        measured = [r2_of(rows, features, name)["value"] for name in NAMES[:4]]
        # Road, sky and tree have the most pixels.
        for measure_name, expected in (("mean_r2", measured), ("mean_r2_commonest", measured[:3])):
            (mean,) = (row for row in of_variant if row["measure"] == measure_name)
            assert mean["value"] == pytest.approx(np.mean(expected))
            assert mean["count"] == len(expected)


def test_the_regression_is_that_of_scikit_learn(bench, rows):
    used = {}
    for split, own in (("train", TRAIN), ("val", VAL)):
        parts = [tile for mask in own for tile in tiles_of(mask)]
        labelled = [tile.any() for tile in parts]
        x = planted(None, split)[labelled, 4].astype(np.float32)
        used[split] = x, np.array([shares_of(tile) for tile in parts])[labelled]
    (x, y), (x_val, y_val) = used["train"], used["val"]
    variance = planted(None, "train").reshape(-1, WIDTH).var(axis=0)
    top = np.argsort(-variance)[:DROPPED]
    assert set(top) == set(NOISE)
    alphas = np.array(STRENGTHS) * len(x) * x.var(axis=0).mean()
    for features, kept in (
        ("all", np.arange(WIDTH)),
        ("without top", np.setdiff1d(np.arange(WIDTH), top)),
        ("only top", top),
    ):
        fitted = RidgeCV(alphas=alphas, alpha_per_target=True).fit(x[:, kept], y)
        expected = r2_score(y_val, fitted.predict(x_val[:, kept]), multioutput="raw_values")
        for k in range(4):
            row = r2_of(rows, features, NAMES[k])
            assert row["count"] == len(x_val)
            assert row["value"] == pytest.approx(expected[k], abs=1e-4)


def small_bench(out, train, val, rows, *flags):
    """Whole images of 20 x 28 pixels, of which no class is cut; `rows` are those of their central patches."""
    blank = np.zeros((20, 28, 3), np.uint8)
    data = painted(*(Painted((blank,) * len(own), own) for own in (train, val)), NAMES)

    def at_centre(view, split):
        tokens = np.zeros((len(rows[split]), 35, WIDTH))
        # Of 5 x 7 patches.
        tokens[:, 2 * 7 + 3] = rows[split]
        return tokens

    return make_bench(out, data, BACKBONE, "--tiling=whole", *flags, planted=at_centre)


def test_a_random_choice_hangs_on_the_seed_and_on_nothing_else(tmp_path):
    """What each feature tells is another part of the truth, so which ones are left out shows in the numbers."""
    rows = {split: np.array([shares_of(mask) for mask in own]) for split, own in (("train", TRAIN), ("val", VAL))}
    rows = {split: np.repeat(own, 5, axis=1)[:, :WIDTH] for split, own in rows.items()}
    noise = np.random.default_rng(5)
    rows = {split: own + noise.normal(scale=0.2, size=own.shape) for split, own in rows.items()}

    def values(seed, drops):
        bench = small_bench(tmp_path, TRAIN, VAL, rows, f"--seed={seed}", f"--drop_features={drops}")
        found = measure(bench, CELL, [CELL]).rows
        return [row.get("value") for row in found if (row["features"], row["dropped"]) == ("only random", 12)]

    assert values(1, "0,12") == values(1, "0,3,12") != values(2, "0,12")


def test_a_concept_that_no_training_image_shows_or_that_never_changes_is_skipped(tmp_path):
    def mask(number, share):
        made = np.full((20, 28), 1)
        made[: int(20 * share)] = number
        return made

    train, val = (mask(2, 0.2), mask(2, 0.5), mask(2, 0.7)), (mask(3, 0.5), mask(3, 0.5))
    rows = {split: np.random.default_rng(6).normal(size=(n, WIDTH)) for split, n in (("train", 3), ("val", 2))}
    found = measure(small_bench(tmp_path, train, val, rows, "--drop_features=0"), CELL, [CELL]).rows
    reasons = {row["name"]: row["skipped"] for row in found if row["measure"] == "r2"}
    assert reasons == {
        "road": "it has the same share of every held-out image",
        "sky": "no held-out image shows it",
        "tree": "no training image shows it",
        "wall": "no training image shows it",
        "car": "no training image shows it",
        "bird": "no training image shows it",
    }
    assert {row["skipped"] for row in found if row["measure"] != "r2"} == {"no concept's R2 can be said"}
    make_measurements(found)


def test_too_few_samples_are_one_skipped_row(tmp_path):
    unlabelled = (np.zeros((20, 28), int),) * 2
    rows = {"train": np.zeros((2, WIDTH)), "val": np.zeros((2, WIDTH))}
    bench = small_bench(tmp_path, unlabelled, unlabelled, rows, "--drop_features=0")
    (row,) = make_measurements(measure(bench, CELL, [CELL]).rows).to_pylist()
    assert (row["measure"], row["tiling"], row["count"]) == ("mean_r2", "whole", 0)
    assert row["skipped"].startswith("0 training image(s) with pixels")
