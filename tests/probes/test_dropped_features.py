"""Features that are left out by an infinite scale: all is as if they were 0 in every row."""

import functools

import jax
import numpy as np
import pytest

from tests.probes.tables import planted_rows, random_labels, table_of
from vitprobe_jax.features.moments import highest_variance, table_variance
from vitprobe_jax.metrics.counts import count_cosine, count_hyperplanes
from vitprobe_jax.probes.cosine import fit_cosine
from vitprobe_jax.probes.feature_norm import fit_feature_norm
from vitprobe_jax.probes.hyperplane import HyperplaneConfig, fit_hyperplanes
from vitprobe_jax.probes.sampling import concept_identity, draw_pools, draw_queries, draw_support
from vitprobe_jax.probes.templates import Templates
from vitprobe_jax.probes.trials import Support, Trials

LOUD = [2, 5, 9]


@pytest.fixture(scope="module")
def planted():
    """Rows with three features of large variance that say nothing, and the same rows with zeros in their place."""
    rng = np.random.default_rng(0)
    labels = random_labels(rng, images=40, rows=4, sizes={"object": 4})
    rows, _ = planted_rows(rng, labels, width=12, strength=3.0)
    rows += 2
    rows[..., LOUD] = 50 * rng.standard_normal((40, 4, 3)) + 7
    without = rows.copy()
    without[..., LOUD] = 0
    return labels, table_of(rows, labels), table_of(without, labels)


@pytest.fixture(scope="module")
def keep(planted):
    keep = highest_variance(table_variance(planted[1]), 3)
    assert np.flatnonzero(~keep).tolist() == LOUD
    return keep


def cosine(labels, table, norm):
    concepts = np.arange(4, dtype=np.int32)
    support = Support.of(draw_support(labels, shots=3, trials=2, seed=0), labels, concepts, table.mesh)
    alpha, t, _ = fit_cosine(table, support, norm=norm, shots=(1, 3))
    queries = Trials.of(draw_queries(labels, trials=2, seed=0), labels, concepts, table.mesh)
    arrays = {"alpha": alpha, "t": t, "shift": norm.shift, "scale": norm.scale}
    return arrays, count_cosine(table, queries, alpha, t, norm=norm)


def hyperplane(labels, table, norm, solver):
    fitted = fit_hyperplanes(
        jax.random.key(0),
        table,
        draw_pools(labels, ratio=20, seed=0),
        [concept_identity(concept) for concept in labels.concepts],
        norm=norm,
        config=HyperplaneConfig(rounds=2, batch_size=32, solver=solver),
    )
    concepts = np.arange(4, dtype=np.int32)
    counts = count_hyperplanes(table, concepts, labels.concept_category, fitted.w, fitted.b, fitted.shift)
    # A shift of what is left out moves neither scores nor thresholds.
    shift = np.where(np.isfinite(norm.scale), fitted.shift, 0)
    return {"w": fitted.w, "b": fitted.threshold(), "shift": shift}, counts


@pytest.mark.parametrize(
    ("rule", "kind"),
    [
        ("hyperplane", "none"),
        ("hyperplane_paper", "none"),
        ("hyperplane_paper", "center"),
        ("hyperplane_paper", "standardize"),
        ("hyperplane_paper", "l2"),
        ("cosine", "none"),
        ("cosine_centered", "center"),
        ("cosine", "standardize"),
    ],
)
def test_leaving_features_out_equals_zeros_in_their_place(planted, keep, rule, kind):
    """Bit by bit, from fits to counts; and the templates see no difference between raw rows with and without them."""
    labels, table, without = planted
    solvers = {"hyperplane": "lbfgs", "hyperplane_paper": "paper"}
    fit = functools.partial(hyperplane, solver=solvers[rule]) if rule in solvers else cosine
    arrays, counts = fit(labels, table, fit_feature_norm(table, kind=kind, keep=keep))
    expected, expected_counts = fit(labels, without, fit_feature_norm(without, kind=kind))
    for name, leaf in arrays.items():
        if name != "scale":
            np.testing.assert_array_equal(leaf, expected[name], err_msg=name)
    np.testing.assert_array_equal(counts, expected_counts)
    assert np.asarray(counts)[..., 0].any()
    templates = Templates(
        task="segmentation",
        backbone="model-3",
        layer=0,
        token="k",
        rule=rule,
        concepts=labels.concepts,
        arrays={name: np.asarray(leaf) for name, leaf in arrays.items()},
        shots=() if rule in solvers else (1, 3),
        dropped=3,
    )
    np.testing.assert_array_equal(templates.margins(table.rows), templates.margins(without.rows))


def test_what_is_kept_is_normalised_as_ever(planted, keep):
    _, table, _ = planted
    whole, partial = (fit_feature_norm(table, kind="standardize", keep=kept) for kept in (None, keep))
    np.testing.assert_array_equal(partial.scale[keep], whole.scale[keep])
    np.testing.assert_array_equal(partial.shift[keep], whole.shift[keep])
    assert np.isinf(partial.scale[~keep]).all()
