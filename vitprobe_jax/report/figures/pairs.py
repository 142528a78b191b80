"""One thing beside another, token by token: centred features, pixels, untrained controls. All of it beyond the paper."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vitprobe_jax.errors import InputError
from vitprobe_jax.metrics.statistics import PairedTest, paired_tests
from vitprobe_jax.report.figures import style
from vitprobe_jax.report.figures.points import Panel, point_panels
from vitprobe_jax.report.figures.selection import (
    backbones_of,
    choose,
    lookup,
    score_of,
    study_of,
    tokens_of,
)
from vitprobe_jax.report.tables import METRIC_LABELS, Summary, concept_scores, summarise
from vitprobe_jax.types import Rule, Task, Token

_METRICS = ("accuracy", "f1")
_FIRST = {"colour": "#0072B2", "marker": "o"}
_SECOND = {"colour": "#D55E00", "marker": "s", "hollow": True}


def centred_beside_plain(
    table: pa.Table,
    metrics: Sequence[str] = _METRICS,
    *,
    task: Task | None = None,
    layer: int | None = None,
    shots: int | None = None,
) -> Figure:
    """Cosine templates on features less their training mean beside those on features as they are, by token.

    A row of panels for each backbone, a panel for each metric, a line for each token. Points are means over concepts,
    whiskers their 95% bootstrap intervals.

    Args:
        table: results; of one data set for each task.
        metrics: some of `METRICS`.
        task: needed where the table holds both.
        layer: block; each backbone's last probed one if None.
        shots: support images; the largest number there is if None.

    Raises:
        InputError: the table lacks one of the rules, or holds several data sets.
    """
    place = {"layer": "last" if layer is None else layer, "shots": "most" if shots is None else shots}
    rows = summarise(study_of(table, task))
    plain, centred = (choose(rows, rule=rule, **place) for rule in ("cosine", "cosine_centered"))
    return _side_by_side(
        {style.Mark("cosine", **_FIRST): plain, style.Mark("cosine, features centred", **_SECOND): centred}, metrics
    )


def pixels_beside_patches(
    table: pa.Table, metrics: Sequence[str] = _METRICS, *, rule: Rule = "hyperplane", layer: int | None = None
) -> Figure:
    """Templates counted on pixels, under score maps upsampled to the masks, beside the same counted on patches.

    Laid out as `centred_beside_plain`, with the same arguments.

    Raises:
        InputError: nothing was counted on pixels, or the table holds several data sets.
    """
    place = {"rule": rule, "layer": "last" if layer is None else layer}
    rows = summarise(study_of(table, "segmentation"))
    patches, pixels = choose(rows, **place), choose(rows, **place, pixels=True)
    return _side_by_side({style.Mark("patches", **_FIRST): patches, style.Mark("pixels", **_SECOND): pixels}, metrics)


def trained_less_control(
    table: pa.Table,
    metrics: Sequence[str] = _METRICS,
    *,
    task: Task | None = None,
    rule: Rule = "hyperplane",
    layer: int | None = None,
    shots: int | None = None,
) -> Figure:
    """What training adds: each trained backbone less the untrained control, by token, over the concepts that both have.

    Points are mean differences, whiskers their 95% bootstrap intervals over concepts: right of the dashed line the
    trained backbone is ahead. The control is the one of the same family, else the first there is; its layer is its own.

    Args:
        table: results; of one data set for each task.
        metrics: some of `METRICS`.
        task: needed where the table holds both.
        rule: decision rule.
        layer: block; each backbone's last probed one if None.
        shots: support images of cosine templates; the largest number there is if None.

    Raises:
        InputError: the table holds no control, no trained backbone, nothing of the rule, or several data sets.
    """
    table = study_of(table, task)
    rows = choose(
        summarise(table), rule=rule, layer="last" if layer is None else layer, shots="most" if shots is None else shots
    )
    pairs, tokens = control_of(table, rows), tokens_of(rows)
    labels = {metric: f"difference in {METRIC_LABELS[metric]}" for metric in metrics}
    grid = []
    for trained, control in pairs.items():
        row = []
        for metric in metrics:
            tests = control_differences(table, rows, trained, control, metric)
            values = [[tests[token].difference if token in tests else None for token in tokens]]
            row.append(Panel(_less(trained, control, style.WIDTH / len(metrics) - 0.6), labels[metric], values, _zero))
        grid.append(row)
    return point_panels(grid, tokens, [style.Mark("difference", "#0072B2")], limits=(-1.0, 1.0))


def control_of(table: pa.Table, rows: Sequence[Summary]) -> dict[str, str]:
    """The control of each trained backbone of some rows: of its family, else the first.

    Raises:
        InputError: there is no control or no trained backbone.
    """
    names = table.select(["backbone", "family"]).group_by(["backbone", "family"], use_threads=False)
    families = dict(zip(*(column.to_pylist() for column in names.aggregate([]).columns), strict=True))
    controls = backbones_of(row for row in rows if row.untrained)
    trained = backbones_of(row for row in rows if not row.untrained)
    if not controls or not trained:
        raise InputError("the table has no untrained control beside a trained backbone; give both to --backbones")
    return {
        name: next((control for control in controls if families[control] == families[name]), controls[0])
        for name in trained
    }


def control_differences(
    table: pa.Table, rows: Sequence[Summary], trained: str, control: str, metric: str
) -> dict[Token, PairedTest]:
    """A trained backbone against its control, by token; tokens without a shared concept are left out."""
    cells = lookup(rows, "backbone", "token")
    shared = [token for token in tokens_of(rows) if {(trained, token), (control, token)} <= cells.keys()]
    if not shared:
        return {}
    scores = concept_scores(table)
    first, second = (
        np.stack([scores.of_seeds(cells[backbone, token], metric) for token in shared], axis=1)
        for backbone in (trained, control)
    )
    tests = paired_tests(first, second)
    return {token: test for token, test in zip(shared, tests, strict=True) if test.num_concepts}


def _side_by_side(sides: dict[style.Mark, list[Summary]], metrics: Sequence[str]) -> Figure:
    rows = [row for own in sides.values() for row in own]
    tokens, labels = tokens_of(rows), {row.backbone: style.backbone_label(row) for row in rows}
    cells = {mark: lookup(own, "backbone", "token") for mark, own in sides.items()}

    def panel(backbone: str, metric: str) -> Panel:
        values = [[score_of(own.get((backbone, token)), metric) for token in tokens] for own in cells.values()]
        return Panel(
            labels[backbone], METRIC_LABELS[metric], values, lambda axes: style.draw_reference(axes, metric, along="y")
        )

    keys = [*(style.points_key(mark, line=False) for mark in sides), style.reference_key()]
    grid = [[panel(backbone, metric) for metric in metrics] for backbone in labels]
    return point_panels(grid, tokens, list(sides), keys=keys, connect=True)


def _less(trained: str, control: str, room: float) -> str:
    """Both names; where they take more than `room` inches, each loses its own middle."""
    whole, between = f"{trained} less {control}", " less "
    if style.text_width(whole, style.MEDIUM) <= room:
        return whole
    half = (room - style.text_width(between, style.MEDIUM)) / 2
    return between.join(style.shorten(name, half, style.MEDIUM) for name in (trained, control))


def _zero(axes: Axes) -> None:
    axes.axvline(0, color=style.INK, linestyle="--", linewidth=1, zorder=0.9)
