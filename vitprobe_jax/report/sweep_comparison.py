"""Several sweeps beside the first one: the same cells on the same concepts, the best of each rule, what was set otherwise.

All claims of one comparison are one family for Holm's correction: every pair that is tested, over all sweeps.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from vitprobe_jax.metrics.results import METRICS
from vitprobe_jax.metrics.statistics import PairedTest, holm, nanmeans, paired_tests
from vitprobe_jax.report.comparison import LEVEL, not_claimed
from vitprobe_jax.report.tables import DECIDING, CellName, ConceptScores

_FOLDERS = ("out", "cache_dir", "resume")
"""Flags that say where a sweep stands or went on, and nothing of what it did."""


@dataclasses.dataclass(frozen=True)
class SweepDifference:
    """A cell of another sweep against one of the first sweep.

    Attributes:
        sweep: label of the other sweep.
        best: whether each is the best cell of its sweep under a rule (at the largest number of shots, by the mean over
            the shared concepts; trained backbones before controls), rather than the same cell in both.
        first: the cell in the first sweep.
        second: the cell in the other one.
        means: of first and second over the concepts that both have.
        test: second less first, over the concepts that both have.
        p_adjusted: after Holm's correction.
        missed: how many regressions of first and of second, among the concepts that both have, did not converge.
    """

    sweep: str
    best: bool
    first: CellName
    second: CellName
    means: tuple[float, float]
    test: PairedTest
    p_adjusted: float
    missed: tuple[int, int] = (0, 0)

    @property
    def verdict(self) -> str:
        """How second stands to first, for a table."""
        if any(self.missed):
            return not_claimed(self.missed)
        difference = self.test.difference
        if self.p_adjusted >= LEVEL or difference.low <= 0 <= difference.high:
            return "not distinguishable"
        return "ahead" if difference.mean > 0 else "behind"


def compare_sweeps(
    labels: Sequence[str], scores: Sequence[ConceptScores], *, metric: str = DECIDING
) -> list[SweepDifference]:
    """Every later sweep against the first: best cells first, then the same cells in the first sweep's order.

    Concepts are shared where number, name and category are the same; cells are the same where all that names them is.
    Scores are of the seeds that both sweeps have, paired: the same seed draws the same from the same labels. Where they have
    none in common, seeds are paired in ascending order, as many as both have. Nothing here is about pixels. Pairs
    without a shared concept are left out.

    Args:
        labels: names of the sweeps.
        scores: scores of the sweeps.
        metric: one of `METRICS`.
    """
    m = METRICS.index(metric)
    pairs = []
    for label, other in zip(labels[1:], scores[1:], strict=True):
        mine, theirs = _shared_concepts(scores[0], other)
        first, second = _shared(scores[0], other)
        bests = _best_pairs(scores[0], other, nanmeans(first[m]), nanmeans(second[m]))
        for best, i, j in [*bests, *_same_pairs(scores[0], other)]:
            both = np.isfinite(first[m, :, i]) & np.isfinite(second[m, :, j])
            if both.any():
                x, y = (np.where(both, column, np.nan) for column in (first[m, :, i], second[m, :, j]))
                (test,) = paired_tests(y[:, None], x[:, None])
                means = (float(np.nanmean(nanmeans(x))), float(np.nanmean(nanmeans(y))))
                shared = both.any(axis=-1)
                missed = tuple(
                    int(own[shared].sum())
                    for own in (scores[0].unconverged[mine][:, i], other.unconverged[theirs][:, j])
                )
                pairs.append((label, best, scores[0].cells[i], other.cells[j], means, test, missed))
    adjusted = holm(np.array([test.p_value for *_, test, _ in pairs], np.float64))
    return [SweepDifference(*pair, float(p), missed) for (*pair, missed), p in zip(pairs, adjusted, strict=True)]


def differing_settings(configs: Sequence[Mapping[str, str]]) -> dict[str, list[str | None]]:
    """The flags whose values differ, by name: one value a sweep, None where a sweep has no such flag."""
    names = dict.fromkeys(name for config in configs for name in config if name not in _FOLDERS)
    values = {name: [config.get(name) for config in configs] for name in names}
    return {name: row for name, row in values.items() if len(set(row)) > 1}


def _shared(
    first: ConceptScores, second: ConceptScores
) -> tuple[Float[np.ndarray, "m K a seeds"], Float[np.ndarray, "m K b seeds"]]:
    """Both sweeps' scores on the concepts that both have, in the same order, and on paired seeds."""
    mine, theirs = _shared_concepts(first, second)
    common = [(first.seeds.index(seed), second.seeds.index(seed)) for seed in first.seeds if seed in second.seeds]
    paired = common or [(i, i) for i in range(min(len(first.seeds), len(second.seeds)))]
    my_seeds, their_seeds = np.array(paired, np.int64).reshape(-1, 2).T
    return first.by_seed[:, mine][..., my_seeds], second.by_seed[:, theirs][..., their_seeds]


def _shared_concepts(
    first: ConceptScores, second: ConceptScores
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Where the concepts that both sweeps have stand in either."""
    place = {concept: i for i, concept in enumerate(second.concepts)}
    pairs = [(i, place[concept]) for i, concept in enumerate(first.concepts) if concept in place]
    mine, theirs = np.array(pairs, np.int64).reshape(-1, 2).T
    return mine, theirs


def _same_pairs(first: ConceptScores, second: ConceptScores) -> Iterator[tuple[bool, int, int]]:
    place = {cell: i for i, cell in enumerate(second.cells)}
    for i, cell in enumerate(first.cells):
        if cell in place and cell.evaluation != "pixel":
            yield False, i, place[cell]


def _best_pairs(
    first: ConceptScores, second: ConceptScores, mine: Float[np.ndarray, "K a"], theirs: Float[np.ndarray, "K b"]
) -> Iterator[tuple[bool, int, int]]:
    """The best cell of each task and rule in both, unless it is the same cell."""
    bests = _best_cells(second.cells, theirs)
    for kind, i in _best_cells(first.cells, mine).items():
        if kind in bests and first.cells[i] != second.cells[bests[kind]]:
            yield True, i, bests[kind]


def _best_cells(cells: Sequence[CellName], scores: Float[np.ndarray, "K cells"]) -> dict[tuple[str, str], int]:
    """By task and rule, the place of the best cell."""
    groups = {}
    for i, cell in enumerate(cells):
        if cell.evaluation != "pixel" and np.isfinite(scores[:, i]).any():
            groups.setdefault((cell.task, cell.rule), []).append(i)

    def rank(i: int) -> tuple:
        return not cells[i].untrained, cells[i].shots or 0, float(np.nanmean(scores[:, i]))

    return {kind: max(places, key=rank) for kind, places in groups.items()}
