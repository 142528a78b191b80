"""Nearest neighbours of planted rows, against faiss's flat index and scikit-learn's brute force, and against the product.

What is timed is one search with all of a contender's threads; the base is in place before, on the device and in the index.
The cases are bases of a tenth of `--rows` and of `--rows`, with `--width` features and with twice as many, for the first of
`--neighbours`; the others of them are searched in the first case alone. Of the `--queries`, those of some seconds' work are
timed, two blocks of the library's at least, and scaled (all of them on an accelerator); scikit-learn searches for fewer.

Neighbours are equal where they have the same rank. All contenders are exact, but the rivals rank by |b|^2 - 2 q.b as
float32 rounds it: two neighbours at nearly the same distance may change places, and then their distances differ by no
more than that rounding. A second table sets the library beside its unavoidable work, one product of all queries and rows
as the machine does it at its best; the ratio there is the share of the matmul rate that the search reaches.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from experiments.benchmarks.comparison import Comparison
from experiments.benchmarks.config import BenchConfig
from experiments.benchmarks.limits import matmul_limit
from experiments.benchmarks.planted import plant
from experiments.benchmarks.timing import Work, measure
from vitprobe_jax.features.table import make_mesh
from vitprobe_jax.probes.knn import nearest

NEEDS = ("faiss", "sklearn")
DEFAULTS = {"rows": 1_000_000}
SCORES = 1 << 30
"""Pairs of a query and a row that are timed on a CPU, as far as the next number allows."""
LEAST_QUERIES = 2048
SKLEARN_QUERIES = 256
SHARE = 8
"""The product alone is timed on one part in so many."""
FAISS = "faiss IndexFlatL2"


@dataclasses.dataclass(frozen=True)
class Found:
    """What a contender found: squared distances and indices, nearest first; and the platform that it ran on."""

    distances: Float[np.ndarray, "Q k"]
    indices: Int[np.ndarray, "Q k"]
    platform: str = "cpu"


def compare(config: BenchConfig) -> list[Comparison]:
    """Measures every case; quality says how far the rivals' neighbours are the library's."""
    first, *others = config.neighbours
    sizes = [(rows, width) for rows in (max(1, config.rows // 10), config.rows) for width in (1, 2)]
    cases = [(first, *size) for size in sizes] + [(k, *sizes[0]) for k in others]
    comparisons = []
    for k, rows, times in cases:
        comparisons += compare_case(dataclasses.replace(config, rows=rows, width=times * config.width), k)
    return comparisons


def compare_case(config: BenchConfig, k: int) -> list[Comparison]:
    """The library beside its rivals, and beside the product alone."""
    contenders = {
        "vitprobe_jax": (prepare_library, k),
        FAISS: (prepare_faiss, k),
        "scikit-learn brute force": (prepare_sklearn, k),
        "the product alone": (prepare_product,),
    }
    library, *rivals, product = measure(contenders, config)
    agreement = [_agreement(library.evidence, rival.evidence) for rival in rivals]
    quality = {name: [None, *(shares[name] for shares in agreement)] for name in agreement[0]}
    title = f"knn: {config.queries} queries x {config.rows} rows x {config.width}, {k} neighbours"
    beside_rivals = Comparison(title, [library, *rivals], quality)
    return [beside_rivals, Comparison(f"{title}, beside the product", [library, product], {})]


def headline(comparisons: list[Comparison]) -> tuple[str, float]:
    """The last line's words and number: on an accelerator faiss, on the CPU, would be no rival."""
    beside_rivals, beside_product = comparisons[::2], comparisons[1::2]
    if any(comparison.measurements[0].evidence.platform != "cpu" for comparison in comparisons):
        return "share of the matmul rate", min(comparison.ratio for comparison in beside_product)
    pairs = [{m.name: m.seconds for m in comparison.measurements} for comparison in beside_rivals]
    return f"{FAISS} / vitprobe_jax", min(seconds[FAISS] / seconds["vitprobe_jax"] for seconds in pairs)


def prepare_library(config: BenchConfig, k: int) -> Work:
    """The library on one device."""
    platform = jax.default_backend()
    queries, scale = _queries(config, config.queries if platform != "cpu" else None)
    mesh = make_mesh(jax.local_devices()[:1])
    base = jax.block_until_ready(jnp.asarray(plant(config, "train").rows))

    def run():
        return nearest(queries, base, k=k, mesh=mesh)

    return Work(run, lambda found: Found(found.scores, found.indices, platform), scale)


def prepare_faiss(config: BenchConfig, k: int) -> Work:
    """An index without compression, on the CPU, with the threads and the BLAS that it comes with."""
    import faiss

    queries, scale = _queries(config)
    index = faiss.IndexFlatL2(config.width)
    index.add(plant(config, "train").rows)
    return Work(lambda: index.search(queries, k), lambda found: Found(*found), scale)


def prepare_sklearn(config: BenchConfig, k: int) -> Work:
    """NearestNeighbors(algorithm="brute")."""
    from sklearn.neighbors import NearestNeighbors

    queries, scale = _queries(config, SKLEARN_QUERIES)
    search = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(plant(config, "train").rows)
    return Work(lambda: search.kneighbors(queries), lambda found: Found(found[0] ** 2, found[1]), scale)


def prepare_product(config: BenchConfig) -> Work:
    """As many operations as the scores of all queries take, in large products."""
    flops = 2.0 * config.queries * config.rows * config.width
    timed = flops * (1 if jax.default_backend() != "cpu" else _timed(config) / config.queries / SHARE)
    return Work(matmul_limit(timed, jnp.float32), lambda _: None, flops / timed)


def _queries(config: BenchConfig, count: int | None = None) -> tuple[Float[np.ndarray, "Q D"], float]:
    """Queries that are timed, and how many times as many there are. Every contender has the first of the same ones."""
    planted = plant(config, "val", num_rows=config.queries).rows
    timed = min(config.queries, count or _timed(config))
    return planted[:timed].copy(), config.queries / timed


def _timed(config: BenchConfig) -> int:
    return min(config.queries, max(LEAST_QUERIES, SCORES // config.rows // LEAST_QUERIES * LEAST_QUERIES))


def _agreement(library: Found, rival: Found) -> dict[str, float]:
    """Neighbours with the same rank; neighbours of any rank; the largest difference of a distance, as a share of it."""
    count = min(len(library.indices), len(rival.indices))
    ours, theirs = library.indices[:count], rival.indices[:count]
    common = np.mean([np.isin(a, b).mean() for a, b in zip(ours, theirs, strict=True)])
    apart = np.abs(library.distances[:count] - rival.distances[:count]) / np.maximum(library.distances[:count], 1e-12)
    columns = {"equal neighbours": (ours == theirs).mean(), "in common": common, "distances apart": apart.max()}
    return {name: float(value) for name, value in columns.items()}
