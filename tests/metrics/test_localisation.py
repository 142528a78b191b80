import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vitprobe_jax.metrics.localisation import (
    IOUS,
    best_ious,
    box_iou,
    boxes_at,
    count_found,
    map_to_image,
    max_box_acc,
)

THRESHOLDS = np.linspace(0, 1, 10, endpoint=False)


def drawn(size, *boxes):
    score = np.zeros(size)
    for left, top, right, bottom in boxes:
        score[top:bottom, left:right] = 1
    return score


def flooded(above, corners):
    """Sets of connected pixels in reading order of their first one, by flood fill."""
    steps = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if corners or not i * j]
    left_to_see = {tuple(place) for place in np.argwhere(above)}
    regions = []
    for start in sorted(left_to_see):
        if start not in left_to_see:
            continue
        left_to_see.remove(start)
        region, edge = {start}, [start]
        while edge:
            row, column = edge.pop()
            near = {(row + i, column + j) for i, j in steps} & left_to_see
            left_to_see -= near
            edge += near
            region |= near
        regions.append(region)
    return regions


def contours(above):
    """(area, box) of every contour: of regions without their holes, with their area, and of holes, which have none here."""
    gaps = flooded(~np.pad(above, 1), corners=False)
    holes = [{(row - 1, column - 1) for row, column in gap} for gap in gaps[1:]]
    filled = above.copy()
    for hole in holes:
        filled[tuple(np.transpose(sorted(hole)))] = True
    outermost = [(area_of(region), box_of(region, above.shape)) for region in flooded(filled, corners=True)]
    inner = [box_of(region, above.shape) for region in flooded(above, corners=True)]
    return outermost, inner + [box_of(hole, above.shape, more=1) for hole in holes]


def area_of(region):
    """Of the polygon through the centres of the outermost pixels: squares of four pixels, and halves of them."""
    squares = {(row + i, column + j) for row, column in region for i in (-1, 0) for j in (-1, 0)}
    members = [sum((r + i, c + j) in region for i in (0, 1) for j in (0, 1)) for r, c in squares]
    return sum(max(number - 2, 0) / 2 for number in members)


def box_of(pixels, size, more=0):
    """Ends one pixel after the last one, or at the edge."""
    (top, left), (bottom, right) = np.min(sorted(pixels), axis=0), np.max(sorted(pixels), axis=0)
    return left - more, top - more, min(right + more + 2, size[1]), min(bottom + more + 2, size[0])


def overlap(a, b):
    """Intersection over union by counting pixels."""
    one, two = ({(x, y) for x in range(*box[::2]) for y in range(*box[1::2])} for box in (a, b))
    return len(one & two) / len(one | two)


def check_by_flood_fill(score, thresholds):
    height, width = score.shape
    truth = [(0, 0, width // 2 + 1, height // 3 + 1), (width // 3, height // 4, width, height)]
    largest, every = boxes_at(score, thresholds)
    of_largest, of_any = best_ious(score, np.array(truth, float), thresholds)
    levels = np.floor(score * 255)
    for t, threshold in enumerate(thresholds):
        outermost, boxes = contours(levels > int(threshold * levels.max()))
        boxes = boxes or [(0, 0, 1, 1)]
        first = max(reversed(outermost), key=lambda region: region[0])[1] if outermost else boxes[0]
        assert tuple(largest[t]) == first
        assert sorted(map(tuple, every[t])) == sorted(boxes)
        assert of_largest[t] == pytest.approx(max(overlap(first, box) for box in truth))
        assert of_any[t] == pytest.approx(max(overlap(own, box) for own in boxes for box in truth))


SIZES = st.tuples(st.integers(1, 8), st.integers(1, 10))


@settings(max_examples=60, deadline=None)
@given(arrays(float, SIZES, elements=st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.7, 1.0])), st.permutations(THRESHOLDS))
def test_boxes_and_overlaps_are_those_of_a_flood_fill(score, thresholds):
    check_by_flood_fill(score, np.array(thresholds))


@pytest.mark.parametrize("power", [1, 3])
def test_boxes_of_smooth_maps_are_those_of_a_flood_fill(power):
    """Islands in lakes, saddles and flat borders, as maps of attention have them."""
    weights = np.random.default_rng(power).random((7, 6)) ** power
    check_by_flood_fill(map_to_image(weights, (42, 48)), np.linspace(0, 1, 12, endpoint=False))


def benchmark_boxes(score, step=0.2):
    """Boxes of the largest contour as the benchmark writes them, with the last pixel included."""
    largest, _ = boxes_at(np.array(score, float), np.arange(0, 1, step))
    return (largest - [0, 0, 1, 1]).astype(int).tolist()


def benchmark_ious(boxes, truth):
    last = np.array([0.0, 0, 1, 1])
    return box_iou(np.array(boxes) + last, np.array(truth) + last)


