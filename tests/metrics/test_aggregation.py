import numpy as np
import pytest
from scipy.special import rel_entr

from vitprobe_jax.metrics import aggregation
from vitprobe_jax.metrics.aggregation import FLOOR, kl_matrix


@pytest.fixture(scope="module")
def weights():
    rng = np.random.default_rng(0)
    made = {name: rng.random((11, 16)) ** power for name, power in (("flat", 1), ("peaked", 9), ("other", 2))}
    made["half"] = np.where(np.arange(16)[None] < 8, made["flat"], 0)
    return {name: (kind / kind.sum(axis=1, keepdims=True)).astype(np.float32) for name, kind in made.items()}


def test_divergences_are_those_of_scipy(weights, monkeypatch):
    """Also where images come in blocks; `half` has zeros, which as a row add nothing and as a column are floored."""
    exact = {name: kind / kind.astype(float).sum(axis=1, keepdims=True) for name, kind in weights.items()}
    expected = [
        [rel_entr(p, np.where(q > 0, q, FLOOR)).sum(axis=1).mean() for q in exact.values()] for p in exact.values()
    ]
    whole = kl_matrix(weights)
    np.testing.assert_allclose(whole, expected, rtol=1e-10, atol=1e-12)
    monkeypatch.setattr(aggregation, "_BLOCK", 16 * 4)
    np.testing.assert_allclose(kl_matrix(weights), whole, rtol=1e-12)


def test_the_diagonal_is_zero_and_nothing_is_negative(weights):
    # Rows that sum to 1 in float32 only, and two kinds that are equal but for a rounding.
    near = kl_matrix(weights | {"again": weights["flat"] * np.float32(1 + 1e-6)})
    assert (near.diagonal() == 0).all()
    assert (near >= 0).all()
    assert near[0, -1] < 1e-10
    assert (near[:3, :3] + np.eye(3) > 0.01).all()


def test_what_is_no_distribution_is_refused(weights):
    flat = weights["flat"]
    for wrong in (flat - 0.5, flat * 0, flat * np.nan, flat[:, :4], flat[:0]):
        with pytest.raises(ValueError):
            kl_matrix({"flat": flat, "wrong": wrong} if len(wrong) else {"wrong": wrong})
