"""What a mean speaks of, and the rows of a results table sorted under it: Arrow turns names into codes, NumPy sums by code.

A *cell* is task, data set, backbone, layer, token, rule, what was counted and, for cosine templates, the number of shots.
Results of whole Broden sweeps have millions of rows and are summarised for every figure, so what a pure function makes of
a table can be kept as long as the table lives (`once_per_table`).
"""

import dataclasses
import functools
import weakref
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float, Int

from vitprobe_jax.backbones.untrained import OBJECTIVE as UNTRAINED
from vitprobe_jax.metrics.results import METRICS
from vitprobe_jax.metrics.statistics import nanmeans
from vitprobe_jax.types import ALL_TOKENS, EVALUATIONS, RULES, Concept

_T = TypeVar("_T")
_CONCEPT = ("concept", "name", "category")


def once_per_table(function: Callable[[pa.Table], _T]) -> Callable[[pa.Table], _T]:
    """The same function, which computes once for each table object: tables never change, so the value may be kept.

    It is forgotten with the table. The value is shared between callers: let it be immutable.
    """
    known = {}

    @functools.wraps(function)
    def remembering(table: pa.Table) -> _T:
        key = id(table)
        if key not in known:
            value = function(table)
            weakref.finalize(table, known.pop, key)  # before another table can have this id
            known[key] = value
        return known[key]

    return remembering


@dataclasses.dataclass(frozen=True, kw_only=True)
class CellName:
    """What identifies a cell.

    Attributes:
        task: `segmentation` or `classification`.
        dataset: as results call it.
        backbone: its name.
        objective: its pre-training objective in words.
        layer: block, from 0.
        token: one of `types.ALL_TOKENS`.
        rule: one of `types.RULES`.
        shots: support images asked for; None for hyperplanes.
        evaluation: what was counted, one of `types.EVALUATIONS`.
    """

    task: str
    dataset: str
    backbone: str
    objective: str
    layer: int
    token: str
    rule: str
    shots: int | None
    evaluation: str

    @property
    def untrained(self) -> bool:
        """Whether the backbone is a control with random weights."""
        return self.objective == UNTRAINED


_CELL = tuple(field.name for field in dataclasses.fields(CellName))


def cell_name(cell: CellName) -> CellName:
    """What identifies a cell, of a `Summary` or any other record that extends it."""
    return CellName(**{name: getattr(cell, name) for name in _CELL})


