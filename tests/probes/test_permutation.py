import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitprobe_jax.probes.permutation import permutation_words, permute

PLACES = 1 << 12
_permute = jax.jit(permute)


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, PLACES), seed=st.integers(0, 2**31 - 1))
def test_every_number_comes_once(n, seed):
    words = permutation_words(jax.random.key(seed))
    order = np.asarray(_permute(words, jnp.arange(PLACES), jnp.int32(n)))
    assert sorted(order[:n]) == list(range(n))
    assert (order[n:] == 0).all()


def test_large_ranges_are_permuted_without_overflow():
    n = 2**31 - 1
    words = permutation_words(jax.random.key(0))
    ends = jnp.concatenate([jnp.arange(PLACES // 2), n - 1 - jnp.arange(PLACES // 2)])
    order = np.asarray(_permute(words, ends, jnp.int32(n)))
    assert len(set(order)) == PLACES
    assert order.min() >= 0
    assert order.max() < n
    assert np.ptp(order) > n // 2


def test_rows_of_a_batch_each_have_their_own():
    words = jax.vmap(permutation_words)(jax.random.split(jax.random.key(0), 3))
    n = jnp.array([5, 0, 64], jnp.int32)
    together = np.asarray(_permute(words, jnp.tile(jnp.arange(64), (3, 1)), n))
    for line, word, count in zip(together, words, n, strict=True):
        np.testing.assert_array_equal(line, _permute(word, jnp.arange(64), count))


@pytest.mark.parametrize("n", [3, 12, 100])
def test_permutations_are_uniform(n):
    """How often each number comes to each place, over 20,000 keys: chi-square; and pairs of places are as if independent."""
    keys = jax.random.split(jax.random.key(0), 20_000)
    permuted = jax.jit(jax.vmap(lambda key: permute(permutation_words(key), jnp.arange(n), jnp.int32(n))))
    orders = np.asarray(permuted(keys))
    times = np.stack([np.bincount(column, minlength=n) for column in orders.T])
    expected = len(keys) / n
    freedom = (n - 1) ** 2
    chi_square = ((times - expected) ** 2 / expected).sum()
    assert abs(chi_square - freedom) < 5 * np.sqrt(2 * freedom)
    neighbours = (np.diff(orders, axis=1) == 1).mean()
    assert neighbours == pytest.approx(1 / n, rel=0.05)
    first, second = orders[:, 0], orders[:, 1]
    assert np.corrcoef(first, second)[0, 1] == pytest.approx(-1 / (n - 1), abs=5 / np.sqrt(len(keys)))
