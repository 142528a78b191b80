"""How hyperplanes were fitted: what did not converge, how far features were rescaled, what the solver does to orders."""

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import stats

from vitprobe_jax.report.cells import CellName
from vitprobe_jax.report.tables import DECIDING, ConceptScores
from vitprobe_jax.types import ALL_TOKENS, HYPERPLANE_RULES, RULES, Concept

_CELL = ("task", "dataset", "backbone", "layer", "token", "rule")


@dataclasses.dataclass(frozen=True)
class CellFits:
    """The regressions of one token of a block under one hyperplane rule.

    Attributes:
        task: task of the results.
        dataset: data set of the results.
        backbone: its name.
        layer: block.
        token: token.
        rule: which solver, see `types.Rule`.
        regressions: how many, over concepts and seeds.
        unconverged: how many of them did not converge.
        concepts: names of those concepts, without duplicates, in the order of the results.
        scale_low: the smallest deviation of a feature over the training rows; None where no feature varies.
        scale_high: the largest.
    """

    task: str
    dataset: str
    backbone: str
    layer: int
    token: str
    rule: str
    regressions: int
    unconverged: int
    concepts: tuple[str, ...]
    scale_low: float | None
    scale_high: float | None


@dataclasses.dataclass(frozen=True)
class SolverOrder:
    """The tokens of a backbone from the best down, under both solvers, at the last block that both have.

    Attributes:
        task: task of the results.
        dataset: data set of the results.
        backbone: its name.
        layer: block.
        sweeps: labels of the sweeps with the rules `hyperplane` and `hyperplane_paper`; the same one if it has both.
        default: tokens by their mean under `hyperplane`.
        paper: tokens by their mean under `hyperplane_paper`.
        concepts: over how many concepts, those with a score in all of these cells.
        correlation: Spearman's rank correlation of the means; None where all of one side are equal.
    """

    task: str
    dataset: str
    backbone: str
    layer: int
    sweeps: tuple[str, str]
    default: tuple[str, ...]
    paper: tuple[str, ...]
    concepts: int
    correlation: float | None


def cell_fits(table: pa.Table) -> list[CellFits]:
    """The fits of every cell of hyperplanes, in the order of `summarise`; pixels are about the same fits and left out."""
    kept = pc.and_(pc.is_in(table["rule"], pa.array(HYPERPLANE_RULES)), pc.not_equal(table["evaluation"], "pixel"))
    fits = table.filter(pc.and_(kept, pc.is_valid(table["converged"])))
    missed = fits.filter(pc.invert(fits["converged"])).select([*_CELL, "name"])
    names = defaultdict(dict)
    for *cell, name in zip(*missed.to_pydict().values(), strict=True):
        names[tuple(cell)][name] = None
    sums = [("converged", "count"), ("converged", "sum"), ("scale_low", "min"), ("scale_high", "max")]
    grouped = fits.group_by(_CELL, use_threads=False).aggregate(sums).select([*_CELL, *map("_".join, sums)])
    backbones = pc.unique(table["backbone"]).to_pylist()
    rows = []
    for *cell, count, converged, low, high in zip(*grouped.to_pydict().values(), strict=True):
        rows.append(CellFits(*cell, count, count - converged, tuple(names.get(tuple(cell), ())), low, high))

    def place(row: CellFits) -> tuple:
        order = ALL_TOKENS.index(row.token), RULES.index(row.rule)
        return row.task, row.dataset, backbones.index(row.backbone), row.layer, *order

    return sorted(rows, key=place)


def solver_orders(
    labels: Sequence[str], scores: Sequence[ConceptScores], *, metric: str = DECIDING
) -> list[SolverOrder]:
    """What the solver does to the order of tokens, for each task, data set and backbone that has both.

    Sweeps that hold both rules are compared within; where none does, the first sweep with either rule. Backbones with fewer
    than two tokens under both are left out.

    Args:
        labels: names of the sweeps.
        scores: scores of the sweeps.
        metric: one of `METRICS`.
    """
    places = defaultdict(lambda: {rule: {} for rule in HYPERPLANE_RULES})
    for i, own in enumerate(scores):
        for cell in own.cells:
            if cell.rule in HYPERPLANE_RULES and cell.evaluation != "pixel":
                places[cell.task, cell.dataset, cell.backbone][cell.rule].setdefault(i, []).append(cell)
    found = []
    for place, by_rule in places.items():
        for i, j in _pairs(*(by_rule[rule] for rule in HYPERPLANE_RULES)):
            cells = tuple(by_rule[rule][sweep] for rule, sweep in zip(HYPERPLANE_RULES, (i, j), strict=True))
            if order := _order(place, (labels[i], labels[j]), cells, (scores[i], scores[j]), metric):
                found.append(order)
    return found


def _pairs(default: dict[int, list], paper: dict[int, list]) -> Iterator[tuple[int, int]]:
    """Which sweep's default hyperplanes are set beside which sweep's of the paper's solver."""
    both = [(i, i) for i in default if i in paper]
    return iter(both or [(i, j) for i in list(default)[:1] for j in list(paper)[:1]])


def _order(place, sweeps, cells: tuple[list[CellName], list[CellName]], scores, metric: str) -> SolverOrder | None:
    by_cell = [{(cell.layer, cell.token): cell for cell in own} for own in cells]
    shared = [where for where in by_cell[0] if where in by_cell[1]]
    layer = max((layer for layer, _ in shared), default=None)
    tokens = sorted((token for own, token in shared if own == layer), key=ALL_TOKENS.index)
    values = [
        _by_concept(own, [cells[layer, t] for t in tokens], metric) for own, cells in zip(scores, by_cell, strict=True)
    ]
    concepts = [c for c in values[0] if c in values[1] and np.isfinite([*values[0][c], *values[1][c]]).all()]
    if len(tokens) < 2 or not concepts:
        return None
    means = [np.mean([own[concept] for concept in concepts], axis=0) for own in values]
    orders = (tuple(tokens[t] for t in np.argsort(-own, kind="stable")) for own in means)
    differ = all(np.ptp(own) > 0 for own in means)
    correlation = float(stats.spearmanr(*means).statistic) if differ else None
    return SolverOrder(*place, layer, sweeps, *orders, len(concepts), correlation)


def _by_concept(scores: ConceptScores, cells: Sequence[CellName], metric: str) -> dict[Concept, np.ndarray]:
    columns = np.stack([scores.of(cell, metric) for cell in cells], axis=1) if cells else np.zeros((0, 0))
    return dict(zip(scores.concepts, columns, strict=bool(cells)))
