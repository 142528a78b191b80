"""Retrieval on images whose patches can be told apart by construction."""

import dataclasses

import numpy as np
import pytest

from experiments.local import views
from experiments.local.parts import retrieval
from experiments.local.parts.retrieval import measure, original_patches, own_patches, queries_of, transformed
from tests.backbones.random_folder import save_random
from tests.experiments.local.make_bench import Painted, make_bench, painted
from tests.experiments.local.pixel_bench import CELL, WIDTH, pixel_bench, pixels
from vitprobe_jax.backbones.loading import load_backbone
from vitprobe_jax.data.transformations import Transformation
from vitprobe_jax.errors import InputError
from vitprobe_jax.metrics.measurements import make_measurements
from vitprobe_jax.metrics.retrieval import OUTCOMES
from vitprobe_jax.probes.knn import nearest

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
    found = [row for row in rows if all(row.get(name) == value for name, value in wanted.items()) and "value" in row]
    assert len({row["measure"] for row in found}) == len(found)
    return {row["measure"]: row["value"] for row in found}


WHOLE = ("--tiling=whole", "--whole_size=24x24")


TILES = ("--tiling=tiles", "--tile=16", "--image_size=16")
LEVELS = [
    Transformation("shift", 3.0),
    Transformation("shift", 4.0),
    Transformation("rotation", 20.0),
    Transformation("scale", 0.8),
    Transformation("scale", 1.2),
]


