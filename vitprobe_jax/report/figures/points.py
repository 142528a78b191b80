"""Points with intervals, a line of them for each category or token: the panels of several figures."""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vitprobe_jax.metrics.statistics import Interval
from vitprobe_jax.report.figures import style
from vitprobe_jax.report.tables import Score

_PITCH = 0.092  # inches between the points of one line
_LONGEST = 1.7  # inches of a line's name


@dataclasses.dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        title: above it.
        xlabel: what is measured.
        values: by series, then line; None leaves a gap.
        reference: draws a dashed line into the panel.
    """

    title: str
    xlabel: str
    values: Sequence[Sequence[Score | Interval | None]]
    reference: Callable[[Axes], None]


def point_panels(
    grid_of_panels: Sequence[Sequence[Panel]],
    lines: Sequence[str],
    series: Sequence[style.Mark],
    *,
    keys: Sequence = (),
    connect: bool = False,
    deviations: bool = False,
    limits: tuple[float, float] = (0.0, 1.0),
) -> Figure:
    """Panels in a grid, with the same lines from top to bottom in each; panels that measure the same share their axis.

    Args:
        grid_of_panels: rows of panels; a last row may be shorter.
        lines: their names.
        series: the points in every line, from top to bottom.
        keys: the legend's entries.
        connect: join the points of a line.
        deviations: draw the standard deviations over trials of scores that have one, as thick lines.
        limits: what no axis goes beyond.
    """
    num_rows, num_columns = len(grid_of_panels), max(map(len, grid_of_panels))
    names = [style.shorten(line, _LONGEST, style.MEDIUM) for line in lines]
    pitch = max(_PITCH * len(series) + 0.1, 0.24)
    figure, grid = style.panels(
        num_rows,
        num_columns,
        height=pitch * len(lines),
        left=style.widest(names, style.MEDIUM) + 0.16,
        gap=0.2,
        bottom=0.5,
        top=0.28,
        right=0.16,
        keys=keys,
    )
    for j in range(num_columns):
        for row, axes in zip(grid_of_panels, grid[:, j], strict=True):
            if j >= len(row):
                style.hide([axes])
                continue
            _draw(axes, row[j], series, connect, deviations)
            axes.set_yticks(range(len(lines)), names if j == 0 else [""] * len(lines), parse_math=False)
            axes.tick_params(axis="y", length=0, labelsize=style.MEDIUM)
            axes.set_ylim(len(lines) - 0.5, -0.5)
    measured = defaultdict(list)
    for panels, row in zip(grid_of_panels, grid, strict=True):
        for panel, axes in zip(panels, row, strict=False):
            measured[panel.xlabel].append(axes)
    for alike in measured.values():
        _share_limits(alike, limits)
    return figure


def _draw(axes: Axes, panel: Panel, series: Sequence[style.Mark], connect: bool, deviations: bool) -> None:
    offsets = (np.arange(len(series)) - (len(series) - 1) / 2) * 0.8 / max(len(series), 1)
    num_lines = len(panel.values[0])
    for line in range(0, num_lines, 2):
        axes.axhspan(line - 0.5, line + 0.5, color="#808080", alpha=0.1, linewidth=0, zorder=0)
    if connect:
        for line in range(num_lines):
            joined = [
                (own[line].mean, line + offset)
                for own, offset in zip(panel.values, offsets, strict=True)
                if own[line] is not None
            ]
            axes.plot(*np.reshape(joined, (-1, 2)).T, color="#808080", linewidth=1, zorder=1)
    for mark, own, offset in zip(series, panel.values, offsets, strict=True):
        shown = [(line + offset, score) for line, score in enumerate(own) if score is not None]
        y, means = [place for place, _ in shown], [score.mean for _, score in shown]
        axes.hlines(
            y, [score.low for _, score in shown], [score.high for _, score in shown], color=mark.colour, linewidth=1.3
        )
        if deviations:
            spread = [(place, score) for place, score in shown if score.deviation is not None]
            axes.hlines(
                [place for place, _ in spread],
                [score.mean - score.deviation for _, score in spread],
                [score.mean + score.deviation for _, score in spread],
                color=mark.colour,
                linewidth=style.THICK,
                alpha=0.5,
                label=style.OVER_TRIALS,
            )
        axes.plot(means, y, linestyle="none", label=mark.label, **mark.points)
    panel.reference(axes)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.grid(axis="x", **style.GRID)
    axes.set_xlabel(panel.xlabel, fontsize=style.MEDIUM, color=style.INK, labelpad=2)
    style.title(axes, panel.title)


def _share_limits(alike: Sequence[Axes], limits: tuple[float, float]) -> None:
    low, high = np.array([axes.get_xlim() for axes in alike]).T
    margin = 0.02 * (limits[1] - limits[0])
    # Points at the ends are shown whole.
    room = 0.03 * (high.max() - low.min())
    for axes in alike:
        axes.set_xlim(max(low.min() - room, limits[0] - margin), min(high.max() + room, limits[1] + margin))
