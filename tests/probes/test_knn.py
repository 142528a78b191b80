import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.probes.tables import mesh_of
from vitprobe_jax.errors import InputError
from vitprobe_jax.probes import knn
from vitprobe_jax.probes.knn import nearest


def brute_force(queries, base, k, *, metric="l2", query_groups=None, base_groups=None):
    """Scores and indices in float64, sorted by score, then by index."""
    q, b = (np.asarray(rows, np.float64) for rows in (queries, base))
    if metric == "l2":
        far = ((q[:, None] - b[None]) ** 2).sum(axis=2)
    else:
        sizes = np.linalg.norm(q, axis=1)[:, None] * np.linalg.norm(b, axis=1)[None]
        far = -np.divide(q @ b.T, sizes, out=np.zeros_like(sizes), where=sizes > 0)
    if query_groups is not None:
        far[query_groups[:, None] == base_groups[None]] = np.inf
    order = np.lexsort((np.broadcast_to(np.arange(len(b)), far.shape), far), axis=1)[:, :k]
    far = np.take_along_axis(far, order, axis=1)
    return (far if metric == "l2" else -far), np.where(np.isinf(far), -1, order)


def few_digits(rng, *shape):
    """Rows whose products float32 computes exactly, and of which many are at the same distance."""
    return rng.integers(-2, 3, shape).astype(np.float32)


@pytest.fixture
def small_blocks(monkeypatch):
    """Few rows are several blocks of queries and of the base, in several calls."""
    monkeypatch.setattr(knn, "CPU_BLOCKS", knn.Blocks(rows=8, size=128, tile=1 << 12))
    monkeypatch.setattr(knn, "CALL", 2)


@settings(max_examples=6, deadline=None)
@given(st.integers(1, 20), st.integers(1, 200), st.booleans(), st.data())
def test_neighbours_are_those_of_brute_force(num_queries, num_rows, grouped, data):
    """Ties and all: with few values many rows are equally near, and the lower index comes first."""
    k = data.draw(st.integers(1, num_rows))
    rng = np.random.default_rng(num_queries)
    queries, base = few_digits(rng, num_queries, 3), few_digits(rng, num_rows, 3)
    groups = {"query_groups": rng.integers(0, 3, num_queries), "base_groups": rng.integers(0, 3, num_rows)}
    groups = groups if grouped else {}
    found = nearest(queries, base, k=k, **groups)
    scores, indices = brute_force(queries, base, k, **groups)
    np.testing.assert_array_equal(found.scores, scores)
    np.testing.assert_array_equal(found.indices, indices)


