"""Tracking on frames whose objects can be told apart by construction."""

import numpy as np
import pytest

from experiments.local.objects import frame_patches, object_features, read_objects
from experiments.local.parts.tracking import measure
from tests.data.mot_tree import write_mot
from tests.experiments.local.pixel_bench import CELL, Frames, pixel_bench
from vitprobe_jax.data.dataset import Annotation, Box, Dataset
from vitprobe_jax.data.motchallenge import open_motchallenge
from vitprobe_jax.data.tiles import tile_boxes
from vitprobe_jax.errors import InputError
from vitprobe_jax.metrics.measurements import make_measurements
from vitprobe_jax.types import Concept

SIZE = (32, 48)
TILES = ("--tiling=tiles", "--tile=16", "--image_size=16")
BOTH = ("--tiling=tiles,whole", "--tile=16", "--image_size=16")
CONCEPTS = tuple(Concept(i, name, "object") for i, name in enumerate(("person", "car"), 1))


def patterns(count, seed=0):
    """Objects of 8 x 8 pixels."""
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), np.uint8)


def frame(seed, objects):
    """A noisy frame with objects: (pattern, number, track, left, top) each."""
    image = np.random.default_rng([1, seed]).integers(0, 60, (*SIZE, 3), np.uint8)
    boxes = []
    for pattern, number, track, left, top in objects:
        height, width = image[top : top + 8, left : left + 8].shape[:2]
        image[top : top + 8, left : left + 8] = pattern[:height, :width]
        boxes.append(Box(number, track, float(left), float(top), float(left + 8), float(top + 8)))
    return image, Annotation(boxes=tuple(boxes))


def dataset(frames, numbers):
    images, annotations = zip(*frames, strict=True)
    split = Frames(images, annotations, tuple(numbers))
    return Dataset("frames", CONCEPTS, {"val": split}, False, "0", supercategories=("human", "vehicle"), tile=16)


def values(rows, **wanted):
    found = [row for row in rows if wanted.items() <= row.items() and "value" in row]
    return {row["measure"]: row["value"] for row in found}


def test_constant_boxes_on_constant_frames_track_perfectly_in_tiles_and_whole(tmp_path):
    looks = patterns(4)
    objects = [(look, 1 + i % 2, i, 12 * i, 3 * i) for i, look in enumerate(looks)]
    data = dataset([frame(0, objects)] * 5, [("a", i) for i in range(3)] + [("b", i) for i in range(2)])
    bench = pixel_bench(tmp_path, data, *BOTH, "--gaps=1,2,4", "--drop_features=0,7")
    rows = measure(bench, CELL, [CELL]).rows
    make_measurements(rows)
    for tiling in ("tiles", "whole"):
        for dropped in (0, 7):
            for gap, pairs in ((1, 3), (2, 1)):
                where = {"tiling": tiling, "dropped": dropped, "level": float(gap)}
                assert {row["count"] for row in rows if where.items() <= row.items() and "value" in row} == {4 * pairs}
    far = [row for row in rows if row.get("level") == 4.0]
    assert len(far) == 4
    assert {row["skipped"] for row in far} == {"no two frames so far apart hold objects"}
    none_failed = [row for row in rows if row["measure"] == "failed_same_category"]
    assert len(none_failed) == 2 * 2 * 3  # two gaps that have pairs, and all together
    assert {(row["count"], row["skipped"]) for row in none_failed} == {(0, "no match failed")}


def test_objects_are_followed_by_their_looks_wherever_they_go(tmp_path):
    looks = patterns(3)
    # By whole patches, so that they look the same; the last one leaves, an empty frame follows, then two have changed looks.
    still = [(looks[0], 1, 1, 0, 0), (looks[1], 1, 2, 16, 8), (looks[2], 2, 3, 32, 16)]
    moved = [(looks[0], 1, 1, 8, 0), (looks[1], 1, 2, 4, 16)]
    swapped = [(looks[1], 1, 1, 8, 0), (looks[0], 1, 2, 4, 16)]
    frames = [frame(i, objects) for i, objects in enumerate((still, moved, [], swapped))]
    bench = pixel_bench(tmp_path, dataset(frames, [("a", i) for i in range(4)]), *TILES, "--gaps=1,2,3")
    rows = measure(bench, CELL, [CELL]).rows
    assert values(rows, level=1.0)["same_instance"] == values(rows, level=1.0)["upper_bound"] == pytest.approx(2 / 3)
    asked = [row for row in rows if row["measure"] != "failed_same_category"]
    assert values(asked, level=2.0) == {"same_instance": 0, "same_category": 1, "upper_bound": 1}
    assert values(rows, level=3.0)["same_instance"] == 0
    assert {row["level"]: row["count"] for row in asked} == {1.0: 3, 2.0: 2, 3.0: 3}
    # The one that has left is matched with a person each time; the two that have changed looks with each other.
    failed = [row for row in rows if row["measure"] == "failed_same_category"]
    assert {(row["setting"], row.get("level"), row["count"]): row["value"] for row in failed} == {
        ("gap", 1.0, 1): 0,
        ("gap", 2.0, 2): 1,
        ("gap", 3.0, 3): pytest.approx(2 / 3),
        ("all gaps", None, 6): pytest.approx(4 / 6),
    }


