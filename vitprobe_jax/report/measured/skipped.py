"""What a run could not measure, and why."""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Sequence

from vitprobe_jax.report.measured.rows import PartTable, variant_name

_COLUMNS = ("skipped", "measure", "backbone", "features", "dropped", "method", "setting", "level", "name")
_NAMED = 8
_EVERYTHING = "all"
"""The measure of rows that stand for all that a variant would have had."""


@dataclasses.dataclass(frozen=True)
class Skipped:
    """Numbers that were skipped for one reason.

    Attributes:
        what: measures, and of which concepts or settings.
        reason: why.
        variants: of backbones.
        count: how many numbers.
    """

    what: str
    reason: str
    variants: tuple[str, ...]
    count: int


def skipped_numbers(part: PartTable, method_title: Callable[[str], str] | None = None) -> list[Skipped]:
    """By reason and measure, in the table's order.

    Args:
        part: of which.
        method_title: what methods are called; None where a reason never hangs on the method, which is not told then.
    """
    groups = defaultdict(list)
    rows = zip(*(part.skipped[name].to_pylist() for name in _COLUMNS), strict=True)
    for reason, measure, *rest in rows:
        groups[reason, measure].append(rest)
    found = []
    for (reason, measure), own in groups.items():
        variants = dict.fromkeys(
            variant_name(backbone, features or "without top", dropped or 0) for backbone, features, dropped, *_ in own
        )
        places = {}
        for *_, method, setting, level, name in own:
            told = method_title(method) if method_title and method is not None else ""
            if place := ", ".join(filter(None, (told, _place(setting, level, name)))):
                places[place] = None
        said = "everything" if measure == _EVERYTHING else measure.replace("_", " ")
        found.append(Skipped(f"{said}{_of(list(places))}", reason, tuple(variants), len(own)))
    return found


def _place(setting: str | None, level: float | None, name: str | None) -> str:
    if name is not None:
        return name
    if setting is None:
        return ""
    return setting if level is None else f"{setting} {level:g}"


def _of(places: Sequence[str]) -> str:
    if not places:
        return ""
    more = f" and {len(places) - _NAMED} more" if len(places) > _NAMED else ""
    return f" of {', '.join(places[:_NAMED])}{more}"
