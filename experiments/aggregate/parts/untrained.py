"""Aggregation by weights that need no training, beside those that AbMILP learns (Table 6, Figs 7 and 9)."""

import functools
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from experiments import processes
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
    compared, pictures, count = _Compared(len(fit)), {}, 0
    for number, placed in enumerate(bench.held_out(PART.name)):
        tokens = bench.tokens(placed.images, cell, given)
        weights = {name: fetched(heads.weights(name, tokens))[placed.valid] for name in fit}
        here = int(placed.valid.sum())
        if not here:
            continue
        if not count:
            pictures = _draw(bench, placed, weights)
        count += here
        if processes.has_turn(number):
            compared.add(number, weights)
    if not count:
        return Measured(rows)
    entropies, divergence = compared.of_all()
    row = functools.partial(bench.row, PART.name, cell)
    for name, of_images in zip(fit, entropies, strict=True):
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
        row(method=name, name=other, measure="kl", value=float(divergence[i, j]), count=count)
        for i, name in enumerate(fit)
        for j, other in enumerate(fit)
    ]
    return Measured(rows, pictures)


class _Compared:
    """What weights of batches come to. Every process has batches of its own; all is put together in the order of batches, so
    that sums are the same for any number of processes.
    """

    def __init__(self, kinds: int):
        self._numbers = [np.zeros(0, np.int64)]
        self._entropies = [np.zeros((0, kinds))]
        self._batches: list[tuple[int, np.ndarray]] = []
        self._kinds = kinds

    def add(self, number: int, weights: Mapping[str, Float[np.ndarray, "n P"]]) -> None:
        """Takes the weights of one batch."""
        of_images = np.stack([np.asarray(entropy(kind), np.float64) for kind in weights.values()], axis=1)
        self._numbers.append(np.full(len(of_images), number))
        self._entropies.append(of_images)
        self._batches.append((number, kl_matrix(weights) * len(of_images)))

    def of_all(self) -> tuple[Float[np.ndarray, "K N"], Float[np.ndarray, "K K"]]:
        """The entropies of all images by kind of weights, and the mean divergences."""
        order = np.argsort(processes.gathered(np.concatenate(self._numbers)), kind="stable")
        entropies = processes.gathered(np.concatenate(self._entropies))[order]
        numbers = processes.gathered(np.array([number for number, _ in self._batches], np.int64))
        matrices = np.array([matrix for _, matrix in self._batches]).reshape(-1, self._kinds, self._kinds)
        matrices, divergence = processes.gathered(matrices), np.zeros((self._kinds, self._kinds))
        for batch in np.argsort(numbers):
            divergence += matrices[batch]
        return entropies.T, divergence / len(entropies)


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
