"""Results table -> summarised rows: means over trials, seeds and concepts with their intervals, and what was skipped.

A concept's score in a cell (`cells`) is its mean over seeds of the means over each seed's trials; all means over concepts
are unweighted.
"""

import dataclasses
import functools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float, Int

from vitprobe_jax.metrics.results import METRICS
from vitprobe_jax.metrics.statistics import mean_intervals, nanmeans
from vitprobe_jax.report.cells import CellName, CodedRows, cell_name, once_per_table
from vitprobe_jax.types import ALL_TOKENS, Concept

METRIC_LABELS = {
    "accuracy": "balanced accuracy",
    "precision": "balanced precision",
    "recall": "recall",
    "f1": "balanced F1",
}

DECIDING = "accuracy"
"""The metric by which tokens, rules and backbones are compared, unless another is asked for: balanced accuracy. A template
that tells nothing apart has 0.5 whatever its threshold; its F1 runs from 0 to 0.667, and one that is positive everywhere
outdoes many that know their concept."""
NORM_TOKENS = ("x1", "xn", "x2")
"""Before the second LayerNorm, after it, and after the final norm: what Table 1 of the paper compares."""


@dataclasses.dataclass(frozen=True)
class Score:
    """A metric of a cell, in [0, 1].

    Attributes:
        mean: over trials first, then over seeds, then over concepts.
        deviation: sample standard deviation (n - 1), over the trials of all seeds, of the mean over concepts; None for a
            single trial.
        low: lower end of the 95% interval: bootstrap over concepts; with several seeds over both (`mean_intervals`).
        high: its upper end.
        by_seed: mean over trials and concepts under each seed of the table; NaN without a score.
    """

    mean: float
    deviation: float | None
    low: float
    high: float
    by_seed: tuple[float, ...] = ()

    @property
    def seed_deviation(self) -> float | None:
        """Sample standard deviation (n - 1) of the mean over seeds; None for a single seed."""
        known = [mean for mean in self.by_seed if not np.isnan(mean)]
        return float(np.std(known, ddof=1)) if len(known) > 1 else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary(CellName):
    """One cell.

    Attributes:
        effective_shots: support images used, mean over templates; None for hyperplanes.
        concepts: how many concepts the means are over.
        templates: how many templates: concepts times trials and seeds, less what was skipped.
        seeds: under how many seeds the cell was drawn and fitted.
        degenerate: how many of the templates found no positive, so that precision or F1 is 0 / 0 and counts as 0.
        unconverged: how many of the templates are hyperplanes whose regression did not converge.
        skipped: how many concepts have no score: no template, or nothing to measure one on; they are in no mean.
        scores: by metric; empty where every concept was skipped.
    """

    effective_shots: float | None = None
    concepts: int = 0
    templates: int = 0
    seeds: int = 1
    degenerate: int = 0
    unconverged: int = 0
    skipped: int = 0
    scores: Mapping[str, Score] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class ConceptScores:
    """Every concept's mean over trials and seeds in every cell.

    Attributes:
        cells: in the order of `summarise`, one for each of its rows.
        concepts: by category, then name, then number.
        scores: by metric (as in `METRICS`), concept and cell; NaN where a concept has no score. In float64, so that
            three rounded decimals are those of the results table.
        seeds: seeds of the draws, ascending.
        by_seed: the means over the trials of each seed, of which `scores` are the means.
        unconverged: how many regressions of each concept in each cell, over seeds, did not converge.
    """

    cells: tuple[CellName, ...]
    concepts: tuple[Concept, ...]
    scores: Float[np.ndarray, "metrics K cells"]
    seeds: tuple[int, ...]
    by_seed: Float[np.ndarray, "metrics K cells seeds"]
    unconverged: Int[np.ndarray, "K cells"]

    @property
    def scored(self) -> tuple[Concept, ...]:
        """The concepts that have a score in some cell: those that were probed."""
        has_score = np.isfinite(self.scores[0]).any(axis=1)
        return tuple(concept for concept, kept in zip(self.concepts, has_score, strict=True) if kept)

    def of(self, cell: CellName, metric: str) -> Float[np.ndarray, " K"]:
        """The scores of one cell, by concept; `cell` may be a `Summary`."""
        return self.scores[METRICS.index(metric), :, self._places[cell_name(cell)]]

    def of_seeds(self, cell: CellName, metric: str) -> Float[np.ndarray, "K seeds"]:
        """The scores of one cell, by concept and seed: what tests of differences take."""
        return self.by_seed[METRICS.index(metric), :, self._places[cell_name(cell)]]

    def missed(self, first: CellName, second: CellName) -> tuple[int, int]:
        """How many regressions of either cell did not converge, among the concepts that both have a score for."""
        shared = np.isfinite(self.of(first, METRICS[0])) & np.isfinite(self.of(second, METRICS[0]))
        of_first, of_second = (self.unconverged[shared, self._places[cell_name(cell)]] for cell in (first, second))
        return int(of_first.sum()), int(of_second.sum())

    @functools.cached_property
    def _places(self) -> dict[CellName, int]:
        return {cell: i for i, cell in enumerate(self.cells)}


