"""Tables of numbers as the page shows them: every cell is text, the best of a column is marked."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

from vitprobe_jax.report.measured.rows import (
    PartTable,
    Row,
    backbones_of,
    values_by,
    variants_of,
)
from vitprobe_jax.report.sentences import number

NOTHING = "\N{EN DASH}"
LONG = 30
"""Tables of more lines are folded, whatever they show."""


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of numbers.

    Attributes:
        head: what it is.
        better: `higher` or `lower`; "" where neither is.
        decimals: of its numbers.
    """

    head: str
    better: str = "higher"
    decimals: int = 3


@dataclasses.dataclass(frozen=True)
class Cell:
    """A number as text.

    Attributes:
        text: the number, `NOTHING` where there is none.
        best: whether it is the best of its column or line, of trained backbones where there are several.
    """

    text: str
    best: bool = False


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of a table.

    Attributes:
        label: what it is of.
        backbone: its backbone, which the page may have to mark as a control; "" without one.
        cells: one for each column.
        label_is_name: whether the label is the name of a backbone or a data set, not words.
    """

    label: str
    backbone: str
    cells: Sequence[Cell]
    label_is_name: bool


@dataclasses.dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: what it shows.
        corner: head of the labels.
        columns: heads of the others.
        bodies: lines that belong together, by what they are (""): between them stands a rule.
        note: how to read it, in a sentence or two.
        folded: whether the page shows it only when asked.
    """

    title: str
    corner: str
    columns: Sequence[str]
    bodies: Sequence[tuple[str, Sequence[Line]]]
    note: str = ""
    folded: bool = False


@dataclasses.dataclass(frozen=True)
class Entry:
    """A line before its numbers are text, see `Line`.

    Attributes:
        label: of the line.
        values: a number for each column, None where there is none.
        backbone: of the line.
        untrained: whether that is a control, which is never the best.
        group: lines of the same group stand together; it is their heading unless it is "".
        label_is_name: see `Line`.
        deviations: standard deviations of the numbers, None where one has none; () where no number has.
    """

    label: str
    values: Sequence[float | None]
    backbone: str = ""
    untrained: bool = False
    group: str = ""
    label_is_name: bool = True
    deviations: Sequence[float | None] = ()


def number_table(
    title: str,
    corner: str,
    columns: Sequence[Column],
    entries: Sequence[Entry],
    *,
    note: str = "",
    folded: bool = False,
    best_in_group: bool = False,
    best_in_line: bool = False,
) -> Table:
    """A table of numbers with the best of each column marked, if it has several lines; a long one is folded.

    Args:
        title: what it shows.
        corner: head of the labels.
        columns: of the numbers.
        entries: lines; those of a group need not stand together.
        note: how to read it.
        folded: whether the page shows it only when asked.
        best_in_group: whether each group has its own best.
        best_in_line: whether the best of each line is marked instead: of columns that measure the same.
    """
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.group, []).append(entry)
    bests = {
        group: [_best(own if best_in_group else entries, i, column.better) for i, column in enumerate(columns)]
        for group, own in groups.items()
    }
    bodies = [
        (
            group,
            [_line(entry, columns, _best_of_line(entry, columns) if best_in_line else bests[group]) for entry in own],
        )
        for group, own in groups.items()
    ]
    long = len(entries) > LONG
    heading = f"{title}: {len(entries)} lines" if long else title
    return Table(heading, corner, [column.head for column in columns], bodies, note, folded or long)


def _best(entries: Sequence[Entry], place: int, better: str) -> float | None:
    trained = [entry for entry in entries if not entry.untrained]
    values = [entry.values[place] for entry in trained or entries if entry.values[place] is not None]
    if not better or len(values) < 2:
        return None
    return max(values) if better == "higher" else min(values)


def _best_of_line(entry: Entry, columns: Sequence[Column]) -> list[float | None]:
    """The best of the columns that have one, for each of them."""
    values = [value for value, column in zip(entry.values, columns, strict=True) if column.better and value is not None]
    if len(values) < 2:
        return [None] * len(columns)
    lower = any(column.better == "lower" for column in columns)
    best = min(values) if lower else max(values)
    return [best if column.better else None for column in columns]


def _line(entry: Entry, columns: Sequence[Column], bests: Sequence[float | None]) -> Line:
    deviations = entry.deviations or [None] * len(columns)
    cells = []
    for value, deviation, column, best in zip(entry.values, deviations, columns, bests, strict=True):
        if value is None:
            cells.append(Cell(NOTHING))
            continue
        text = number(value, column.decimals)
        if deviation is not None:
            text += f" \N{PLUS-MINUS SIGN} {number(deviation, column.decimals)}"
        cells.append(Cell(text, best is not None and value == best and not entry.untrained))
    return Line(entry.label, entry.backbone, cells, entry.label_is_name)


def variant_entries(
    rows: Sequence[Row], values: Mapping[tuple, float], places: Sequence[tuple], group: str = ""
) -> list[Entry]:
    """A line for each variant of each backbone, those of a backbone together.

    Args:
        rows: whose variants.
        values: numbers by (backbone, dropped, *place).
        places: of the columns.
        group: of the lines, see `Entry`.
    """
    untrained = {row.backbone: row.untrained for row in rows}
    return [
        Entry(name, [values.get((*variant, *place)) for place in places], variant[0], untrained[variant[0]], group)
        for variant, name in variants_of(rows).items()
    ]


def every_cell(
    part: PartTable,
    measure: str,
    what: str,
    titles: Callable[[Iterable[Row]], Mapping[str, str]],
    *,
    better: str = "higher",
    **equal: str | int | float | None,
) -> list[Table]:
    """A folded table with a line for every token and block, where a backbone has several: columns are methods.

    Args:
        part: of which.
        measure: that is shown.
        what: the measure and what its mean is over, in words.
        titles: what the methods of some rows are called, in their order.
        better: of it, see `Column`.
        equal: what columns of the rows must be.
    """
    if not part.several_cells:
        return []
    rows = part.rows(measure, layers="every cell", **equal)
    methods = titles(rows) or {None: what}
    values = values_by(rows, "backbone", "dropped", "layer", "token", "method")
    untrained = {row.backbone: row.untrained for row in rows}
    entries = []
    for (backbone, dropped), name in variants_of(rows).items():
        own = [row for row in rows if (row.backbone, row.dropped) == (backbone, dropped)]
        for layer, token in dict.fromkeys((row.layer, row.token) for row in own):
            numbers = [values.get((backbone, dropped, layer, token, method)) for method in methods]
            entries.append(Entry(f"{name}, {token} of block {layer}", numbers, backbone, untrained[backbone]))
    columns = [Column(title, better) for title in methods.values()]
    count = len(backbones_of(rows))
    note = f"Figures and tables above show {part.token}, where blocks are not compared that of the last one."
    title = f"Every token and block of {count} backbone{'' if count == 1 else 's'}: {what}"
    return [number_table(title, "Backbone", columns, entries, note=note, folded=True)]
