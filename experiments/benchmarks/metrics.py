"""Counts of every hyperplane over all rows, against the matrix product alone: what the counting costs beyond it."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.comparison import Comparison
from experiments.benchmarks.config import BenchConfig
from experiments.benchmarks.planted import plant
from experiments.benchmarks.timing import Work, measure
from vitprobe_jax.metrics.counts import count_hyperplanes

NEEDS = ()
DEFAULTS = {"rows": 1_000_000, "concepts": 1000}
BLOCK_ROWS = 1 << 11
"""Rows that the rivals multiply at a time: all scores at once would be larger than the rows. Both are at their fastest
while the scores stay in the cache: for 131,072 rows JAX takes 0.49 s, and 0.65 s in blocks of 32,768 (NumPy 0.51, 0.60)."""


def compare(config: BenchConfig) -> list[Comparison]:
    """Measures all; quality is the largest relative error of a rate on the sampled concepts, against NumPy in float64."""
    contenders = {
        "vitprobe_jax": (prepare_library,),
        "matmul alone, JAX": (prepare_jax,),
        "matmul alone, NumPy": (prepare_numpy,),
    }
    measured = measure(contenders, config)
    quality = {"largest error of a rate": [measured[0].evidence, None, None]}
    title = f"metrics: {config.concepts} hyperplanes over {config.rows} rows x {config.width}"
    return [Comparison(title, measured, quality)]


def prepare_library(config: BenchConfig) -> Work:
    """True and false positives, and the sizes of both sides, of every concept."""
    val, w, b = _problem(config)
    table = val.place()
    concept = np.arange(config.concepts, dtype=np.int32)
    templates = (concept, np.zeros_like(concept), *map(jnp.asarray, (w, b)), jnp.zeros(config.width))

    def run():
        return jax.block_until_ready(count_hyperplanes(table, *templates))

    def largest_error(counted) -> float:
        weights = w[: config.sample].T.astype(np.float64)
        found = np.concatenate([block @ weights >= b[: config.sample] for block in _blocks(val.rows)])
        pos = val.concept[:, None] == np.arange(config.sample)
        expected = np.stack([which.sum(0) for which in (found & pos, found & ~pos, pos, ~pos)], axis=1)
        off = np.abs(np.asarray(counted)[: config.sample] - expected)
        return float(np.max(off / expected[:, [2, 3, 2, 3]]))

    return Work(run, largest_error)


def prepare_jax(config: BenchConfig) -> Work:
    """Scores of block after block of rows, each dropped."""
    val, w, _ = _problem(config)
    blocks = [jax.device_put(block) for block in _blocks(val.rows)]
    multiply = jax.jit(lambda z_NxD, w_KxD: w_KxD @ z_NxD.T)  # A tenth faster than z @ w.T.
    w = jax.block_until_ready(jnp.asarray(w))

    def run():
        for block in blocks:
            jax.block_until_ready(multiply(block, w))

    return Work(run, lambda _: None)


def prepare_numpy(config: BenchConfig) -> Work:
    """The same by NumPy's BLAS."""
    val, w, _ = _problem(config)

    def run():
        for block in _blocks(val.rows):
            _ = block @ w.T

    return Work(run, lambda _: None)


def _blocks(rows):
    return [rows[start : start + BLOCK_ROWS] for start in range(0, len(rows), BLOCK_ROWS)]


def _problem(config: BenchConfig):
    """The rows, and for every concept the mean of some of its rows with half its squared length as the threshold."""
    val = plant(config, "val")
    order = np.argsort(val.concept, kind="stable")
    starts = np.searchsorted(val.concept[order], np.arange(config.concepts))
    w = val.rows[order[starts]] + val.rows[order[starts + 1]]
    return val, w / 2, np.sum((w / 2) ** 2, axis=1) / 2
