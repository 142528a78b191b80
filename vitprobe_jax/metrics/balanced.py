"""Balanced metrics of a concept from counts of rows (DESIGN: words; paper section 3.6)."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int


@dataclasses.dataclass(frozen=True)
class Counts:
    """Rows of each kind, per template; any leading shape.

    Attributes:
        tp: positives found.
        fp: negatives taken for positives.
        n_pos: all positives.
        n_neg: all negatives.
    """

    tp: Int[np.ndarray, "*shape"]
    fp: Int[np.ndarray, "*shape"]
    n_pos: Int[np.ndarray, "*shape"]
    n_neg: Int[np.ndarray, "*shape"]


@dataclasses.dataclass(frozen=True)
class BalancedMetrics:
    """Metrics as if positives and negatives were equally many; each in [0, 1].

    Attributes:
        accuracy: (TPR + TNR) / 2.
        precision: TPR / (TPR + FPR).
        recall: TPR.
        f1: harmonic mean of precision and recall.
        degenerate: some metric was undefined (0 / 0) and stands as 0.
    """

    accuracy: Float[np.ndarray, "*shape"]
    precision: Float[np.ndarray, "*shape"]
    recall: Float[np.ndarray, "*shape"]
    f1: Float[np.ndarray, "*shape"]
    degenerate: Bool[np.ndarray, "*shape"]


def balanced_metrics(counts: Counts) -> BalancedMetrics:
    """The balanced metrics of every template, in float64.

    A rate over no rows is undefined, and so is every metric that needs it; precision is also undefined where nothing is
    found, F1 where precision is undefined or precision and recall are both 0.
    """
    recall, has_pos = _divide(counts.tp, counts.n_pos)
    fpr, has_neg = _divide(counts.fp, counts.n_neg)
    both = has_pos & has_neg
    accuracy = np.where(both, (recall + 1 - fpr) / 2, 0.0)
    precision, found = _divide(np.where(both, recall, 0.0), np.where(both, recall + fpr, 0.0))
    f1, defined = _divide(2 * precision * recall, precision + recall)
    return BalancedMetrics(accuracy, precision, recall, f1, ~(both & found & defined))


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The quotient, 0 where undefined, and where it is defined."""
    numerator, denominator = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    defined = denominator > 0
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=defined), defined
