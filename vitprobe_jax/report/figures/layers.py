"""Every block and token at once."""

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from vitprobe_jax.report.figures import style
from vitprobe_jax.report.figures.heatmap import BAR, colour_bar, draw_cells, shared_norm
from vitprobe_jax.report.figures.selection import choose, lookup, score_of, study_of, tokens_of
from vitprobe_jax.report.tables import METRIC_LABELS, summarise
from vitprobe_jax.types import Rule, Task

_ROW = 0.22  # inches


def layer_token_heatmap(
    table: pa.Table,
    *,
    metric: str = "f1",
    task: Task | None = None,
    rule: Rule = "hyperplane",
    shots: int | None = None,
) -> Figure:
    """A metric at every probed block (upwards) and token, a panel for each backbone, its best cell framed.

    Beyond the paper, which probes the last block. All panels share their colours; the dashed line in the colour bar is
    where a template that is positive everywhere stands. Cells that were not probed, or where every concept was skipped,
    are empty.

    Args:
        table: results; of one data set for each task.
        metric: one of `METRICS`.
        task: needed where the table holds both.
        rule: decision rule.
        shots: support images of cosine templates; the largest number there is if None.

    Raises:
        InputError: the table holds nothing of the kind, or several data sets.
    """
    rows = choose(summarise(study_of(table, task)), rule=rule, layer="all", shots="most" if shots is None else shots)
    tokens, cells = tokens_of(rows), lookup(rows, "backbone", "layer", "token")
    labels = {row.backbone: style.backbone_label(row) for row in rows}
    layers = {backbone: sorted({row.layer for row in rows if row.backbone == backbone}) for backbone in labels}
    values = {}
    for backbone, own in layers.items():
        scores = [[score_of(cells.get((backbone, layer, token)), metric) for token in tokens] for layer in own]
        values[backbone] = np.array([[np.nan if score is None else score.mean for score in line] for line in scores])
    norm = shared_norm(np.concatenate([own.ravel() for own in values.values()]))
    columns = min(len(labels), 2)
    deepest = max(map(len, layers.values()))
    figure, grid = style.panels(
        -(-len(labels) // columns),
        columns,
        height=_ROW * max(deepest, 3),
        left=0.5,
        bottom=0.34,
        top=0.28,
        right=BAR + 0.12,
    )
    for axes, (backbone, label) in zip(grid.flat, labels.items(), strict=False):
        _heatmap(axes, values[backbone], norm, deepest)
        axes.set_xticks(range(len(tokens)), tokens, fontsize=style.MEDIUM)
        axes.set_yticks(range(len(layers[backbone])), layers[backbone])
        axes.set_ylabel("block", fontsize=style.MEDIUM, color=style.INK)
        style.title(axes, label)
    style.hide(grid.flat[len(labels) :])
    bar = colour_bar(figure, grid[0, -1], norm, METRIC_LABELS[metric].removeprefix("balanced "))
    if norm.vmin < style.ALWAYS_POSITIVE[metric] < norm.vmax:
        bar.axhline(style.ALWAYS_POSITIVE[metric], color="#ffffff", linestyle="--", linewidth=1.2)
    return figure


def _heatmap(axes: Axes, values: np.ndarray, norm: Normalize, deepest: int) -> None:
    draw_cells(axes, values, norm)
    if np.isfinite(values).any():
        i, j = np.unravel_index(np.nanargmax(values), values.shape)
        frame = Rectangle(
            (j - 0.5, i - 0.5), 1, 1, fill=False, edgecolor="#D55E00", linewidth=2, clip_on=False, zorder=3
        )
        axes.add_patch(frame)
    axes.set_ylim(-0.5, max(deepest, 3) - 0.5)
