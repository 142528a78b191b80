"""Boxes from maps of weights, and how well they lie on true ones: MaxBoxAcc and MaxBoxAccV2.

Choe et al., "Evaluating Weakly Supervised Object Localization Methods Right", CVPR 2020; details follow the benchmark's code
(clovaai/wsolevaluation). A map is cut at many thresholds and each contour of what is left has a box; the threshold that
counts is the best one for all images together. Boxes are (left, top, right, bottom) in pixels, right and bottom exclusive.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage

from vitprobe_jax.backbones.position import linear_matrix

IOUS = (0.3, 0.5, 0.7)
"""Overlaps from which a box counts as found; MaxBoxAccV2 is the mean over them, MaxBoxAcc has 0.5 alone."""

_NEIGHBOURS = np.ones((3, 3), bool)  # Corners touch too.


def map_to_image(weights: Float[np.ndarray, "rows columns"], size: tuple[int, int]) -> Float[np.ndarray, "h w"]:
    """Weights of patches as scores of pixels, from 0 to 1.

    Bilinear between patch centres, beyond the outermost ones constant, as PyTorch's `interpolate` with
    `align_corners=False`; then the lowest pixel is 0 and the highest 1. Scores of a map that is the same everywhere are 0.

    Args:
        weights: of the patches of an image.
        size: height and width of the image, in pixels.
    """
    along_rows, along_columns = (linear_matrix(n, m) for n, m in zip(weights.shape, size, strict=True))
    score = along_rows @ weights.astype(np.float64) @ along_columns.T
    low, high = score.min(), score.max()
    return (score - low) / (high - low) if high > low else np.zeros(size)


def boxes_at(
    score: Float[np.ndarray, "h w"], thresholds: Float[np.ndarray, " T"]
) -> tuple[Float[np.ndarray, "T 4"], list[Float[np.ndarray, "n 4"]]]:
    """The boxes around the contours of the pixels above each threshold, by the rules of the benchmark's code.

    Scores are rounded down to 256 levels, and a pixel counts if its level is strictly above the threshold's. Pixels that
    touch at a corner are connected. A hole has a contour too, along the pixels around it. A box ends one pixel after the
    last pixel of its contour, or at the edge of the image. Where no pixel counts, the box is the first pixel of the image.

    Args:
        score: 0 to 1.
        thresholds: shares of the highest level, 0 to 1, in any order.

    Returns:
        For every threshold the box around the region of the largest contour area, of equal ones the last in reading order
        of first pixels; and the boxes of all contours. The area is that of the polygon through the centres of the outermost
        pixels: 0 for lines and single pixels.

    Raises:
        ValueError: a score is not between 0 and 1.
    """
    if not ((score >= 0) & (score <= 1)).all():
        raise ValueError("score: must be between 0 and 1")
    levels = (score * 255).astype(np.uint8)
    cuts = (thresholds * levels.max()).astype(int)
    largest, every = np.zeros((len(cuts), 4)), [None] * len(cuts)
    found = np.array([[0, 0, 1, 1]], np.float64), np.array([[0, 0, 1, 1]], np.float64)
    height, width = levels.shape
    left = top = count = 0
    for t in np.argsort(cuts, kind="stable"):
        above = levels > cuts[t]
        # A higher threshold only takes pixels away: as many are the same ones, and none is outside the boxes so far.
        if np.count_nonzero(above) != count:
            count = np.count_nonzero(above)
            first, boxes = _contours(above)
            ends = np.array([left, top, left + 1, top + 1])
            limits = np.array([width, height, width, height])
            found = tuple(np.minimum(own + ends, limits).astype(np.float64) for own in (first, boxes))
            (x0, y0), (x1, y1) = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
            levels, left, top = levels[y0:y1, x0:x1], left + x0, top + y0
        largest[t], every[t] = found[0][0], found[1]
    return largest, every


def best_ious(
    score: Float[np.ndarray, "h w"], truth: Float[np.ndarray, "G 4"], thresholds: Float[np.ndarray, " T"]
) -> tuple[Float[np.ndarray, " T"], Float[np.ndarray, " T"]]:
    """The best overlap with any true box at every threshold: of the largest region's box, and of any contour's box.

    The first is the rule of MaxBoxAcc, the second the one of MaxBoxAccV2, which lets a map show several objects.

    Args:
        score: as for `boxes_at`.
        truth: boxes of the objects of the image, at least one.
        thresholds: as for `boxes_at`.

    Raises:
        ValueError: there is no true box, or a score is not between 0 and 1.
    """
    if not len(truth):
        raise ValueError("truth: an image without a true box takes no part in localisation")
    largest, every = boxes_at(score, thresholds)
    of_every = [box_iou(boxes, truth).max() for boxes in every]
    return box_iou(largest, truth).max(axis=1), np.array(of_every)


def max_box_acc(ious: Float[np.ndarray, "N T"], levels: Sequence[float] = IOUS) -> dict[float, float]:
    """MaxBoxAcc at several overlaps: the share of images that reach each, at the threshold that is best for all images.

    Args:
        ious: of `best_ious`, of every image at the same thresholds.
        levels: overlaps from which a box counts as found.

    Returns:
        By level, 0 to 1. The mean over `IOUS` is MaxBoxAccV2, if overlaps are those of any region.
    """
    return {level: float(_shares_found(ious, level).max()) for level in levels}


def best_threshold(ious: Float[np.ndarray, "N T"], level: float) -> int:
    """The index of the threshold at which most images reach an overlap; of equal ones the first."""
    return int(_shares_found(ious, level).argmax())


def _shares_found(ious: np.ndarray, level: float) -> Float[np.ndarray, " T"]:
    if not len(ious):
        raise ValueError("localisation is of one image at least")
    return (ious >= level).mean(axis=0)


def box_iou(boxes: Float[np.ndarray, "n 4"], truth: Float[np.ndarray, "G 4"]) -> Float[np.ndarray, "n G"]:
    """Area of the intersection over that of the union, of every pair of boxes.

    Raises:
        ValueError: a box ends before it begins.
    """
    if any((each[:, 2:] < each[:, :2]).any() for each in (boxes, truth)):
        raise ValueError("boxes: one ends before it begins")
    low = np.maximum(boxes[:, None, :2], truth[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], truth[None, :, 2:])
    common = np.maximum(high - low, 0).prod(axis=2)
    areas, true_areas = ((each[:, 2:] - each[:, :2]).prod(axis=1) for each in (boxes, truth))
    return common / (areas[:, None] + true_areas[None] - common)


def _contours(above: Bool[np.ndarray, "h w"]) -> tuple[Int[np.ndarray, "1 4"], Int[np.ndarray, "n 4"]]:
    """Boxes around the region of the largest contour area, and around all regions and holes; right and bottom exclusive."""
    framed = np.pad(above, 1)
    regions, _ = ndimage.label(framed, _NEIGHBOURS)
    # What is not above is connected along sides only. The frame has label 1: it is first in reading order.
    gaps, num_gaps = ndimage.label(~framed)
    outer = _boxes(regions)
    if num_gaps == 1:
        return outer[_largest(regions)][None], outer
    filled, _ = ndimage.label(gaps != 1, _NEIGHBOURS)
    holes = _boxes(gaps)[1:] + np.array([-1, -1, 1, 1])
    return _boxes(filled)[_largest(filled)][None], np.concatenate([outer, holes])


def _boxes(labels: Int[np.ndarray, "h w"]) -> Int[np.ndarray, "n 4"]:
    """The box of every label, without the frame of one pixel."""
    return np.array([(x.start, y.start, x.stop, y.stop) for y, x in ndimage.find_objects(labels)]) - 1


def _largest(regions: Int[np.ndarray, "h w"]) -> int:
    """The index of the region without holes of the largest contour area; of equal ones the last.

    The polygon through the centres of the outermost pixels covers each square of four pixels of the region wholly, and half
    of each with three; all others not at all.
    """
    if (num := int(regions.max())) == 1:
        return 0
    within = (regions > 0).view(np.uint8)
    pairs = within[:, :-1] + within[:, 1:]
    members = pairs[:-1] + pairs[1:]
    squares = np.nonzero(members > 2)
    # Of three pixels of a square at least one lies on its diagonal.
    labels = np.maximum(regions[:-1, :-1][squares], regions[1:, 1:][squares])
    areas = np.bincount(labels, (members[squares] - 2) / 2, minlength=num + 1)[1:]
    return num - 1 - int(areas[::-1].argmax())
