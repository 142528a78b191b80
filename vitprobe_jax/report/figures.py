"""Summarised rows -> matplotlib figures: one function for each kind, drawn without pyplot and without a display.

Colours are those of Okabe and Ito (2008), told apart with any common colour blindness; tokens also differ by marker.
Every figure shows by a dashed line what a template that is positive everywhere would reach.
"""

import base64
import io
from collections.abc import Callable, Iterable, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, ScalarFormatter

from vitprobe_jax.report.tables import Summary

LABELS = {"accuracy": "balanced accuracy", "precision": "balanced precision", "recall": "recall", "f1": "balanced F1"}
ALWAYS_POSITIVE = {"accuracy": 0.5, "precision": 0.5, "recall": 1.0, "f1": 2 / 3}
"""The metrics of a template with TPR = FPR = 1. No token that carries a concept should fall below its F1."""
REFERENCE = "always positive"

_PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
_TOKEN_STYLE = {
    "q": ("#0072B2", "o"),
    "k": ("#D55E00", "s"),
    "v": ("#009E73", "^"),
    "x1": ("#E69F00", "D"),
    "xn": ("#CC79A7", "v"),
    "x2": ("#56B4E9", "p"),
}
_WIDTH = 6.0  # inches: letters of 9 points stay legible on a phone
_LABELLED_BARS = 14
_PANELS_A_ROW = 3


def token_bars(rows: Sequence[Summary], *, metric: str) -> Figure:
    """Bars of a metric: a group for each token, a bar for each backbone, whiskers of one deviation where there is one.

    Untrained controls are hatched. A cell without scores leaves a gap.

    Args:
        rows: at most one for each backbone and token.
        metric: one of `METRICS`.

    Raises:
        ValueError: two rows of one backbone and token.
    """
    backbones, tokens = _unique(row.backbone for row in rows), _unique(row.token for row in rows)
    if len({(row.backbone, row.token) for row in rows}) < len(rows):
        raise ValueError("two rows of one backbone and token: choose one layer and one number of shots")
    figure = Figure(figsize=(max(_WIDTH, 1.5 + 0.16 * len(rows)), 3.2), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / max(len(backbones), 1)
    for i, (backbone, colour) in enumerate(zip(backbones, _colours(len(backbones)), strict=True)):
        own = [row for row in rows if row.backbone == backbone and row.scores]
        scores = [row.scores[metric] for row in own]
        bars = axes.bar(
            [tokens.index(row.token) + (i - (len(backbones) - 1) / 2) * width for row in own],
            [score.mean for score in scores],
            width=0.92 * width,
            color=colour,
            yerr=[score.deviation for score in scores] if _all_deviations(own, metric) else None,
            error_kw={"elinewidth": 1, "capsize": 2, "ecolor": "#333333"},
            label=_backbone_label(next(row for row in rows if row.backbone == backbone)),
            **({"hatch": "///", "edgecolor": "white", "linewidth": 0} if any(row.untrained for row in own) else {}),
        )
        if len(rows) <= _LABELLED_BARS:
            box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}  # keeps lines from striking numbers through
            axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=7.5, bbox=box)
    _draw_always_positive(axes, metric)
    axes.set_xticks(range(len(tokens)), tokens)
    axes.set(ylabel=LABELS[metric], ylim=(0, 1.08), xlim=(-0.6, max(len(tokens), 1) - 0.4))
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.tick_params(axis="x", length=0)
    _finish(figure, [axes])
    return figure


def shots_lines(rows: Sequence[Summary], *, metric: str) -> Figure:
    """A metric over the number of shots: a panel for each backbone, a line for each token, bands of one deviation.

    Args:
        rows: of cosine templates, at most one for each backbone, token and number of shots.
        metric: one of `METRICS`.
    """

    def shots_axis(axes: Axes, shots: list[int]) -> None:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(shots))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.set_xlabel("support images")

    return _line_panels(rows, metric, lambda row: row.shots, shots_axis)


