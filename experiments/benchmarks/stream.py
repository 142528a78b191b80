"""A table on disk, eight times what a device may hold, streamed and resident: time, memory, and how far templates differ.

Both do the same from the same file: the feature norm, hyperplanes, their counts, cosine templates and theirs, of a few of
the planted concepts. The number at the end is the memory that a streamed call takes beyond that of its process (libraries,
compiled programs, labels), over what it may take: the bound, and what fitting hyperplanes may have beside it. 1 or less is
within.
"""

import dataclasses
import tempfile

import jax
import numpy as np
from etils import epath

from experiments.benchmarks.comparison import Comparison
from experiments.benchmarks.config import BenchConfig
from experiments.benchmarks.planted import plant
from experiments.benchmarks.timing import Work, added_memory_mb, measure
from vitprobe_jax.data.labels import LabelTable
from vitprobe_jax.features.cache import CachedRows
from vitprobe_jax.features.store import RowShape
from vitprobe_jax.features.streaming import RowSource
from vitprobe_jax.features.table import FeatureTable, make_mesh, place_table
from vitprobe_jax.metrics.counts import count_cosine, count_hyperplanes
from vitprobe_jax.probes.cosine import fit_cosine
from vitprobe_jax.probes.feature_norm import fit_feature_norm
from vitprobe_jax.probes.hyperplane import HyperplaneConfig, fit_hyperplanes
from vitprobe_jax.probes.sampling import (
    ImageDraw,
    RowPool,
    concept_identity,
    draw_pools,
    draw_queries,
    draw_support,
)
from vitprobe_jax.probes.trials import Support, Trials

NEEDS = ()
DEFAULTS = {"rows": 400_000, "concepts": 400, "shots": (1, 5, 10)}
FACTOR = 8
"""The table over the bound."""
PROBED = 16
"""Concepts that are fitted. All visits of all concepts read the table hundreds of times, which says nothing more."""
PROBE_MB = 64
"""As `--probe_memory`; enough for the concepts, and little beside the bound."""
CELL = (0, "k")


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What a contender ended with.

    Attributes:
        templates: by name.
        accuracy: balanced, of every hyperplane on the rows that it was fitted on.
        base_mb: resident memory of the process before a further call, 2^20 bytes; None where the system does not tell.
        added_mb: the peak of that call over it.
    """

    templates: dict[str, np.ndarray]
    accuracy: np.ndarray
    base_mb: float | None
    added_mb: float | None


def compare(config: BenchConfig) -> list[Comparison]:
    """Measures both."""
    with tempfile.TemporaryDirectory() as folder:
        train = plant(config, "train", patches=config.patches)
        labels, table_bytes = train.labels, train.rows.nbytes
        _write(folder, train.rows.reshape(*labels.slots.shape[:2], -1))
        del train
        bound = table_bytes // FACTOR
        contenders = {
            "vitprobe_jax, streamed": (prepare, folder, labels, bound),
            "vitprobe_jax, resident": (prepare, folder, labels, None),
        }
        measured = measure(contenders, config)
    streamed, resident = (measurement.evidence for measurement in measured)
    differences = {
        f"largest difference of {name}": [float(np.abs(leaf - resident.templates[name]).max()), None]
        for name, leaf in streamed.templates.items()
    }
    quality = {
        "accuracy": [float(evidence.accuracy.mean()) for evidence in (streamed, resident)],
        "its largest difference": [float(np.abs(streamed.accuracy - resident.accuracy).max()), None],
        "base MB": [streamed.base_mb, resident.base_mb],
        "added MB": [streamed.added_mb, resident.added_mb],
        "may add MB": [bound / (1 << 20) + PROBE_MB, None],
    }
    title = (
        f"stream: {config.rows} rows x {config.width}, {table_bytes >> 20} MB, of which {bound >> 20} MB on the device"
    )
    return [Comparison(title, measured, differences | quality)]


def headline(comparisons: list[Comparison]) -> tuple[str, float]:
    """The last line's words and number."""
    added, allowed = (comparisons[0].quality[column][0] for column in ("added MB", "may add MB"))
    return "memory that streaming added / that it may add", float("nan") if added is None else added / allowed


def prepare(config: BenchConfig, folder: str, labels: LabelTable, bound: int | None) -> Work:
    """Everything, with the table on disk."""
    draws, source = Draws.of(config, labels), _store(folder, labels, config.width).source(CELL)

    def run():
        return draws.fit(config, _place(source, labels, bound))

    def evidence(fitted) -> Evidence:
        templates, counts = fitted
        tp, fp, n_pos, n_neg = counts.astype(float).T
        base, added = added_memory_mb(run)
        return Evidence(templates, (tp / n_pos + 1 - fp / n_neg) / 2, base, added)

    return Work(run, evidence)


@dataclasses.dataclass(frozen=True)
class Draws:
    """What is drawn before any row is seen, of the concepts that are fitted."""

    labels: LabelTable
    concepts: np.ndarray
    pools: list[RowPool]
    support: ImageDraw
    queries: ImageDraw

    @classmethod
    def of(cls, config: BenchConfig, labels: LabelTable) -> "Draws":
        """By the seed of the config."""
        concepts = np.arange(min(PROBED, config.concepts), dtype=np.int32)
        pools = draw_pools(labels, ratio=HyperplaneConfig().pool_ratio, seed=config.seed)
        support = draw_support(labels, shots=max(config.shots), trials=config.trials, seed=config.seed)
        queries = draw_queries(labels, trials=config.trials, seed=config.seed)
        return cls(labels, concepts, [pools[k] for k in concepts], support, queries)

    def fit(self, config: BenchConfig, table: FeatureTable) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The templates by name, and the counts of the hyperplanes."""
        labels, concepts = self.labels, self.concepts
        norm = fit_feature_norm(table, kind="standardize")
        fitted = fit_hyperplanes(
            jax.random.key(config.seed),
            table,
            self.pools,
            [concept_identity(labels.concepts[k]) for k in concepts],
            norm=norm,
            config=HyperplaneConfig(),
            memory_mb=PROBE_MB,
        )
        counts = count_hyperplanes(table, concepts, labels.concept_category[concepts], fitted.w, fitted.b, fitted.shift)
        support = Support.of(self.support, labels, concepts, table.mesh)
        alpha, t, _ = fit_cosine(table, support, norm=norm, shots=config.shots)
        jax.block_until_ready(
            count_cosine(table, Trials.of(self.queries, labels, concepts, table.mesh), alpha, t, norm=norm)
        )
        templates = {"w": fitted.w, "b": fitted.b, "alpha": alpha, "t": t}
        return {name: np.asarray(leaf) for name, leaf in templates.items()}, np.asarray(counts)


def _place(source: RowSource, labels: LabelTable, bound: int | None) -> FeatureTable:
    streamed = {} if bound is None else {"resident": False, "device_bytes": bound}
    return place_table(source, labels, make_mesh(), **streamed)


def _store(folder: str, labels: LabelTable, width: int) -> CachedRows:
    return CachedRows(epath.Path(folder), RowShape(*labels.slots.shape[:2], width, "float32"))


def _write(folder: str, rows: np.ndarray) -> None:
    store = CachedRows(epath.Path(folder), RowShape(*rows.shape, "float32"))
    store.create([CELL])
    for shard in range(store.shape.num_shards):
        images = store.shape.images_of(shard)
        store.write(shard, {CELL: rows[images.start : images.stop]}, {})
    store.finish([CELL])
