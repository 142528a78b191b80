import numpy as np
import pytest
from sklearn.metrics import r2_score

from vitprobe_jax.metrics.regression import r2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_to_scikit_learn(dtype):
    """Columns: told well, badly (below 0), exactly; constant and told, constant and missed."""
    rng = np.random.default_rng(0)
    y_true = rng.random((50, 5)).astype(dtype)
    y_pred = (y_true + 0.1 * rng.standard_normal((50, 5))).astype(dtype)
    y_pred[:, 1] += 1
    y_pred[:, 2] = y_true[:, 2]
    y_true[:, 3:] = 0
    y_pred[:, 3] = 0
    actual = r2(y_true, y_pred)
    expected = r2_score(y_true.astype(np.float64), y_pred.astype(np.float64), multioutput="raw_values")
    np.testing.assert_allclose(actual, expected, rtol=1e-10)
    assert 0 < actual[0] < 1
    assert actual[1] < 0
    np.testing.assert_array_equal(actual[2:], [1, 1, 0])


def test_the_mean_scores_zero():
    y_true = np.arange(12.0).reshape(6, 2)
    np.testing.assert_allclose(r2(y_true, np.broadcast_to(y_true.mean(0), (6, 2))), 0, atol=1e-12)


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="no rows"):
        r2(np.zeros((0, 2)), np.zeros((0, 2)))
