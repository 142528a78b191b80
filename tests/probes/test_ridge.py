import numpy as np
import pytest
from sklearn.linear_model import Ridge, RidgeCV

from vitprobe_jax.errors import InputError
from vitprobe_jax.probes.ridge import fit_ridge


def problem(rows, *, width=12, targets=3):
    """Features of very different scale and far from 0, two of them alike; targets that hang on some of them."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, width)) * np.geomspace(1e-2, 1e3, width) + np.linspace(-50, 50, width)
    x[:, 3] = x[:, 4]
    y = x[:, :targets] / x[:, :targets].std(0) + 0.5 * rng.standard_normal((rows, targets)) + 7
    return x.astype(np.float32), y


@pytest.mark.parametrize("rows", [200, 9])
@pytest.mark.parametrize("alpha", [1e-3, 10.0])
def test_equals_scikit_learn(rows, alpha):
    x, y = problem(rows)
    w, b = fit_ridge(x, y, alpha=alpha)
    rival = Ridge(alpha=alpha, solver="svd").fit(x.astype(np.float64), y)
    np.testing.assert_allclose(w[0], rival.coef_, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(b[0], rival.intercept_, rtol=1e-6)


@pytest.mark.parametrize("rows", [200, 9])
def test_each_target_takes_the_penalty_that_leaving_rows_out_prefers(rows):
    x, y = problem(rows)
    y[:, 2] = np.random.default_rng(1).standard_normal(rows)  # Nothing to learn: the largest penalty.
    alphas = (1e-6, 1e-3, 1.0, 1e3, 1e9)
    w, b = fit_ridge(x, y, alpha=alphas)
    chosen = RidgeCV(alphas, alpha_per_target=True).fit(x.astype(np.float64), y).alpha_
    assert len(set(chosen)) > 1
    # RidgeCV itself squares the features, which costs it half of the digits.
    rival = Ridge(alpha=chosen, solver="svd").fit(x.astype(np.float64), y)
    np.testing.assert_allclose(w[0], rival.coef_, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(b[0], rival.intercept_, rtol=1e-6)


def test_left_out_features_are_as_if_they_were_not_there():
    x, y = problem(50)
    keep = np.random.default_rng(0).random((3, 12)) < 0.5
    keep[2] = False
    w, b = fit_ridge(x, y, alpha=(0.1, 1.0), keep=keep.astype(np.float32))
    assert not w[~np.broadcast_to(keep[:, None], w.shape)].any()
    for variant in range(2):
        alone = fit_ridge(x[:, keep[variant]], y, alpha=(0.1, 1.0))
        np.testing.assert_allclose(w[variant][:, keep[variant]], alone.w[0], rtol=1e-9)
        np.testing.assert_allclose(b[variant], alone.b[0], rtol=1e-9)
    # With no feature at all the mean is predicted.
    np.testing.assert_allclose(b[2], y.mean(0), rtol=1e-12)


@pytest.mark.parametrize(("rows", "alpha", "words"), [(1, 1.0, "1 row"), (9, 0.0, "alpha=0.0"), (9, (), "alpha")])
def test_what_cannot_be_solved_is_one_line(rows, alpha, words):
    x, y = problem(9)
    with pytest.raises(InputError, match=words):
        fit_ridge(x[:rows], y[:rows], alpha=alpha)
