"""Numbers over what was varied: panels of lines, a line for each variant of a backbone, or whatever else is compared."""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter, NullLocator

from vitprobe_jax.report.figures import style
from vitprobe_jax.report.measured.figures.looks import Looks, dash
from vitprobe_jax.report.measured.rows import Row, drops_of, values_by, variants_of

COLUMNS = 3
_HEIGHT = 1.45  # inches of a panel
_LEFT = 0.56
"""Inches for the name of the numbers' axis and for numbers of four letters, as 0.25."""
BOUND = "upper bound"
_TICKS_OF = {"nbins": 5, "steps": [1, 2, 5, 10]}


Point = tuple[int | float, float]
"""A place along x and a number."""


@dataclasses.dataclass(frozen=True)
class Line:
    """One line.

    Attributes:
        label: of whom.
        mark: its colour and markers.
        dashes: of the line, as matplotlib takes them.
        points: places along x, and numbers.
        thick: whether it stands out.
        spread: how far to either side of each point its interval goes, drawn as a band; () without.
    """

    label: str
    mark: style.Mark
    dashes: str | tuple
    points: Sequence[Point]
    thick: bool = False
    spread: Sequence[float] = ()


@dataclasses.dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        title: above it.
        xlabel: what was varied.
        ylabel: what was measured; panels that measured the same share their axis.
        lines: in it.
        ticks: names of the places 0, 1, ... along x; None where x is a number.
        bounds: dotted lines that no other can cross, each of places and numbers.
        logarithmic: whether the numbers' axis is.
        symlog: whether the axis of what was varied is, from 1 on: for numbers that begin with 0 and grow by factors.
        markers: whether points are marked; not where they are hundreds.
    """

    title: str
    xlabel: str
    ylabel: str
    lines: Sequence[Line]
    ticks: Sequence[str] | None = None
    bounds: Sequence[Sequence[Point]] = ()
    logarithmic: bool = False
    symlog: bool = False
    markers: bool = True


def line_figure(panels: Sequence[Panel], keys: Sequence[Line2D], *, columns: int = COLUMNS) -> Figure:
    """Panels in rows under one legend.

    Args:
        panels: row by row.
        keys: the legend's entries; that of the bound is added where a panel has one.
        columns: panels of a row, at most as many as there are.
    """
    columns = min(columns, len(panels))
    left = _LEFT + max(0.0, style.widest(_numbers(panels), style.SMALL) - style.text_width("0.25", style.SMALL))
    if any(panel.bounds for panel in panels):
        keys = [*keys, Line2D([], [], color=style.INK, linewidth=1.1, linestyle=":", label=BOUND)]
    figure, grid = style.panels(
        -(-len(panels) // columns),
        columns,
        height=_HEIGHT if columns < COLUMNS else 1.2,
        left=left,
        bottom=0.46,
        top=0.26,
        gap=0.3 if len({panel.ylabel for panel in panels[:columns]}) == 1 else left,
        keys=keys,
    )
    style.hide(grid.flat[len(panels) :])
    shared = defaultdict(list)
    for i, (axes, panel) in enumerate(zip(grid.flat, panels, strict=False)):
        _draw(axes, panel)
        shared[panel.ylabel].append((axes, panel))
        if i % columns == 0 or panels[i - 1].ylabel != panel.ylabel:
            axes.set_ylabel(panel.ylabel, fontsize=style.MEDIUM, color=style.INK)
    for alike in shared.values():
        _share_axis([axes for axes, _ in alike], logarithmic=alike[0][1].logarithmic)
    return figure


def variant_lines(
    rows: Sequence[Row],
    looks: Looks,
    place: Callable[[Row], int | float | None],
    *,
    drops: Sequence[int],
    spread: Callable[[Row], float] = lambda row: 0.0,
) -> list[Line]:
    """A line for each variant of each shown backbone.

    Args:
        rows: of one panel.
        looks: of backbones.
        place: where a row stands along x; None leaves it out.
        drops: the variants of all panels, which their dashes hang on.
        spread: how far to either side of its number the interval of a row goes.
    """
    rows = looks.shown(rows)
    found = defaultdict(list)
    for row in rows:
        if (x := place(row)) is not None:
            found[row.backbone, row.dropped].append((x, row.value, spread(row)))
    lines = []
    for (backbone, dropped), name in variants_of(rows).items():
        own = sorted(found[backbone, dropped])
        if own:
            away = [half for *_, half in own]
            lines.append(
                Line(
                    name,
                    looks.marks[backbone],
                    dash(dropped, drops),
                    [(x, y) for x, y, _ in own],
                    spread=away if any(away) else (),
                )
            )
    return lines


def over(
    rows: Sequence[Row],
    looks: Looks,
    *,
    title: str,
    xlabel: str,
    ylabel: str,
    field: str,
    order: Sequence,
    names: Callable[[object], str] = "{:g}".format,
    drops: Sequence[int] | None = None,
    bound: Mapping[object, float] | None = None,
) -> Panel:
    """A panel over the values of a column, at equal distances from each other.

    Args:
        rows: of one kind.
        looks: of backbones.
        title: of the panel.
        xlabel: what was varied.
        ylabel: what was measured.
        field: the column.
        order: its values from left to right.
        names: what a value is called.
        drops: the variants of all panels; those of the rows if None.
        bound: upper bounds by value.
    """
    places = {value: i for i, value in enumerate(order)}
    drops = drops_of(rows) if drops is None else drops
    lines = variant_lines(rows, looks, lambda row: places.get(getattr(row, field)), drops=drops)
    limits = [(places[value], limit) for value, limit in (bound or {}).items() if value in places]
    bounds = [sorted(limits)] if limits else []
    return Panel(title, xlabel, ylabel, lines, [names(value) for value in order], bounds)


def mean_bound(rows: Sequence[Row], field: str) -> dict[object, float]:
    """The upper bound by a column: the same for every backbone but for how its patches lie, so their mean."""
    return {place: value for (place,), value in values_by(rows, field).items()}


def _draw(axes: Axes, panel: Panel) -> None:
    for line in panel.lines:
        points = [(x, y) for x, y in line.points if not panel.logarithmic or y > 0]
        if not points:
            continue
        # Of points that no line joins, nothing else would be left.
        marked = panel.markers and (len(points) <= 30 or line.dashes == "none")
        marks = line.mark.points if marked else {"color": line.mark.colour}
        width = 2.4 if line.thick else 1.6
        axes.plot(*zip(*points, strict=True), linewidth=width, linestyle=line.dashes, label=line.label, **marks)
        if line.spread:
            x, y = np.transpose(line.points)
            away = np.asarray(line.spread)
            axes.fill_between(x, y - away, y + away, color=line.mark.colour, alpha=0.2, linewidth=0)
    for bound in panel.bounds:
        axes.plot(*zip(*bound, strict=True), linewidth=1.1, linestyle=":", color=style.INK, label=BOUND)
    if panel.logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
    if panel.symlog:
        axes.set_xscale("symlog", linthresh=1, linscale=0.4)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter("{x:g}")
    elif panel.ticks is None:
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], integer=True))
    else:
        axes.set_xlim(-0.25, max(len(panel.ticks) - 0.75, 0.25))
        _name_ticks(axes, panel.ticks)
    axes.grid(axis="y", **style.GRID)
    axes.set_xlabel(panel.xlabel, fontsize=style.MEDIUM, color=style.INK, labelpad=2)
    style.title(axes, panel.title)


def _numbers(panels: Sequence[Panel]) -> list[str]:
    """About what will stand beside the axes: their lowest and highest numbers, with as many decimals as ticks need."""
    shared: dict[str, list[float]] = defaultdict(list)
    for panel in panels:
        if not panel.logarithmic:
            shared[panel.ylabel] += [
                y for points in (*(line.points for line in panel.lines), *panel.bounds) for _, y in points
            ]
    texts = []
    for values in filter(None, shared.values()):
        ticks = MaxNLocator(**_TICKS_OF).tick_values(min(values), max(values))
        decimals = max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9))
        texts += [f"{y:.{decimals}f}" for y in (ticks[0], ticks[-1])]
    return texts


def _name_ticks(axes: Axes, names: Sequence[str]) -> None:
    """A tick at every place, named where there is room from the last one down."""
    low, high = axes.get_xlim()
    pitch = axes.get_position().width * axes.figure.get_figwidth() / (high - low)
    shown, free = {}, math.inf
    for i, name in reversed(list(enumerate(names))):
        half = style.text_width(name, style.SMALL) / 2
        if pitch * i + half <= free:
            shown[i] = name
            free = pitch * i - half - 0.06
    axes.xaxis.set_major_locator(FixedLocator(range(len(names))))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(range(len(names)), [shown.get(i, "") for i in range(len(names))], parse_math=False)


def _share_axis(alike: Sequence[Axes], *, logarithmic: bool) -> None:
    low, high = zip(*(axes.get_ylim() for axes in alike), strict=True)
    for axes in alike:
        axes.set_ylim(min(low), max(high))
        if not logarithmic:
            axes.yaxis.set_major_locator(MaxNLocator(**_TICKS_OF))
