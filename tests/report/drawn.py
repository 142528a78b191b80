"""Rows for figures, what their numbers are by plain loops, and what a figure shows of them."""

import statistics

import numpy as np
from matplotlib.collections import LineCollection

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


def whiskers(axes):
    """Both ends of every whisker, as they were drawn."""
    segments = [
        np.asarray(segment)
        for lines in axes.collections
        if isinstance(lines, LineCollection)
        for segment in lines.get_segments()
    ]
    return [(segment[0], segment[1]) for segment in segments]