@dataclasses.dataclass(frozen=True)
class Best:
    """The token with the highest mean of a backbone under a rule.

    Attributes:
        first: where it has that mean.
        second: the best of the other tokens; None where there is no other.
        token_by_seed: the token that is best by the scores of each seed alone.
    """

    first: Summary
    second: Summary | None
    token_by_seed: tuple[str, ...] = ()

    @property
    def agreeing_seeds(self) -> int:
        """Under how many seeds the same token is best."""
        return self.token_by_seed.count(self.first.token)


@dataclasses.dataclass(frozen=True)
class SkippedConcept:
    """A concept that has no score somewhere, why, and under which rules of which backbones."""

    category: str
    name: str
    reason: str
    rules: tuple[str, ...]
    backbones: tuple[str, ...]


def summarise(table: pa.Table) -> list[Summary]:
    """Every cell of a results table.

    Ordered by task, data set and backbone as in the table, then layer, token, rule, evaluation and shots ascending.
    A concept with some trials skipped is averaged over the others; one with none left counts as skipped.
    """
    return list(_summarise(table))


def summarise_by_category(table: pa.Table) -> dict[str, list[Summary]]:
    """`summarise` of each category of concepts alone, by category in alphabetical order."""
    return {category: list(rows) for category, rows in _summarise_by_category(table)}


@once_per_table
def concept_scores(table: pa.Table) -> ConceptScores:
    """The means over trials and seeds behind every summary."""
    coded = _code(table)
    by_seed = np.moveaxis(coded.scores(), 2, 1)
    scores = nanmeans(by_seed)
    unconverged = coded.unconverged_fits().T
    for array in (scores, by_seed, unconverged):
        array.flags.writeable = False
    return ConceptScores(tuple(coded.cells), tuple(coded.concepts), scores, tuple(coded.seeds), by_seed, unconverged)


def layer_norm_table(table: pa.Table) -> pa.Table:
    """What layer norms do to a direction (Table 1 of the paper): `NORM_TOKENS` side by side, at the last probed block.

    Every task, data set, rule (at its largest number of shots) and backbone that has scores; nothing of pixels.

    Returns:
        Columns task, dataset, rule, shots, backbone, layer, token, concepts, then of each metric the mean and the ends
        of its 95% bootstrap interval: `f1`, `f1_low`, `f1_high`.
    """
    rows = [row for row in last_layer(main_rows(summarise(table))) if row.scores and row.token in NORM_TOKENS]
    groups = defaultdict(list)
    for row in rows:
        groups[row.task, row.dataset, row.rule].append(row)
    names = ("task", "dataset", "rule", "shots", "backbone", "layer", "token", "concepts")
    records = []
    for group in groups.values():
        for row in most_shots(group):
            record = {name: getattr(row, name) for name in names}
            for metric, score in row.scores.items():
                record |= {metric: score.mean, f"{metric}_low": score.low, f"{metric}_high": score.high}
            records.append(record)
    types = dict.fromkeys(("shots", "layer", "concepts"), pa.int32())
    fields = [(name, types.get(name, pa.string())) for name in names]
    fields += [(f"{metric}{end}", pa.float64()) for metric in METRICS for end in ("", "_low", "_high")]
    return pa.Table.from_pylist(records, schema=pa.schema(fields))


def main_rows(rows: Iterable[Summary]) -> list[Summary]:
    """The rows about patches or images: all but those about pixels."""
    return [row for row in rows if row.evaluation != "pixel"]


def last_layer(rows: Iterable[Summary]) -> list[Summary]:
    """The rows at the last probed layer of each backbone, in each task and data set."""
    rows = list(rows)
    place = lambda row: (row.task, row.dataset, row.backbone)  # noqa: E731
    last = {place(row): row.layer for row in sorted(rows, key=lambda row: row.layer)}
    return [row for row in rows if row.layer == last[place(row)]]


def most_shots(rows: Iterable[Summary]) -> list[Summary]:
    """The rows with the largest number of shots there is; all rows where none has any."""
    rows = list(rows)
    most = max((row.shots or 0 for row in rows), default=0)
    return [row for row in rows if (row.shots or 0) == most]


