"""How far each representation's weights are from each other's."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from vitprobe_jax.report.figures import style
from vitprobe_jax.report.figures.heatmap import BAR, colour_bar, draw_cells, shared_norm

_ROW = 0.27  # inches
_SIDE_BY_SIDE = 2


def divergence_figure(panels: Mapping[str, Float[np.ndarray, "K K"]], names: Sequence[str]) -> Figure:
    """A panel for each backbone with KL(row || column) in every cell; all panels share their colours.

    Args:
        panels: by their titles, divergences; cells that are not finite stay empty.
        names: of rows, from top to bottom, and columns, numbered alike.
    """
    columns = min(len(panels), _SIDE_BY_SIDE)
    numbers = [str(i) for i in range(1, len(names) + 1)]
    keys = [
        Line2D(
            [],
            [],
            linestyle="none",
            marker=f"${number}$",
            color=style.INK,
            markersize=4.6,
            markeredgewidth=0,
            label=name,
        )
        for number, name in zip(numbers, names, strict=True)
    ]
    figure, grid = style.panels(
        -(-len(panels) // columns),
        columns,
        height=_ROW * len(names),
        left=0.24,
        bottom=0.42,
        top=0.28,
        right=BAR + 0.12,
        keys=keys,
    )
    norm = shared_norm(np.concatenate([values.ravel() for values in panels.values()]))
    places = range(len(names))
    for axes, (title, values) in zip(grid.flat, panels.items(), strict=False):
        draw_cells(axes, values, norm)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xticks(places, numbers)
        axes.set_yticks(places, numbers)
        axes.set_xlabel("from", fontsize=style.MEDIUM, color=style.INK, labelpad=2)
        style.title(axes, title)
    style.hide(grid.flat[len(panels) :])
    colour_bar(figure, grid[0, -1], norm, "KL, nats")
    return figure
