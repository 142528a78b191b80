"""Bars by token and backbone: Figures 6, 7, 9 and 12 of the paper."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vitprobe_jax.report.figures import style
from vitprobe_jax.report.figures.selection import (
    choose,
    lookup,
    score_of,
    seeds_differ,
    study_of,
    tokens_of,
    trials_differ,
)
from vitprobe_jax.report.tables import METRIC_LABELS, Summary, summarise
from vitprobe_jax.types import Rule, Task

_LEFT = 0.5
_FILLED = 0.86  # of the room of a token
_HORIZONTAL, _UPRIGHT = 0.27, 0.125  # inches that a number above a bar takes in width
_BARS_OF_HALF_WIDTH = 14
_BARS_OF_WIDTH = 60
"""More bars beside each other make a figure of double width."""
SKIPPED = "\N{EN DASH}"


def accuracy_by_token(
    table: pa.Table, *, task: Task | None = None, rule: Rule = "hyperplane", layer: int | None = None
) -> Figure:
    """Balanced accuracy of every token and backbone: Figure 6, left (classification)."""
    return scores_by_token(table, ("accuracy",), task=task, rule=rule, layer=layer)


def precision_recall_f1_by_token(
    table: pa.Table, *, task: Task | None = None, rule: Rule = "hyperplane", layer: int | None = None
) -> Figure:
    """Balanced precision, recall and balanced F1 of every token and backbone: Figure 6, right (classification)."""
    return scores_by_token(table, ("precision", "recall", "f1"), task=task, rule=rule, layer=layer)


def precision_recall_by_token(
    table: pa.Table, *, task: Task | None = None, rule: Rule = "hyperplane", layer: int | None = None
) -> Figure:
    """Balanced precision and recall of every token and backbone: Figure 9, first half (segmentation)."""
    return scores_by_token(table, ("precision", "recall"), task=task, rule=rule, layer=layer)


def accuracy_f1_by_token(
    table: pa.Table, *, task: Task | None = None, rule: Rule = "hyperplane", layer: int | None = None
) -> Figure:
    """Balanced accuracy and balanced F1 of every token and backbone: Figure 9, second half (segmentation)."""
    return scores_by_token(table, ("accuracy", "f1"), task=task, rule=rule, layer=layer)


def cosine_by_token(
    table: pa.Table,
    *,
    task: Task | None = None,
    rule: Rule = "cosine",
    layer: int | None = None,
    shots: int | None = None,
) -> Figure:
    """All four metrics of cosine templates from the most shots: Figures 7 (classification) and 12 (segmentation).

    The paper's error bars, one standard deviation over trials, are the thick lines; the thin ones are intervals over
    concepts.
    """
    return scores_by_token(
        table, ("accuracy", "f1", "precision", "recall"), task=task, rule=rule, layer=layer, shots=shots
    )


def scores_by_token(
    table: pa.Table,
    metrics: Sequence[str],
    *,
    task: Task | None = None,
    rule: Rule = "hyperplane",
    layer: int | None = None,
    shots: int | None = None,
) -> Figure:
    """A panel for each metric, a group of bars for each token, a bar for each backbone.

    Bars are means over concepts, whiskers their 95% bootstrap intervals, the numbers above them the means again where
    there is room. Where there are several trials, a thick line reaches one sample standard deviation over trials, of the
    mean over concepts, to both sides. A dash stands for a cell where every concept was skipped. Controls are hollow.

    Args:
        table: results; of one data set for each task.
        metrics: some of `METRICS`.
        task: needed where the table holds both.
        rule: decision rule.
        layer: block; each backbone's last probed one if None.
        shots: support images of cosine templates; the largest number there is if None.

    Raises:
        InputError: the table holds nothing of the kind, or several data sets.
    """
    rows = choose(
        summarise(study_of(table, task)),
        rule=rule,
        layer="last" if layer is None else layer,
        shots="most" if shots is None else shots,
    )
    marks, tokens = style.backbone_marks(rows), tokens_of(rows)
    columns = 2 if len(metrics) % 2 == 0 and len(tokens) * len(marks) <= _BARS_OF_HALF_WIDTH else 1
    num_rows = len(metrics) // columns
    slots = max(len(tokens), 3)  # a token alone is no wall
    width = style.WIDTH * (2 if slots * len(marks) > _BARS_OF_WIDTH else 1)
    bar = (width / columns - _LEFT - 0.12) * _FILLED / slots / len(marks)
    angle = 0 if bar >= _HORIZONTAL else 90 if bar >= _UPRIGHT else None
    figure, grid = style.panels(
        num_rows,
        columns,
        height=1.5 if len(metrics) > 1 else 2.0,
        left=_LEFT,
        bottom=0.32,
        top={0: 0.2, 90: 0.36, None: 0.12}[angle],
        keys=[
            *map(style.bar_key, marks.values()),
            *(style.spread_keys(seeds=seeds_differ(rows)) if trials_differ(rows) else []),
            style.reference_key(),
        ],
        width=width,
    )
    for axes, metric in zip(grid.flat, metrics, strict=True):
        _bars(axes, rows, metric, marks, angle)
        axes.set_xlim((len(tokens) - 1 - slots) / 2, (len(tokens) - 1 + slots) / 2)
    return figure


def _bars(axes: Axes, rows: Sequence[Summary], metric: str, marks: dict[str, style.Mark], angle: int | None) -> None:
    tokens, cells = tokens_of(rows), lookup(rows, "backbone", "token")
    width = _FILLED / len(marks)
    for i, (backbone, mark) in enumerate(marks.items()):
        places = np.arange(len(tokens)) + (i - (len(marks) - 1) / 2) * width
        scores = [score_of(cells.get((backbone, token)), metric) for token in tokens]
        shown = [(place, score) for place, score in zip(places, scores, strict=True) if score]
        x, heights = [place for place, _ in shown], [score.mean for _, score in shown]
        axes.bar(x, heights, width=0.9 * width, label=mark.label, **mark.bar)
        # Side by side where both are drawn: the thick line would hide a shorter thin one.
        aside = 0.16 * width if trials_differ(rows) else 0.0
        axes.vlines(
            [place - aside for place in x],
            [score.low for _, score in shown],
            [score.high for _, score in shown],
            color=style.INK,
            linewidth=1.1,
        )
        spread = [(place, score) for place, score in shown if aside and score.deviation is not None]
        axes.vlines(
            [place + aside for place, _ in spread],
            [score.mean - score.deviation for _, score in spread],
            [score.mean + score.deviation for _, score in spread],
            color=style.INK,
            linewidth=style.THICK,
            label=style.OVER_TRIALS,
        )
        if angle is None:
            continue
        for place, score, token in zip(places, scores, tokens, strict=True):
            if (backbone, token) in cells:
                axes.annotate(
                    f"{score.mean:.2f}" if score else SKIPPED,
                    (place, 1),
                    (0, 3),
                    xycoords=("data", "axes fraction"),
                    textcoords="offset points",
                    rotation=angle,
                    ha="center",
                    va="bottom",
                    fontsize=style.SMALL,
                    color=style.INK,
                )
    style.draw_reference(axes, metric, along="x")
    axes.set_xticks(range(len(tokens)), tokens, fontsize=style.MEDIUM)
    axes.set_ylim(0, 1)
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.set_ylabel(METRIC_LABELS[metric], fontsize=style.MEDIUM, color=style.INK)
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="y", **style.GRID)