def best_tokens(rows: Iterable[Summary], *, metric: str = DECIDING) -> list[Best]:
    """The best token of every backbone under every rule, over all layers, at the largest number of shots.

    Each task, data set and kind of evaluation has its own. At one number of shots, since tokens are to be compared and not
    budgets. Of equals, the first in the order of
    `ALL_TOKENS` leads. A backbone and rule where every concept was skipped has no entry.
    """
    groups = defaultdict(list)
    for row in rows:
        if row.scores:
            groups[row.task, row.dataset, row.evaluation, row.rule, row.backbone].append(row)
    best = []
    for group in groups.values():
        rivals = most_shots(group)
        ranked = sorted(rivals, key=lambda row: (-row.scores[metric].mean, ALL_TOKENS.index(row.token)))
        others = (row for row in ranked if row.token != ranked[0].token)
        best.append(Best(ranked[0], next(others, None), _token_by_seed(rivals, metric)))
    return best


def _token_by_seed(rows: Sequence[Summary], metric: str) -> tuple[str, ...]:
    """The best token under each seed that some row has a score under."""
    tokens = []
    for means in zip(*(row.scores[metric].by_seed for row in rows), strict=True):
        scored = [(-mean, ALL_TOKENS.index(row.token)) for mean, row in zip(means, rows, strict=True) if mean == mean]
        if scored:
            tokens.append(ALL_TOKENS[min(scored)[1]])
    return tuple(tokens)


def skipped_concepts(table: pa.Table) -> list[SkippedConcept]:
    """Each concept and reason of the skipped rows, by category and name."""
    columns = ["category", "concept", "name", "skipped"]
    rows = table.filter(pc.is_valid(table["skipped"]))
    places = defaultdict(set)
    for *reason, rule, backbone in _tuples(
        rows.group_by([*columns, "rule", "backbone"], use_threads=False).aggregate([])
    ):
        places[tuple(reason)].add((rule, backbone))
    return [
        SkippedConcept(
            category=category,
            name=name,
            reason=reason,
            rules=tuple(sorted({rule for rule, _ in places[category, concept, name, reason]})),
            backbones=tuple(sorted({backbone for _, backbone in places[category, concept, name, reason]})),
        )
        for category, concept, name, reason in sorted(places, key=lambda key: (key[0], key[2], key[1], key[3]))
    ]


_code = once_per_table(CodedRows.of)


@once_per_table
def _summarise(table: pa.Table) -> tuple[Summary, ...]:
    return _summaries(_code(table))


@once_per_table
def _summarise_by_category(table: pa.Table) -> tuple[tuple[str, tuple[Summary, ...]], ...]:
    coded = _code(table)
    categories = np.array([concept.category for concept in coded.concepts])
    return tuple((str(name), _summaries(coded.restrict(categories == name))) for name in np.unique(categories))


def _summaries(coded: CodedRows) -> tuple[Summary, ...]:
    if not coded.cells:
        return ()
    by_seed, trials, seeds = coded.scores(), coded.trial_means(), coded.seed_means()
    scores = nanmeans(by_seed)
    num_concepts = np.sum(~np.isnan(scores[0]), axis=1)
    num_seeds = np.sum(~np.isnan(seeds[0]), axis=1)
    num_trials = np.sum(~np.isnan(trials[0]), axis=2).max(axis=1)
    # Cells of one metric after another, as columns: every interval is over the same resamples of concepts.
    columns = np.moveaxis(by_seed, 2, 0).reshape(len(coded.concepts), -1, len(coded.seeds))
    ends = np.clip(mean_intervals(columns), 0.0, 1.0)
    low, high = ends.reshape(2, len(METRICS), -1)
    counted = (np.ones(len(coded.cell)), coded.degenerate, coded.unconverged)
    templates, degenerate, unconverged = map(coded.total, counted)
    effective_shots, skipped = coded.total(coded.effective_shots), coded.attempted() - num_concepts

    def score(m: int, c: int) -> Score:
        known = scores[m, c][~np.isnan(scores[m, c])]
        deviation = float(np.nanstd(trials[m, c], ddof=1)) if num_trials[c] > 1 else None
        own = tuple(map(float, seeds[m, c]))
        return Score(float(known.mean()), deviation, float(low[m, c]), float(high[m, c]), own)

    return tuple(
        Summary(
            **dataclasses.asdict(cell),
            effective_shots=float(effective_shots[c] / templates[c]) if cell.shots and templates[c] else None,
            concepts=int(num_concepts[c]),
            templates=int(templates[c]),
            seeds=max(int(num_seeds[c]), 1),
            degenerate=int(degenerate[c]),
            unconverged=int(unconverged[c]),
            skipped=int(skipped[c]),
            scores={metric: score(m, c) for m, metric in enumerate(METRICS)} if num_concepts[c] else {},
        )
        for c, cell in enumerate(coded.cells)
    )


def _tuples(table: pa.Table) -> list[tuple]:
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))
