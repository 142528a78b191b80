"""Aggregation by weights that need no training, beside those that AbMILP learns (Table 6, Figs 7 and 9)."""

import functools
from collections.abc import Sequence

import numpy as np

from experiments.aggregate.config import REFERENCE
from experiments.aggregate.heads import Heads
from experiments.aggregate.stream import Placed, fetched
from experiments.aggregate.workbench import Workbench
from experiments.measuring import Measured, Part
from vitprobe_jax.features.attention_flow import entropy
from vitprobe_jax.features.frozen import WEIGHTS
from vitprobe_jax.features.store import Cell
from vitprobe_jax.metrics.aggregation import kl_matrix
from vitprobe_jax.probes.pooling import parse_pooling

NAMES = ("mean", *WEIGHTS, REFERENCE)


def measure(bench: Workbench, cell: Cell, cells: Sequence[Cell]) -> Measured:
    """How well a classifier does on each aggregation, the entropy of its weights, and what tells weights apart.

    Entropies and divergences are means over the held-out images. The weights of the mean are equal ones.

    Pictures, of the first held-out images: `images` [n, H, W, 3] uint8, `names` [n], and `weights_NAME` [n, rows, columns].
    """
    heads = Heads.of(bench, cell)
    rows = [heads.data_row(PART.name), *heads.rows(PART.name, list(NAMES))]
    fit = [name for name in NAMES if bench.unfit(parse_pooling(name)) is None]
    given = [name for name in fit if name in WEIGHTS]
    entropies: dict[str, list[np.ndarray]] = {name: [] for name in fit}
    divergence, pictures, count = np.zeros((len(fit), len(fit))), {}, 0
    for placed in bench.held_out(PART.name):
        tokens = bench.tokens(placed.images, cell, given)
        weights = {name: fetched(heads.weights(name, tokens))[placed.valid] for name in fit}
        here = int(placed.valid.sum())
        if not here:
            continue
        for name, of_images in weights.items():
            entropies[name].append(np.asarray(entropy(of_images), np.float64))
        divergence += kl_matrix(weights) * here
        if not count:
            pictures = _draw(bench, placed, weights)
        count += here
    if not count:
        return Measured(rows)
    row = functools.partial(bench.row, PART.name, cell)
    for name, parts in entropies.items():
        of_images = np.concatenate(parts)
        deviation = float(of_images.std(ddof=1)) if count > 1 else None
        rows.append(
            row(
                method=name,
                measure="weights_entropy",
                value=float(of_images.mean()),
                deviation=deviation,
                count=count,
            )
        )
    rows += [
        row(method=name, name=other, measure="kl", value=float(divergence[i, j] / count), count=count)
        for i, name in enumerate(fit)
        for j, other in enumerate(fit)
    ]
    return Measured(rows, pictures)


def _draw(bench: Workbench, placed: Placed, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    shown = np.flatnonzero(placed.valid)[: bench.config.examples]
    if not len(shown):
        return {}
    images = fetched(placed.images)[shown]
    names = [bench.drawn.splits["val"].name(int(index)) for index in placed.indices[shown]]
    maps = {
        f"weights_{name}": of_images[: len(shown)].reshape(-1, *bench.grid).astype(np.float32)
        for name, of_images in weights.items()
    }
    return {"images": images, "names": np.array(names)} | maps


PART = Part("untrained", "labels", measure)
