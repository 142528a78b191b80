import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from tests.probes.tables import planted_rows, random_labels
from vitprobe_jax.features.table import make_mesh, place_table
from vitprobe_jax.probes.feature_norm import fit_feature_norm
from vitprobe_jax.probes.hyperplane import HyperplaneConfig, epoch_order, fit_hyperplanes, make_buckets, round_rows
from vitprobe_jax.probes.sampling import concept_identity, draw_pools


@pytest.fixture(scope="module")
def planted():
    rng = np.random.default_rng(0)
    labels = random_labels(rng, images=256, rows=16, sizes={"object": 6})
    rows, directions = planted_rows(rng, labels, width=24, strength=4.0)
    return labels, rows, directions


def fit(labels, rows, *, chosen=None, feature_norm="none", mesh=None, **config):
    config = HyperplaneConfig(**config)
    table = place_table(rows, labels, mesh or jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",)))
    pools = draw_pools(labels, ratio=config.pool_ratio, seed=0)
    chosen = range(len(pools)) if chosen is None else chosen
    w, b = fit_hyperplanes(
        jax.random.key(0),
        table.flat,
        [pools[k] for k in chosen],
        [concept_identity(labels.concepts[k]) for k in chosen],
        norm=fit_feature_norm(table, kind=feature_norm),
        config=config,
    )
    return np.asarray(w), np.asarray(b)


def balanced_accuracy(labels, rows, w, b, k):
    flat = rows.reshape(-1, rows.shape[-1])
    found = flat @ w - b >= 0
    member = labels.in_category(0).reshape(-1)
    pos = labels.carries(int(k)).reshape(-1)
    return (found[pos].mean() + 1 - found[member & ~pos].mean()) / 2


def test_a_planted_direction_is_recovered(planted):
    labels, rows, directions = planted
    w, _ = fit(labels, rows)
    centered = directions - directions.mean(axis=0)
    for k in range(len(w)):
        cosines = centered @ w[k] / np.linalg.norm(w[k]) / np.linalg.norm(centered, axis=1)
        assert cosines.argmax() == k
        assert cosines[k] > 0.7


@pytest.mark.parametrize(("optimizer", "learning_rate"), [("adam", 1e-2), ("sgd", 1e-1)])
def test_as_good_as_scikit_learn_on_the_same_rows(planted, optimizer, learning_rate):
    labels, rows, _ = planted
    w, b = fit(labels, rows, optimizer=optimizer, learning_rate=learning_rate)
    member = labels.in_category(0).reshape(-1)
    flat = rows.reshape(-1, rows.shape[-1])
    for k in range(len(w)):
        rival = LogisticRegression(class_weight="balanced").fit(
            flat[member], labels.carries(int(k)).reshape(-1)[member]
        )
        reference = balanced_accuracy(labels, rows, rival.coef_[0], -rival.intercept_[0], k)
        # Mining moves the threshold away from the balanced one: a few points of accuracy, no more.
        assert balanced_accuracy(labels, rows, w[k], b[k], k) > reference - 0.05


def test_a_concept_does_not_depend_on_the_others_nor_on_their_order(planted):
    labels, rows, _ = planted
    w, b = fit(labels, rows)
    order = [4, 0, 5]
    w_few, b_few = fit(labels, rows, chosen=order)
    # Only the summation order inside a matmul of another shape differs.
    np.testing.assert_allclose(w_few, w[order], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(b_few, b[order], rtol=1e-4, atol=1e-5)


def test_one_device_equals_eight(planted):
    labels, rows, _ = planted
    w, b = fit(labels, rows)
    w_8, b_8 = fit(labels, rows, mesh=make_mesh())
    assert make_mesh().size == 8
    np.testing.assert_allclose(w_8, w, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(b_8, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("l2", [0.0, 0.3])
def test_every_epoch_visits_each_row_once(l2):
    """With one step an epoch the mean gradient does not depend on the order, and is exact: compare with NumPy."""
    rng = np.random.default_rng(1)
    labels = random_labels(rng, images=8, rows=4, sizes={"object": 2})
    rows, _ = planted_rows(rng, labels, width=5, strength=2.0)
    w, b = fit(
        labels, rows, rounds=1, epochs=2, negative_ratio=1000, batch_size=128, optimizer="sgd", learning_rate=0.5, l2=l2
    )
    flat = rows.reshape(-1, 5).astype(np.float64)
    for k, pool in enumerate(draw_pools(labels, ratio=20, seed=0)):
        z = flat[np.concatenate([pool.positives, pool.negatives])]
        y = np.arange(len(z)) < len(pool.positives)
        w_ref, b_ref = np.zeros(5), 0.0
        for _ in range(2):
            error = 1 / (1 + np.exp(-(z @ w_ref - b_ref))) - y
            w_ref, b_ref = w_ref - 0.5 * (error @ z / len(z) + l2 * w_ref), b_ref + 0.5 * error.mean()
        np.testing.assert_allclose(w[k], w_ref, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(b[k], b_ref, rtol=1e-5, atol=1e-6)


def test_mining_picks_exactly_the_hardest(planted):
    labels, _, _ = planted
    pools = draw_pools(labels, ratio=20, seed=0)
    rng = np.random.default_rng(2)
    for bucket in make_buckets(pools, range(len(pools)), HyperplaneConfig()):
        for c, k in enumerate(bucket.concepts):
            one = jax.tree.map(lambda leaf, c=c: jnp.asarray(leaf[c]), bucket)
            scores = rng.standard_normal(bucket.pool.shape[1]).astype(np.float32)
            index, is_pos, valid = map(np.asarray, round_rows(one, jnp.asarray(scores), ratio=2))
            pool = pools[k]
            count = min(2 * len(pool.positives), len(pool.negatives))
            hardest = pool.negatives[np.argsort(-scores[: len(pool.negatives)])[:count]]
            assert set(index[valid & is_pos]) == set(pool.positives)
            assert sorted(index[valid & ~is_pos]) == sorted(hardest)


def test_mining_changes_the_template(planted):
    labels, rows, _ = planted
    mined, _ = fit(labels, rows, rounds=2)
    once, _ = fit(labels, rows, rounds=1)
    assert np.abs(mined - once).max() > 1e-2


@pytest.mark.parametrize("kind", ["center", "standardize", "l2"])
def test_a_feature_norm_is_folded_back(planted, kind):
    """Fitting normalised rows by hand and folding by hand gives the same template of raw rows.

    One round, so that no choice of negatives hangs on the last bit of a score.
    """
    labels, rows, _ = planted
    rows = rows * np.linspace(0.5, 2.0, rows.shape[-1], dtype=np.float32) + 1.0
    w, b = fit(labels, rows, feature_norm=kind, rounds=1)
    flat = rows.reshape(-1, rows.shape[-1])
    shift = flat.mean(0) if kind in ("center", "standardize") else np.zeros(flat.shape[1])
    scale = np.ones(flat.shape[1])
    if kind == "standardize":
        scale = flat.std(0)
    if kind == "l2":
        scale = scale * np.sqrt((flat**2).sum(1).mean())
    w_norm, b_norm = fit(labels, ((rows - shift) / scale).astype(np.float32), rounds=1)
    scores, by_hand = flat @ w.T - b, ((flat - shift) / scale) @ w_norm.T - b_norm
    # Rows are rounded to float32 before the shift on one side, after it on the other.
    np.testing.assert_allclose(scores, by_hand, rtol=1e-3, atol=1e-3)


def test_no_concept_is_no_template():
    labels = random_labels(np.random.default_rng(0), images=8, rows=2, sizes={"object": 2})
    w, b = fit(labels, np.zeros((8, 2, 3), np.float32), chosen=[])
    assert w.shape == (0, 3)
    assert b.shape == (0,)


@pytest.mark.parametrize("n", [1, 2, 3, 64, 65, 1500])
def test_an_epoch_orders_each_place_once_the_real_ones_first(n):
    count = -(-2 * n // 3)
    orders = [np.asarray(epoch_order(jax.random.key(seed), jnp.arange(n) < count)) for seed in range(3)]
    for order in orders:
        assert sorted(order) == list(range(n))
        assert set(order[:count]) == set(range(count))
    if n > 3:
        assert not np.array_equal(orders[0], orders[1])


def test_epoch_orders_are_uniform():
    """How often each of 12 real places among 17 comes to each position, over 4,000 keys: chi-square."""
    orders = jax.vmap(lambda key: epoch_order(key, jnp.arange(17) < 12))(jax.random.split(jax.random.key(0), 4000))
    times = np.stack([np.bincount(column, minlength=12) for column in np.asarray(orders)[:, :12].T])
    chi_square = ((times - 4000 / 12) ** 2 / (4000 / 12)).sum()
    # 121 degrees of freedom: mean 121, deviation 15.6; five deviations.
    assert chi_square < 121 + 5 * 15.6
