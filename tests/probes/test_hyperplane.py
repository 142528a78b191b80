import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from tests.probes.tables import planted_rows, random_labels, table_of
from vitprobe_jax.data.labels import LabelTable
from vitprobe_jax.probes import hyperplane
from vitprobe_jax.probes.feature_norm import fit_feature_norm
from vitprobe_jax.probes.hyperplane import SOLVERS, HyperplaneConfig, fit_hyperplanes, plan
from vitprobe_jax.probes.sampling import concept_identity, draw_pools
from vitprobe_jax.types import Concept


@pytest.fixture(scope="module")
def planted():
    rng = np.random.default_rng(0)
    labels = random_labels(rng, images=256, rows=16, sizes={"object": 6})
    rows, directions = planted_rows(rng, labels, width=24, strength=4.0)
    return labels, rows, directions


def fit_all(labels, rows, *, chosen=None, feature_norm="none", devices=1, memory_mb=2048, **config):
    config = HyperplaneConfig(**config)
    table = table_of(rows, labels, devices=devices)
    pools = draw_pools(labels, ratio=config.pool_ratio, seed=0)
    chosen = range(len(pools)) if chosen is None else chosen
    return fit_hyperplanes(
        jax.random.key(0),
        table,
        [pools[k] for k in chosen],
        [concept_identity(labels.concepts[k]) for k in chosen],
        norm=fit_feature_norm(table, kind=feature_norm),
        config=config,
        memory_mb=memory_mb,
    )


def fit(labels, rows, **config):
    """w and thresholds for raw rows."""
    fitted = fit_all(labels, rows, **config)
    return np.asarray(fitted.w), fitted.threshold()


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


@pytest.mark.parametrize("solver", SOLVERS)
def test_as_good_as_scikit_learn_on_the_same_rows(planted, solver):
    labels, rows, _ = planted
    w, b = fit(labels, rows, solver=solver)
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
    np.testing.assert_array_equal(w_few, w[order])
    np.testing.assert_array_equal(b_few, b[order])


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("devices", [pytest.param(2, marks=pytest.mark.slow), 8])
def test_the_number_of_devices_changes_no_bit(planted, devices, solver):
    labels, rows, _ = planted
    once, spread = (fit_all(labels, rows, devices=n, solver=solver) for n in (1, devices))
    jax.tree.map(np.testing.assert_array_equal, spread, once)


def test_every_epoch_of_sgd_visits_each_row_once():
    """With one step an epoch the mean gradient does not depend on the order, and is exact: compare with NumPy."""
    rng = np.random.default_rng(1)
    labels = random_labels(rng, images=8, rows=4, sizes={"object": 2})
    rows, _ = planted_rows(rng, labels, width=5, strength=2.0)
    w, b = fit(labels, rows, rounds=1, epochs=2, negative_ratio=1000, solver="paper", learning_rate=0.5)
    flat = rows.reshape(-1, 5).astype(np.float64)
    for k, pool in enumerate(draw_pools(labels, ratio=20, seed=0)):
        z = flat[np.concatenate([pool.positives, pool.negatives])]
        y = np.arange(len(z)) < len(pool.positives)
        w_ref, b_ref = np.zeros(5), 0.0
        for _ in range(2):
            error = 1 / (1 + np.exp(-(z @ w_ref - b_ref))) - y
            w_ref, b_ref = w_ref - 0.5 * error @ z / len(z), b_ref + 0.5 * error.mean()
        np.testing.assert_allclose(w[k], w_ref, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(b[k], b_ref, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
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
    w, b = fit(labels, rows, feature_norm=kind, rounds=1, solver="paper")
    flat = rows.reshape(-1, rows.shape[-1])
    shift = flat.mean(0) if kind in ("center", "standardize") else np.zeros(flat.shape[1])
    scale = np.ones(flat.shape[1])
    if kind == "standardize":
        scale = flat.std(0)
    if kind == "l2":
        scale = scale * np.sqrt((flat**2).sum(1).mean())
    w_norm, b_norm = fit(labels, ((rows - shift) / scale).astype(np.float32), rounds=1, solver="paper")
    scores, by_hand = flat @ w.T - b, ((flat - shift) / scale) @ w_norm.T - b_norm
    # Rows are rounded to float32 before the shift on one side, after it on the other.
    np.testing.assert_allclose(scores, by_hand, rtol=1e-3, atol=1e-3)


def test_no_concept_is_no_template():
    labels = random_labels(np.random.default_rng(0), images=8, rows=2, sizes={"object": 2})
    w, b = fit(labels, np.ones((8, 2, 3), np.float32), chosen=[])
    assert w.shape == (0, 3)
    assert b.shape == (0,)


def sized_labels(sizes):
    """One row an image; concepts of exactly these sizes, and a fifth more rows that carry yet another one."""
    sizes = [*sizes, sum(sizes) // 5]
    numbers = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes)) + 1
    concepts = tuple(Concept(k + 1, f"c{k}", "object") for k in range(len(sizes)))
    return LabelTable(numbers.astype(np.int32)[:, None, None], np.zeros(1, np.int32), concepts, ("object",))


@pytest.mark.slow
def test_less_memory_changes_nothing():
    """Waves of concepts and products of a few of them, instead of one of all."""
    labels = sized_labels(np.geomspace(10, 3000, 40).astype(int))
    rows, _ = planted_rows(np.random.default_rng(0), labels, width=8, strength=3.0)
    pools = draw_pools(labels, ratio=20, seed=0)
    table = table_of(rows, labels)
    ample = plan(pools, range(len(pools)), table, config=HyperplaneConfig(), memory_mb=2048)
    tight = plan(pools, range(len(pools)), table, config=HyperplaneConfig(), memory_mb=2)
    assert len(ample[0]) == 1
    assert len(tight[0]) > 1
    assert tight[1] < ample[1]
    few = fit_all(labels, rows, memory_mb=2)
    jax.tree.map(np.testing.assert_array_equal, few, fit_all(labels, rows))


def test_one_compilation_serves_all_concepts_of_all_tokens(planted):
    labels, rows, _ = planted
    hyperplane._fit_wave.clear_cache()
    fit(labels, rows, memory_mb=1)
    fit(labels, 2 * rows, memory_mb=1)
    assert hyperplane._fit_wave._cache_size() == 1


def test_sgd_reports_that_it_has_not_converged(planted):
    labels, rows, _ = planted
    assert np.asarray(fit_all(labels, rows).converged).all()
    stopped = fit_all(labels, rows, solver="paper")
    assert not np.asarray(stopped.converged).any()
    assert (np.asarray(stopped.loss) < np.log(2)).all()
    assert (np.asarray(fit_all(labels, 1e4 * rows, solver="paper").loss) > 2 * np.log(2)).all()


@pytest.mark.slow
def test_bfloat16_rows_give_nearly_the_same(planted):
    labels, rows, _ = planted
    rounded = rows.astype(jnp.bfloat16)
    w, b = fit(labels, rounded)
    w_32, b_32 = fit(labels, rounded.astype(np.float32))
    assert w.dtype == np.float32
    for k in range(len(w)):
        accuracy = balanced_accuracy(labels, rows, w[k], b[k], k)
        assert accuracy == pytest.approx(balanced_accuracy(labels, rows, w_32[k], b_32[k], k), abs=0.02)
