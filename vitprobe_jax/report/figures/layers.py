"""Every block and token at once."""

import matplotlib
import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from vitprobe_jax.report.figures import style
from vitprobe_jax.report.figures.selection import choose, lookup, score_of, study_of, tokens_of
from vitprobe_jax.report.tables import METRIC_LABELS, summarise
from vitprobe_jax.types import Rule, Task

_COLOURS = matplotlib.colormaps["cividis"]
_ROW = 0.22  # inches
_BAR = 0.62  # inches of the colour bar with its numbers
_DARK, _LIGHT = "#000000", "#ffffff"


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
    finite = np.concatenate([own[np.isfinite(own)] for own in values.values()])
    low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 1.0)
    norm = Normalize(low, max(high, low + 0.01))
    columns = min(len(labels), 2)
    deepest = max(map(len, layers.values()))
    figure, grid = style.panels(
        -(-len(labels) // columns),
        columns,
        height=_ROW * max(deepest, 3),
        left=0.5,
        bottom=0.34,
        top=0.28,
        right=_BAR + 0.12,
    )
    for axes, (backbone, label) in zip(grid.flat, labels.items(), strict=False):
        _heatmap(axes, values[backbone], norm, deepest)
        axes.set_xticks(range(len(tokens)), tokens, fontsize=style.MEDIUM)
        axes.set_yticks(range(len(layers[backbone])), layers[backbone])
        axes.tick_params(length=0)
        axes.set_ylabel("block", fontsize=style.MEDIUM, color=style.INK)
        style.title(axes, label)
    style.hide(grid.flat[len(labels) :])
    _colour_bar(figure, grid[0, -1], norm, metric)
    return figure


def _heatmap(axes: Axes, values: np.ndarray, norm: Normalize, deepest: int) -> None:
    num_layers, num_tokens = values.shape
    axes.pcolormesh(
        np.arange(num_tokens + 1) - 0.5,
        np.arange(num_layers + 1) - 0.5,
        np.ma.masked_invalid(values),
        norm=norm,
        cmap=_COLOURS,
        edgecolor="face",
        linewidth=0.2,
    )
    width = axes.get_position().width * axes.figure.get_figwidth() / num_tokens
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value) and width >= style.text_width("0.00", style.SMALL) + 0.04:
            dark = _luminance(_COLOURS(norm(value))) > 0.179  # where black and white letters stand out equally
            axes.text(
                j, i, f"{value:.2f}", ha="center", va="center", fontsize=style.SMALL, color=_DARK if dark else _LIGHT
            )
    if np.isfinite(values).any():
        i, j = np.unravel_index(np.nanargmax(values), values.shape)
        frame = Rectangle(
            (j - 0.5, i - 0.5), 1, 1, fill=False, edgecolor="#D55E00", linewidth=2, clip_on=False, zorder=3
        )
        axes.add_patch(frame)
    axes.set_xlim(-0.5, num_tokens - 0.5)
    axes.set_ylim(-0.5, max(deepest, 3) - 0.5)
    axes.spines[["left", "bottom"]].set_visible(False)


def _colour_bar(figure: Figure, beside: Axes, norm: Normalize, metric: str) -> None:
    place, width = beside.get_position(), figure.get_figwidth()
    axes = figure.add_axes((1 - _BAR / width, place.y0, 0.13 / width, place.height))
    edges = np.linspace(norm.vmin, norm.vmax, 65)
    axes.pcolormesh(
        [0, 1], edges, (edges[:-1] + edges[1:])[:, None] / 2, norm=norm, cmap=_COLOURS, edgecolor="face", linewidth=0.2
    )
    axes.set_xticks([])
    axes.yaxis.tick_right()
    axes.tick_params(labelsize=style.SMALL, color=style.INK, labelcolor=style.INK, length=2, pad=2)
    axes.spines[:].set_visible(False)
    axes.set_ylim(norm.vmin, norm.vmax)
    if norm.vmin < style.ALWAYS_POSITIVE[metric] < norm.vmax:
        axes.axhline(style.ALWAYS_POSITIVE[metric], color="#ffffff", linestyle="--", linewidth=1.2)
    axes.set_title(
        METRIC_LABELS[metric].removeprefix("balanced "), fontsize=style.SMALL, color=style.INK, pad=4, loc="left"
    )


def _luminance(colour: tuple[float, ...]) -> float:
    """Relative luminance of an sRGB colour, in [0, 1]."""
    encoded = np.array(colour[:3])
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))