def layer_lines(rows: Sequence[Summary], *, metric: str) -> Figure:
    """A metric over the layer: a panel for each backbone, a line for each token, bands of one deviation.

    Args:
        rows: at most one for each backbone, token and layer.
        metric: one of `METRICS`.
    """

    def layer_axis(axes: Axes, layers: list[int]) -> None:
        axes.xaxis.set_major_locator(FixedLocator(layers) if len(layers) <= 12 else MaxNLocator(12, integer=True))
        axes.set_xlabel("block")

    return _line_panels(rows, metric, lambda row: row.layer, layer_axis)


def svg_data_uri(figure: Figure) -> str:
    """The figure as an SVG image in a `data:` address; the same figure gives the same text."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "vitprobe_jax"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def _line_panels(
    rows: Sequence[Summary],
    metric: str,
    position: Callable[[Summary], int],
    dress_axis: Callable[[Axes, list[int]], None],
) -> Figure:
    scored = sorted((row for row in rows if row.scores), key=position)
    backbones, tokens = _unique(row.backbone for row in rows), _unique(row.token for row in rows)
    columns = min(max(len(backbones), 1), _PANELS_A_ROW)
    height = -(-max(len(backbones), 1) // columns)
    figure = Figure(figsize=(max(_WIDTH, 2.9 * columns), 0.6 + 2.7 * height), layout="constrained")
    panels = figure.subplots(height, columns, sharey=True, squeeze=False).ravel()
    for axes, backbone in zip(panels, backbones, strict=False):
        own = [row for row in scored if row.backbone == backbone]
        for token in tokens:
            line = [row for row in own if row.token == token]
            x, y = [position(row) for row in line], np.array([row.scores[metric].mean for row in line])
            colour, marker = _TOKEN_STYLE[token]
            axes.plot(x, y, color=colour, marker=marker, markersize=4.5, linewidth=1.6, label=token)
            if line and _all_deviations(line, metric):
                spread = np.array([row.scores[metric].deviation for row in line])
                axes.fill_between(x, y - spread, y + spread, color=colour, alpha=0.15, linewidth=0)
        _draw_always_positive(axes, metric)
        dress_axis(axes, sorted({position(row) for row in own}))
        label = _backbone_label(next(row for row in rows if row.backbone == backbone))
        axes.set_title(label, fontsize=10, parse_math=False)
    for axes in panels[len(backbones) :]:
        axes.set_visible(False)
    low, high = panels[0].get_ylim()
    panels[0].set_ylim(max(low, -0.02), min(high, 1.02))
    for axes in panels[::columns]:
        axes.set_ylabel(LABELS[metric])
    _finish(figure, panels)
    return figure


def _draw_always_positive(axes: Axes, metric: str) -> None:
    axes.axhline(ALWAYS_POSITIVE[metric], color="#555555", linestyle="--", linewidth=1, zorder=0.5, label=REFERENCE)


def _finish(figure: Figure, panels: Iterable[Axes]) -> None:
    """Grid behind the data, no frame, one legend above all panels."""
    for axes in panels:
        axes.grid(axis="y", color="#dddddd", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    # Bars come last among the handles that matplotlib lists; the reference line belongs behind them.
    order = sorted(range(len(labels)), key=lambda i: labels[i] == REFERENCE)
    handles, labels = [handles[i] for i in order], [labels[i] for i in order]
    # One line of the legend holds about 85 letters, 6 of them for each handle; long names stand in columns.
    lengths = [len(label) + 6 for label in labels]
    columns = len(labels) if sum(lengths) <= 85 else max(1, 85 // max(lengths))
    legend = figure.legend(handles, labels, loc="outside upper center", ncols=columns, frameon=False, fontsize=9)
    for text in legend.get_texts():
        text.set_parse_math(False)


def _all_deviations(rows: Sequence[Summary], metric: str) -> bool:
    return all(row.scores[metric].deviation is not None for row in rows)


def _backbone_label(row: Summary) -> str:
    return f"{row.backbone} ({row.objective})" if row.untrained else row.backbone


def _colours(count: int) -> list:
    """The palette; with more backbones than it has, evenly along cividis, which is colour-blind safe too."""
    if count <= len(_PALETTE):
        return list(_PALETTE[:count])
    return list(matplotlib.colormaps["cividis"](np.linspace(0, 0.95, count)))


def _unique(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))
