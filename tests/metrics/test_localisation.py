import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vitprobe_jax.metrics.localisation import (
    IOUS,
    best_ious,
    best_threshold,
    boxes_at,
    map_to_image,
    max_box_acc,
)

THRESHOLDS = np.linspace(0, 1, 10, endpoint=False)


def drawn(size, *boxes):
    score = np.zeros(size)
    for left, top, right, bottom in boxes:
        score[top:bottom, left:right] = 1
    return score


def flooded(score, cut):
    """(pixels, box) of every region in reading order of its first pixel, by flood fill."""
    left_to_see = {tuple(place) for place in np.argwhere(score >= cut)}
    regions = []
    for start in sorted(left_to_see):
        if start not in left_to_see:
            continue
        left_to_see.remove(start)
        region, edge = [start], [start]
        while edge:
            row, column = edge.pop()
            near = {(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left_to_see
            left_to_see -= near
            edge += near
            region += near
        (top, left), (bottom, right) = np.min(region, axis=0), np.max(region, axis=0)
        regions.append((len(region), (left, top, right + 1, bottom + 1)))
    return regions


def overlap(a, b):
    """Intersection over union by counting pixels."""
    one, two = ({(x, y) for x in range(*box[::2]) for y in range(*box[1::2])} for box in (a, b))
    return len(one & two) / len(one | two)


@settings(max_examples=40, deadline=None)
@given(arrays(float, (7, 9), elements=st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.7, 1.0])), st.permutations(THRESHOLDS))
def test_boxes_and_overlaps_are_those_of_a_flood_fill(score, thresholds):
    thresholds, truth = np.array(thresholds), [(1, 0, 4, 3), (3, 2, 9, 7)]
    largest, every = boxes_at(score, thresholds)
    of_largest, of_any = best_ious(score, np.array(truth, float), thresholds)
    for t, threshold in enumerate(thresholds):
        regions = flooded(score, threshold * score.max())
        first = max(regions, key=lambda region: region[0])[1]
        assert tuple(largest[t]) == tuple(every[t][0]) == first
        assert sorted(map(tuple, every[t])) == sorted(box for _, box in regions)
        assert of_largest[t] == pytest.approx(max(overlap(first, box) for box in truth))
        assert of_any[t] == pytest.approx(max(overlap(own, box) for _, own in regions for box in truth))


def test_maps_that_are_the_boxes_are_found():
    boxes = [(3, 2, 20, 11), (0, 0, 30, 24), (29, 23, 30, 24)]
    found = [best_ious(drawn((24, 30), box), np.array([box], float), THRESHOLDS) for box in boxes]
    for rule in zip(*found, strict=True):
        assert max_box_acc(np.stack(rule)) == dict.fromkeys(IOUS, 1.0)


def test_the_largest_of_two_regions_and_any_of_them():
    small, large = (1, 1, 5, 5), (10, 3, 18, 11)
    score = drawn((16, 20), small, large)
    of_largest, of_any = best_ious(score, np.array([small], float), THRESHOLDS)
    # At threshold 0 the whole image is one region.
    np.testing.assert_allclose(of_largest, [16 / 320, *[0] * 9])
    np.testing.assert_allclose(of_any, [16 / 320, *[1] * 9])
    both, _ = best_ious(score, np.array([small, large], float), THRESHOLDS)
    np.testing.assert_allclose(both[1:], 1)


def test_the_threshold_is_one_for_all_images():
    ious = np.array([[0.2, 0.6, 0.4], [0.9, 0.5, 0.1], [0.2, 0.29, 0.3]])
    assert max_box_acc(ious) == {0.3: 2 / 3, 0.5: 2 / 3, 0.7: 1 / 3}
    assert best_threshold(ious, 0.5) == 1
    assert best_threshold(ious, 0.7) == 0
    with pytest.raises(ValueError, match="one image"):
        max_box_acc(ious[:0])
    with pytest.raises(ValueError, match="true box"):
        best_ious(np.ones((4, 4)), np.zeros((0, 4)), THRESHOLDS)


def test_maps_become_images_as_in_torch():
    weights = np.random.default_rng(0).random((4, 3)).astype(np.float32)
    enlarged = torch.nn.functional.interpolate(torch.tensor(weights)[None, None], (17, 20), mode="bilinear")[
        0, 0
    ].numpy()
    expected = (enlarged - enlarged.min()) / (enlarged.max() - enlarged.min())
    np.testing.assert_allclose(map_to_image(weights, (17, 20)), expected, atol=1e-6)
    assert not map_to_image(np.full((4, 3), 0.25, np.float32), (8, 6)).any()
