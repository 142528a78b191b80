"""Planted data for the benchmarks: Gaussian rows, each shifted along the unit direction of the concept that it carries.

Isotropic rows have mean 0 and unit variance in every direction. A gradient step of one length then works everywhere, which
flatters solvers that real tokens defeat. Other rows are the same ones after an affine map that gives them the statistics
of tokens: a spectrum that falls as k^-1.5, means of several deviations, and features whose deviations differ a
thousandfold (as those of MAE's x1 do). The map hides no concept from a linear probe.
"""

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

SPECTRUM = 1.5
"""Variance along the k-th principal direction falls as k^-SPECTRUM, before features are scaled."""
MEANS = 3.0
"""Standard deviation of the features' means, in deviations of the features."""
DEVIATIONS = 1000.0
"""Deviations of features are log-uniform over this factor, around 1."""
PIECE = 1 << 14
"""Rows that are changed at a time: all shifts at once would be as large as the rows."""

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


@dataclasses.dataclass(frozen=True)
class TokenStatistics:
    """The map from isotropic rows to rows with the statistics of tokens; both splits share it.

    Attributes:
        mixing: matrix A; its squared singular values fall as k^-SPECTRUM and have mean 1.
        mean: means of the features, in units of their deviations.
        deviation: scale of the features.
    """

    mixing: Float[np.ndarray, "D D"]
    mean: Float[np.ndarray, " D"]
    deviation: Float[np.ndarray, " D"]

    @classmethod
    def of(cls, config: BenchConfig) -> "TokenStatistics":
        """Derived from the config's seed."""
        rng, width = np.random.default_rng([config.seed, 3]), config.width
        left, right = (np.linalg.qr(rng.standard_normal((width, width)))[0] for _ in range(2))
        variances = np.arange(1, width + 1) ** -SPECTRUM
        mixing = left * np.sqrt(variances / variances.mean()) @ right
        mean = MEANS * rng.standard_normal(width)
        deviation = DEVIATIONS ** (rng.random(width) - 0.5)
        return cls(*(leaf.astype(np.float32) for leaf in (mixing, mean, deviation)))

    def __call__(self, rows: Float[np.ndarray, "n D"]) -> Float[np.ndarray, "n D"]:
        """The mapped rows."""
        return (rows @ self.mixing.T + self.mean) * self.deviation


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
    to_tokens = None if config.isotropic else TokenStatistics.of(config)
    for start in range(0, count, PIECE):
        piece = rows[start : start + PIECE]
        piece += STRENGTH * directions[concept[start : start + PIECE]]
        if to_tokens is not None:
            piece[:] = to_tokens(piece)
    concepts = tuple(Concept(k + 1, f"planted{k}", "planted") for k in range(config.concepts))
    slots = (concept + 1).reshape(num_images, patches, 1)
    return Planted(rows, concept, LabelTable(slots, np.zeros(1, np.int32), concepts, ("planted",)))


def sizes(config: BenchConfig, count: int) -> Int[np.ndarray, " K"]:
    """Rows of every concept, `count` in all: equal but for one, or log-uniform over a factor of `SPREAD`."""
    weights = np.geomspace(SPREAD, 1, config.concepts) if config.spread else np.ones(config.concepts)
    ends = np.round(np.cumsum(weights) / weights.sum() * count).astype(int)
    return np.diff(ends, prepend=0)
