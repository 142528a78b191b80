import numpy as np
import pytest
from matplotlib.path import Path as Outline

from tests.data.fair1m_tree import rotated
from vitprobe_jax.data.polygons import ordered_corners, overlap_areas, polygon_areas, rasterize


def clipped_area(corners, box) -> float:
    """Sutherland and Hodgman: the corners of the clipped polygon, one side of the box after the other, then their area."""
    left, top, right, bottom = box
    polygon = list(map(tuple, corners))
    for axis, edge, sign in ((0, left, 1), (0, right, -1), (1, top, 1), (1, bottom, -1)):
        previous, polygon = polygon, []
        for a, b in zip(previous, previous[1:] + previous[:1], strict=True):
            inside_a, inside_b = sign * (a[axis] - edge) >= 0, sign * (b[axis] - edge) >= 0
            if inside_a:
                polygon.append(a)
            if inside_a != inside_b:
                t = (edge - a[axis]) / (b[axis] - a[axis])
                polygon.append(tuple(a[i] + t * (b[i] - a[i]) for i in range(2)))
    x, y = np.array(polygon or [(0, 0)]).T
    return abs(x @ np.roll(y, -1) - np.roll(x, -1) @ y) / 2


def random_boxes(rng, count: int) -> np.ndarray:
    """Rotated boxes, some of them upright, with corners on whole pixels now and then."""
    boxes = [
        rotated(*rng.uniform(-20, 70, 2), *rng.uniform(0.5, 60, 2), rng.choice([0, np.pi / 2, *rng.uniform(0, 3, 4)]))
        for _ in range(count)
    ]
    boxes = np.array(boxes)
    boxes[::3] = np.round(boxes[::3])
    return boxes


def test_overlap_is_that_of_the_clipped_polygon():
    rng = np.random.default_rng(0)
    corners = random_boxes(rng, 400)
    boxes = np.concatenate([rng.integers(0, 20, (400, 2)), rng.integers(20, 60, (400, 2))], 1).astype(float)
    found = overlap_areas(corners, boxes)
    assert np.sum(found == 0) > 20
    assert np.sum(found > 100) > 50
    np.testing.assert_allclose(found, [clipped_area(c, b) for c, b in zip(corners, boxes, strict=True)], atol=1e-9)


def test_tiles_share_a_polygon_without_loss_far_from_the_origin():
    rng = np.random.default_rng(1)
    corners = random_boxes(rng, 50) + 9000
    edges = np.arange(8900, 9160, 20.0)
    parts = sum(overlap_areas(corners, np.tile([x, y, x + 20, y + 20], (50, 1))) for x in edges for y in edges)
    np.testing.assert_allclose(parts, polygon_areas(corners), rtol=1e-9)


def test_sides_that_run_along_the_box_and_touch_it():
    square = np.array([[[10.0, 10], [20, 10], [20, 20], [10, 20]]])
    for box, area in (
        ((10, 10, 20, 20), 100),
        ((0, 0, 10, 30), 0),
        ((0, 20, 30, 30), 0),
        ((12, 0, 14, 50), 20),
        ((15, 15, 15, 15), 0),
        ((20, 20, 30, 30), 0),
    ):
        assert overlap_areas(square, np.array([box], float)) == pytest.approx(area)


def test_corners_of_a_box_may_stand_in_any_order():
    rng = np.random.default_rng(2)
    box = np.array(rotated(5, 9, 20, 6, 0.7))
    shuffled = np.stack([rng.permutation(box) for _ in range(24)])
    np.testing.assert_allclose(polygon_areas(ordered_corners(shuffled)), 120)
    assert {tuple(corner) for corner in ordered_corners(shuffled)[7].tolist()} == set(map(tuple, box.tolist()))


def test_a_pixel_is_in_a_polygon_when_its_centre_is():
    rng = np.random.default_rng(3)
    x, y = np.meshgrid(np.arange(48) + 0.5, np.arange(40) + 0.5)
    centres = np.column_stack([x.ravel(), y.ravel()])
    corners = np.array([rotated(*rng.uniform(-5, 50, 2), *rng.uniform(1, 40, 2), rng.uniform(0, 3)) for _ in range(40)])
    for polygon in corners:
        inside = Outline(polygon).contains_points(centres).reshape(40, 48)
        np.testing.assert_array_equal(rasterize(polygon[None], [5], (40, 48)), 5 * inside)


def test_later_polygons_lie_over_earlier_ones():
    large, small = rotated(10, 10, 16, 16, 0), rotated(10, 10, 4, 4, 0)
    mask = rasterize(np.array([large, small]), [3, 8], (20, 20))
    assert (np.count_nonzero(mask == 3), np.count_nonzero(mask == 8)) == (256 - 16, 16)
    assert not np.any(rasterize(np.array([small, large]), [8, 3], (20, 20)) == 8)
    assert mask.dtype == np.int32
