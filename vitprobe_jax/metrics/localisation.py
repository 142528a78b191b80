"""Boxes from maps of weights, and how well they lie on true ones: MaxBoxAcc and MaxBoxAccV2.

Choe et al., "Evaluating Weakly Supervised Object Localization Methods Right", CVPR 2020. A map is cut at many thresholds and
each connected region of what is left has a box; the threshold that counts is the best one for all images together. Boxes are
(left, top, right, bottom) in pixels, right and bottom exclusive.
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
    """The boxes around the connected regions of pixels whose score is at least a share of the highest.

    Pixels that touch at a corner are connected. (The paper's code cuts maps of 256 levels, above the threshold; here nothing
    is rounded, and the threshold itself is in.)

    Args:
        score: not negative.
        thresholds: shares of the highest score, 0 to 1, in any order.

    Returns:
        For every threshold the box around the largest region by its number of pixels, of equal ones the first from the
        top; and the boxes around all regions, that one first.
    """
    cuts = thresholds * score.max()
    boxes: list = [None] * len(cuts)
    left = top = count = 0
    for t in np.argsort(cuts, kind="stable"):
        above = score >= cuts[t]
        # A higher threshold only takes pixels away: as many are the same ones, and none is outside the boxes so far.
        if np.count_nonzero(above) != count:
            count = np.count_nonzero(above)
            regions = _regions(above)
            (x0, y0), (x1, y1) = regions[:, :2].min(axis=0), regions[:, 2:].max(axis=0)
            found = regions + np.array([left, top, left, top])[None]
            score, left, top = score[y0:y1, x0:x1], left + x0, top + y0
        boxes[t] = found.astype(np.float64)
    return np.stack([each[0] for each in boxes]), boxes


def best_ious(
    score: Float[np.ndarray, "h w"], truth: Float[np.ndarray, "G 4"], thresholds: Float[np.ndarray, " T"]
) -> tuple[Float[np.ndarray, " T"], Float[np.ndarray, " T"]]:
    """The best overlap with any true box at every threshold: of the largest region's box, and of any region's box.

    The first is the rule of MaxBoxAcc, the second the one of MaxBoxAccV2, which lets a map show several objects.

    Args:
        score: as for `boxes_at`.
        truth: boxes of the objects of the image, one at least.
        thresholds: as for `boxes_at`.

    Raises:
        ValueError: there is no true box.
    """
    if not len(truth):
        raise ValueError("an image without a true box takes no part in localisation")
    _, every = boxes_at(score, thresholds)
    overlaps = [_iou(boxes, truth).max(axis=1) for boxes in every]
    return np.array([each[0] for each in overlaps]), np.array([each.max() for each in overlaps])


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


def _regions(above: Bool[np.ndarray, "h w"]) -> Int[np.ndarray, "n 4"]:
    """Boxes around connected pixels, those of the largest region first, the others from the top."""
    labels, _ = ndimage.label(above, _NEIGHBOURS)
    boxes = np.array([(x.start, y.start, x.stop, y.stop) for y, x in ndimage.find_objects(labels)])
    largest = np.bincount(labels.ravel())[1:].argmax()
    order = np.argsort(np.arange(len(boxes)) != largest, kind="stable")
    return boxes[order]


def _iou(boxes: Float[np.ndarray, "n 4"], truth: Float[np.ndarray, "G 4"]) -> Float[np.ndarray, "n G"]:
    """Area of the intersection over that of the union, of every pair."""
    low = np.maximum(boxes[:, None, :2], truth[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], truth[None, :, 2:])
    common = np.maximum(high - low, 0).prod(axis=2)
    areas, true_areas = ((each[:, 2:] - each[:, :2]).prod(axis=1) for each in (boxes, truth))
    return common / (areas[:, None] + true_areas[None] - common)
