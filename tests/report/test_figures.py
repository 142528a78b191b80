"""Figures show the summaries: one bar or line for each, at their heights."""

import base64
import itertools
import subprocess
import sys
import xml.etree.ElementTree

import numpy as np
import pytest
from matplotlib.collections import PolyCollection

from vitprobe_jax.metrics.results import METRICS, make_table
from vitprobe_jax.report import figures, tables


def summaries(results_rows, **options):
    return tables.summarise(make_table(results_rows(**options)))


def data_lines(axes):
    return [line for line in axes.lines if line.get_label() != figures.REFERENCE]


def bar_heights(figure):
    return [bar.get_height() for bar in figure.axes[0].patches]


@pytest.mark.parametrize("metric", METRICS)
def test_one_bar_for_each_backbone_and_token(results_rows, metric):
    rows = summaries(results_rows, rules=("hyperplane",))
    figure = figures.token_bars(rows, metric=metric)
    assert sorted(bar_heights(figure)) == sorted(row.scores[metric].mean for row in rows)
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["q", "k", "x2"]
    reference = next(line for line in figure.axes[0].lines if line.get_label() == figures.REFERENCE)
    assert set(reference.get_ydata()) == {figures.ALWAYS_POSITIVE[metric]}


def test_bars_do_not_overlap_and_stand_over_their_token(results_rows):
    rows = summaries(results_rows, rules=("hyperplane",))
    bars = sorted(figures.token_bars(rows, metric="f1").axes[0].patches, key=lambda bar: bar.get_x())
    assert all(a.get_x() + a.get_width() <= b.get_x() for a, b in itertools.pairwise(bars))
    for token, tick in zip(("q", "k", "x2"), range(3), strict=True):
        heights = {bar.get_height() for bar in bars if abs(bar.get_x() + bar.get_width() / 2 - tick) < 0.5}
        assert heights == {row.scores["f1"].mean for row in rows if row.token == token}


def test_only_controls_are_hatched_and_named_so(results_rows):
    figure = figures.token_bars(summaries(results_rows, rules=("hyperplane",)), metric="f1")
    hatched = {container.get_label(): {bar.get_hatch() for bar in container} for container in figure.axes[0].containers}
    assert hatched == {"dino_vits16": {None}, "tiny_mae (untrained control)": {"///"}}


def test_whiskers_only_where_there_are_trials(results_rows):
    cosine = figures.token_bars(summaries(results_rows, rules=("cosine",), shots=(5,)), metric="f1")
    hyperplane = figures.token_bars(summaries(results_rows, rules=("hyperplane",)), metric="f1")
    # Each backbone's bars bring one collection of whiskers.
    assert (len(cosine.axes[0].collections), len(hyperplane.axes[0].collections)) == (2, 0)


def test_cells_without_scores_leave_gaps(results_rows):
    skip = {"skip": lambda row: "rare" if row["backbone"] == "tiny_mae" else None}
    assert (
        len(bar_heights(figures.token_bars(summaries(results_rows, rules=("hyperplane",), **skip), metric="f1"))) == 3
    )
    lines = figures.shots_lines(summaries(results_rows, rules=("cosine",), **skip), metric="f1")
    assert [sum(len(line.get_xdata()) > 0 for line in data_lines(axes)) for axes in lines.axes] == [3, 0]


def test_bars_refuse_two_rows_of_one_place(results_rows):
    with pytest.raises(ValueError, match="choose one layer"):
        figures.token_bars(summaries(results_rows, rules=("hyperplane",), layers=(3, 11)), metric="f1")


@pytest.mark.parametrize("metric", METRICS)
def test_one_line_for_each_token_over_shots_with_its_band(results_rows, metric):
    rows = summaries(results_rows, rules=("cosine",), shots=(1, 5, 50))
    figure = figures.shots_lines(rows, metric=metric)
    assert [axes.get_title() for axes in figure.axes] == ["dino_vits16", "tiny_mae (untrained control)"]
    for axes, backbone in zip(figure.axes, ("dino_vits16", "tiny_mae"), strict=True):
        assert [line.get_label() for line in data_lines(axes)] == ["q", "k", "x2"]
        assert axes.get_xscale() == "log"
        assert list(axes.get_xticks()) == [1, 5, 50]
        bands = [band for band in axes.collections if isinstance(band, PolyCollection)]
        for line, band in zip(data_lines(axes), bands, strict=True):
            own = [row for row in rows if (row.backbone, row.token) == (backbone, line.get_label())]
            means = np.array([row.scores[metric].mean for row in own])
            deviations = np.array([row.scores[metric].deviation for row in own])
            assert list(line.get_xdata()) == [1, 5, 50]
            np.testing.assert_array_equal(line.get_ydata(), means)
            edges = band.get_paths()[0].vertices[:, 1]
            for expected in (*(means - deviations), *(means + deviations)):
                assert np.isclose(edges, expected, rtol=0, atol=1e-12).any()


def test_one_line_for_each_token_over_layers_without_bands(results_rows):
    rows = summaries(results_rows, rules=("hyperplane",), layers=(3, 7, 11))
    figure = figures.layer_lines(rows, metric="recall")
    for axes in figure.axes:
        assert [list(line.get_xdata()) for line in data_lines(axes)] == [[3, 7, 11]] * 3
        assert list(axes.get_xticks()) == [3, 7, 11]
        assert not axes.collections


def test_names_are_shown_as_they_are(results_rows):
    """Dollar signs are no mathematics, and broken mathematics raises no error."""
    rows = results_rows(shots=(1, 5))
    named = [row | {"backbone": row["backbone"].replace("dino_vits16", "$x^$ & <b>")} for row in rows]
    table = tables.summarise(make_table(named))
    for figure in (
        figures.token_bars([row for row in table if row.rule == "hyperplane"], metric="f1"),
        figures.shots_lines([row for row in table if row.rule == "cosine"], metric="f1"),
    ):
        assert figures.svg_data_uri(figure).startswith("data:image/svg+xml;base64,")


def test_many_backbones_have_colours_of_their_own(results_rows):
    rows = results_rows(rules=("hyperplane",))
    many = [row | {"backbone": f"{row['backbone']} {i}"} for i in range(6) for row in rows]
    figure = figures.token_bars(tables.summarise(make_table(many)), metric="f1")
    assert len({container[0].get_facecolor() for container in figure.axes[0].containers}) == 12


def test_the_image_is_well_formed_and_the_same_every_time(results_rows):
    rows = summaries(results_rows, rules=("hyperplane",))
    uris = {figures.svg_data_uri(figures.token_bars(rows, metric="f1")) for _ in range(2)}
    assert len(uris) == 1
    svg = base64.b64decode(uris.pop().partition("base64,")[2])
    assert xml.etree.ElementTree.fromstring(svg).tag.endswith("svg")


def test_no_display_and_no_pyplot_are_touched():
    """In a process of its own, since another test may import pyplot."""
    code = "import sys, vitprobe_jax.report.page; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
