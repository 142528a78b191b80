"""Part context: how much the central patch knows of the whole image (Table 6)."""

from collections.abc import Sequence

from vitprobe_jax.metrics.measurements import FEATURES
from vitprobe_jax.report.figures.illustration import Illustration, caption
from vitprobe_jax.report.figures.wording import capitalised
from vitprobe_jax.report.local.methods import method_titles
from vitprobe_jax.report.measured import answers
from vitprobe_jax.report.measured.answers import Answer
from vitprobe_jax.report.measured.figures.dots import dot_figure
from vitprobe_jax.report.measured.figures.looks import Looks
from vitprobe_jax.report.measured.rows import PartTable, Row, backbones_of, features_title, values_by
from vitprobe_jax.report.measured.tables import Column, Entry, Table, every_cell, number_table
from vitprobe_jax.report.measured.view import PartView, Sources, illustration
from vitprobe_jax.report.sentences import listed, number

MEANS = {"mean_r2": "mean over all concepts", "mean_r2_commonest": "mean over the commonest concepts"}


def view(part: PartTable, sources: Sources) -> PartView:
    """The part on one data set."""
    rows = part.rows(*MEANS)
    tables = [
        _mean_table(rows),
        *_concept_tables(part.rows("r2"), sources.looks),
        *every_cell(part, "mean_r2", "mean R2 of all features", method_titles, features="all"),
    ]
    return PartView(_answer(rows), [_figure(part, rows)], tables)


def _choices(rows: Sequence[Row]) -> list[tuple[str, int]]:
    """Which features were used, in their usual order."""
    return sorted({(row.features, row.dropped) for row in rows}, key=lambda one: (one[1], FEATURES.index(one[0])))


def _answer(rows: Sequence[Row]) -> Answer:
    measure = rows[0].measure
    means = [row for row in rows if row.measure == measure]
    plain = answers.standings([row for row in means if row.features == "all"] or means)
    best = answers.leader(plain)
    lead = answers.leads(plain, "With all features, from the central patch", f"an R2 ({MEANS[measure]})")
    of = {(row.features, row.dropped): row.value for row in means if row.backbone == best.backbone}
    others = [
        f"{number(of[one])} {'with ' if one[0].startswith('only') else ''}{features_title(*one)}"
        for one in _choices(means)
        if one != ("all", 0) and one in of
    ]
    said = [caption(lead, f"Of that, {best.backbone} keeps {listed(others)}." if others else "")]
    return Answer(number(best.value), best.name, f"R2, {MEANS[measure]}", said)


def _figure(part: PartTable, rows: Sequence[Row]) -> Illustration:
    panels = {
        label.removeprefix("mean over "): {
            (row.backbone, features_title(row.features, row.dropped)): row.value for row in rows if row.measure == name
        }
        for name, label in MEANS.items()
        if any(row.measure == name for row in rows)
    }
    series = [features_title(*one) for one in _choices(rows)]
    said = {
        f"{row.backbone} {features_title(row.features, row.dropped)}": row.value
        for row in rows
        if row.measure == rows[0].measure
    }
    return illustration(
        part,
        "means",
        dot_figure(panels, backbones_of(rows), series, dict.fromkeys(panels, "mean R2")),
        title="R2 of each concept's share of the image, from the central patch",
        caption=caption(
            "Ridge regression fitted to the training draw, R2 over the held-out images; 0 is what the mean share reaches.",
            "Table 6 of the paper.",
        ),
        alt=answers.numbers_in_words(said, f"R2, {MEANS[rows[0].measure]}"),
    )


def _mean_table(rows: Sequence[Row]) -> Table:
    values = values_by(rows, "backbone", "measure", "features", "dropped")
    untrained, choices = {row.backbone: row.untrained for row in rows}, _choices(rows)
    entries = [
        Entry(
            backbone,
            [values.get((backbone, name, *one)) for one in choices],
            backbone,
            untrained[backbone],
            capitalised(label),
        )
        for name, label in MEANS.items()
        for backbone in backbones_of(rows)
        if any((backbone, name, *one) in values for one in choices)
    ]
    columns = [Column(capitalised(features_title(*one))) for one in choices]
    note = "A rare concept's R2 may be far below zero, and the mean over all with it. Bold: the best of each column."
    return number_table("R2 by the features used", "Backbone", columns, entries, note=note, best_in_group=True)


def _concept_tables(rows: Sequence[Row], looks: Looks) -> list[Table]:
    """A line for each concept under each shown backbone; none without rows."""
    rows = looks.shown(rows)
    values = values_by(rows, "backbone", "concept", "category", "features", "dropped")
    choices = _choices(rows)
    entries = [
        Entry(
            name,
            [values.get((backbone, concept, category, *one)) for one in choices],
            group=backbone,
            label_is_name=False,
        )
        for backbone, concept, category, name in dict.fromkeys(
            (row.backbone, row.concept, row.category, row.name) for row in rows
        )
    ]
    columns = [Column(capitalised(features_title(*one)), "") for one in choices]
    table = number_table("R2 of each concept", "Concept", columns, entries, note=looks.note, folded=True)
    return [table] if entries else []
