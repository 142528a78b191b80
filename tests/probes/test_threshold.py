import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.probes import reference
from vitprobe_jax.probes.threshold import best_threshold

_best_threshold = jax.jit(best_threshold)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(-4, 4), st.sampled_from("pni")), min_size=12, max_size=12))
def test_the_threshold_is_the_best_of_all_candidates(rows):
    """Few distinct scores, so ties abound; rows of no side (i) never count; every length-12 case shares one compilation."""
    rows[0] = (rows[0][0], "p")
    scores = np.array([score / 4 for score, _ in rows], np.float32)
    pos, neg = (np.array([kind == side for _, kind in rows]) for side in "pn")
    assert float(_best_threshold(scores, pos, neg)) == reference.best_threshold(scores, pos, neg)


@pytest.mark.parametrize("kind", ["overlapping", "apart", "one score", "few scores", "all above"])
def test_the_threshold_of_many_rows_is_that_of_all_candidates(kind):
    """Many rows go through a histogram; equal scores, that no histogram parts, do not hurt."""
    rng = np.random.default_rng(0)
    side = rng.choice(3, (3, 3000), p=[0.2, 0.7, 0.1])
    pos, neg = side == 0, side == 1
    shift = {"overlapping": 1.0, "apart": 4.0, "one score": 0.0, "few scores": 1.0, "all above": -50.0}[kind]
    scores = rng.standard_normal(side.shape) + shift * pos
    if kind in ("one score", "few scores"):
        scores = np.round(scores) * (kind == "few scores")
    scores = scores.astype(np.float32)
    expected = [reference.best_threshold(*rows) for rows in zip(scores, pos, neg, strict=True)]
    np.testing.assert_array_equal(_best_threshold(scores, pos, neg), np.array(expected, np.float32))


@pytest.mark.parametrize("count", [5, 3000])
def test_zeros_of_either_sign_are_equal(count):
    """Positives at 1 and 0, three negatives at -0: F1 is 2/3 at 1, 4/7 at 0. If -0 were lower, it would be 1 at 0."""
    scores = np.full(count, -1.0, np.float32)
    scores[:5] = 1.0, 0.0, -0.0, -0.0, -0.0
    pos = np.arange(count) < 2
    assert float(_best_threshold(scores, pos, ~pos)) == 1.0


def test_without_negatives_every_positive_is_kept_and_no_more():
    scores = np.array([0.9, 0.2, 0.5, 0.1], np.float32)
    pos = np.array([True, True, True, False])
    assert float(best_threshold(jnp.asarray(scores), jnp.asarray(pos), jnp.zeros(4, bool))) == np.float32(0.2)
