"""How much of a quantity's variance a regression explains."""

import numpy as np
from jaxtyping import Float


def r2(y_true: Float[np.ndarray, "N K"], y_pred: Float[np.ndarray, "N K"]) -> Float[np.ndarray, " K"]:
    """The coefficient of determination of each column, 1 - (residual sum of squares) / (that about the mean), in float64.

    1 is perfect, 0 what the mean of `y_true` itself would score, and there is no lower bound. Where a column of `y_true`
    is constant the quotient is undefined and this gives what scikit-learn does: 1 where the prediction is exact, else 0;
    so the result is finite for finite input.

    Args:
        y_true: at least one row.
        y_pred: predictions of the same.

    Raises:
        ValueError: there are no rows.
    """
    if not len(y_true):
        raise ValueError("r2 of no rows is undefined")
    y_true, y_pred = y_true.astype(np.float64), y_pred.astype(np.float64)
    residual = np.sum((y_true - y_pred) ** 2, axis=0)
    spread = np.sum((y_true - y_true.mean(axis=0)) ** 2, axis=0)
    share = np.divide(residual, spread, out=(residual != 0).astype(np.float64), where=spread != 0)
    return 1 - share
