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
    """Metrics as if positives and negatives were equally many; each in [0, 1], or NaN where it is undefined.

    Attributes:
        accuracy: (TPR + TNR) / 2.
        precision: TPR / (TPR + FPR).
        recall: TPR.
        f1: harmonic mean of precision and recall.
        degenerate: precision or F1 is 0 / 0 because nothing, or no positive, was found; it counts as 0.
    """

    accuracy: Float[np.ndarray, "*shape"]
    precision: Float[np.ndarray, "*shape"]
    recall: Float[np.ndarray, "*shape"]
    f1: Float[np.ndarray, "*shape"]
    degenerate: Bool[np.ndarray, "*shape"]


def balanced_metrics(counts: Counts) -> BalancedMetrics:
    """The balanced metrics of every template, in float64.

    Without positives or without negatives a rate is over no rows, and all metrics are NaN (`undefined_reason` has the
    words): such a template was not measured. Precision is 0 where nothing is found, F1 where no positive is found: the
    template was measured and is useless, and it is `degenerate`.
    """
    tp, fp, n_pos, n_neg = (np.asarray(count, np.float64) for count in dataclasses.astuple(counts))
    recall, fpr = (_divide(found, total, np.nan) for found, total in ((tp, n_pos), (fp, n_neg)))
    measured = (n_pos > 0) & (n_neg > 0)
    recall = np.where(measured, recall, np.nan)
    precision = _divide(recall, recall + fpr, 0.0)
    f1 = _divide(2 * precision * recall, precision + recall, 0.0)
    return BalancedMetrics(
        accuracy=(recall + 1 - fpr) / 2,
        precision=np.where(measured, precision, np.nan),
        recall=recall,
        f1=np.where(measured, f1, np.nan),
        degenerate=measured & (tp == 0),
    )


def undefined_reason(n_pos: int, n_neg: int, where: str) -> str | None:
    """Why no metric of a template is defined: "no positives in val", "no negatives in val"; None where all are.

    Args:
        n_pos: positives that it was counted on.
        n_neg: negatives.
        where: what they were taken from, in words.
    """
    lacking = [name for name, count in (("positives", n_pos), ("negatives", n_neg)) if not count]
    return f"no {lacking[0]} in {where}" if lacking else None


def _divide(numerator: np.ndarray, denominator: np.ndarray, otherwise: float) -> np.ndarray:
    """The quotient, or `otherwise` where the denominator is not above 0."""
    return np.divide(numerator, denominator, out=np.full_like(numerator, otherwise), where=denominator > 0)
