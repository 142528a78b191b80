"""One number for each backbone and whatever is compared: points on a line for each backbone, however many there are."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from vitprobe_jax.metrics.statistics import Interval
from vitprobe_jax.report.figures import style
from vitprobe_jax.report.figures.points import Panel, point_panels
from vitprobe_jax.report.measured.figures.looks import MARKERS

_SIDE_BY_SIDE = 2


def dot_figure(
    panels: Mapping[str, Mapping[tuple[str, str], float | Interval]],
    lines: Sequence[str],
    series: Sequence[str],
    xlabels: Mapping[str, str],
) -> Figure:
    """Panels with the same lines.

    Args:
        panels: by their titles, numbers by (line, series), with intervals or without.
        lines: backbones from top to bottom.
        series: what is compared; they differ in colour and marker.
        xlabels: what each panel measures; those that measure the same share their axis.
    """
    marks = [
        style.Mark(
            name,
            style.BACKBONE_COLOURS[i % len(style.BACKBONE_COLOURS)],
            MARKERS[(i + i // len(MARKERS)) % len(MARKERS)],
        )
        for i, name in enumerate(series)
    ]
    drawn = [
        Panel(
            title,
            xlabels[title],
            [[_point(values.get((line, name))) for line in lines] for name in series],
            lambda axes: None,
        )
        for title, values in panels.items()
    ]
    rows = [drawn[at : at + _SIDE_BY_SIDE] for at in range(0, len(drawn), _SIDE_BY_SIDE)]
    keys = [style.points_key(mark, line=False) for mark in marks]
    return point_panels(rows, lines, marks, keys=keys, limits=(float("-inf"), float("inf")))


def _point(value: float | Interval | None) -> Interval | None:
    return value if value is None or isinstance(value, Interval) else Interval(value, value, value)
