"""Pixel accuracy and intersection over union, from what patches are taken for and the pixels that they hold."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int, Integer


def confusion(predicted: Integer[np.ndarray, " Q"], counts: Integer[np.ndarray, "Q K1"]) -> Int[np.ndarray, "K K"]:
    """How many pixels of each class (rows) lie in patches that are taken for each class (columns), in int64.

    A patch gives all its pixels the class that it is taken for; pixels that carry none are left out. Matrices of several
    sets of patches add up.

    Args:
        predicted: class of each patch, 0 to K - 1.
        counts: pixels of each patch by what they carry: none in column 0, class k in column k + 1.

    Raises:
        ValueError: a predicted class is none of the K.
    """
    num_classes = counts.shape[1] - 1
    present = np.unique(predicted)
    if len(present) and not 0 <= present[0] <= present[-1] < num_classes:
        raise ValueError(f"predicted classes from {present[0]} to {present[-1]} where there are {num_classes}")
    matrix = np.zeros((num_classes, num_classes), np.int64)
    # Class by class: counts are stored in few bytes, and only those of one class are widened at a time.
    for k in present:
        matrix[:, k] = counts[predicted == k, 1:].sum(axis=0, dtype=np.int64)
    return matrix


@dataclasses.dataclass(frozen=True)
class SegmentationScores:
    """Scores of a confusion matrix, each in [0, 1].

    Attributes:
        pixel_accuracy: share of pixels whose class is told; NaN where there are no pixels.
        miou: unweighted mean of `iou` over the classes that have one; NaN where there are no pixels.
        iou: IoU of each class: pixels that are of it and taken for it, among those that are either; NaN for a class that no
            pixel carries, whether it is predicted or not: nothing can tell how well it is found. Pixels that are taken for
            it count against the classes that they carry. (Cityscapes' and ADE20K's own scripts give such a class 0 where it
            is predicted; on their whole validation sets every class is annotated, and both agree.)
    """

    pixel_accuracy: float
    miou: float
    iou: Float[np.ndarray, " K"]


def scores(matrix: Int[np.ndarray, "K K"]) -> SegmentationScores:
    """Pixel accuracy and IoU of a matrix of `confusion`, all images together."""
    told = np.diagonal(matrix).astype(np.float64)
    union = matrix.sum(axis=0) + matrix.sum(axis=1) - np.diagonal(matrix)
    iou = np.divide(told, union, out=np.full(len(matrix), np.nan), where=matrix.sum(axis=1) > 0)
    total = int(matrix.sum())
    if not total:
        return SegmentationScores(float("nan"), float("nan"), iou)
    return SegmentationScores(float(told.sum() / total), float(np.nanmean(iou)), iou)
