"""Shares that sum to one over what was varied: stacked bars, with a line at what could be reached."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from vitprobe_jax.report.figures import style
from vitprobe_jax.report.measured.figures.lines import BOUND

_LEFT = 0.3
_HEIGHT = 0.72  # inches of a panel
_BOUND_COLOUR = "#D55E00"  # seen on every bar, on light and on dark ground
_BAR = 0.82  # of the room of a place


@dataclasses.dataclass(frozen=True)
class Stack:
    """Shares at some places.

    Attributes:
        ticks: names of the places.
        shares: by kind of share, a number for each place.
        bound: upper bound of the first kind at each place; () without one.
    """

    ticks: Sequence[str]
    shares: Mapping[str, Sequence[float]]
    bound: Sequence[float] = ()


def stack_figure(
    grid_of_stacks: Mapping[str, Mapping[str, Stack]], colours: Mapping[str, str], labels: Mapping[str, str]
) -> Figure:
    """Panels in a grid under one legend.

    Args:
        grid_of_stacks: by the names of rows, then of columns; a row may lack some.
        colours: of each kind of share, from the bottom up.
        labels: of each kind of share.
    """
    columns = list(dict.fromkeys(name for row in grid_of_stacks.values() for name in row))
    keys = [Patch(facecolor=colour, label=labels[kind]) for kind, colour in colours.items()]
    if any(stack.bound for row in grid_of_stacks.values() for stack in row.values()):
        keys.append(Line2D([], [], color=_BOUND_COLOUR, linewidth=1.6, label=BOUND))
    figure, grid = style.panels(
        len(grid_of_stacks),
        len(columns),
        height=_HEIGHT,
        left=_LEFT,
        bottom=0.24,
        top=0.42,
        gap=0.1,
        keys=keys,
    )
    for (name, row), row_of_axes in zip(grid_of_stacks.items(), grid, strict=True):
        first = row_of_axes[0]
        place = first.get_position()
        height, width = figure.get_figheight(), figure.get_figwidth()
        figure.text(
            0.06 / width,
            place.y1 + 0.27 / height,
            style.shorten(name, style.WIDTH - 0.2, style.MEDIUM),
            fontsize=style.MEDIUM,
            color=style.INK,
            weight="bold",
            parse_math=False,
        )
        for column, axes in zip(columns, row_of_axes, strict=True):
            if column not in row:
                style.hide([axes])
                continue
            _draw(axes, row[column], colours)
            axes.set_title(column, fontsize=style.SMALL, color=style.INK, pad=3, loc="left", parse_math=False)
            axes.set_yticks([0, 0.5, 1], ["0", ".5", "1"] if axes is first else [""] * 3)
    return figure


def _draw(axes: Axes, stack: Stack, colours: Mapping[str, str]) -> None:
    places = np.arange(len(stack.ticks))
    left, right = places - _BAR / 2, places + _BAR / 2
    floor = np.zeros(len(places))
    for kind, colour in colours.items():
        top = floor + np.asarray(stack.shares.get(kind, np.zeros(len(places))))
        # One artist for all bars of a colour: figures have thousands of bars.
        corners = np.stack([[left, floor], [right, floor], [right, top], [left, top]]).transpose(2, 0, 1)
        axes.add_collection(PolyCollection(corners, facecolor=colour, linewidth=0.4, edgecolor="white", label=kind))
        floor = top
    if stack.bound:
        axes.hlines(stack.bound, left - 0.05, right + 0.05, color=_BOUND_COLOUR, linewidth=1.6, label=BOUND)
    axes.set_xticks(places, stack.ticks, parse_math=False)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.52, len(places) - 0.48)
    axes.set_ylim(0, 1.02)