def test_an_object_is_the_mean_of_the_patches_that_it_covers(tmp_path):
    # Features are linear in the place, so that a box's mean is its centre's; it reaches beyond the frame on the right.
    ramp = np.indices(SIZE).astype(np.uint8)
    image = np.stack([4 * ramp[0], 4 * ramp[1], 0 * ramp[0]], -1)
    boxes = (Box(1, 1, 8.0, 4.0, 24.0, 20.0), Box(1, 2, 30.0, 12.0, 60.0, 20.0))
    data = dataset([(image, Annotation(boxes=boxes))], [("a", 0)])
    bench = pixel_bench(tmp_path, data, *BOTH)
    cut, whole = (object_features(bench, read_objects(bench), tiling, CELL, [CELL])[0] for tiling in ("tiles", "whole"))
    np.testing.assert_array_equal(cut, whole)
    means = 255 * cut.reshape(2, 16, 3).mean(1) / 4 + 0.5
    np.testing.assert_allclose(means[:, :2], [[12, 16], [16, 39]], atol=1e-4)


def test_features_are_the_same_however_frames_are_divided(tmp_path, monkeypatch):
    """Frames of two sizes, one without objects, some full; blocks end within no frame, calls take one frame or many."""
    frames = [
        frame(i, [(look, 1, t, 4 * t % 40, t % 24) for t, look in enumerate(patterns(n, i))])
        for i, n in enumerate((3, 40, 0, 1, 12, 7))
    ]
    frames += [(image[:16, :32], Annotation(boxes=annotation.boxes[:1])) for image, annotation in frames[3:4] * 2]
    data = dataset(frames, [("a", i) for i in range(6)] + [("b", i) for i in range(2)])
    bench = pixel_bench(tmp_path, data, *BOTH)
    objects = read_objects(bench)
    for tiling in ("tiles", "whole"):
        made = []
        for images, call_bytes in ((1, 1), (4, 3 * 4 * 96 * 48), (100, 64 << 20)):
            monkeypatch.setattr(type(bench.rows), "block_images", images)
            monkeypatch.setattr("experiments.local.objects.CALL_BYTES", call_bytes)
            made.append(object_features(bench, objects, tiling, CELL, [CELL])[0])
        assert made[0].shape == (65, 48)
        assert np.ptp(made[0], axis=0).all()
        for other in made[1:]:
            np.testing.assert_array_equal(other, made[0])


@pytest.mark.parametrize(
    ("size", "tile", "grid"), [((40, 50), 16, 4), ((32, 48), 16, 4), ((45, 33), 20, 3), ((10, 70), 32, 4)]
)
def test_a_frame_of_tiles_has_the_patch_under_each_centre(size, tile, grid):
    boxes = tile_boxes(size, tile)
    patches = frame_patches(boxes, (grid, grid), size)
    height, width = boxes[0].height / grid, boxes[0].width / grid
    assert patches.shape == (round(size[0] / height), round(size[1] / width))
    number, row, column = patches // grid**2, patches // grid % grid, patches % grid
    tops, lefts = np.array([box.top for box in boxes]), np.array([box.left for box in boxes])
    centre_y = tops[number] + (row + 0.5) * height
    centre_x = lefts[number] + (column + 0.5) * width
    expected_y = (np.arange(patches.shape[0])[:, None] + 0.5) * size[0] / patches.shape[0]
    expected_x = (np.arange(patches.shape[1])[None] + 0.5) * size[1] / patches.shape[1]
    # Half a patch, and half a pixel for the pixel in which a centre lies.
    assert np.abs(centre_y - expected_y).max() <= height / 2 + 0.5
    assert np.abs(centre_x - expected_x).max() <= width / 2 + 0.5
    if all(side % tile == 0 for side in size):
        np.testing.assert_allclose(centre_y, np.broadcast_to(expected_y, patches.shape))


def test_frames_that_cannot_be_decoded_are_as_if_they_were_not_there(tmp_path):
    looks = patterns(2)
    objects = [(look, 1, i, 16 * i, 8) for i, look in enumerate(looks)]
    data = dataset([frame(0, objects)] * 3, [("a", i) for i in range(3)])
    bench = pixel_bench(tmp_path, data, *TILES, "--gaps=1,2")
    bench.rows.left_out = lambda view, split: np.array([7])  # The second tile of the second frame.
    rows = measure(bench, CELL, [CELL]).rows
    assert [row["count"] for row in rows if row.get("level") == 1.0] == [0]
    assert values(rows, level=2.0) == {"same_instance": 1, "same_category": 1, "upper_bound": 1}


def test_people_of_an_official_tree_are_told_by_their_colours(tmp_path):
    tree = write_mot(tmp_path / "tree", seed=0, num_frames=4, sequences=("MOT17-02-FRCNN",))
    data = open_motchallenge(tree, "mot17:tree", benchmark="MOT17")
    bench = pixel_bench(tmp_path, data, "--tiling=tiles,whole", "--tile=40", "--image_size=40", "--gaps=1,2")
    rows = measure(bench, CELL, [CELL]).rows
    for tiling in ("tiles", "whole"):
        found = values(rows, tiling=tiling, level=1.0)
        assert found["same_category"] == found["upper_bound"] == 1
        assert found["same_instance"] > 0.8


def test_objects_whose_features_do_not_fit_are_refused_in_one_line(tmp_path):
    objects = [(look, 1, t, 4 * t % 40, t % 24) for t, look in enumerate(patterns(100))]
    data = dataset([frame(0, objects)] * 60, [("a", i) for i in range(60)])
    bench = pixel_bench(tmp_path, data, *TILES, "--host_memory=1")
    with pytest.raises(
        InputError, match="--host_memory: the features of 6000 objects of frames take 2 MiB, more"
    ) as found:
        measure(bench, CELL, [CELL])
    assert "\n" not in str(found.value)
