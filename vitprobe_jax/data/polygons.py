"""Quadrilaterals in images: their areas, their parts within rectangles, masks of them.

Corners are (x, y) in pixels; a pixel is the unit square from its index on, so that its centre lies half a pixel further.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int


def ordered_corners(corners: Float[np.ndarray, "n 4 2"]) -> Float[np.ndarray, "n 4 2"]:
    """The corners of each quadrilateral by their direction from its centre, so that no sides cross."""
    x, y = np.moveaxis(corners - corners.mean(1, keepdims=True), -1, 0)
    order = np.argsort(np.arctan2(y, x), axis=1, kind="stable")
    return np.take_along_axis(corners, order[..., None], 1)


def polygon_areas(corners: Float[np.ndarray, "n c 2"]) -> Float[np.ndarray, " n"]:
    """The area of each polygon whose sides do not cross, in pixels, by the shoelace formula."""
    # Seen from a corner, so that far from the origin large products do not cancel.
    x, y = np.moveaxis(corners - corners[:, :1], -1, 0)
    return np.abs((x * np.roll(y, -1, 1) - np.roll(x, -1, 1) * y).sum(1)) / 2


def overlap_areas(corners: Float[np.ndarray, "n c 2"], boxes: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, " n"]:
    """The area of each polygon's part within its upright box (left, top, right, bottom), exact up to rounding.

    In a column of the box the polygon's part is as high as its sides' heights differ once they are clamped to the box. So
    the area is that of Green's theorem with clamped heights: summed over the sides, the integral of the clamped height over
    the columns that the side spans. It is linear in pieces, so its mean is known in closed form: no corners of a clipped
    polygon have to be found, and all polygons are done at once.
    """
    x0, y0 = np.moveaxis(corners - boxes[:, None, :2], -1, 0)
    x1, y1 = np.roll(x0, -1, 1), np.roll(y0, -1, 1)
    width, height = (boxes[:, 2:] - boxes[:, :2]).T[..., None]
    start, stop = np.clip(x0, 0, width), np.clip(x1, 0, width)
    run = np.where(x1 == x0, 1, x1 - x0)
    # Outside the box's columns start equals stop, and what the heights are there does not matter.
    at_start, at_stop = (y0 + np.clip((x - x0) / run, 0, 1) * (y1 - y0) for x in (start, stop))
    return np.abs(((stop - start) * _mean_clamped(at_start, at_stop, height)).sum(1))


def _mean_clamped(a: np.ndarray, b: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """The mean over [a, b] of t clamped to 0..limit: what is below gives 0, what is above gives the limit."""
    low, high = np.minimum(a, b), np.maximum(a, b)
    span = np.maximum(high - low, np.finfo(np.float64).tiny)
    with np.errstate(over="ignore"):
        below, until = np.clip(-low / span, 0, 1), np.clip((limit - low) / span, 0, 1)
    between = (np.clip(low, 0, limit) + np.clip(high, 0, limit)) / 2
    return (until - below) * between + (1 - until) * limit


def rasterize(
    corners: Float[np.ndarray, "n c 2"], labels: Sequence[int] | Int[np.ndarray, " n"], size: tuple[int, int]
) -> Int[np.ndarray, "H W"]:
    """A mask of the polygons: a pixel has the label of the last one that its centre lies in, 0 where there is none.

    Args:
        corners: of polygons whose sides do not cross; they may reach beyond the mask.
        labels: of each polygon.
        size: height and width of the mask.
    """
    mask = np.zeros(size, np.int32)
    for polygon, label in zip(corners, labels, strict=True):
        left, top = np.clip(np.floor(polygon.min(0)), 0, size[::-1]).astype(int)
        right, bottom = np.clip(np.ceil(polygon.max(0)), 0, size[::-1]).astype(int)
        x, y = np.arange(left, right) + 0.5, np.arange(top, bottom)[:, None] + 0.5
        # A point is inside when a ray from it to the right crosses an odd number of sides.
        inside = np.zeros((bottom - top, right - left), bool)
        for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, 0), strict=True):
            if y0 != y1:
                inside ^= ((y0 <= y) != (y1 <= y)) & (x < x0 + (y - y0) / (y1 - y0) * (x1 - x0))
        mask[top:bottom, left:right][inside] = label
    return mask