def test_values_of_the_test_cases_of_the_benchmark():
    """Of clovaai/wsolevaluation; what needs its metadata or its masks is not here."""
    assert benchmark_boxes(np.zeros((3, 3))) == [[0, 0, 0, 0]] * 5
    unimodal = [
        [0.0, 0.0, 0.0, 0.0, 0.0],
        [0.0, 0.4, 0.4, 0.4, 0.6],
        [0.0, 0.4, 1.0, 0.8, 0.6],
        [0.0, 0.4, 0.4, 0.4, 0.6],
    ]
    assert benchmark_boxes(unimodal) == [[1, 1, 4, 3], [1, 1, 4, 3], [2, 1, 4, 3], [2, 2, 4, 3], [2, 2, 3, 3]]
    multimodal = [
        [0.4, 0.0, 0.2, 0.2, 0.2],
        [0.4, 0.4, 0.0, 0.4, 0.0],
        [0.0, 0.0, 0.0, 0.4, 0.0],
        [1.0, 0.6, 0.8, 0.2, 0.2],
    ]
    assert benchmark_boxes(multimodal) == [[0, 0, 4, 3], [0, 0, 2, 2], [0, 3, 3, 3], [2, 3, 3, 3], [0, 3, 1, 3]]
    with pytest.raises(ValueError, match="between 0 and 1"):
        benchmark_boxes(np.full((3, 3), np.nan))
    assert (benchmark_ious(np.zeros((3, 4)), np.zeros((5, 4))) == np.ones((3, 5))).all()
    assert (benchmark_ious([[1, 1, 3, 3], [4, 4, 5, 5]], [[1, 1, 3, 3], [4, 4, 5, 5]]) == np.eye(2)).all()
    assert benchmark_ious([[1, 2, 5, 6]], [[3, 1, 4, 5]])[0, 0] == pytest.approx(8 / 27)
    with pytest.raises(ValueError, match="before it begins"):
        benchmark_ious([[1, 1, 0, -1]], [[1, 1, 2, 2]])


def test_a_hole_has_a_box_of_its_own():
    score = drawn((20, 20), (2, 2, 16, 16))
    score[5:9, 6:10] = 0
    largest, (boxes,) = boxes_at(score, np.array([0.5]))
    assert largest.tolist() == [[2, 2, 17, 17]]
    assert sorted(boxes.tolist()) == [[2, 2, 17, 17], [5, 4, 12, 11]]


def test_lines_are_smaller_than_the_smallest_block():
    score = drawn((20, 20), (0, 0, 20, 1), (4, 4, 6, 6))
    assert boxes_at(score, np.array([0.5]))[0].tolist() == [[4, 4, 7, 7]]


def test_maps_that_are_the_boxes_are_found():
    boxes = [(3, 2, 20, 11), (0, 0, 30, 24), (29, 23, 30, 24)]
    found = [best_ious(drawn((24, 30), box), np.array([box], float), THRESHOLDS) for box in boxes]
    for rule in zip(*found, strict=True):
        assert max_box_acc(count_found(np.stack(rule)), 3) == dict.fromkeys(IOUS, 1.0)


def test_the_largest_of_two_regions_and_any_of_them():
    small, large = (1, 1, 5, 5), (10, 3, 18, 11)
    score = drawn((16, 20), small, large)
    of_largest, of_any = best_ious(score, np.array([small], float), THRESHOLDS)
    np.testing.assert_allclose(of_largest, 0)
    np.testing.assert_allclose(of_any, 16 / 25)
    both, _ = best_ious(score, np.array([small, large], float), THRESHOLDS)
    np.testing.assert_allclose(both, 64 / 81)


def test_the_threshold_is_one_for_all_images():
    ious = np.array([[0.2, 0.6, 0.4], [0.9, 0.5, 0.1], [0.2, 0.29, 0.3]])
    found = count_found(ious)
    assert found.tolist() == [[1, 2, 2], [1, 2, 0], [1, 0, 0]]
    assert (found == count_found(ious[:1]) + count_found(ious[1:])).all()
    assert max_box_acc(found, 3) == {0.3: 2 / 3, 0.5: 2 / 3, 0.7: 1 / 3}
    with pytest.raises(ValueError, match="one image"):
        max_box_acc(count_found(ious[:0]), 0)
    with pytest.raises(ValueError, match="true box"):
        best_ious(np.ones((4, 4)), np.zeros((0, 4)), THRESHOLDS)


def test_maps_become_images_as_in_torch():
    weights = np.random.default_rng(0).random((4, 3)).astype(np.float32)
    enlarged = torch.nn.functional.interpolate(torch.tensor(weights)[None, None], (17, 20), mode="bicubic")[
        0, 0
    ].numpy()
    expected = (enlarged - enlarged.min()) / (enlarged.max() - enlarged.min())
    np.testing.assert_allclose(map_to_image(weights, (17, 20)), expected, atol=1e-6)
    assert not map_to_image(np.full((4, 3), 0.25, np.float32), (8, 6)).any()
