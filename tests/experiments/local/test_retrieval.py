"""Retrieval on images whose patches can be told apart by construction."""

import numpy as np
import pytest

from experiments.local.parts.retrieval import measure, own_patches, transformed
from tests.backbones.random_folder import save_random
from tests.experiments.local.make_bench import Painted, make_bench, painted
from tests.experiments.local.pixel_bench import CELL, WIDTH, pixel_bench, pixels
from vitprobe_jax.backbones.loading import load_backbone
from vitprobe_jax.data.transformations import Transformation
from vitprobe_jax.metrics.measurements import make_measurements
from vitprobe_jax.metrics.retrieval import OUTCOMES

SUPERS = ("vehicle", "vehicle", "animal", None)


def pictures(size, count, carried=None):
    """Noise, a colour a pixel; a concept for every patch of 4 pixels, of the given ones or drawn from all and none."""
    rng = np.random.default_rng([0, count])
    images, masks = [], []
    for _ in range(count):
        images.append(rng.integers(0, 256, (*size, 3), np.uint8))
        grid = tuple(side // 4 for side in size)
        concepts = rng.integers(0, 5, grid) if carried is None else np.broadcast_to(carried, grid)
        masks.append(np.kron(concepts, np.ones((4, 4), int)).astype(np.int32))
    return Painted(tuple(images), tuple(masks))


def dataset(val, supercategories=SUPERS):
    names = ("car", "bus", "dog", "sky")
    return painted(pictures((24, 24), 1), val, names, supercategories=supercategories)


def shares(rows, **wanted):
    """Values by measure of the rows of one setting."""
    found = [row for row in rows if all(row[name] == value for name, value in wanted.items()) and "value" in row]
    assert len({row["measure"] for row in found}) == len(found)
    return {row["measure"]: row["value"] for row in found}


WHOLE = ("--tiling=whole", "--whole_size=24x24")


@pytest.mark.parametrize("layout", [WHOLE, ("--tiling=tiles", "--tile=16", "--image_size=16")], ids=["whole", "tiles"])
def test_images_retrieve_themselves_and_a_shift_by_a_patch_all_but_what_left(tmp_path, layout):
    bench = pixel_bench(tmp_path, dataset(pictures((24, 24), 3, carried=1)), "--transformations=shift", *layout)
    rows = measure(bench, CELL, [CELL]).rows
    make_measurements(rows)
    # Tiles begin at 0 and 8; of each, what left the frame are the last row and column, where these show pixels of their own.
    tiling = bench.config.tiling[0]
    side = bench.size(tiling)[0] // 4
    own = own_patches(bench, tiling).reshape(-1, side, side)
    kept = own[:, :-1, :-1].sum() / own.sum()
    assert own.sum() == 3 * 36
    assert {row["count"] for row in rows} == {own.sum()}
    none = dict.fromkeys(OUTCOMES, 0)
    assert shares(rows, method="1-nn", setting="identity") == none | {"same_patch": 1, "upper_bound": 1}
    shifted = shares(rows, method="1-nn", setting="shift", level=4.0)
    assert shifted == pytest.approx(none | {"same_patch": kept, "left_frame": 1 - kept, "upper_bound": kept})
    for method, level in (("1-nn", 1.0), ("1-nn other images", 4.0)):
        some = shares(rows, method=method, setting="shift", level=level)
        assert sum(some[name] for name in OUTCOMES) == pytest.approx(1)
    assert shares(rows, method="1-nn other images", setting="identity")["same_patch"] == 0


def test_features_of_the_place_alone_lead_to_the_neighbour(tmp_path):
    def places(view, split):
        return np.stack([np.eye(36, WIDTH)] * len(view.splits[split]))

    val = pictures((24, 24), 1)
    bench = pixel_bench(tmp_path, dataset(val), *WHOLE, "--transformations=shift", planted=places)
    rows = measure(bench, CELL, [CELL]).rows
    concepts = val.masks[0][::4, ::4]
    kind = np.array([0, 1, 1, 2, 0])
    asked = kind[concepts] > 0
    own, there = concepts[:-1, :-1][asked[:-1, :-1]], concepts[1:, 1:][asked[:-1, :-1]]
    outcomes = {
        "same_fine": own == there,
        "same_super": (own != there) & (kind[own] == kind[there]),
        "other_object": (kind[there] > 0) & (kind[own] != kind[there]),
        "background": kind[there] == 0,
    }
    expected = {name: value.sum() / asked.sum() for name, value in outcomes.items()}
    assert min(expected.values()) > 0
    found = shares(rows, method="1-nn", setting="shift", level=4.0)
    bound = len(own) / asked.sum()
    lost = {"same_patch": 0, "left_frame": 1 - bound, "upper_bound": bound}
    assert found == pytest.approx(expected | lost)
    # There is no other image to look in.
    others = [row for row in rows if row["method"] == "1-nn other images"]
    assert {row["skipped"] for row in others} == {"there is no other image"}


def test_other_images_do_not_include_tiles_of_the_own_one(tmp_path):
    # Two images that are one and the same four times over: the patch's own image has copies, but so has the other one.
    cell = pictures((16, 16), 1, carried=[[1, 2, 3, 4]] * 4)
    image, mask = np.tile(cell.images[0], (2, 2, 1)), np.tile(cell.masks[0], (2, 2))
    val = Painted((image, image), (mask, mask[:, ::-1]))
    bench = pixel_bench(
        tmp_path, dataset(val), "--tiling=tiles", "--tile=16", "--image_size=16", "--transformations=noise"
    )
    rows = measure(bench, CELL, [CELL]).rows
    # Columns of concepts 1 2 3 4 meet 4 3 2 1: a car meets the sky, a bus a dog; asked are the objects of both images.
    found = shares(rows, method="1-nn other images", setting="identity")
    assert found == pytest.approx(dict.fromkeys(OUTCOMES, 0) | {"background": 1 / 3, "other_object": 2 / 3})


def test_without_super_categories_every_concept_is_an_object(tmp_path):
    val = pictures((24, 24), 2)
    rows = measure(pixel_bench(tmp_path, dataset(val, ()), *WHOLE, "--transformations=shift"), CELL, [CELL]).rows
    untold = [row for row in rows if row["measure"] == "same_super"]
    assert untold
    assert all("super categories" in row["skipped"] for row in untold)
    count = sum((mask[::4, ::4] > 0).sum() for mask in val.masks)
    assert {row["count"] for row in rows} == {count}
    told = shares(rows, method="1-nn other images", setting="shift", level=2.0)
    assert sum(told.values()) == pytest.approx(1)


def test_no_object_is_one_skipped_row(tmp_path):
    bench = pixel_bench(tmp_path, dataset(pictures((24, 24), 2, carried=4)), *WHOLE)
    (row,) = measure(bench, CELL, [CELL]).rows
    assert row["count"] == 0
    assert row["skipped"] == "no held-out patch shows an object"


def test_a_feature_of_large_variance_ruins_retrieval_and_leaving_it_out_mends_it(tmp_path):
    def with_junk(view, split):
        """The last feature is noise of its own in every view."""
        rows = pixels(view, split)
        rng = np.random.default_rng([*view.described.encode(), len(split)])
        rows[..., -1] = rng.normal(size=rows.shape[:-1]) * 1000
        return rows

    val = dataset(pictures((24, 24), 3, carried=1))
    bench = pixel_bench(tmp_path, val, *WHOLE, "--transformations=shift", "--drop_features=0,1", planted=with_junk)
    rows = measure(bench, CELL, [CELL]).rows
    ruined, mended = (shares(rows, method="1-nn", setting="shift", level=4.0, dropped=m) for m in (0, 1))
    assert ruined["same_patch"] < 0.1
    assert mended["same_patch"] == mended["upper_bound"] == pytest.approx(25 / 36)


@pytest.mark.slow
def test_transformed_images_take_the_way_of_the_others_through_a_real_backbone(tmp_path):
    backbone = load_backbone(str(save_random(tmp_path, "dino")))
    flags = "--tile=40", "--image_size=32", "--tiling=tiles"
    bench = make_bench(tmp_path / "out", dataset(pictures((40, 80), 3)), backbone, *flags)
    view, images = bench.view("tiles"), np.array([0, 2, 3, 5])
    same = transformed(bench, view, images, Transformation("identity"))
    plain, same = (bench.take(view, "val", CELL, [CELL]) for view in (view, same))
    assert plain.shape == (6, 16, 24)
    # Another batch of images on other devices: equal but for the order of sums.
    np.testing.assert_allclose(same, plain[images], atol=1e-5)