@dataclasses.dataclass(frozen=True)
class CodedRows:
    """The rows of a results table with cells, concepts, seeds and trials as numbers.

    Attributes:
        cells: by task, data set and backbone as in the table, then layer, token, rule, evaluation and shots ascending.
        concepts: sorted, so that the order of rows changes no interval.
        seeds: seeds of the draws, ascending.
        num_trials: how many trial numbers there are, that of hyperplanes among them.
        cell: of each row.
        concept: of each row.
        seed: place in `seeds` of each row.
        trial: of each row.
        scored: rows that were not skipped: rows of templates without held-out positives or negatives are skipped.
        metrics: of each row, in the order of `METRICS`; NaN where skipped.
        degenerate: of each row.
        effective_shots: of each row, NaN for hyperplanes.
        unconverged: rows of regressions that did not converge.
    """

    cells: Sequence[CellName]
    concepts: Sequence[Concept]
    seeds: Sequence[int]
    num_trials: int
    cell: Int[np.ndarray, " rows"]
    concept: Int[np.ndarray, " rows"]
    seed: Int[np.ndarray, " rows"]
    trial: Int[np.ndarray, " rows"]
    scored: Bool[np.ndarray, " rows"]
    metrics: Float[np.ndarray, "metrics rows"]
    degenerate: Bool[np.ndarray, " rows"]
    effective_shots: Float[np.ndarray, " rows"]
    unconverged: Bool[np.ndarray, " rows"]

    @classmethod
    def of(cls, table: pa.Table) -> "CodedRows":
        """The rows of a results table."""
        backbones, datasets, tasks = (pc.unique(table[name]).to_pylist() for name in ("backbone", "dataset", "task"))

        def cell_key(cell: tuple) -> tuple:
            c = dict(zip(_CELL, cell, strict=True))
            place = (
                tasks.index(c["task"]),
                datasets.index(c["dataset"]),
                backbones.index(c["backbone"]),
                c["objective"],
            )
            order = (ALL_TOKENS.index(c["token"]), RULES.index(c["rule"]), EVALUATIONS.index(c["evaluation"]))
            return (*place, c["layer"], *order, c["shots"] or 0)

        cell, cells = _codes(table, _CELL, cell_key)
        concept, concepts = _codes(table, _CONCEPT, lambda c: (c[2], c[1], c[0]))
        seed, seeds = _codes(table, ("seed",), lambda c: c[0] or 0)
        trial, trials = _codes(table, ("trial",), lambda c: c[0] or 0)
        return cls(
            cells=[CellName(**dict(zip(_CELL, cell, strict=True))) for cell in cells],
            concepts=[Concept(*concept) for concept in concepts],
            seeds=[seed for (seed,) in seeds],
            num_trials=len(trials),
            cell=cell,
            concept=concept,
            seed=seed,
            trial=trial,
            scored=pc.is_null(table["skipped"]).to_numpy(),
            metrics=np.stack([_floats(table[metric]) for metric in METRICS]),
            degenerate=pc.fill_null(table["degenerate"], False).to_numpy(),
            effective_shots=_floats(table["effective_shots"]),
            unconverged=pc.invert(pc.fill_null(table["converged"], True)).to_numpy(),
        )

    def restrict(self, concepts: Bool[np.ndarray, " K"]) -> "CodedRows":
        """The rows of these concepts alone, and the cells that have some."""
        rows = concepts[self.concept]
        new_concept, new_cell = np.cumsum(concepts) - 1, np.zeros(len(self.cells), bool)
        new_cell[self.cell[rows]] = True
        return dataclasses.replace(
            self,
            cells=[cell for cell, kept in zip(self.cells, new_cell, strict=True) if kept],
            concepts=[concept for concept, kept in zip(self.concepts, concepts, strict=True) if kept],
            cell=(np.cumsum(new_cell) - 1)[self.cell[rows]],
            concept=new_concept[self.concept[rows]],
            seed=self.seed[rows],
            trial=self.trial[rows],
            scored=self.scored[rows],
            metrics=self.metrics[:, rows],
            degenerate=self.degenerate[rows],
            effective_shots=self.effective_shots[rows],
            unconverged=self.unconverged[rows],
        )

    def scores(self) -> Float[np.ndarray, "metrics cells K seeds"]:
        """Means over the trials of each seed, NaN where a concept has none."""
        num_concepts, num_seeds = len(self.concepts), len(self.seeds)
        means = self._means(self.concept * num_seeds + self.seed, num_concepts * num_seeds)
        return means.reshape(*means.shape[:2], num_concepts, num_seeds)

    def seed_means(self) -> Float[np.ndarray, "metrics cells seeds"]:
        """Means over concepts and trials of each seed, NaN where a cell has no score under it."""
        return nanmeans(np.swapaxes(self.scores(), 2, 3))

    def trial_means(self) -> Float[np.ndarray, "metrics cells seeds trials"]:
        """Means over concepts of each trial, NaN where a cell has no such trial."""
        num_seeds = len(self.seeds)
        means = self._means(self.seed * self.num_trials + self.trial, num_seeds * self.num_trials)
        return means.reshape(*means.shape[:2], num_seeds, self.num_trials)

    def _means(self, minor: Int[np.ndarray, " rows"], size: int) -> Float[np.ndarray, "metrics cells {size}"]:
        place = (self.cell * size + minor)[self.scored]
        total = len(self.cells) * size
        count = np.bincount(place, minlength=total)
        sums = np.stack([np.bincount(place, metric[self.scored], minlength=total) for metric in self.metrics])
        means = np.divide(sums, count, out=np.full(sums.shape, np.nan), where=count > 0)
        return means.reshape(len(METRICS), len(self.cells), size)

    def total(self, weights: np.ndarray) -> Float[np.ndarray, " cells"]:
        """Sums over the scored rows of each cell."""
        # Without any scored row, bincount forgets that its weights are floats.
        return np.bincount(self.cell[self.scored], weights[self.scored], minlength=len(self.cells)).astype(np.float64)

    def unconverged_fits(self) -> Int[np.ndarray, "cells K"]:
        """How many regressions of each concept, over seeds, did not converge."""
        counts = np.zeros((len(self.cells), len(self.concepts)), np.int64)
        rows = self.scored & self.unconverged
        np.add.at(counts, (self.cell[rows], self.concept[rows]), 1)
        return counts

    def attempted(self) -> Int[np.ndarray, " cells"]:
        """Concepts of each cell, skipped or not."""
        seen = np.zeros((len(self.cells), len(self.concepts)), bool)
        seen[self.cell, self.concept] = True
        return seen.sum(axis=1)


def _codes(
    table: pa.Table, columns: Sequence[str], key: Callable[[tuple], tuple]
) -> tuple[Int[np.ndarray, " rows"], list[tuple]]:
    """Each row's distinct combination of columns as a number, and the combinations by number, sorted by `key`."""
    combined, distinct = np.zeros(table.num_rows, np.int64), [()]
    for name in columns:
        # In one chunk first: Arrow cannot unify the dictionaries of several that hold nulls.
        encoded = table[name].combine_chunks().dictionary_encode(null_encoding="encode")
        values = encoded.dictionary.to_pylist()
        pairs = pa.array(combined * max(len(values), 1) + encoded.indices.to_numpy()).dictionary_encode()
        combined = pairs.indices.to_numpy().astype(np.int64)
        places = pairs.dictionary.to_pylist()
        distinct = [(*distinct[place // len(values)], values[place % len(values)]) for place in places]
    order = sorted(range(len(distinct)), key=lambda i: key(distinct[i]))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank[combined], [distinct[i] for i in order]


def _floats(column: pa.ChunkedArray) -> Float[np.ndarray, " rows"]:
    """With NaN for null."""
    return pc.fill_null(column.cast(pa.float64()), np.nan).to_numpy()
