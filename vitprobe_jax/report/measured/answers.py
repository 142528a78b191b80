"""What the numbers of a part come to, in a sentence or two: who leads, and by how much.

The sentences are about means alone: no test stands behind them, as none stands behind the papers'.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from vitprobe_jax.report.measured.rows import Row, values_by, variants_of
from vitprobe_jax.report.sentences import listed, number

SPELLED_OUT = 3
"""Sentences have so many numbers at most; of more, the extremes."""


@dataclasses.dataclass(frozen=True)
class Standing:
    """What a variant of a backbone reaches.

    Attributes:
        name: of the variant.
        backbone: of which.
        dropped: how many features are left out.
        untrained: whether the backbone is a control.
        value: reached.
    """

    name: str
    backbone: str
    dropped: int
    untrained: bool
    value: float


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a part says of a data set.

    Attributes:
        value: the leading number; "" without one.
        holder: the variant that has it.
        what: the measure, in a few words.
        sentences: in reading order.
    """

    value: str
    holder: str
    what: str
    sentences: Sequence[str]


def standings(rows: Sequence[Row]) -> list[Standing]:
    """What each variant reaches on average over its rows."""
    values = values_by(rows, "backbone", "dropped")
    untrained = {row.backbone: row.untrained for row in rows}
    return [
        Standing(name, variant[0], variant[1], untrained[variant[0]], values[variant])
        for variant, name in variants_of(rows).items()
    ]


def leader(found: Sequence[Standing], *, lower: bool = False) -> Standing:
    """The best one, of trained backbones if there are any; of equals the first."""
    trained = [own for own in found if not own.untrained] or found
    return (min if lower else max)(trained, key=lambda own: own.value)


def leads(found: Sequence[Standing], where: str, what: str, *, lower: bool = False, decimals: int = 3) -> str:
    """Who is ahead of all other backbones, in a sentence.

    Args:
        found: of one kind.
        where: how the sentence begins: `From 8 images a group, by 1-NN`.
        what: the measure with its article: `an mIoU`.
        lower: whether lower is better.
        decimals: of numbers.
    """
    best = leader(found, lower=lower)
    reached = f"{what} of {number(best.value, decimals)}"
    others = [own for own in found if own.backbone != best.backbone]
    rivals = [own for own in others if not own.untrained]
    said = f"{best.name} reaches {reached}"
    if rivals:
        second = leader(rivals, lower=lower)
        gap = number(abs(best.value - second.value), decimals)
        said = f"{best.name} leads with {reached}, {gap} {'below' if lower else 'ahead of'} {second.name}"
        if float(gap) == 0:
            said = f"{best.name} and {second.name} are level with {reached}"
    controls = [own for own in others if own.untrained]
    if controls and not best.untrained:
        control = leader(controls, lower=lower)
        said += f"; the control {control.name} reaches {number(control.value, decimals)}"
    return f"{where}, {said}."


def signed(difference: float, decimals: int = 3) -> str:
    """A difference with its sign, a true minus; +0.000 for what rounds to nothing."""
    text = f"{round(difference, decimals) + 0.0:+.{decimals}f}"
    return text.replace("-", "\N{MINUS SIGN}")


def changed(pairs: Sequence[tuple[str, float, float]], *, decimals: int = 3) -> str:
    """By how much a number changes for whom, as the end of a sentence: spelled out for few, else by its extremes.

    Args:
        pairs: whom, the number before and after; one at least.
        decimals: of numbers.
    """
    gains = sorted(pairs, key=lambda pair: pair[1] - pair[2])
    if len(gains) <= SPELLED_OUT:
        return listed(
            [
                f"{signed(after - before, decimals)} for {name} ({number(before, decimals)} to {number(after, decimals)})"
                for name, before, after in gains
            ]
        )
    most, least = (f"{signed(after - before, decimals)} for {name}" for name, before, after in (gains[0], gains[-1]))
    up = sum(after > before for _, before, after in pairs)
    return f"{most} at most and by {least} at least; it rises for {up} of {len(pairs)} backbones"


def numbers_in_words(values: Mapping[str, float], what: str, *, decimals: int = 3) -> str:
    """Some numbers for who cannot see a figure: all of them where they are few, else the extremes."""
    if not values:
        return f"{what}: nothing."
    if len(values) <= 8 * SPELLED_OUT:
        return f"{what}: {', '.join(f'{name} {number(value, decimals)}' for name, value in values.items())}."
    low, high = min(values, key=values.get), max(values, key=values.get)
    return f"{what}: from {number(values[low], decimals)} ({low}) to {number(values[high], decimals)} ({high})."
