"""What the study asks, answered in sentences: which token and rule for which task, by how much, and how sure.

Every claim that one cell beats another is a paired test over the concepts that both have (and, with several seeds, over
seeds: `paired_tests`), corrected by Holm for all comparisons of its family. A family is what one function here makes for
one task and data set: all pairs of tokens, of rules, of backbones, or all backbones against the control. A cell is taken at
the block where its token does best and at the largest number of shots of its rule; nothing here is about pixels. No claim
is made where a regression behind either mean did not converge (`Comparison.claimable`).

What is best is found by the numbers that are then reported. The correction covers the choice of a winner within a family.
It covers neither the choice of the block where a token stands, nor that of the token by which a rule, a backbone or the
control stands, nor that the winner's own score is a little too high.
"""

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pyarrow as pa

from vitprobe_jax.metrics.statistics import holm, paired_tests
from vitprobe_jax.report import sentences
from vitprobe_jax.report.cells import CellName, cell_name
from vitprobe_jax.report.comparison import Comparison
from vitprobe_jax.report.tables import (
    DECIDING,
    ConceptScores,
    Summary,
    best_tokens,
    concept_scores,
    main_rows,
    most_shots,
    summarise,
)
from vitprobe_jax.types import ALL_TOKENS


@dataclasses.dataclass(frozen=True)
class Answer:
    """Which token and rule to use for a task on a data set.

    Attributes:
        task: `segmentation` or `classification`.
        dataset: as results call it.
        best: the cell with the highest mean, of trained backbones if there are any.
        runner_up: the best cell of another token of that backbone under that rule; None if there is no other.
        against: the comparisons behind the sentences: best against every other token, rule and backbone, and against
            the untrained control.
        sentences: the answer in plain English, in reading order; the last but one says whether draws are covered, the last
            one what choosing the best does to the numbers.
    """

    task: str
    dataset: str
    best: Summary
    runner_up: Summary | None
    against: tuple[Comparison, ...]
    sentences: tuple[str, ...]


def compare_tokens(table: pa.Table, *, metric: str = DECIDING) -> list[Comparison]:
    """All pairs of tokens of each backbone under each rule.

    The family: all pairs of all backbones and rules of the same task and data set. Pairs without a shared concept are
    left out, here and below.
    """
    return _over_contests(table, metric, _Contest.tokens)


def compare_rules(table: pa.Table, *, metric: str = DECIDING) -> list[Comparison]:
    """All pairs of rules of each backbone, each rule by its best token.

    The family: all backbones of the same task and data set. Hyperplanes and cosine templates are scored on the same
    concepts but, by the protocol, on other held-out images.
    """
    return _over_contests(table, metric, _Contest.rules)


def compare_backbones(table: pa.Table, *, metric: str = DECIDING) -> list[Comparison]:
    """All pairs of trained backbones under each rule, each backbone by its best token.

    The family: all rules of the same task and data set.
    """
    return _over_contests(table, metric, _Contest.backbones)


def against_control(table: pa.Table, *, metric: str = DECIDING) -> list[Comparison]:
    """Each trained backbone under each rule against the untrained control, both by their best token.

    Of several controls the best one stands, whatever its architecture: the hardest to beat. The family: all backbones
    and rules of the same task and data set. Empty without a trained backbone or without a control.
    """
    return _over_contests(table, metric, _Contest.controls)


def answer(table: pa.Table, *, metric: str = DECIDING) -> list[Answer]:
    """The answer for each task and data set that has scores, in the table's order."""
    return [contest.answer() for contest in _contests(table, metric)]


def _over_contests(table: pa.Table, metric: str, family: Callable[["_Contest"], list[Comparison]]) -> list[Comparison]:
    return [comparison for contest in _contests(table, metric) for comparison in family(contest)]


def _contests(table: pa.Table, metric: str) -> list["_Contest"]:
    """One for each task and data set."""
    groups = defaultdict(list)
    for row in main_rows(summarise(table)):
        if row.scores:
            groups[row.task, row.dataset].append(row)
    scores = concept_scores(table)
    return [_Contest.of(rows, scores, metric) for rows in groups.values()]


