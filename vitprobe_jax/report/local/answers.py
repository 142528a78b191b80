"""What the numbers of a part come to, in a sentence or two: who leads, by how much, what removing features changes.

The sentences are about means alone: no test stands behind them, as none stands behind the paper's.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from vitprobe_jax.report.local.rows import Row, values_by, variants_of
from vitprobe_jax.report.sentences import listed, number

_SPELLED_OUT = 3


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


def changes(found: Sequence[Standing], what: str, *, decimals: int = 3) -> str:
    """What leaving out features of highest variance changes, in a sentence; "" where no backbone was measured both ways.

    Of several variants the one that leaves out most speaks.

    Args:
        found: of one kind.
        what: the measure, with its article: `the mIoU of 1-NN`.
        decimals: of numbers.
    """
    pairs = _pairs(found)
    if not pairs:
        return ""
    removed = {after.dropped for _, after in pairs}
    counted = f"{removed.pop()} features" if len(removed) == 1 else "features"
    gains = sorted(pairs, key=lambda pair: -(pair[1].value - pair[0].value))
    if len(gains) <= _SPELLED_OUT:
        said = listed([f"{_signed(pair, decimals)} for {pair[0].name} ({_from_to(pair, decimals)})" for pair in gains])
        return f"Leaving out the {counted} of highest variance changes {what} by {said}."
    up = sum(after.value > before.value for before, after in pairs)
    most, least = (f"{_signed(pair, decimals)} for {pair[0].name}" for pair in (gains[0], gains[-1]))
    return (
        f"Leaving out the {counted} of highest variance changes {what} by {most} at most and by {least} at least; it "
        f"rises for {up} of {len(pairs)} backbones."
    )


def _pairs(found: Iterable[Standing]) -> list[tuple[Standing, Standing]]:
    """Of each backbone, all features and the variant that leaves out most."""
    by_backbone: dict[str, list[Standing]] = {}
    for own in found:
        by_backbone.setdefault(own.backbone, []).append(own)
    ranked = [sorted(own, key=lambda one: one.dropped) for own in by_backbone.values()]
    return [(own[0], own[-1]) for own in ranked if own[0].dropped == 0 and own[-1].dropped > 0]


def _signed(pair: tuple[Standing, Standing], decimals: int) -> str:
    text = f"{round(pair[1].value - pair[0].value, decimals) + 0.0:+.{decimals}f}"
    return text.replace("-", "\N{MINUS SIGN}")


def _from_to(pair: tuple[Standing, Standing], decimals: int) -> str:
    return f"{number(pair[0].value, decimals)} to {number(pair[1].value, decimals)}"


def numbers_in_words(values: Mapping[str, float], what: str, *, decimals: int = 3) -> str:
    """Some numbers for who cannot see a figure: all of them where they are few, else the extremes."""
    if not values:
        return f"{what}: nothing."
    if len(values) <= 8 * _SPELLED_OUT:
        return f"{what}: {', '.join(f'{name} {number(value, decimals)}' for name, value in values.items())}."
    low, high = min(values, key=values.get), max(values, key=values.get)
    return f"{what}: from {number(values[low], decimals)} ({low}) to {number(values[high], decimals)} ({high})."
