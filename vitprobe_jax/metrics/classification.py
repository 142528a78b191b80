"""How well scores of classes tell the classes of images: one class an image, or any number of them."""

import numpy as np
from jaxtyping import Bool, Float, Int


def is_found(scores: Float[np.ndarray, "*heads N C"], labels: Int[np.ndarray, " N"]) -> Bool[np.ndarray, "*heads N"]:
    """Whether the highest score of an image is that of its class: top-1 accuracy is the mean.

    Of equal scores the first counts as the highest. A NaN is never the highest, so a head that diverged finds nothing.

    Args:
        scores: on any scale; of one head, or of several.
        labels: 0 to C - 1.
    """
    scores = _without_nan(scores)
    # Nothing is found among scores that were all NaN.
    return (scores.argmax(axis=-1) == labels) & ~np.isneginf(scores.max(axis=-1))


def mean_average_precision(
    scores: Float[np.ndarray, "N C"], present: Bool[np.ndarray, "N C"]
) -> tuple[float, Float[np.ndarray, " C"]]:
    """The mean over classes of their average precision, and that of each class; from 0 to 1.

    The average precision of a class is sum_n (R_n - R_{n-1}) P_n: precision and recall of all images whose score is at least
    the n-th highest distinct one; nothing is interpolated between. So images of equal scores count together, as
    in scikit-learn's `average_precision_score`. A NaN stands below every number.

    Args:
        scores: on any scale, which may differ from class to class.
        present: which classes an image shows.

    Returns:
        The mean over those classes that some image shows and some does not, and all classes: NaN for the others. Without
        a positive there is no recall; without a negative the precision is 1 whatever the scores. The mean is NaN where no
        class has both.
    """
    of_classes = np.full(scores.shape[1], np.nan)
    for k in np.flatnonzero(present.any(axis=0) & ~present.all(axis=0)):
        of_classes[k] = _average_precision(_without_nan(scores[:, k]), present[:, k])
    known = of_classes[~np.isnan(of_classes)]
    return float(known.mean()) if len(known) else float("nan"), of_classes


def _average_precision(scores: Float[np.ndarray, " N"], present: Bool[np.ndarray, " N"]) -> float:
    order = np.argsort(-scores, kind="stable")
    found = np.cumsum(present[order])
    # The last of equal scores: there all of them have been counted.
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    precision = found[ends] / (ends + 1)
    return float(np.diff(found[ends], prepend=0) @ precision / found[-1])


def _without_nan(scores: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(scores), -np.inf, scores)
