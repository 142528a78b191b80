"""What the study asks, answered in sentences: which token and rule for which task, by how much, and how sure.

Every claim that one cell beats another is a paired test over the concepts that both have, corrected by Holm for all
comparisons of its family. A family is what one function here makes for one task and data set: all pairs of tokens, of
rules, of backbones, or all backbones against the control. A cell stands at the block where its token does best and at
the largest number of shots of its rule; nothing here is about pixels.

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

from vitprobe_jax.metrics.statistics import Interval, PairedTest, holm, paired_tests
from vitprobe_jax.report.cells import CellName, cell_name
from vitprobe_jax.report.tables import (
    DECIDING,
    METRIC_LABELS,
    ConceptScores,
    Score,
    Summary,
    concept_scores,
    main_rows,
    most_shots,
    summarise,
)
from vitprobe_jax.types import ALL_TOKENS

LEVEL = 0.05
"""Of claims, after correction."""

FEWEST_CONCEPTS = 6
"""With fewer, the signed-rank test cannot reach p < LEVEL: its smallest p-value is 2 / 2^n."""

_WITH = {
    "hyperplane": "a hyperplane",
    "cosine": "a cosine template",
    "cosine_centered": "a cosine template on centred features",
}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Whether the first cell beats the second.

    Attributes:
        metric: one of `METRICS`.
        first: the cell with the higher mean; against a control, the trained one.
        second: the other.
        test: first less second, over the concepts that both have.
        p_adjusted: after Holm's correction over the family.
        num_comparisons: of the family.
    """

    metric: str
    first: CellName
    second: CellName
    test: PairedTest
    p_adjusted: float
    num_comparisons: int

    @property
    def holds(self) -> bool:
        """Whether first beats second: the test and the interval of the mean difference both say so.

        Both, since the test is of ranks: a few concepts with large differences may turn the mean against it.
        """
        return self.p_adjusted < LEVEL and self.test.difference.low > 0 and self.test.effect_size > 0

    @property
    def reversed(self) -> bool:
        """Whether second beats first, by the same measure."""
        return self.p_adjusted < LEVEL and self.test.difference.high < 0 and self.test.effect_size < 0

    @property
    def task(self) -> str:
        """Of both cells."""
        return self.first.task

    @property
    def dataset(self) -> str:
        """Of both cells."""
        return self.first.dataset

    @property
    def backbone(self) -> str:
        """Of the first cell."""
        return self.first.backbone

    @property
    def rule(self) -> str:
        """Of the first cell."""
        return self.first.rule

    @property
    def shots(self) -> int | None:
        """Of the first cell."""
        return self.first.shots


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
        sentences: the answer in plain English, in reading order; the last one tells what choosing the best does to it.
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
        task = f"For {best.task} on {best.dataset}"
        return Answer(
            task=best.task,
            dataset=best.dataset,
            best=best,
            runner_up=next((row for row in rivals if row.token != best.token), None),
            against=tuple(itertools.chain(*against.values())),
            sentences=(
                _advice(best, f"{task}, use {_place(best)} with {_template(best)}", self.metric, against["tokens"]),
                *(
                    _advice(row, f"With {_template(row)}, use {_place(row)}", self.metric, _about(row, tokens))
                    for row in other_rules
                ),
                *map(_against_rule, against["rules"]),
                *map(_against_backbone, against["backbones"]),
                *_against_controls(best, against["controls"]),
                _selection(cells),
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
        columns = [np.stack([self.scores.of(name, self.metric) for name in side], axis=1) for side in sides]
        tested = [(*pair, test) for pair, test in zip(names, paired_tests(*columns), strict=True) if test.num_concepts]
        adjusted = holm(np.array([test.p_value for *_, test in tested], np.float64))
        return [
            Comparison(self.metric, first, second, test, float(p_adjusted), len(tested))
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


def _advice(row: Summary, use: str, metric: str, against: Sequence[Comparison]) -> str:
    """Which token to use under a rule, and how it stands to the other tokens."""
    score = row.scores[metric]
    mean = f"{METRIC_LABELS[metric]} {_number(score.mean)} {_interval(score)}"
    text = f"{use}: {mean} over {_count(row.concepts, 'concept')}."
    if row.shots and row.effective_shots < row.shots:
        text += f" Where there were fewer images, all were used: {_number(row.effective_shots, 1)} on average."
    if not against:
        return f"{text} There is no other token to compare it with."
    runner_up, *others = against
    text += f" {_verdict('It', runner_up, _same_backbone(runner_up))}"
    equal = [comparison.second.token for comparison in others if not comparison.holds]
    beaten = [comparison.second.token for comparison in others if comparison.holds]
    if equal:
        text += f" It is not distinguishable from {_list(equal)}{'' if runner_up.holds else ' either'}."
    if beaten:
        text += f" It {'also beats' if runner_up.holds else 'beats'} {_list(beaten)}."
    return text


def _against_rule(comparison: Comparison) -> str:
    first, second = comparison.first, comparison.second
    subject = f"On {first.backbone}, {first.token} of block {first.layer} with {_template(first)}"
    return _verdict(subject, comparison, f"{second.token} of block {second.layer} with {_template(second)}")


def _against_backbone(comparison: Comparison) -> str:
    first, second = comparison.first, comparison.second
    return _verdict(f"With {_template(first)}, {_place(first)}", comparison, _place(second))


def _against_controls(best: Summary, comparisons: Sequence[Comparison]) -> list[str]:
    if best.untrained:
        return ["Every backbone here is an untrained control: this is what architecture alone gives."]
    if not comparisons:
        return ["No untrained control was probed, so what training adds cannot be told from these results."]
    return [
        _verdict(f"With {_template(c.first)}, {_place(c.first)}", c, f"the untrained control ({_place(c.second)})")
        for c in comparisons
    ]


def _selection(cells: Sequence[Summary]) -> str:
    """What the choice of the best does to the numbers."""
    if len(cells) == 1:
        return "A single cell was probed: nothing was chosen."
    chosen = []
    if len({row.token for row in cells}) > 1:
        chosen.append("each rule, backbone and control stands by its best token")
    if len({(row.backbone, row.layer) for row in cells}) > len({row.backbone for row in cells}):
        chosen.append("each token stands at its best block")
    return (
        f"The best of {_count(len(cells), 'cell')} was chosen by the same scores that are reported here, so its own "
        "score is a little too high; the p-values allow for all comparisons of their kind"
        f"{f', but not for the choice by which {_list(chosen)}' if chosen else ''}."
    )


def _verdict(subject: str, comparison: Comparison, second: str) -> str:
    """One sentence on how the first cell stands to the second."""
    test = comparison.test
    among = _count(comparison.num_comparisons, "comparison")
    how_sure = (
        f"(rank-biserial r = {_number(test.effect_size, 2)}, {_p_value(comparison.p_adjusted)} after Holm over {among})"
    )
    if comparison.holds:
        return f"{subject} beats {second} by {_number(test.difference.mean)} {_interval(test.difference)} {how_sure}."
    gap = f"the mean difference is {_number(test.difference.mean)} {_interval(test.difference)} {how_sure}"
    if comparison.reversed:
        return f"{subject} falls behind {second}: {gap}."
    if test.num_concepts < FEWEST_CONCEPTS:
        return f"{subject} cannot be told from {second} by {_count(test.num_concepts, 'concept')} alone: {gap}."
    if comparison.p_adjusted < LEVEL:
        return f"{subject} and {second} differ, but means and ranks do not agree on which is better: {gap}."
    return f"{subject} is not distinguishable from {second}: {gap}."


def _place(cell: CellName) -> str:
    return f"{cell.token} of block {cell.layer} of {cell.backbone}"


def _same_backbone(comparison: Comparison) -> str:
    first, second = comparison.first, comparison.second
    return f"{second.token} of {'the same block' if second.layer == first.layer else f'block {second.layer}'}"


def _template(cell: CellName) -> str:
    if cell.shots is None:
        return _WITH[cell.rule]
    return f"{_WITH[cell.rule]} from {_count(cell.shots, 'image')}"


def _interval(interval: Interval | Score) -> str:
    return f"[{_number(interval.low)}, {_number(interval.high)}]"


def _number(value: float, decimals: int = 3) -> str:
    return f"{round(value, decimals) + 0.0:.{decimals}f}"  # + 0.0 turns -0.0 into 0.0


def _p_value(p_value: float) -> str:
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _list(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
