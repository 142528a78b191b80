import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitprobe_jax.probes.layout import BLOCK, plan_waves
from vitprobe_jax.probes.mining import LOWEST, drawn, hardest, pool_scores
from vitprobe_jax.probes.ordered import from_ordered_int, ordered_int
from vitprobe_jax.probes.permutation import permutation_words
from vitprobe_jax.probes.sampling import RowPool

SIZES = [(3, 60), (100, 2000), (40, 30), (26, 512), (26, 513), (1, 1)]
"""Positives and pool of every concept: pools of one block, of many, smaller than what a round wants, full to the brim."""
N = 6000


@pytest.fixture(scope="module")
def planned():
    rng = np.random.default_rng(0)
    pools = [RowPool(np.sort(rng.permutation(N)[:p]), np.sort(rng.choice(N, n, replace=False)), n) for p, n in SIZES]
    (wave,) = plan_waves(
        pools, range(len(pools)), negative_ratio=2, batch_size=32, group_size=4, max_slots=10**9, dense_from=0
    )
    return pools, wave.concepts[0], wave.layouts[0]


def members_of(layout, members, place):
    start = layout.first_batch[place] * layout.positives.shape[1]
    mine = np.asarray(members).ravel()[start : start + layout.n_pos[place] + layout.n_neg[place]]
    return mine[: layout.n_pos[place]], ~mine[layout.n_pos[place] :]


@pytest.mark.parametrize(("together", "num_dense"), [(8, 6), (4, 6), (1, 6), (4, 0), (4, 3), (2, 3)])
def test_scores_of_the_pools_are_those_of_a_product(planned, together, num_dense, monkeypatch):
    """In products of all, some or single concepts; for the first ones only, or for none; in several blocks of rows."""
    monkeypatch.setattr("vitprobe_jax.probes.mining.ROWS_MULTIPLIED", 1024)
    pools, concepts, laid_out = planned
    laid_out = laid_out._replace(num_dense=np.int32(num_dense))
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((N, 7)).astype(np.float32)
    w = rng.standard_normal((len(laid_out.n_pos), 7)).astype(np.float32)
    shift = rng.standard_normal(7).astype(np.float32)
    layout = jax.tree.map(jnp.asarray, laid_out)
    score = jax.jit(pool_scores, static_argnames="score_together")
    keys = score(jnp.asarray(rows[:, None]), jnp.asarray(w), jnp.asarray(shift), layout, score_together=together)
    keys = np.asarray(keys)
    for place, k in enumerate(concepts):
        start, count = laid_out.first_block[place] * BLOCK, len(pools[k].negatives)
        mine = keys.ravel()[start : start + -(-count // BLOCK) * BLOCK]
        np.testing.assert_allclose(
            from_ordered_int(jnp.asarray(mine[:count])), (rows[pools[k].negatives] - shift) @ w[place], atol=1e-5
        )
        assert (mine[count:] == LOWEST).all()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), distinct=st.sampled_from([1, 2, 5, 50, 10**9]))
def test_mining_picks_exactly_the_hardest(planned, seed, distinct):
    """Few distinct scores, so that ties abound: then the first of the pool win."""
    pools, concepts, laid_out = planned
    rng = np.random.default_rng(seed)
    scores = np.round(rng.standard_normal(laid_out.pool.shape) * distinct).astype(np.float32) / distinct
    place = np.arange(laid_out.pool.size).reshape(laid_out.pool.shape)
    mine = laid_out.block_concept[:, None]
    real = place - laid_out.first_block[mine] * BLOCK < laid_out.n_pool[mine]
    keys = jnp.where(real, ordered_int(jnp.asarray(scores)), LOWEST)
    members = _hardest(keys, jnp.asarray(laid_out.positives), jax.tree.map(jnp.asarray, laid_out))
    for place, k in enumerate(concepts):
        pool = pools[k]
        own = scores.ravel()[laid_out.first_block[place] * BLOCK :][: len(pool.negatives)]
        expected = pool.negatives[np.argsort(-own, kind="stable")[: laid_out.n_neg[place]]]
        positives, negatives = members_of(laid_out, members, place)
        np.testing.assert_array_equal(positives, pool.positives)
        assert sorted(negatives) == sorted(expected)


_hardest = jax.jit(hardest)


@pytest.mark.slow
def test_random_negatives_are_distinct_and_all_equally_likely(planned):
    pools, concepts, laid_out = planned
    layout = jax.tree.map(jnp.asarray, laid_out)
    times = [np.zeros(N) for _ in pools]
    repeats = 400
    for words in jax.vmap(lambda k: jax.vmap(permutation_words)(jax.random.split(k, len(layout.n_pos))))(
        jax.random.split(jax.random.key(0), repeats)
    ):
        members = _drawn(words, layout.positives, layout)
        for place, k in enumerate(concepts):
            positives, negatives = members_of(laid_out, members, place)
            np.testing.assert_array_equal(positives, pools[k].positives)
            assert len(set(negatives)) == laid_out.n_neg[place]
            times[k][negatives] += 1
    for place, k in enumerate(concepts):
        chance = laid_out.n_neg[place] / len(pools[k].negatives)
        drawn_times = times[k][pools[k].negatives]
        assert times[k].sum() == drawn_times.sum()
        if chance < 1:
            variance = repeats * chance * (1 - chance)
            chi_square = ((drawn_times - repeats * chance) ** 2 / variance).sum()
            assert abs(chi_square - len(drawn_times)) < 6 * np.sqrt(2 * len(drawn_times))


_drawn = jax.jit(drawn)
