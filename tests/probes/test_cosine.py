import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.probes.tables import planted_rows, random_labels
from vitprobe_jax.features.table import make_mesh, place_table
from vitprobe_jax.probes.cosine import best_threshold, cosines, fit_cosine
from vitprobe_jax.probes.feature_norm import fit_feature_norm
from vitprobe_jax.probes.sampling import draw_support
from vitprobe_jax.probes.trials import Trials

_best_threshold = jax.jit(best_threshold)


def brute_force(scores, pos, neg):
    """Every score as a threshold; exact fractions; the largest of the best."""
    best, best_t = (-1, 1), None
    for t in np.unique(scores[pos | neg])[::-1]:
        tp, fp = int((scores[pos] >= t).sum()), int((scores[neg] >= t).sum())
        f1 = (2 * tp, int(pos.sum()) + tp + fp)
        if f1[0] * best[1] > best[0] * f1[1]:
            best, best_t = f1, t
    return best_t


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(-4, 4), st.sampled_from("pni")), min_size=12, max_size=12))
def test_the_threshold_is_the_best_of_all_candidates(rows):
    """Few distinct scores, so ties abound; rows of no side (i) never count; every length-12 case shares one compilation."""
    rows[0] = (rows[0][0], "p")
    scores = np.array([score / 4 for score, _ in rows], np.float32)
    pos, neg = (np.array([kind == side for _, kind in rows]) for side in "pn")
    assert float(_best_threshold(scores, pos, neg)) == brute_force(scores, pos, neg)


def test_without_negatives_every_positive_is_kept_and_no_more():
    scores = np.array([0.9, 0.2, 0.5, 0.1], np.float32)
    pos = np.array([True, True, True, False])
    assert float(best_threshold(jnp.asarray(scores), jnp.asarray(pos), jnp.zeros(4, bool))) == np.float32(0.2)


def test_the_cosine_of_a_zero_vector_is_zero():
    z = jnp.array([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(cosines(z, jnp.array([[6.0, 8.0], [0.0, 0.0]])), [[1.0, 0.0], [0.0, 0.0]], rtol=1e-6)


@pytest.fixture(scope="module")
def planted():
    rng = np.random.default_rng(0)
    labels = random_labels(rng, images=40, rows=9, sizes={"object": 4, "part": 2})
    rows, _ = planted_rows(rng, labels, width=12, strength=3.0)
    return labels, rows


def fit(labels, rows, *, shots=(1, 3, 20), kind="none", mesh=None):
    mesh = mesh or jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
    table = place_table(rows, labels, mesh)
    draw = draw_support(labels, shots=max(shots), trials=2, seed=0)
    concepts = np.arange(len(labels.concepts), dtype=np.int32)
    trials = Trials.of(draw, labels, concepts)
    norm = fit_feature_norm(table, kind=kind)
    return draw, [np.asarray(leaf) for leaf in fit_cosine(table, trials, norm=norm, shots=shots)]


@pytest.mark.parametrize("kind", ["none", "standardize"])
def test_templates_equal_a_loop_in_numpy(planted, kind):
    labels, rows = planted
    draw, (alpha, t, fitted_on) = fit(labels, rows, kind=kind)
    if kind == "standardize":
        flat = rows.reshape(-1, rows.shape[-1]).astype(np.float64)
        rows = (rows - flat.mean(0)) / flat.std(0)
    for k, category in enumerate(labels.concept_category):
        for trial in range(2):
            for s, shots in enumerate((1, 3, 20)):
                images = draw.images[k, trial, : min(shots, draw.counts[k, trial])]
                pos = labels.carries(int(k))[images]
                neg = labels.in_category(int(category))[images] & ~pos
                z = rows[images].astype(np.float64)
                mean = z[pos].mean(axis=0)
                scores = z @ mean / np.linalg.norm(z, axis=-1) / np.linalg.norm(mean)
                np.testing.assert_allclose(alpha[s, trial, k], mean, rtol=1e-5, atol=1e-6)
                # The engine's scores differ from these in the last float32 bits; the gap between scores is far larger.
                np.testing.assert_allclose(t[s, trial, k], brute_force(scores, pos, neg), atol=1e-6)
                assert fitted_on[s, trial, k].tolist() == [pos.sum(), neg.sum()]


def test_one_device_equals_eight(planted):
    labels, rows = planted
    _, one = fit(labels, rows)
    _, eight = fit(labels, rows, mesh=make_mesh())
    for a, b in zip(one, eight, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
