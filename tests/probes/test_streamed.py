"""Tables that do not fit the devices: the same templates and counts as resident ones, whatever the number of devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.probes.tables import mesh_of, planted_rows, random_labels, table_of
from vitprobe_jax.errors import InputError
from vitprobe_jax.features.streaming import HostRows, finished
from vitprobe_jax.features.table import place_table
from vitprobe_jax.metrics.counts import count_cosine, count_hyperplanes
from vitprobe_jax.probes import mining
from vitprobe_jax.probes.cosine import fit_cosine
from vitprobe_jax.probes.feature_norm import fit_feature_norm
from vitprobe_jax.probes.hyperplane import HyperplaneConfig, fit_hyperplanes
from vitprobe_jax.probes.layout import plan_waves
from vitprobe_jax.probes.sampling import RowPool, concept_identity, draw_pools, draw_queries, draw_support
from vitprobe_jax.probes.trials import Support, Trials

BOUND = 8
"""The table is so many times what a device may hold."""


@pytest.fixture(scope="module")
def planted():
    rng = np.random.default_rng(0)
    labels = random_labels(rng, images=203, rows=9, sizes={"object": 5, "part": 2})
    rows, _ = planted_rows(rng, labels, width=12, strength=3.0)
    return (1 + rows).astype(np.float32), labels


def placed(planted, devices, streamed):
    rows, labels = planted
    return table_of(rows, labels, devices=devices, device_bytes=rows.nbytes // BOUND if streamed else None)


def hyperplanes(planted, table, **config):
    _, labels = planted
    pools = draw_pools(labels, ratio=20, seed=0)
    return fit_hyperplanes(
        jax.random.key(0),
        table,
        pools,
        [concept_identity(concept) for concept in labels.concepts],
        norm=fit_feature_norm(table, kind="none"),
        config=HyperplaneConfig(**config),
    )


CASES = [(1, True), pytest.param(2, True, marks=pytest.mark.slow), (8, True), (8, False)]


@pytest.mark.parametrize(
    ("devices", "streamed"),
    [(8, True), *(pytest.param(*case, marks=pytest.mark.slow) for case in [(1, True), (2, True), (8, False)])],
)
@pytest.mark.parametrize(("solver", "tolerance"), [("paper", 2e-6), ("lbfgs", 2e-5)])
def test_hyperplanes(planted, devices, streamed, solver, tolerance, monkeypatch):
    """Some concepts are scored densely, others sparsely."""
    monkeypatch.setattr("vitprobe_jax.probes.hyperplane.DENSE_SHARE", {"cpu": 0.3})
    config = {"solver": solver, "rounds": 2}
    expected = hyperplanes(planted, placed(planted, 1, False), **config)
    fitted = hyperplanes(planted, placed(planted, devices, streamed), **config)
    assert np.abs(expected.w).max() > 0.1
    np.testing.assert_allclose(fitted.w, expected.w, rtol=0, atol=tolerance)
    np.testing.assert_allclose(fitted.b, expected.b, rtol=0, atol=tolerance)
    np.testing.assert_allclose(fitted.loss, expected.loss, rtol=0, atol=2e-5)


@pytest.mark.parametrize(("devices", "streamed"), CASES)
def test_cosine_templates_and_counts(planted, devices, streamed):
    _, labels = planted
    concepts = np.arange(len(labels.concepts), dtype=np.int32)
    support = draw_support(labels, shots=20, trials=3, seed=0)
    queries = draw_queries(labels, trials=3, seed=0)

    def run(table, templates=None):
        norm = fit_feature_norm(table, kind="standardize")
        fitted = fit_cosine(table, Support.of(support, labels, concepts, table.mesh), norm=norm, shots=(1, 20))
        alpha, t, _ = templates or fitted
        # Not at t itself, which is a score and may fall on either side of another one's rounding.
        counts = count_cosine(table, Trials.of(queries, labels, concepts, table.mesh), alpha, t - 1e-4, norm=norm)
        return tuple(map(np.asarray, fitted)), np.asarray(counts)

    expected, expected_counts = run(placed(planted, 1, False))
    fitted, counts = run(placed(planted, devices, streamed), expected)
    for a, b in zip(fitted, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6)
    np.testing.assert_array_equal(counts, expected_counts)


@pytest.mark.parametrize(("devices", "streamed"), CASES)
def test_hyperplane_counts(planted, devices, streamed):
    rows, labels = planted
    whole = np.round(rows).astype(np.float32), labels  # Scores of whole numbers are exact.
    rng = np.random.default_rng(1)
    w, b, shift = (rng.integers(-3, 4, shape).astype(np.float32) for shape in ((7, 12), 7, 12))
    concepts = np.arange(7, dtype=np.int32)

    def run(table):
        counted = count_hyperplanes(table, concepts, labels.concept_category, *map(jnp.asarray, (w, b, shift)))
        return np.asarray(counted)

    np.testing.assert_array_equal(run(placed(whole, devices, streamed)), run(placed(whole, 1, False)))


@pytest.mark.parametrize(("devices", "streamed"), [(1, False), *CASES])
@pytest.mark.parametrize("kind", ["center", "standardize", "l2"])
def test_feature_norms_equal_numpy(planted, devices, streamed, kind):
    rows, labels = planted
    rows = rows * np.linspace(0.1, 10, 12, dtype=np.float32) + 100
    rows[..., 3] = 0.3  # Constant: stays as it is.
    left_out = np.array([0, 7, 202])
    bound = {"resident": False, "device_bytes": rows.nbytes // BOUND} if streamed else {}
    table = place_table(HostRows(rows), labels, mesh_of(devices), left_out=left_out, **bound)
    norm = fit_feature_norm(table, kind=kind)
    z = np.delete(rows, left_out, axis=0).reshape(-1, 12).astype(np.float64)
    deviation = z.std(axis=0)
    deviation[3] = 1.0
    shift = z.mean(axis=0) if kind != "l2" else np.zeros(12)
    scale = {"center": np.ones(12), "standardize": deviation, "l2": np.full(12, np.sqrt((z**2).sum(1).mean()))}[kind]
    np.testing.assert_allclose(norm.scale, scale, rtol=1e-5)
    assert (np.abs(norm.shift - shift) <= 1e-6 * np.maximum(np.abs(shift), deviation)).all()


def test_the_mean_of_the_center_is_the_same_to_the_bit_however_the_table_is_cut(planted):
    """A template of the centred cosine rule hangs on it; features of all scales, some far from 0 for their deviation."""
    rows, labels = planted
    rows = (rows * np.geomspace(1e-3, 1e3, 12) + np.linspace(-100, 100, 12)).astype(np.float32)

    def shift(devices, **bound):
        table = place_table(HostRows(rows), labels, mesh_of(devices), left_out=np.array([5, 6]), **bound)
        return np.asarray(fit_feature_norm(table, kind="center").shift)

    once = shift(1)
    for devices in (1, 2, 3, 8):
        np.testing.assert_array_equal(shift(devices), once)
        for blocks in (3, 17):
            np.testing.assert_array_equal(shift(devices, resident=False, device_bytes=rows.nbytes // blocks), once)


@pytest.mark.parametrize(("dense_first", "together"), [(6, 8), (0, 8), (3, 2)])
def test_scores_of_a_window_are_those_of_the_whole_table(dense_first, together):
    rng = np.random.default_rng(0)
    pools = [np.sort(rng.choice(2000, n, replace=False)) for n in (1500, 700, 513, 100, 30, 1)]
    (wave,) = plan_waves(
        [RowPool(pool[:1], pool, len(pool)) for pool in pools],
        range(len(pools)),
        negative_ratio=2,
        batch_size=32,
        group_size=8,
        max_slots=10**9,
        dense_from=0,
    )
    layout = jax.tree.map(jnp.asarray, wave.layouts[0]._replace(num_dense=np.int32(dense_first)))
    rows = rng.integers(-8, 9, (250, 8, 5)).astype(np.float32)  # Scores are exact.
    w = jnp.asarray(rng.integers(-8, 9, (8, 5)), jnp.float32)
    labels = random_labels(rng, images=250, rows=8, sizes={"object": 2})
    score = jax.jit(mining.pool_scores, static_argnames="score_together")
    tables = [table_of(rows, labels, device_bytes=bound) for bound in (None, rows.nbytes // BOUND)]
    shift = jnp.arange(5, dtype=jnp.float32)
    keys = [finished(table.rows, score(table.rows, w, shift, layout, score_together=together)) for table in tables]
    np.testing.assert_array_equal(*keys)


@pytest.mark.parametrize("devices", [1, 8])
def test_a_damaged_source_is_one_line_to_every_caller(planted, devices):
    rows, labels = planted

    class Damaged(HostRows):
        def read(self, images):
            raise InputError("--cache_dir: this is damaged; delete it and run again")

    table = place_table(Damaged(rows), labels, mesh_of(devices), resident=False, device_bytes=rows.nbytes // BOUND)
    sound = table_of(rows, labels, devices=devices)
    concepts = np.arange(len(labels.concepts), dtype=np.int32)
    norm = fit_feature_norm(sound, kind="center")
    support = Support.of(draw_support(labels, shots=2, trials=1, seed=0), labels, concepts, table.mesh)
    queries = Trials.of(draw_queries(labels, trials=1, seed=0), labels, concepts, table.mesh)
    alpha, t, w = jnp.ones((1, 1, 7, 12)), jnp.zeros((1, 1, 7)), jnp.ones((7, 12))
    calls = [
        lambda: hyperplanes(planted, table, rounds=1),
        lambda: fit_feature_norm(table, kind="center"),
        lambda: fit_cosine(table, support, norm=norm, shots=(2,)),
        lambda: count_hyperplanes(table, concepts, labels.concept_category, w, jnp.zeros(7), jnp.zeros(12)),
        lambda: count_cosine(table, queries, alpha, t, norm=norm),
    ]
    for call in calls:
        with pytest.raises(InputError, match=r"^--cache_dir: this is damaged"):
            call()
