"""Boxes from maps of weights, and how well they lie on true ones: MaxBoxAcc and MaxBoxAccV2.

Choe et al., "Evaluating Weakly Supervised Object Localization Methods Right", CVPR 2020; details follow the benchmark's code
(clovaai/wsolevaluation). A map is cut at many thresholds and each contour of what is left has a box; the threshold that
counts is the best one for all images together. Boxes are (left, top, right, bottom) in pixels, right and bottom exclusive.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from vitprobe_jax.backbones.position import cubic_matrix
from vitprobe_jax.metrics.contours import find_contours

IOUS = (0.3, 0.5, 0.7)
"""Overlaps from which a box counts as found; MaxBoxAccV2 is the mean over them, MaxBoxAcc has 0.5 alone."""


def map_to_image(weights: Float[np.ndarray, "rows columns"], size: tuple[int, int]) -> Float[np.ndarray, "h w"]:
    """Weights of patches as scores of pixels, from 0 to 1.

    Bicubic between patch centres, as the benchmark's code enlarges maps (OpenCV's `INTER_CUBIC`, PyTorch's
    `interpolate(mode="bicubic")`); then the lowest pixel is 0 and the highest 1. Scores of a map that is the same everywhere
    are 0.

    Args:
        weights: of the patches of an image.
        size: height and width of the image, in pixels.
    """
    along_rows, along_columns = (cubic_matrix(n, m) for n, m in zip(weights.shape, size, strict=True))
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
    largest, boxes, cut, which = _boxes(score, thresholds)
    order = np.argsort(cut, kind="stable")
    by_cut = np.split(boxes[order], np.searchsorted(cut[order], np.arange(1, len(largest))))
    return largest[which], [by_cut[t] for t in which]


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
    largest, boxes, cut, which = _boxes(score, thresholds)
    of_any = np.zeros(len(largest))
    np.maximum.at(of_any, cut, box_iou(boxes, truth).max(axis=1))
    return box_iou(largest, truth).max(axis=1)[which], of_any[which]


def count_found(ious: Float[np.ndarray, "N T"], levels: Sequence[float] = IOUS) -> Int[np.ndarray, "L T"]:
    """How many images reach each overlap at each threshold.

    Counts of parts of the images add up to those of all: a data set never has to be held.

    Args:
        ious: of `best_ious`, of every image at the same thresholds.
        levels: overlaps from which a box counts as found.
    """
    return np.stack([np.count_nonzero(ious >= level, axis=0) for level in levels])


def max_box_acc(found: Int[np.ndarray, "L T"], num_images: int, levels: Sequence[float] = IOUS) -> dict[float, float]:
    """MaxBoxAcc at several overlaps: the share of images that reach each, at the threshold that is best for all images.

    Args:
        found: of `count_found`, at the same levels.
        num_images: that were counted.
        levels: overlaps from which a box counts as found.

    Returns:
        By level, 0 to 1. The mean over `IOUS` is MaxBoxAccV2, if overlaps are those of any region.

    Raises:
        ValueError: there is no image.
    """
    if num_images < 1:
        raise ValueError("localisation is of one image at least")
    return {level: int(of_level.max()) / num_images for level, of_level in zip(levels, found, strict=True)}


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


def _boxes(score, thresholds) -> tuple[np.ndarray, np.ndarray, np.ndarray, Int[np.ndarray, " T"]]:
    """Boxes of `boxes_at` at the different cuts: the largest regions', all, the cut of each; and each threshold's cut."""
    if not ((score >= 0) & (score <= 1)).all():
        raise ValueError("score: must be between 0 and 1")
    highest = int((score * 255).max())
    cuts, which = np.unique((thresholds * highest).astype(int), return_inverse=True)
    found = find_contours(score, cuts)
    # Where no level is above a cut, its box is the first pixel.
    empty = np.flatnonzero(cuts >= highest)
    boxes = np.concatenate([found.boxes, np.zeros((len(empty), 4), int)])
    height, width = score.shape
    one_further, limits = np.array([0, 0, 1, 1]), np.array([width, height, width, height])
    largest, boxes = (np.minimum(each + one_further, limits).astype(np.float64) for each in (found.largest, boxes))
    return largest, boxes, np.append(found.cut, empty), which
