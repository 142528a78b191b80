"""Answers in plain English: what beats what, by how much, and how sure."""

from collections.abc import Sequence

from vitprobe_jax.metrics.statistics import Interval
from vitprobe_jax.report.cells import CellName
from vitprobe_jax.report.comparison import FEWEST_CONCEPTS, LEVEL, Comparison
from vitprobe_jax.report.tables import METRIC_LABELS, Best, Score, Summary

SPELLED_OUT = 3
"""Comparisons of one kind that have a sentence each; of more, the others share one, and the page's tables have numbers."""

_WITH = {
    "hyperplane": "a hyperplane",
    "hyperplane_paper": "a hyperplane by the paper's SGD",
    "cosine": "a cosine template",
    "cosine_centered": "a cosine template on centred features",
}


def advice(row: Summary, metric: str, against: Sequence[Comparison], *, overall: bool) -> str:
    """Which token to use, and how it stands to the other tokens.

    Args:
        row: the cell with the highest mean, over all rules or under one.
        metric: that was compared.
        against: the other tokens, from the best down.
        overall: whether over all rules.
    """
    of_all = f"For {row.task} on {row.dataset}, use {_place(row)} with {_template(row)}"
    use = of_all if overall else f"With {_template(row)}, use {_place(row)}"
    score = row.scores[metric]
    mean = f"{METRIC_LABELS[metric]} {number(score.mean)} {_interval(score)}"
    text = f"{use}: {mean} over {count(row.concepts, 'concept')}."
    if row.shots and row.effective_shots < row.shots:
        text += f" Where there were fewer images, all were used: {number(row.effective_shots, 1)} on average."
    if not against:
        return f"{text} There is no other token to compare it with."
    runner_up, *others = against
    text += f" {_verdict('It', runner_up, _same_backbone(runner_up))}"
    equal = [comparison.second.token for comparison in others if comparison.claimable and not comparison.holds]
    unclaimed = [comparison for comparison in others if not comparison.claimable]
    beaten = [comparison.second.token for comparison in others if comparison.holds]
    if equal:
        either = "" if runner_up.holds or not runner_up.claimable else " either"
        text += f" It is not distinguishable from {listed(equal)}{either}."
    if beaten:
        text += f" It {'also beats' if runner_up.holds else 'beats'} {listed(beaten)}."
    if unclaimed:
        missed = max(c.missed[0] for c in unclaimed) + sum(c.missed[1] for c in unclaimed)
        tokens = listed([c.second.token for c in unclaimed])
        text += (
            f" No difference to {tokens} is claimed, because {count(missed, 'fit')} of these cells did not converge."
        )
    return text


def against_rule(comparison: Comparison) -> str:
    """How a cell stands to one of another rule."""
    first, second = comparison.first, comparison.second
    subject = f"On {first.backbone}, {first.token} of block {first.layer} with {_template(first)}"
    return _verdict(subject, comparison, f"{second.token} of block {second.layer} with {_template(second)}")


def against_backbones(comparisons: Sequence[Comparison]) -> list[str]:
    """How the best cell stands to those of other backbones; of many, the far ones share a sentence."""
    said = [
        _verdict(f"With {_template(c.first)}, {_place(c.first)}", c, _place(c.second))
        for c in comparisons[:SPELLED_OUT]
    ]
    others = [(c, c.second.backbone) for c in comparisons[SPELLED_OUT:]]
    return said + _briefly("backbones", others, "it beats", "it falls behind", "it is not distinguishable from")


def against_controls(best: Summary, comparisons: Sequence[Comparison]) -> list[str]:
    """How trained backbones stand to the untrained control; of many, the lower ones share a sentence."""
    if best.untrained:
        return ["Every backbone here is an untrained control: this is what architecture alone gives."]
    if not comparisons:
        return ["No untrained control was probed, so what training adds cannot be told from these results."]
    said = [
        _verdict(f"With {_template(c.first)}, {_place(c.first)}", c, f"the untrained control ({_place(c.second)})")
        for c in comparisons[:SPELLED_OUT]
    ]
    others = [(c, c.first.backbone) for c in comparisons[SPELLED_OUT:]]
    return said + _briefly(
        "trained backbones", others, "the control falls behind", "it beats", "it is not distinguishable from"
    )


def _briefly(kind: str, named: Sequence[tuple[Comparison, str]], holds: str, behind: str, neither: str) -> list[str]:
    """One sentence on all these comparisons, each told by a name, sorted by what came of them; none without any."""
    groups = {
        holds: [name for comparison, name in named if comparison.holds],
        behind: [name for comparison, name in named if comparison.reversed],
        neither: [name for c, name in named if c.claimable and not (c.holds or c.reversed)],
        "no difference is claimed, because fits did not converge, to": [name for c, name in named if not c.claimable],
    }
    said = "; ".join(f"{words} {listed(names)}" for words, names in groups.items() if names)
    return [f"As to the other {kind}, each by its best token: {said}."] if said else []


