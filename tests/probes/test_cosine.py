import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.probes import reference
from tests.probes.tables import planted_rows, random_labels
from vitprobe_jax.features.table import make_mesh, place_table
from vitprobe_jax.probes.cosine import best_threshold, cosines, fit_cosine
from vitprobe_jax.probes.feature_norm import fit_feature_norm
from vitprobe_jax.probes.sampling import draw_support
from vitprobe_jax.probes.trials import Trials

_best_threshold = jax.jit(best_threshold)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(-4, 4), st.sampled_from("pni")), min_size=12, max_size=12))
def test_the_threshold_is_the_best_of_all_candidates(rows):
    """Few distinct scores, so ties abound; rows of no side (i) never count; every length-12 case shares one compilation."""
    rows[0] = (rows[0][0], "p")
    scores = np.array([score / 4 for score, _ in rows], np.float32)
    pos, neg = (np.array([kind == side for _, kind in rows]) for side in "pn")
    assert float(_best_threshold(scores, pos, neg)) == reference.best_threshold(scores, pos, neg)


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


def fit(labels, rows, *, shots=(1, 3, 20), mesh=None):
    mesh = mesh or jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
    table = place_table(rows, labels, mesh)
    draw = draw_support(labels, shots=max(shots), trials=2, seed=0)
    concepts = np.arange(len(labels.concepts), dtype=np.int32)
    trials = Trials.of(draw, labels, concepts)
    norm = fit_feature_norm(table, kind="none")
    return [np.asarray(leaf) for leaf in fit_cosine(table, trials, norm=norm, shots=shots)]


def test_one_device_equals_eight(planted):
    labels, rows = planted
    one = fit(labels, rows)
    eight = fit(labels, rows, mesh=make_mesh())
    for a, b in zip(one, eight, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
