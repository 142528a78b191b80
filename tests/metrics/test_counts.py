import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.probes.tables import planted_rows, random_labels
from vitprobe_jax.features.table import make_mesh, place_table
from vitprobe_jax.metrics.counts import count_cosine, count_hyperplanes, to_counts
from vitprobe_jax.probes.feature_norm import fit_feature_norm
from vitprobe_jax.probes.sampling import draw_queries
from vitprobe_jax.probes.trials import Trials


@pytest.fixture(scope="module", params=[1, 8])
def table(request):
    # 37 images: no multiple of 8, so the sharded table is padded.
    rng = np.random.default_rng(0)
    labels = random_labels(rng, images=37, rows=6, sizes={"object": 4, "part": 3})
    rows, directions = planted_rows(rng, labels, width=10, strength=2.0)
    mesh = make_mesh() if request.param == 8 else jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
    return labels, rows, directions.astype(np.float32), place_table(rows, labels, mesh)


def sides(labels, k):
    pos = labels.carries(int(k))
    return pos, labels.in_category(int(labels.concept_category[k])) & ~pos


def test_hyperplane_counts_equal_numpy(table):
    labels, rows, w, placed = table
    b = np.full(len(w), 0.25, np.float32)
    concepts = np.arange(len(w), dtype=np.int32)
    counted = to_counts(count_hyperplanes(placed, concepts, labels.concept_category, jnp.asarray(w), jnp.asarray(b)))
    for k in concepts:
        pos, neg = sides(labels, k)
        found = rows @ w[k] - b[k] >= 0
        expected = [(found & pos).sum(), (found & neg).sum(), pos.sum(), neg.sum()]
        assert [counted.tp[k], counted.fp[k], counted.n_pos[k], counted.n_neg[k]] == expected


def test_cosine_counts_equal_numpy(table):
    labels, rows, directions, placed = table
    concepts = np.arange(len(directions), dtype=np.int32)
    draw = draw_queries(labels, trials=3, seed=0)
    trials = Trials.of(draw, labels, concepts)
    rng = np.random.default_rng(1)
    alpha = rng.standard_normal((2, 3, *directions.shape)).astype(np.float32)
    t = rng.uniform(-0.3, 0.3, alpha.shape[:-1]).astype(np.float32)
    norm = fit_feature_norm(placed, kind="none")
    counted = to_counts(count_cosine(placed, trials, jnp.asarray(alpha), jnp.asarray(t), norm=norm))
    for s, trial, k in np.ndindex(t.shape):
        images = draw.images[k, trial, : draw.counts[k, trial]]
        pos, neg = (side[images] for side in sides(labels, k))
        z, a = rows[images], alpha[s, trial, k]
        found = z @ a / np.linalg.norm(z, axis=-1) / np.linalg.norm(a) >= t[s, trial, k]
        place = (s, trial, k)
        assert counted.tp[place] == (found & pos).sum()
        assert counted.fp[place] == (found & neg).sum()
        assert (counted.n_pos[place], counted.n_neg[place]) == (pos.sum(), neg.sum())
