"""Rows for figures, what their numbers are by plain loops, and what a figure shows of them."""

import statistics

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.text import Text

from vitprobe_jax.report.figures import style

ALL_RULES = ("hyperplane", "cosine", "cosine_centered")


def full_rows(results_rows, **options):
    """Rows under all rules unless others are given; hyperplanes of segmentation counted on pixels too."""
    rows = results_rows(**{"rules": ALL_RULES} | options)
    if options.get("task") == "classification" or "hyperplane" not in options.get("rules", ALL_RULES):
        return rows
    return rows + results_rows(**options | {"rules": ("hyperplane",), "evaluation": "pixel", "seed": 7})


def mean(rows, metric, **fields):
    """Over trials, then concepts, by loops; None where there are no scores."""
    own = [row for row in rows if all(row[name] == value for name, value in fields.items()) and row["skipped"] is None]
    concepts = sorted({(row["concept"], row["category"]) for row in own})
    if not concepts:
        return None
    return statistics.fmean(
        statistics.fmean(row[metric] for row in own if (row["concept"], row["category"]) == concept)
        for concept in concepts
    )


def heights(axes):
    """Bar heights by legend label, in order."""
    return {bars.get_label(): [bar.get_height() for bar in bars] for bars in axes.containers}


def points(axes):
    """Coordinates along x of each series that has a label."""
    return {line.get_label(): list(line.get_xdata()) for line in axes.lines if line.get_marker() not in ("None", "")}


def data_lines(axes):
    return [line for line in axes.lines if line.get_marker() not in ("None", "")]


def whiskers(axes, *, over_trials=False):
    """Both ends of every whisker, as they were drawn: intervals over concepts, or deviations over trials."""
    segments = [
        np.asarray(segment)
        for lines in axes.collections
        if isinstance(lines, LineCollection) and (lines.get_label() == style.OVER_TRIALS) == over_trials
        for segment in lines.get_segments()
    ]
    return [(segment[0], segment[1]) for segment in segments]


def assert_readable(illustration):
    """No text of a figure is cut off, small or under another."""
    figure = illustration.figure
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # places the legend
    renderer = canvas.get_renderer()
    box, (width, height) = figure.get_tightbbox(renderer), figure.get_size_inches()
    inside = box.x0 >= -0.01 and box.y0 >= -0.01 and box.x1 <= width + 0.01 and box.y1 <= height + 0.01
    assert inside, illustration.name
    hidden = hidden_labels(figure)
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    texts = [text for text in texts if id(text) not in hidden]
    assert texts
    assert all(text.get_fontsize() * 6 / width >= 8 for text in texts)
    # Boxes hold room for letters below the line: they may touch by a pixel or two.
    low, high = np.moveaxis([text.get_window_extent(renderer).padded(-2).get_points() for text in texts], 1, 0)
    overlap = np.all((low[:, None] < high[None]) & (low[None] < high[:, None]), axis=-1)
    pairs = [(texts[i].get_text(), texts[j].get_text()) for i, j in np.argwhere(np.triu(overlap, 1))]
    assert not pairs, illustration.name


def hidden_labels(figure):
    """Those of places that no panel needs, and ticks beyond the ends of their axis: no part of the picture."""
    hidden = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in axis.get_major_ticks():
                if not (axes.get_visible() and low <= tick.get_loc() <= high):
                    hidden |= {id(tick.label1), id(tick.label2)}
    return hidden
