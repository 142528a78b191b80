"""Representations beside each other on the same backbones: sentences and tables that several parts share."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from vitprobe_jax.metrics.statistics import Interval
from vitprobe_jax.report.aggregation.representations import in_order, title, titles
from vitprobe_jax.report.figures import style
from vitprobe_jax.report.figures.wording import capitalised
from vitprobe_jax.report.measured.answers import SPELLED_OUT, changed
from vitprobe_jax.report.measured.rows import PartTable, Row, backbones_of
from vitprobe_jax.report.measured.tables import Column, Entry, Table, number_table
from vitprobe_jax.report.sentences import listed, number

SCORES = {"top1": "top-1 accuracy", "map": "mean average precision"}
"""What tells how well a classifier does: of classes, and of several labels an image."""
SHORT = {"top1": "Top-1", "map": "mAP"}


def score_of(part: PartTable) -> str:
    """The measure of a part's classifiers, a key of `SCORES`."""
    return "map" if part.rows("map_best") else "top1"


def highest(rows: Sequence[Row]) -> Row:
    """The row with the highest number, of trained backbones if there are any; of equals the first."""
    return max([row for row in rows if not row.untrained] or rows, key=lambda row: row.value)


def leading_sentence(rows: Sequence[Row], what: str) -> str:
    """Who reaches most with what, and what a control does with the same.

    Args:
        rows: of one measure, one for each backbone and representation.
        what: the measure: `top-1 accuracy`.
    """
    best = highest(rows)
    said = f"The highest {what} is {number(best.value)}, of {best.backbone} by {title(best.method)}"
    controls = [row for row in rows if row.untrained and row.method == best.method]
    if controls and not best.untrained:
        control = max(controls, key=lambda row: row.value)
        said += f"; by the same the control {control.backbone} reaches {number(control.value)}"
    return f"{said}."


def change_sentence(rows: Sequence[Row], before: str, after: str, what: str) -> str:
    """What another representation changes for trained backbones; "" where none has both."""
    values = {(row.backbone, row.method): row.value for row in rows if not row.untrained}
    pairs = [
        (name, values[name, before], values[name, after])
        for name in backbones_of(rows)
        if (name, before) in values and (name, after) in values
    ]
    if not pairs:
        return ""
    return f"{capitalised(title(after))} instead of {title(before)} changes {what} by {changed(pairs)}."


def winner_sentence(rows: Sequence[Row]) -> str:
    """Which representation is the best for how many trained backbones; "" where there is nothing to choose from."""
    trained = [row for row in rows if not row.untrained]
    names, backbones = in_order(row.method for row in trained), backbones_of(trained)
    if len(names) < 2 or len(backbones) < 2:
        return ""
    won = Counter(
        max((row for row in trained if row.backbone == backbone), key=lambda row: row.value).method
        for backbone in backbones
    )
    said = [f"{title(name)} for {count}" for name, count in won.most_common(SPELLED_OUT)]
    return f"Of {len(names)} representations the best is {listed(said)} of {len(backbones)} backbones."


def crossed_table(heading: str, groups: Mapping[str, Sequence[Row]], *, note: str) -> Table:
    """A line for each backbone and a column for each representation, the best of each line marked.

    Args:
        heading: of the table.
        groups: rows of one measure by the heading of their lines.
        note: how to read it.
    """
    names = in_order(row.method for rows in groups.values() for row in rows)
    entries = []
    for group, rows in groups.items():
        for backbone in backbones_of(rows):
            own = {row.method: row for row in rows if row.backbone == backbone}
            found = [own.get(name) for name in names]
            entries.append(
                Entry(
                    backbone,
                    [row and row.value for row in found],
                    backbone,
                    next(iter(own.values())).untrained,
                    group,
                    deviations=[row and row.deviation for row in found],
                )
            )
    columns = [Column(capitalised(title(name))) for name in names]
    return number_table(heading, "Backbone", columns, entries, note=note, best_in_line=True)


def by_representation(heading: str, columns: Mapping[Column, Sequence[Row]], **options: str | bool) -> Table:
    """Backbones as groups, a line for each representation that a column has a number of.

    Args:
        heading: of the table.
        columns: rows with the numbers of each column.
        options: of `number_table`.
    """
    rows = [row for own in columns.values() for row in own]
    values = [{(row.backbone, row.method): row for row in own} for own in columns.values()]
    entries = []
    for backbone in backbones_of(rows):
        own = [row for row in rows if row.backbone == backbone]
        for name, text in titles(own).items():
            found = [column.get((backbone, name)) for column in values]
            entries.append(
                Entry(
                    capitalised(text),
                    [row and row.value for row in found],
                    backbone,
                    own[0].untrained,
                    backbone,
                    label_is_name=False,
                    deviations=[row and row.deviation for row in found],
                )
            )
    return number_table(heading, "Representation", list(columns), entries, **options)


def backbone_labels(rows: Sequence[Row]) -> dict[str, str]:
    """What figures call the backbones of some rows; controls are named so."""
    return {row.backbone: style.backbone_label(row) for row in rows}


def numbers_of(
    rows: Sequence[Row], number_of: Callable[[Row], float | Interval]
) -> dict[tuple[str, str], float | Interval]:
    """What `dot_figure` shows of some rows, by the label of the backbone and the title of the representation."""
    return {(style.backbone_label(row), title(row.method)): number_of(row) for row in rows}


def with_deviation(row: Row) -> Interval:
    """A number, and its deviation to either side."""
    away = row.deviation or 0.0
    return Interval(row.value, row.value - away, row.value + away)


def half_width(row: Row) -> float:
    """How far the 95% interval of a mean over images goes to either side; 0 of one image."""
    return 1.96 * (row.deviation or 0.0) / row.count**0.5 if row.count else 0.0


def with_interval(row: Row) -> Interval:
    """A mean over images with its 95% interval."""
    return Interval(row.value, row.value - half_width(row), row.value + half_width(row))