@pytest.mark.parametrize(
    ("num_queries", "num_rows", "k", "memory", "grouped"),
    [(50, 700, 200, 3 << 18, False), (33, 515, 515, 1 << 21, True), (9, 4001, 1, 1 << 17, True)],
)
def test_many_blocks_are_searched_as_one(num_queries, num_rows, k, memory, grouped, small_blocks):
    """Memory is such that the maxima of the first and last base are sorted in two parts or more."""
    rng = np.random.default_rng(0)
    queries, base = few_digits(rng, num_queries, 8), few_digits(rng, num_rows, 8)
    # Five images to a group: where all rows are asked for, some are left out, and there are fewer than k.
    images = {"query_groups": np.arange(num_queries) // 5, "base_groups": np.arange(num_rows) // 5 % 20}
    images = images if grouped else {}
    found = nearest(queries, base, k=k, memory=memory, **images)
    scores, indices = brute_force(queries, base, k, **images)
    np.testing.assert_array_equal(found.scores, scores)
    np.testing.assert_array_equal(found.indices, indices)
    assert (indices == -1).any() == (k == num_rows)


def test_rows_find_themselves_far_from_the_origin_and_the_first_of_their_copies():
    """Each of 300 rows is in the base ten times. At 3000 deviations from the origin, q.b has no digit left for what tells
    the rows apart."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((300, 24), dtype=np.float32) + 3000
    base = np.concatenate([rows] * 10)
    found = nearest(rows, base, k=13)
    np.testing.assert_array_equal(found.indices[:, :10], np.arange(300)[:, None] + 300 * np.arange(10))
    np.testing.assert_array_equal(found.scores[:, :10], 0)
    # The copies of the second nearest row follow, from the first on.
    np.testing.assert_array_equal(found.indices[:, 11:], found.indices[:, 10:11] + 300 * np.arange(1, 3))
    assert (found.scores[:, 10:] > 0).all()
    second = brute_force(rows, rows, 2)[1][:, 1]
    np.testing.assert_array_equal(found.indices[:, 10], second)


def test_cosine_is_that_of_brute_force_and_zero_with_zeros():
    rng = np.random.default_rng(0)
    queries, base = (rng.standard_normal((n, 12), dtype=np.float32) for n in (20, 600))
    queries[3], base[[5, 7]] = 0, 0
    queries[4], queries[5] = 1e-3 * base[17], 1e3 * base[18]
    found = nearest(queries, base, k=600, metric="cosine")
    scores, indices = brute_force(queries, base, 600, metric="cosine")
    # Rounding of the unit rows, twice that of a sum of 12 products up to 1.
    np.testing.assert_allclose(found.scores, scores, atol=1e-6)
    np.testing.assert_array_equal(found.indices[3], np.arange(600))
    np.testing.assert_array_equal(found.scores[3], 0)
    assert found.indices[4, 0] == 17
    assert found.indices[5, 0] == 18
    zeros = found.scores[:, :] == 0
    assert zeros[[i for i in range(20) if i != 3]].sum(axis=1).tolist() == [2] * 19
    # Neighbours whose cosines are as near as that may change places.
    assert (found.indices == indices).mean() > 0.99


@pytest.mark.parametrize("metric", ["l2", pytest.param("cosine", marks=pytest.mark.slow)])
def test_the_number_of_devices_changes_no_bit(metric, small_blocks):
    """13 blocks of queries: some of 8 devices get two, some one."""
    rng = np.random.default_rng(0)
    queries, base = (rng.standard_normal((n, 20), dtype=np.float32) for n in (100, 700))
    alone, dealt = (nearest(queries, base, k=9, metric=metric, mesh=mesh_of(devices)) for devices in (1, 8))
    np.testing.assert_array_equal(alone.scores, dealt.scores)
    np.testing.assert_array_equal(alone.indices, dealt.indices)
    assert (alone.indices == brute_force(queries, base, 9, metric=metric)[1]).all()


def test_searches_of_any_number_of_queries_run_as_one_program(small_blocks):
    """The program of the largest serves all, and finds what its own would."""
    rng = np.random.default_rng(5)
    base = rng.normal(size=(300, 7)).astype(np.float32)
    compiled = knn._search._cache_size()
    for number in (70, 1, 33, 64):
        queries = rng.normal(size=(number, 7)).astype(np.float32)
        found = nearest(queries, base, k=3, plan_for=70)
        assert knn._search._cache_size() == compiled + 1
        _, indices = brute_force(queries, base, 3)
        np.testing.assert_array_equal(found.indices, indices)


def test_bfloat16_rows_are_what_they_are_in_float32():
    rng = np.random.default_rng(0)
    queries, base = (rng.standard_normal((n, 20)).astype(jnp.bfloat16) for n in (10, 300))
    found = [nearest(queries, rows, k=5) for rows in (base, jnp.asarray(base))]
    found.append(nearest(queries.astype(np.float32), base.astype(np.float64), k=5))
    for other in found[1:]:
        np.testing.assert_array_equal(found[0].scores, other.scores)
        np.testing.assert_array_equal(found[0].indices, other.indices)


def test_faiss_and_sklearn_find_the_same():
    faiss = pytest.importorskip("faiss")
    neighbors = pytest.importorskip("sklearn.neighbors")
    rng = np.random.default_rng(0)
    queries, base = (rng.standard_normal((n, 16), dtype=np.float32) for n in (50, 1500))
    found = nearest(queries, base, k=20)
    index = faiss.IndexFlatL2(16)
    index.add(base)
    scores, indices = index.search(queries, 20)
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_allclose(found.scores, scores, rtol=1e-4)
    brute = neighbors.NearestNeighbors(n_neighbors=20, algorithm="brute").fit(base)
    np.testing.assert_array_equal(found.indices, brute.kneighbors(queries)[1])


def program_bytes(num_rows, k, memory, *, grouped=False, rows=jnp.float32):
    """What the search of 100,000 queries with 384 features takes beside its arguments and results, compiled but not run."""
    mesh, width = mesh_of(1), 384
    plan = knn._plan(100_000, num_rows, width, k, "l2", memory, mesh)
    shape = jax.ShapeDtypeStruct
    num_queries = plan.blocks * plan.rows
    groups = [shape((num_queries,), jnp.int32)] if grouped else []
    dealt = [shape((num_queries, width), jnp.float32), *groups, shape((1,), jnp.int32)]
    base_groups = shape((num_rows,), jnp.int32) if grouped else None
    whole = (shape((num_rows, width), rows), shape((width,), jnp.float32), base_groups)
    return knn._search.lower(dealt, whole, mesh=mesh, plan=plan).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize(
    ("num_rows", "k", "options"),
    [(100_000, 200, {}), (10_000_000, 20, {"grouped": True}), (1_000_000, 20, {"rows": jnp.uint16})],
)
def test_memory_is_bounded(num_rows, k, options):
    """Whatever the base's size: all scores of a block of queries would be 0.4, 40 and 4 GB."""
    memory = 64 << 20
    assert memory / 4 < program_bytes(num_rows, k, memory, **options) <= memory


def test_too_little_memory_says_how_much_is_enough():
    rows = np.ones((40, 5000), np.float32)
    with pytest.raises(InputError, match="MiB are too few; give") as refused:
        nearest(rows, rows, k=3, memory=1 << 20)
    enough = int(re.search(r"give (\d+)", str(refused.value))[1])
    assert nearest(rows[:, :50], rows[:, :50], k=3, memory=enough << 20).indices[7].tolist() == [0, 1, 2]
    knn._plan(40, 40, 5000, 3, "l2", (enough << 20) // knn.IN_FLIGHT, mesh_of(1))


def test_no_queries_have_no_neighbours():
    found = nearest(np.zeros((0, 4), np.float32), np.zeros((9, 4), np.float32), k=2)
    assert found.scores.shape == found.indices.shape == (0, 2)


GOOD = {"queries": np.zeros((3, 4), np.float32), "base": np.zeros((5, 4), np.float32), "k": 2}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"k": 0}, r"k=0: not in 1\.\.5"),
        ({"k": 6}, r"k=6: not in 1\.\.5"),
        ({"base": np.zeros((0, 4), np.float32)}, r"k=2: not in 1\.\.0"),
        ({"query_groups": np.zeros(3, int)}, "given without the other"),
        ({"queries": np.full((3, 4), np.nan, np.float32)}, "queries: values must be finite"),
        ({"base": np.full((5, 4), np.inf, np.float32)}, "the rows to choose from: values must be finite"),
        ({"base": np.full((5, 4), np.nan, jnp.bfloat16)}, "the rows to choose from: values must be finite"),
        ({"queries": np.full((3, 4), 1e18, np.float32)}, "at most 1e[+]17"),
    ],
)
def test_bad_arguments(changed, words):
    with pytest.raises(InputError, match=words):
        nearest(**GOOD | changed)
