import jax.numpy as jnp
import numpy as np
import pytest

from tests.probes.tables import planted_rows, random_labels, table_of
from vitprobe_jax.data.labels import LabelTable
from vitprobe_jax.metrics import counts
from vitprobe_jax.metrics.counts import count_cosine, count_hyperplanes, to_counts
from vitprobe_jax.probes.feature_norm import fit_feature_norm
from vitprobe_jax.probes.sampling import draw_queries
from vitprobe_jax.probes.trials import Trials
from vitprobe_jax.types import Concept


@pytest.fixture(scope="module", params=[1, 8])
def table(request):
    # 37 images: no multiple of 8, so the sharded table is padded.
    rng = np.random.default_rng(0)
    labels = random_labels(rng, images=37, rows=6, sizes={"object": 4, "part": 3})
    rows, directions = planted_rows(rng, labels, width=10, strength=2.0)
    return labels, rows, directions.astype(np.float32), table_of(rows, labels, devices=request.param)


def sides(labels, k):
    pos = labels.carries(int(k))
    return pos, labels.in_category(int(labels.concept_category[k])) & ~pos


def test_hyperplane_counts_equal_numpy(table):
    labels, rows, w, placed = table
    b = np.full(len(w), 0.25, np.float32)
    concepts = np.arange(len(w), dtype=np.int32)
    counted = to_counts(count_hyperplanes(placed, concepts, labels.concept_category, w, b, np.zeros(10, np.float32)))
    for k in concepts:
        pos, neg = sides(labels, k)
        found = rows @ w[k] - b[k] >= 0
        expected = [(found & pos).sum(), (found & neg).sum(), pos.sum(), neg.sum()]
        assert [counted.tp[k], counted.fp[k], counted.n_pos[k], counted.n_neg[k]] == expected


@pytest.mark.parametrize(("devices", "block"), [(1, 1), (1, 5), (1, 37), (8, 1), (8, 2)])
def test_hyperplane_counts_of_some_concepts_block_by_block(devices, block, monkeypatch):
    # Two slots of one category; concepts without a hyperplane between and beyond those with one; 37 or 5 images a device,
    # no multiple of the block.
    rng = np.random.default_rng(2)
    concepts = tuple(Concept(i + 1, f"{i}", category) for i, category in enumerate("ababcab"))
    slots = np.zeros((37, 3, 4), np.int32)
    for row in np.ndindex(37, 3):
        slots[row] = [*rng.permutation([0, 0, 1, 3, 6])[:2], rng.choice([0, 2, 4, 7]), rng.choice([0, 5])]
    labels = LabelTable(slots, np.array([0, 0, 1, 2], np.int32), concepts, ("a", "b", "c"))
    probed = np.array([5, 1, 0, 3], np.int32)
    # Whole numbers, exact in bfloat16: every score is exact, and many are equal to the threshold.
    rows = rng.integers(-3, 4, (37, 3, 8))
    w, b, shift = rng.integers(-3, 4, (4, 8)), rng.integers(-3, 4, 4), rng.integers(-3, 4, 8)
    monkeypatch.setitem(counts.CHUNK_BYTES, "cpu", block * 4 * 3 * (8 + 4))
    counts._count.clear_cache()  # The bound is read when the function is traced.
    placed = table_of(rows.astype(jnp.bfloat16), labels, devices=devices)
    hyperplanes = [jnp.asarray(leaf, jnp.float32) for leaf in (w, b, shift)]
    counted = count_hyperplanes(placed, probed, labels.concept_category[probed], *hyperplanes)
    scores = (rows - shift) @ w.T - b
    assert (scores == 0).any()
    for i, k in enumerate(probed):
        pos, neg = sides(labels, k)
        found = scores[..., i] >= 0
        assert counted[i].tolist() == [(found & pos).sum(), (found & neg).sum(), pos.sum(), neg.sum()]


def test_hyperplanes_of_one_concept_are_refused(table):
    labels, _, w, placed = table
    twice = np.array([2, 0, 2], np.int32)
    with pytest.raises(ValueError, match="twice"):
        count_hyperplanes(
            placed, twice, labels.concept_category[twice], w[twice], np.zeros(3, np.float32), np.zeros(10, np.float32)
        )


def test_no_hyperplanes(table):
    _, _, w, placed = table
    none = np.zeros(0, np.int32)
    assert count_hyperplanes(placed, none, none, jnp.asarray(w[:0]), jnp.zeros(0), jnp.zeros(10)).shape == (0, 4)


def test_rows_of_large_means_keep_their_digits():
    """Means of 1e4 and deviations of 1e-2: products of raw rows would be off by more than the scores differ."""
    rng = np.random.default_rng(3)
    labels = random_labels(rng, images=200, rows=6, sizes={"object": 4, "part": 3})
    spread, directions = planted_rows(rng, labels, width=10, strength=2.0)
    shift = np.full(10, 1e4, np.float32)
    rows = (shift + 1e-2 * spread).astype(np.float32)
    w = directions.astype(np.float32)
    b = np.full(len(w), 2.5e-3, np.float32)
    concepts = np.arange(len(w), dtype=np.int32)
    placed = table_of(rows, labels, devices=1)
    counted = to_counts(count_hyperplanes(placed, concepts, labels.concept_category, w, b, shift))
    raw = to_counts(
        count_hyperplanes(placed, concepts, labels.concept_category, w, b + w @ shift, np.zeros(10, np.float32))
    )
    scores = (rows.astype(np.float64) - shift) @ w.T - b
    assert np.abs(scores).min() > 1e-7
    expected = [((scores[..., k] >= 0) & sides(labels, k)[0]).sum() for k in concepts]
    assert counted.tp.tolist() == expected
    assert raw.tp.tolist() != expected


def test_cosine_counts_equal_numpy(table):
    labels, rows, directions, placed = table
    concepts = np.arange(len(directions), dtype=np.int32)
    draw = draw_queries(labels, trials=3, seed=0)
    trials = Trials.of(draw, labels, concepts, placed.mesh)
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