def asking(mask, own, transformation):
    """Patches, concepts and counterparts of the queries of an image or tile, pixel by pixel; `own`: patches of the base."""
    height, width = mask.shape
    back = np.linalg.inv(np.vstack([transformation.affine(mask.shape), [0, 0, 1]]))[:2]

    def source(y, x):
        column, row = np.floor(np.round(back @ [x, y, 1], 9)).astype(int)
        return (row, column) if 0 <= row < height and 0 <= column < width else None

    kinds, found = (0, 1, 1, 2, 0), []
    for row, column in np.ndindex(height // 4, width // 4):
        shown = [source(4 * row + y + 0.5, 4 * column + x + 0.5) for y, x in np.ndindex(4, 4)]
        votes = np.bincount([mask[place] for place in shown if place], minlength=5)
        if kinds[concept := int(votes.argmax())] > 0:
            place = source(4 * row + 2, 4 * column + 2)
            patch = place and place[0] // 4 * (width // 4) + place[1] // 4
            found.append((row * width // 4 + column, concept, patch if place and own[patch] else -1))
    return found


@pytest.mark.parametrize("layout", [WHOLE, TILES], ids=["whole", "tiles"])
@pytest.mark.parametrize("transformation", LEVELS, ids=lambda transformation: transformation.name)
def test_who_asks_and_for_what_is_as_a_count_of_pixels_says(tmp_path, layout, transformation):
    bench = pixel_bench(tmp_path, dataset(pictures((24, 24), 2)), *layout)
    originals = original_patches(bench, CELL, [CELL])
    queries = queries_of(bench, originals, transformation)
    tiling = bench.config.tiling[0]
    images, own = originals.view.splits["val"], own_patches(bench, tiling)
    expected = []
    for index in range(len(images)):
        for patch, concept, counterpart in asking(images.annotation(index).masks[0][1], own[index], transformation):
            there = originals.number[index, counterpart] if counterpart >= 0 else -1
            expected.append((index, patch, concept, there))
    assert len(expected) > 12
    np.testing.assert_array_equal(np.transpose(queries[1:]), expected)


@pytest.mark.parametrize("layout", [WHOLE, TILES], ids=["whole", "tiles"])
def test_images_find_themselves_and_after_a_shift_by_a_patch_too(tmp_path, layout):
    bench = pixel_bench(tmp_path, dataset(pictures((24, 24), 3, carried=1)), "--transformations=shift", *layout)
    rows = measure(bench, CELL, [CELL]).rows
    make_measurements(rows)
    # Tiles begin at 0 and 8. What asks after a shift by a patch are all but the first row and column of those that show
    # pixels of their own.
    side = bench.size(bench.config.tiling[0])[0] // 4
    own = own_patches(bench, bench.config.tiling[0]).reshape(-1, side, side)
    assert own.sum() == 3 * 36
    none = dict.fromkeys(OUTCOMES, 0)
    for setting, level, count in (("identity", 0.0, own.sum()), ("shift", 4.0, own[:, :-1, :-1].sum())):
        assert {row["count"] for row in rows if row.get("setting") == setting and row.get("level") == level} == {count}
        assert shares(rows, method="1-nn", setting=setting, level=level) == none | {"same_patch": 1, "upper_bound": 1}
    for method, level in (("1-nn", 1.0), ("1-nn other images", 4.0)):
        some = shares(rows, method=method, setting="shift", level=level)
        assert sum(some[name] for name in OUTCOMES) == pytest.approx(1)
    assert shares(rows, method="1-nn other images", setting="identity")["same_patch"] == 0


def test_a_patch_whose_centre_left_the_frame_finds_its_concept_and_never_itself(tmp_path):
    """Shifted by 3 of 4 pixels, the first row and column ask with what is left of them, but their centres are outside."""
    bench = pixel_bench(tmp_path, dataset(pictures((24, 24), 3, carried=1)), *WHOLE, "--transformations=shift")
    rows = measure(bench, CELL, [CELL]).rows
    found = shares(rows, method="1-nn", setting="shift", level=3.0)
    assert found["upper_bound"] == pytest.approx(25 / 36)
    assert found["same_patch"] <= found["upper_bound"]
    assert found["same_patch"] + found["same_fine"] == pytest.approx(1)  # there is nothing else
    assert {row["count"] for row in rows if row.get("setting") == "shift" and row.get("level") == 3.0} == {3 * 36}


def test_features_of_the_place_alone_lead_to_the_neighbour(tmp_path):
    def places(view, split):
        return np.stack([np.eye(36, WIDTH)] * len(view.splits[split]))

    val = pictures((24, 24), 1)
    bench = pixel_bench(tmp_path, dataset(val), *WHOLE, "--transformations=shift", planted=places)
    rows = measure(bench, CELL, [CELL]).rows
    concepts = val.masks[0][::4, ::4]
    kind = np.array([0, 1, 1, 2, 0])
    # What a patch shows after the shift was the one above and to the left of it; it finds what was at its own place.
    shown, there = concepts[:-1, :-1], concepts[1:, 1:]
    asked = kind[shown] > 0
    shown, there = shown[asked], there[asked]
    outcomes = {
        "same_fine": shown == there,
        "same_super": (shown != there) & (kind[shown] == kind[there]),
        "other_object": (kind[there] > 0) & (kind[shown] != kind[there]),
        "background": kind[there] == 0,
    }
    expected = {name: value.mean() for name, value in outcomes.items()}
    assert min(expected.values()) > 0
    found = shares(rows, method="1-nn", setting="shift", level=4.0)
    assert found == pytest.approx(expected | {"same_patch": 0, "upper_bound": 1})
    # There is no other image to look in.
    others = [row for row in rows if row.get("method") == "1-nn other images"]
    assert {row["skipped"] for row in others} == {"there is no other image"}


def test_blocks_of_images_give_what_all_at_once_give(tmp_path, monkeypatch):
    """All images in a block; the queries of several blocks, as two images fill a part with them; those of each alone."""
    searched = []

    def counted(queries, base, **options):
        searched.append(len(queries))
        return nearest(queries, base, **options)

    monkeypatch.setattr(retrieval, "nearest", counted)
    flags = *WHOLE, "--transformations=noise,rotation", "--host_memory=1"
    tables = []
    for images, share in ((3, 1), (1, (1 << 20) // (36 * WIDTH * 4)), (1, 1 << 40)):
        monkeypatch.setattr(views, "BLOCK_SHARE", share)
        bench = pixel_bench(tmp_path / str(share), dataset(pictures((24, 24), 3)), *flags)
        bench.rows.block_images = images
        searched.clear()
        tables.append((measure(bench, CELL, [CELL]).rows, len(searched)))
    assert tables[0][0] == tables[1][0] == tables[2][0]
    # By two methods, of the originals and of eight levels.
    assert [count for _, count in tables] == [2 * (1 + 8), 2 * (1 + 8 * 2), 2 * (1 + 8 * 3)]


def test_more_patches_than_fit_are_refused(tmp_path):
    flags = *WHOLE, "--transformations=noise", "--host_memory=1"
    bench = pixel_bench(tmp_path, dataset(pictures((24, 24), 160)), *flags)
    message = (
        "--host_memory: 5760 patches that are searched of painted and a copy of them take 3 MiB, more than the 1 MiB that "
        "are allowed;"
    )
    with pytest.raises(InputError, match=message):
        measure(bench, CELL, [CELL])


@pytest.mark.slow
def test_views_that_do_not_fit_are_searched_part_by_part(tmp_path, monkeypatch):
    """The same numbers, though no view fits the memory (96 tiles are 144 KiB) and each is extracted in parts."""
    backbone = load_backbone(str(save_random(tmp_path, "dino")))
    flags = "--tile=40", "--image_size=32", "--tiling=tiles", "--transformations=noise,scale", "--drop_features=0,4"
    tables = []
    for name in ("whole", "parts"):
        bench = make_bench(tmp_path / name, dataset(pictures((40, 80), 48)), backbone, *flags, "--batch_size=8")
        if name == "parts":
            bench.rows.bounds = dataclasses.replace(bench.rows.bounds, host=147455)
            monkeypatch.setattr(type(bench), "check_room", lambda bench, count, what: None)
            assert not bench.rows.fits(bench.view("tiles"), "val")
        tables.append(measure(bench, CELL, [CELL]).rows)
    assert tables[0] == tables[1]


def test_training_tiles_are_searched_where_the_data_set_says_so(tmp_path):
    train = pictures((24, 24), 2, carried=1)
    of_train = painted(train, pictures((24, 24), 1), ("car",), supercategories=("vehicle",), retrieval_split="train")
    of_train = dataclasses.replace(of_train, splits={"train": train})
    bench = pixel_bench(tmp_path, of_train, *WHOLE, "--transformations=rotation")
    rows = measure(bench, CELL, [CELL]).rows
    make_measurements(rows)
    assert {row["shots"] for row in rows} == {0}
    assert {row["count"] for row in rows if row.get("setting") == "identity"} == {2 * 36}
    assert shares(rows, method="1-nn", setting="identity")["same_patch"] == 1


def test_statistics_count_the_pixels_and_patches_that_are_searched(tmp_path):
    val = pictures((24, 24), 3)
    bench = pixel_bench(tmp_path, dataset(val), *TILES, "--transformations=shift")
    bench.rows.left_out = lambda view, split: np.arange(4, 8)[: 4 * (split == "val")]  # the second image
    rows = [row for row in measure(bench, CELL, [CELL]).rows if row["measure"] in ("pixels", "patches")]
    patches = np.bincount(np.concatenate([val.masks[i][::4, ::4].ravel() for i in (0, 2)]), minlength=5)
    found = {(row["measure"], row["name"]): row["value"] for row in rows}
    names = ("background", "car", "bus", "dog", "sky")
    assert found == {
        (measure, name): count * size
        for measure, size in (("patches", 1), ("pixels", 16))
        for name, count in zip(names, patches.tolist(), strict=True)
    }
    assert {row["name"]: row.get("setting") for row in rows} == dict(zip(names, (None, *SUPERS), strict=True))
    assert {(row["level"], row["count"]) for row in rows} == {(16.0, 8)}


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
    assert {row["count"] for row in rows if row.get("setting") == "identity"} == {count}
    told = shares(rows, method="1-nn other images", setting="shift", level=2.0)
    assert sum(told.values()) == pytest.approx(1)


def test_no_object_is_one_skipped_row(tmp_path):
    bench = pixel_bench(tmp_path, dataset(pictures((24, 24), 2, carried=4)), *WHOLE)
    (row,) = measure(bench, CELL, [CELL]).rows
    assert row["count"] == 0
    assert row["skipped"] == "no patch of the original images shows an object"


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
    assert mended["same_patch"] == mended["upper_bound"] == 1


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
