"""Hyperplanes depend on the information of the features, not on their units, and each ends at its minimum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from tests.probes.tables import planted_rows, table_of
from tests.probes.test_hyperplane import sized_labels
from vitprobe_jax.probes.feature_norm import fit_feature_norm
from vitprobe_jax.probes.hyperplane import HyperplaneConfig, fit_hyperplanes
from vitprobe_jax.probes.sampling import concept_identity, draw_pools

WIDTH = 12
PENALTY = HyperplaneConfig().penalty


def fit(labels, rows, **config):
    config = HyperplaneConfig(**config)
    table = table_of(rows, labels)
    pools = draw_pools(labels, ratio=config.pool_ratio, seed=0)
    identities = [concept_identity(concept) for concept in labels.concepts]
    norm = fit_feature_norm(table, kind="none")
    return fit_hyperplanes(jax.random.key(0), table, pools, identities, norm=norm, config=config)


def scores(fitted, rows):
    """Scores of all rows [N, K], in float64."""
    w, b, shift = (np.asarray(leaf, np.float64) for leaf in (fitted.w, fitted.b, fitted.shift))
    return (rows[:, 0].astype(np.float64) - shift) @ w.T - b


def accuracies(labels, found):
    """Balanced accuracy of each concept."""
    positive = labels.slots[:, 0, 0, None] == 1 + np.arange(found.shape[1])
    recall = (found & positive).sum(0) / positive.sum(0)
    return (recall + 1 - (found & ~positive).sum(0) / (~positive).sum(0)) / 2


def smallest_loss(standardized, positives, negatives):
    """The minimum of the objective by scikit-learn, in float64."""
    z = standardized[np.concatenate([positives, negatives])]
    y = np.arange(len(z)) < len(positives)
    model = LogisticRegression(C=1 / (PENALTY * len(z)), tol=1e-10, max_iter=10_000).fit(z, y)
    return objective(z @ model.coef_[0] + model.intercept_[0], y, model.coef_[0])


def objective(u, y, w):
    return np.mean(np.logaddexp(0, u) - y * u) + PENALTY / 2 * (w**2).sum()


def standardize(rows):
    z = rows[:, 0].astype(np.float64)
    deviation = z.std(axis=0)
    return (z - z.mean(axis=0)) / np.where(deviation > 0, deviation, 1), deviation


def with_token_statistics(rng, rows):
    """Correlated features with a spectrum 1/k^1.5, means of several deviations, deviations a thousandfold apart."""
    turns = [np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))[0] for _ in range(2)]
    mixed = rows @ (turns[0] * np.arange(1, WIDTH + 1) ** -0.75) @ turns[1]
    return ((mixed + 3 * rng.standard_normal(WIDTH)) * np.geomspace(1, 1e3, WIDTH)).astype(np.float32)


@pytest.fixture(scope="module")
def tokens():
    """A quarter of the rows carry no probed concept; the last concepts are small."""
    rng = np.random.default_rng(0)
    labels = sized_labels([700, 500, 300, 100, 50, 20])
    rows, _ = planted_rows(rng, labels, width=WIDTH, strength=3.0)
    return labels, with_token_statistics(rng, rows)


CHANGES = {
    "a thousandth": (1e-3, 0.0),
    "an odd multiple": (777.0, 0.0),
    "shifted": (1.0, 300.0),
    "each by its own": (10 ** np.random.default_rng(1).uniform(-3, 3, WIDTH), 0.0),
    "shifted and each by its own": (10 ** np.random.default_rng(2).uniform(-3, 3, WIDTH), 1.0),
}


@pytest.fixture(scope="module")
def found(tokens):
    return scores(fit(*tokens), tokens[1]) >= 0


@pytest.mark.parametrize("change", CHANGES)
def test_units_and_shifts_of_features_do_not_matter(tokens, found, change):
    labels, rows = tokens
    scale, shift = CHANGES[change]
    moved = ((rows + shift * rows.std(axis=(0, 1))) * scale).astype(np.float32)
    again = scores(fit(labels, moved), moved) >= 0
    difference = accuracies(labels, again) - accuracies(labels, found)
    assert abs(difference.mean()) <= 1e-3
    assert np.abs(difference).max() <= 0.01


def test_sgd_does_depend_on_units(tokens):
    """Otherwise the test above would show nothing."""
    labels, rows = tokens
    plain, large = (scores(fit(labels, z, solver="paper"), z) >= 0 for z in (rows, 1e-3 * rows))
    assert np.abs(accuracies(labels, plain) - accuracies(labels, large)).max() > 0.05


def test_the_last_round_is_solved_to_its_minimum(tokens):
    """Scikit-learn on the same rows: those that the template of four rounds scores highest."""
    labels, rows = tokens
    before, fitted = (fit(labels, rows, rounds=rounds) for rounds in (4, 5))
    standardized, deviation = standardize(rows)
    scored = scores(before, rows)
    for k, pool in enumerate(draw_pools(labels, ratio=20, seed=0)):
        hardest = pool.negatives[np.argsort(-scored[pool.negatives, k])[: 2 * len(pool.positives)]]
        penalised = fitted.loss[k] + PENALTY / 2 * ((fitted.w[k] * deviation) ** 2).sum()
        assert penalised <= (1 + 1e-3) * smallest_loss(standardized, pool.positives, hardest)
    assert np.asarray(fitted.converged).all()


@pytest.mark.parametrize("kind", ["a constant feature", "duplicate rows", "a copied feature", "separable"])
def test_odd_tables_have_a_minimum_too(tokens, kind):
    """One round on all negatives, so that the rows of each regression are known."""
    labels, rows = tokens
    rows = rows.copy()
    if kind == "a constant feature":
        rows[..., 3] = 0.3
    if kind == "duplicate rows":
        rows = rows[np.arange(len(rows)) // 10 * 10]
    if kind == "a copied feature":
        rows[..., 3] = rows[..., 4]
    if kind == "separable":
        rows[..., :7] += 1e4 * np.eye(7)[labels.slots[:, 0, 0] - 1][:, None]
    fitted = fit(labels, rows, rounds=1, negative_ratio=1000)
    assert np.asarray(fitted.converged).all()
    standardized, deviation = standardize(rows)
    for k, pool in enumerate(draw_pools(labels, ratio=20, seed=0)):
        penalised = fitted.loss[k] + PENALTY / 2 * ((fitted.w[k] * deviation) ** 2).sum()
        assert penalised <= (1 + 1e-3) * smallest_loss(standardized, pool.positives, pool.negatives)
    if kind == "a constant feature":
        assert (np.asarray(fitted.w)[:, 3] == 0).all()
    if kind == "separable":
        assert (accuracies(labels, scores(fitted, rows) >= 0) > 0.99).all()


def test_small_deviations_around_a_large_mean():
    """Rows of 1e4 with noise of 1e-2 keep two digits in float32; those two are used."""
    rng = np.random.default_rng(0)
    labels = sized_labels([400, 300, 200])
    rows, _ = planted_rows(rng, labels, width=WIDTH, strength=3.0)
    far = (1e4 + 1e-2 * rows).astype(np.float32)
    near = (far.astype(np.float64) - 1e4).astype(np.float32)
    difference = accuracies(labels, scores(fit(labels, far), far) >= 0) - accuracies(
        labels, scores(fit(labels, near), near) >= 0
    )
    assert np.abs(difference).max() <= 0.01


@pytest.mark.slow
def test_a_bfloat16_table_gives_nearly_the_same(tokens, found):
    """Standardised rows come from bfloat16 ones; regressions run in float32."""
    labels, rows = tokens
    rounded = rows.astype(jnp.bfloat16)
    fitted = fit(labels, rounded)
    assert np.asarray(fitted.converged).all()
    exact = accuracies(labels, scores(fit(labels, rounded.astype(np.float32)), rounded.astype(np.float32)) >= 0)
    again = accuracies(labels, scores(fitted, rounded.astype(np.float32)) >= 0)
    # Pools are ranked in bfloat16.
    assert abs(again.mean() - exact.mean()) <= 0.01


def test_concepts_larger_than_a_bundle_are_solved_on_all_their_rows():
    """A round on known rows: 30,000 of one concept, more than the 24,576 of a bundle, beside small ones."""
    rng = np.random.default_rng(0)
    labels = sized_labels([10_000, 40, 3_000])
    rows, _ = planted_rows(rng, labels, width=4, strength=2.0)
    fitted = fit(labels, rows, rounds=1, negative_ratio=1000)
    standardized, deviation = standardize(rows)
    assert np.asarray(fitted.converged).all()
    for k, pool in enumerate(draw_pools(labels, ratio=20, seed=0)):
        u = scores(fitted, rows)[np.concatenate([pool.positives, pool.negatives]), k]
        y = np.arange(len(u)) < len(pool.positives)
        least = smallest_loss(standardized, pool.positives, pool.negatives)
        assert objective(u, y, np.asarray(fitted.w)[k] * deviation) <= (1 + 1e-3) * least


@pytest.mark.slow
def test_concepts_of_fifty_to_fifty_thousand_positives():
    rng = np.random.default_rng(0)
    labels = sized_labels([50_000, 16_000, 5_000, 1_600, 500, 160, 50])
    rows, _ = planted_rows(rng, labels, width=WIDTH, strength=3.0)
    fitted = fit(labels, with_token_statistics(rng, rows))
    assert np.asarray(fitted.converged).all()
    assert np.isfinite(fitted.w).all()


@pytest.mark.slow
def test_every_penalty_keeps_the_threshold_free(tokens):
    """Under a large penalty weights vanish, and the threshold is that of the log odds; a penalty would pull it to 0."""
    labels, rows = tokens
    fitted = fit(labels, rows, rounds=1, negative_ratio=1000, penalty=1e4)
    for k, pool in enumerate(draw_pools(labels, ratio=20, seed=0)):
        np.testing.assert_allclose(fitted.b[k], np.log(len(pool.negatives) / len(pool.positives)), atol=1e-2)
