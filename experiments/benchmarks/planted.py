"""Planted data for the benchmarks: Gaussian rows, each shifted along the unit direction of the concept that it carries."""

import dataclasses

import jax
import numpy as np
from jaxtyping import Float, Int

from experiments.benchmarks.config import BenchConfig
from vitprobe_jax.data.labels import LabelTable
from vitprobe_jax.errors import InputError
from vitprobe_jax.features.streaming import HostRows
from vitprobe_jax.features.table import FeatureTable, make_mesh, place_table
from vitprobe_jax.types import Concept

STRENGTH = 3.5
"""Length of the shift, in deviations of the noise: the concepts overlap, and probes of 500 positives reach about 0.85."""

SPREAD = 100
"""With `--spread`, the largest concept has this many times the rows of the smallest."""


@dataclasses.dataclass(frozen=True)
class Planted:
    """One split. Every row carries one concept, all of one category; consecutive rows make up an image.

    Attributes:
        rows: features.
        concept: index of the concept that each row carries.
        labels: the same as the library takes it.
    """

    rows: Float[np.ndarray, "N D"]
    concept: Int[np.ndarray, " N"]
    labels: LabelTable

    def place(self) -> FeatureTable:
        """The split on the devices."""
        images, num_rows, _ = self.labels.slots.shape
        table = place_table(HostRows(self.rows.reshape(images, num_rows, -1)), self.labels, make_mesh())
        return jax.block_until_ready(table)


def plant(config: BenchConfig, split: str, *, patches: int = 1, num_rows: int | None = None) -> Planted:
    """A split of `config.rows` (or `num_rows`) rows, rounded down to whole images; its seed is the config's."""
    num_images = (num_rows or config.rows) // patches
    count = num_images * patches
    rng = np.random.default_rng([config.seed, 0])
    directions = rng.standard_normal((config.concepts, config.width), dtype=np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    rng = np.random.default_rng([config.seed, 1 + ("train", "val").index(split)])
    planted = sizes(config, count)
    if planted.min() < 2:
        raise InputError(f"--rows={config.rows}: too few for --concepts={config.concepts} of such sizes; give more")
    concept = rng.permutation(np.repeat(np.arange(config.concepts, dtype=np.int32), planted))
    rows = rng.standard_normal((count, config.width), dtype=np.float32)
    # Piece by piece: all the shifts at once would be as large as the rows.
    for start in range(0, count, 1 << 14):
        rows[start : start + (1 << 14)] += STRENGTH * directions[concept[start : start + (1 << 14)]]
    concepts = tuple(Concept(k + 1, f"planted{k}", "planted") for k in range(config.concepts))
    slots = (concept + 1).reshape(num_images, patches, 1)
    return Planted(rows, concept, LabelTable(slots, np.zeros(1, np.int32), concepts, ("planted",)))


def sizes(config: BenchConfig, count: int) -> Int[np.ndarray, " K"]:
    """Rows of every concept, `count` in all: equal but for one, or log-uniform over a factor of `SPREAD`."""
    weights = np.geomspace(SPREAD, 1, config.concepts) if config.spread else np.ones(config.concepts)
    ends = np.round(np.cumsum(weights) / weights.sum() * count).astype(int)
    return np.diff(ends, prepend=0)