def on_seeds(best: Summary, bests: Sequence[Best], metric: str, seeds: Sequence[int]) -> str:
    """Whether intervals and tests cover the draws; with several seeds, how much these move the scores.

    Args:
        best: the cell that is advised.
        bests: the best token of each backbone under each rule.
        metric: by which they are best.
        seeds: seeds in the table.
    """
    if len(seeds) == 1:
        return (
            f"Intervals and tests cover concepts only, not draws: pools, support sets and queries were drawn with one seed "
            f"({seeds[0]}), and other draws may change scores and close winners; --seeds=3 repeats draws and fits and "
            "includes them."
        )
    text = f"Intervals and tests cover concepts and the draws of {len(seeds)} seeds ({', '.join(map(str, seeds))})."
    deviation = best.scores[metric].seed_deviation
    if deviation is not None:
        text += f" Over seeds, the mean of the best cell has a standard deviation of {number(deviation)}."
    chosen = [one for one in bests if one.second is not None]
    if chosen:
        same = sum(one.agreeing_seeds == len(one.token_by_seed) for one in chosen)
        text += (
            f" For {same} of {count(len(chosen), 'pair')} of backbone and rule, the best token is the same under every "
            "seed."
        )
    own = [one for one in chosen if (one.first.backbone, one.first.rule) == (best.backbone, best.rule)]
    if own:
        text += f" {best.token} is the best token of {best.backbone} in {own[0].agreeing_seeds} of {len(seeds)} seeds."
    return text


def on_selection(cells: Sequence[Summary]) -> str:
    """What the choice of the best does to the numbers."""
    if len(cells) == 1:
        return "A single cell was probed: nothing was chosen."
    chosen = []
    if len({row.token for row in cells}) > 1:
        chosen.append("each rule, backbone and control stands by its best token")
    if len({(row.backbone, row.layer) for row in cells}) > len({row.backbone for row in cells}):
        chosen.append("each token stands at its best block")
    return (
        f"The best of {count(len(cells), 'cell')} was chosen by the same scores that are reported here, so its own "
        "score is a little too high; the p-values allow for all comparisons of their kind"
        f"{f', but not for the choice by which {listed(chosen)}' if chosen else ''}."
    )


def _verdict(subject: str, comparison: Comparison, second: str) -> str:
    """One sentence on how the first cell stands to the second."""
    test = comparison.test
    among = count(comparison.num_comparisons, "comparison")
    how_sure = (
        f"(rank-biserial r = {number(test.effect_size, 2)}, {p_value(comparison.p_adjusted)} after Holm over {among})"
    )
    if not comparison.claimable:
        fits = listed([_fits(comparison, side) for side in (0, 1) if comparison.missed[side]])
        gap = f"the mean difference is {number(test.difference.mean)} {_interval(test.difference)}"
        return f"{subject} is not claimed to differ from {second}, because {fits} did not converge: {gap}."
    if comparison.holds:
        return f"{subject} beats {second} by {number(test.difference.mean)} {_interval(test.difference)} {how_sure}."
    gap = f"the mean difference is {number(test.difference.mean)} {_interval(test.difference)} {how_sure}"
    if comparison.reversed:
        return f"{subject} falls behind {second}: {gap}."
    if test.num_concepts < FEWEST_CONCEPTS:
        return f"{subject} cannot be told from {second} by {count(test.num_concepts, 'concept')} alone: {gap}."
    if comparison.p_adjusted < LEVEL and test.difference.mean * test.effect_size > 0:
        unsure = "as the interval of the mean difference includes 0, although the test finds a difference"
        return f"{subject} is not distinguishable from {second}, {unsure}: {gap}."
    if comparison.p_adjusted < LEVEL:
        return f"{subject} and {second} differ, but means and ranks do not agree on which is better: {gap}."
    return f"{subject} is not distinguishable from {second}: {gap}."


def _fits(comparison: Comparison, side: int) -> str:
    """The regressions of one side that did not converge, and what sets this side apart from the other."""
    cell, other = (comparison.first, comparison.second)[:: 1 if side == 0 else -1]
    words = cell.token
    if cell.layer != other.layer:
        words += f" of block {cell.layer}"
    if cell.backbone != other.backbone:
        words += f" of {cell.backbone}"
    if cell.rule != other.rule:
        words += f" with {_template(cell)}"
    return f"{count(comparison.missed[side], 'fit')} of {words}"


def _place(cell: CellName) -> str:
    return f"{cell.token} of block {cell.layer} of {cell.backbone}"


def _same_backbone(comparison: Comparison) -> str:
    first, second = comparison.first, comparison.second
    return f"{second.token} of {'the same block' if second.layer == first.layer else f'block {second.layer}'}"


def _template(cell: CellName) -> str:
    if cell.shots is None:
        return _WITH[cell.rule]
    return f"{_WITH[cell.rule]} from {count(cell.shots, 'image')}"


def _interval(interval: Interval | Score) -> str:
    return f"[{number(interval.low)}, {number(interval.high)}]"


def number(value: float, decimals: int = 3) -> str:
    """With so many decimals, zero without a sign."""
    return f"{round(value, decimals) + 0.0:.{decimals}f}"  # + 0.0 turns -0.0 into 0.0


def p_value(p: float) -> str:
    """As readers expect a p-value."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def count(n: int, noun: str) -> str:
    """A number of things."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def listed(names: Sequence[str]) -> str:
    """`a, b and c`."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
