"""Scores by category of concepts: Figures 10, 11 and 13 of the paper."""

import functools
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.figure import Figure

from vitprobe_jax.report.figures import style
from vitprobe_jax.report.figures.points import Panel, point_panels
from vitprobe_jax.report.figures.selection import (
    backbones_of,
    choose,
    lookup,
    score_of,
    seeds_differ,
    study_of,
    tokens_of,
    trials_differ,
)
from vitprobe_jax.report.tables import METRIC_LABELS, Summary, summarise, summarise_by_category
from vitprobe_jax.types import Rule, Task


def f1_by_category(
    table: pa.Table, *, task: Task | None = None, rule: Rule = "hyperplane", layer: int | None = None
) -> Figure:
    """Balanced F1 of every category, token and backbone: Figure 10 (segmentation)."""
    return scores_by_category(table, ("f1",), task=task, rule=rule, layer=layer)


def precision_recall_by_category(
    table: pa.Table, *, task: Task | None = None, rule: Rule = "hyperplane", layer: int | None = None
) -> Figure:
    """Balanced precision and recall of every category, token and backbone: Figure 11 (segmentation)."""
    return scores_by_category(table, ("precision", "recall"), task=task, rule=rule, layer=layer)


def cosine_by_category(
    table: pa.Table,
    *,
    task: Task | None = None,
    rule: Rule = "cosine",
    layer: int | None = None,
    shots: int | None = None,
) -> Figure:
    """Accuracy and F1 of cosine templates of every category, from the most shots: Figure 13 (segmentation).

    The paper's error bars, one standard deviation over trials, are the thick lines; the thin ones are intervals over
    concepts.
    """
    return scores_by_category(table, ("accuracy", "f1"), task=task, rule=rule, layer=layer, shots=shots)


def scores_by_category(
    table: pa.Table,
    metrics: Sequence[str],
    *,
    task: Task | None = None,
    rule: Rule = "hyperplane",
    layer: int | None = None,
    shots: int | None = None,
) -> Figure:
    """A panel for each backbone and metric, a line for each category, in it a point for each token.

    Points are means over the concepts of the category, whiskers their 95% bootstrap intervals; beside a category's name
    stands its number of concepts. Where there are several trials, a thick line reaches one sample standard deviation over
    trials, of the mean over the category's concepts, to both sides. Where all of them were skipped the point is missing.

    Args:
        table: results; of one data set for each task.
        metrics: some of `METRICS`; with one, the panels stand two in a row.
        task: needed where the table holds both.
        rule: decision rule.
        layer: block; each backbone's last probed one if None.
        shots: support images of cosine templates; the largest number there is if None.

    Raises:
        InputError: the table holds nothing of the kind, or several data sets.
    """
    by_category = category_rows(study_of(table, task), rule=rule, layer=layer, shots=shots)
    rows = [row for own in by_category.values() for row in own]
    marks = style.token_marks(tokens_of(rows))
    labels = {row.backbone: style.backbone_label(row) for row in rows}
    cells = {category: lookup(own, "backbone", "token") for category, own in by_category.items()}

    def panel(backbone: str, metric: str) -> Panel:
        values = [[score_of(own.get((backbone, token)), metric) for own in cells.values()] for token in marks]
        return Panel(
            labels[backbone],
            METRIC_LABELS[metric],
            values,
            lambda axes: style.draw_reference(axes, metric, along="y"),
        )

    grid = [[panel(backbone, metric) for metric in metrics] for backbone in labels]
    if len(metrics) == 1:
        flat = [panels[0] for panels in grid]
        grid = [flat[at : at + 2] for at in range(0, len(flat), 2)]
    lines = [f"{category} ({max(row.concepts for row in own)})" for category, own in by_category.items()]
    spread = trials_differ(rows)
    keys = [
        *(style.points_key(mark, line=False) for mark in marks.values()),
        *(style.spread_keys(seeds=seeds_differ(rows)) if spread else []),
        style.reference_key(),
    ]
    return point_panels(grid, lines, list(marks.values()), keys=keys, deviations=spread)


def category_rows(
    table: pa.Table, *, rule: Rule, layer: int | None = None, shots: int | None = None
) -> dict[str, list[Summary]]:
    """What `scores_by_category` shows: the summaries of each category.

    Raises:
        InputError: there are none.
    """
    rows = choose(
        summarise(table),
        rule=rule,
        layer="last" if layer is None else layer,
        shots="most" if shots is None else shots,
    )
    order = backbones_of(rows)
    return {
        category: sorted(own, key=lambda row: order.index(row.backbone))
        for category, own in summarise_by_category(_rows_behind(table, rows)).items()
    }


def _rows_behind(table: pa.Table, rows: Sequence[Summary]) -> pa.Table:
    """The rows of the table that these summaries, of one rule, are made of.

    A sweep has many times more cells than a figure by category shows, and each category sums its own.
    """
    places = sorted({(row.backbone, row.layer) for row in rows})
    at_place = (pc.and_(pc.equal(table["backbone"], own[0]), pc.equal(table["layer"], own[1])) for own in places)
    kept = [functools.reduce(pc.or_, at_place), pc.equal(table["rule"], rows[0].rule)]
    kept.append(pc.not_equal(table["evaluation"], "pixel"))
    shots = sorted({row.shots for row in rows if row.shots})
    if shots:
        kept.append(pc.is_in(table["shots"], pa.array(shots, pa.int32())))
    return table.filter(functools.reduce(pc.and_, kept))