@dataclasses.dataclass(frozen=True)
class _Contest:
    """The cells of one task and data set that are compared.

    Attributes:
        metric: one of `METRICS`.
        cells: all blocks, each rule at its largest number of shots; from the highest mean down, equals in the order of
            `ALL_TOKENS`, then of blocks.
        scores: of the whole table.
    """

    metric: str
    cells: Sequence[Summary]
    scores: ConceptScores

    @classmethod
    def of(cls, rows: Sequence[Summary], scores: ConceptScores, metric: str) -> "_Contest":
        largest = [row for own in _groups(rows, "rule") for row in most_shots(own)]
        rank = lambda row: (-row.scores[metric].mean, ALL_TOKENS.index(row.token), row.layer)  # noqa: E731
        return cls(metric, sorted(largest, key=rank), scores)

    def tokens(self) -> list[Comparison]:
        return self._compare(
            pair
            for own in _groups(self.cells, "backbone", "rule")
            for pair in itertools.combinations(_leaders(own, "token"), 2)
        )

    def rules(self) -> list[Comparison]:
        return self._compare(
            pair for own in _groups(self.cells, "backbone") for pair in itertools.combinations(_leaders(own, "rule"), 2)
        )

    def backbones(self) -> list[Comparison]:
        return self._compare(
            pair
            for own in _groups(self._trained(), "rule")
            for pair in itertools.combinations(_leaders(own, "backbone"), 2)
        )

    def controls(self) -> list[Comparison]:
        strongest = {row.rule: row for row in _leaders([row for row in self.cells if row.untrained], "rule")}
        leaders = _leaders(self._trained(), "rule", "backbone")
        return self._compare((row, strongest[row.rule]) for row in leaders if row.rule in strongest)

    def answer(self) -> Answer:
        cells = self._trained() or self.cells
        best, *other_rules = _leaders(cells, "rule")
        tokens = self.tokens()
        against = {
            "tokens": _about(best, tokens),
            "rules": _about(best, self.rules()),
            "backbones": _about(best, self.backbones()),
            "controls": [comparison for comparison in self.controls() if comparison.rule == best.rule],
        }
        rivals = [row for row in cells if (row.backbone, row.rule) == (best.backbone, best.rule)]
        return Answer(
            task=best.task,
            dataset=best.dataset,
            best=best,
            runner_up=next((row for row in rivals if row.token != best.token), None),
            against=tuple(itertools.chain(*against.values())),
            sentences=(
                sentences.advice(best, self.metric, against["tokens"], overall=True),
                *(sentences.advice(row, self.metric, _about(row, tokens), overall=False) for row in other_rules),
                *map(sentences.against_rule, against["rules"]),
                *sentences.against_backbones(against["backbones"]),
                *sentences.against_controls(best, against["controls"]),
                sentences.on_seeds(best, best_tokens(self.cells, metric=self.metric), self.metric, self.scores.seeds),
                sentences.on_selection(cells),
            ),
        )

    def _trained(self) -> list[Summary]:
        return [row for row in self.cells if not row.untrained]

    def _compare(self, pairs: Iterable[tuple[Summary, Summary]]) -> list[Comparison]:
        """The tests of one family."""
        names = [(cell_name(first), cell_name(second)) for first, second in pairs]
        if not names:
            return []
        sides = zip(*names, strict=True)
        columns = [np.stack([self.scores.of_seeds(name, self.metric) for name in side], axis=1) for side in sides]
        tested = [(*pair, test) for pair, test in zip(names, paired_tests(*columns), strict=True) if test.num_concepts]
        adjusted = holm(np.array([test.p_value for *_, test in tested], np.float64))
        return [
            Comparison(
                self.metric, first, second, test, float(p_adjusted), len(tested), self.scores.missed(first, second)
            )
            for (first, second, test), p_adjusted in zip(tested, adjusted, strict=True)
        ]


def _groups(rows: Iterable[Summary], *names: str) -> list[list[Summary]]:
    """Rows that agree in these attributes, in the order of their first ones."""
    groups = defaultdict(list)
    for row in rows:
        groups[tuple(getattr(row, name) for name in names)].append(row)
    return list(groups.values())


def _leaders(rows: Iterable[Summary], *names: str) -> list[Summary]:
    """The first row of each group."""
    return [group[0] for group in _groups(rows, *names)]


def _about(cell: CellName, comparisons: Iterable[Comparison]) -> list[Comparison]:
    """The comparisons of this cell, which is the first in each since it has the highest mean."""
    return [comparison for comparison in comparisons if comparison.first == cell_name(cell)]
