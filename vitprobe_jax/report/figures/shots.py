"""Scores over the number of support images: Figures 8 and 14 of the paper."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter, NullLocator

from vitprobe_jax.report.figures import style
from vitprobe_jax.report.figures.selection import choose, lookup, score_of, study_of, tokens_of
from vitprobe_jax.report.tables import METRIC_LABELS, Summary, summarise
from vitprobe_jax.types import Rule, Task


def scores_over_shots(
    table: pa.Table,
    metrics: Sequence[str] = ("accuracy", "f1"),
    *,
    task: Task | None = None,
    rule: Rule = "cosine",
    layer: int | None = None,
) -> Figure:
    """Accuracy and F1 of few-shot templates over the number of shots: Figures 8 (classification), 14 (segmentation).

    A row of panels for each backbone, a panel for each metric, a line for each token. Points are means over trials and
    concepts; bands reach one sample standard deviation over trials, of the mean over concepts, to both sides.

    Args:
        table: results; of one data set for each task.
        metrics: some of `METRICS`.
        task: needed where the table holds both.
        rule: `cosine` or `cosine_centered`.
        layer: block; each backbone's last probed one if None.

    Raises:
        InputError: the table holds nothing of the kind, or several data sets.
    """
    rows = choose(summarise(study_of(table, task)), rule=rule, layer="last" if layer is None else layer, shots="all")
    tokens, shots = style.token_marks(tokens_of(rows)), sorted({row.shots for row in rows})
    labels = {row.backbone: style.backbone_label(row) for row in rows}
    cells = lookup(rows, "backbone", "token", "shots")
    keys = [*(style.points_key(mark, line=True) for mark in tokens.values()), style.reference_key()]
    figure, grid = style.panels(
        len(labels), len(metrics), height=1.55, left=0.5, bottom=0.48, top=0.28, gap=0.55, keys=keys
    )
    for (backbone, label), row_of_axes in zip(labels.items(), grid, strict=True):
        for metric, axes in zip(metrics, row_of_axes, strict=True):
            for token, mark in tokens.items():
                _line(axes, [cells.get((backbone, token, s)) for s in shots], shots, metric, mark)
            style.draw_reference(axes, metric, along="x")
            _shots_axis(axes, shots)
            axes.set_ylabel(METRIC_LABELS[metric], fontsize=style.MEDIUM, color=style.INK)
            axes.grid(axis="y", **style.GRID)
            style.title(axes, label)
    for column in grid.T:
        low, high = np.array([axes.get_ylim() for axes in column]).T
        for axes in column:
            axes.set_ylim(max(low.min(), -0.02), min(high.max(), 1.02))
            axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    return figure


def _line(axes: Axes, cells: Sequence[Summary | None], shots: Sequence[int], metric: str, mark: style.Mark) -> None:
    scores = [score_of(cell, metric) for cell in cells]
    means = np.array([np.nan if score is None else score.mean for score in scores])
    spread = np.array([np.nan if score is None or score.deviation is None else score.deviation for score in scores])
    axes.plot(shots, means, linewidth=1.6, label=mark.label, **mark.points)
    if np.isfinite(spread).any():
        axes.fill_between(shots, means - spread, means + spread, color=mark.colour, alpha=0.18, linewidth=0)


def _shots_axis(axes: Axes, shots: Sequence[int]) -> None:
    """A logarithmic axis with a tick for each number of shots, named where there is room from the largest down."""
    axes.set_xscale("log")
    low, high = shots[0] / 1.25, shots[-1] * 1.25
    axes.set_xlim(low, high)
    room = axes.get_position().width * axes.figure.get_figwidth() / np.log(high / low)
    names, free = {}, np.inf
    for s in reversed(shots):
        half = style.text_width(str(s), style.SMALL) / 2
        if room * np.log(s / low) + half <= free:
            names[s] = str(s)
            free = room * np.log(s / low) - half - 0.06
    axes.xaxis.set_major_locator(FixedLocator(shots))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks(shots, [names.get(s, "") for s in shots])
    axes.set_xlabel("support images", fontsize=style.MEDIUM, color=style.INK, labelpad=2)
