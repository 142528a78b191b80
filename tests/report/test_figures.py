"""Figures show the numbers of the table."""

import itertools
import statistics

import numpy as np
import pytest
from matplotlib.collections import PolyCollection, QuadMesh

from tests.report.conftest import BACKBONES, CONCEPTS
from tests.report.drawn import data_lines, full_rows, heights, mean, points, whiskers
from vitprobe_jax.backbones.untrained import OBJECTIVE as UNTRAINED
from vitprobe_jax.errors import InputError
from vitprobe_jax.metrics.results import METRICS, make_table
from vitprobe_jax.report import figures, tables
from vitprobe_jax.report.figures import style
from vitprobe_jax.types import TOKENS

BARS = [
    (figures.accuracy_by_token, ("accuracy",), "hyperplane"),
    (figures.precision_recall_f1_by_token, ("precision", "recall", "f1"), "hyperplane"),
    (figures.precision_recall_by_token, ("precision", "recall"), "hyperplane"),
    (figures.accuracy_f1_by_token, ("accuracy", "f1"), "hyperplane"),
    (figures.cosine_by_token, ("accuracy", "f1", "precision", "recall"), "cosine"),
    (figures.cosine_by_token, ("accuracy", "f1", "precision", "recall"), "cosine_centered"),
]


@pytest.mark.parametrize(("draw", "metrics", "rule"), BARS)
def test_bars_have_the_heights_of_the_table(results_rows, draw, metrics, rule):
    rows = full_rows(results_rows, layers=(3, 11))
    figure = draw(make_table(rows), rule=rule)
    shots = None if rule == "hyperplane" else 5
    place = {"layer": 11, "rule": rule, "shots": shots, "evaluation": "patch"}
    assert [axes.get_ylabel() for axes in figure.axes] == [tables.METRIC_LABELS[metric] for metric in metrics]
    for axes, metric in zip(figure.axes, metrics, strict=True):
        assert [label.get_text() for label in axes.get_xticklabels()] == ["q", "k", "x2"]
        drawn = heights(axes)
        for (backbone, _), label in zip(BACKBONES, ("dino_vits16", "tiny_mae (control)"), strict=True):
            expected = [mean(rows, metric, backbone=backbone, token=token, **place) for token in ("q", "k", "x2")]
            np.testing.assert_allclose(drawn[label], expected, rtol=0, atol=1e-12)
        (reference,) = [line for line in axes.lines if line.get_label() == style.REFERENCE]
        assert set(reference.get_ydata()) == {figures.ALWAYS_POSITIVE[metric]}


def test_whiskers_are_the_intervals_over_concepts(results_rows):
    table = make_table(results_rows(rules=("hyperplane",)))
    axes = figures.accuracy_by_token(table).axes[0]
    drawn = {(low[1], high[1]) for low, high in whiskers(axes)}
    assert drawn == {(row.scores["accuracy"].low, row.scores["accuracy"].high) for row in tables.summarise(table)}


@pytest.mark.parametrize(
    ("draw", "along", "by_category"),
    [(figures.cosine_by_token, 1, False), (figures.cosine_by_category, 0, True)],
)
def test_cosine_figures_have_deviations_over_trials_beside_intervals_over_concepts(
    results_rows, draw, along, by_category
):
    """As the paper's Figures 7, 12 and 13: one sample deviation over trials, of the mean over concepts."""
    rows = results_rows(rules=("cosine",), shots=(5,), trials=4)
    figure = draw(make_table(rows))
    drawn = {tuple(np.round([low[along], high[along]], 9)) for low, high in whiskers(figure.axes[0], over_trials=True)}
    expected = set()
    for backbone, _ in BACKBONES[: 1 if by_category else 2]:
        for token in ("q", "k", "x2"):
            for category in ("object", "part", "material") if by_category else (None,):
                own = [row for row in rows if (row["backbone"], row["token"]) == (backbone, token)]
                own = [row for row in own if category in (None, row["category"])]
                trials = [statistics.fmean(row["accuracy"] for row in own if row["trial"] == i) for i in range(4)]
                center, away = statistics.fmean(trials), statistics.stdev(trials)
                expected.add(tuple(np.round([center - away, center + away], 9)))
    assert drawn == expected
    intervals = whiskers(figure.axes[0])
    assert len(intervals) == len(drawn)
    assert not {tuple(np.round([low[along], high[along]], 9)) for low, high in intervals} & drawn
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {style.OVER_CONCEPTS, style.OVER_TRIALS} <= set(labels)


def test_figures_of_several_seeds_say_that_intervals_cover_them(results_rows):
    rows = results_rows(rules=("cosine",), shots=(5,), trials=2)
    table = make_table(rows + [row | {"seed": 1} for row in results_rows(rules=("cosine",), shots=(5,), seed=1)])
    for draw in (figures.cosine_by_token, figures.cosine_by_category):
        labels = [text.get_text() for text in draw(table).legends[0].get_texts()]
        assert {style.OVER_SEEDS_TOO, style.OVER_TRIALS} <= set(labels)
    for shown in figures.illustrate(table, None):
        if shown.section in ("tokens", "categories"):
            assert (
                "whiskers: 95% intervals over concepts and seeds; thick: one standard deviation over the trials of all"
                in (shown.caption)
            )


def test_without_several_trials_no_deviation_is_drawn(results_rows):
    for rows in (results_rows(rules=("hyperplane",)), results_rows(rules=("cosine",), trials=1)):
        figure = figures.scores_by_token(make_table(rows), ("accuracy",), rule=rows[0]["rule"])
        assert whiskers(figure.axes[0], over_trials=True) == []
        assert style.OVER_TRIALS not in [text.get_text() for text in figure.legends[0].get_texts()]


def test_bars_do_not_overlap_and_stand_over_their_token(results_rows):
    table = make_table(results_rows(rules=("hyperplane",)))
    axes = figures.accuracy_by_token(table).axes[0]
    bars = sorted(axes.patches, key=lambda bar: bar.get_x())
    assert all(a.get_x() + a.get_width() <= b.get_x() for a, b in itertools.pairwise(bars))
    for place, token in enumerate(("q", "k", "x2")):
        here = {bar.get_height() for bar in bars if abs(bar.get_x() + bar.get_width() / 2 - place) < 0.5}
        assert here == {row.scores["accuracy"].mean for row in tables.summarise(table) if row.token == token}


def test_bars_stay_wide_enough_to_be_seen(results_rows):
    """Of all families at once, too: five hundredths of an inch, about what a whisker and the hatch beside it need."""
    for count in (2, 8, 20):
        rows = results_rows(
            rules=("hyperplane",),
            tokens=TOKENS,
            backbones=tuple((f"b{i}", "trained") for i in range(count)),
            concepts=CONCEPTS[:1],
        )
        figure = figures.accuracy_by_token(make_table(rows))
        (axes,) = figure.axes
        inches = axes.get_position().width * figure.get_figwidth() / np.ptp(axes.get_xlim())
        assert min(bar.get_width() for bars in axes.containers for bar in bars) * inches > 0.05
        assert figure.get_figwidth() == style.WIDTH * (2 if count == 20 else 1)


def test_the_numbers_above_bars_are_theirs(results_rows):
    rows = results_rows(rules=("hyperplane",))
    axes = figures.accuracy_by_token(make_table(rows)).axes[0]
    written = sorted(text.get_text() for text in axes.texts)
    assert written == sorted(f"{bar.get_height():.2f}" for bar in axes.patches)


def test_skipped_cells_leave_gaps(results_rows):
    rows = full_rows(results_rows, skip=lambda row: "rare" if row["backbone"] == "tiny_mae" else None, layers=(3, 11))
    table = make_table(rows)
    bars = figures.accuracy_by_token(table).axes[0]
    assert {label: len(drawn) for label, drawn in heights(bars).items()} == {"dino_vits16": 3, "tiny_mae (control)": 0}
    assert [text.get_text() for text in bars.texts].count("\N{EN DASH}") == 3
    control = figures.scores_over_shots(table).axes[2]
    assert all(np.isnan(line.get_ydata()).all() for line in data_lines(control))
    heatmap = figures.layer_token_heatmap(table).axes[1]
    (mesh,) = [one for one in heatmap.collections if isinstance(one, QuadMesh)]
    assert mesh.get_array().mask.all()
    assert not heatmap.texts
    categories = figures.f1_by_category(table).axes
    assert all(len(x) == 3 for x in points(categories[0]).values())
    assert all(x == [] for x in points(categories[1]).values())


def test_lines_over_shots_break_where_concepts_were_skipped(results_rows):
    rows = results_rows(rules=("cosine",), shots=(1, 5, 50), skip=lambda row: "rare" if row["shots"] == 5 else None)
    for axes in figures.scores_over_shots(make_table(rows)).axes:
        for line in data_lines(axes):
            assert list(np.isnan(line.get_ydata())) == [False, True, False]


def test_lines_and_bands_over_shots(results_rows):
    rows = results_rows(rules=("cosine",), shots=(1, 5, 50))
    figure = figures.scores_over_shots(make_table(rows))
    panels = iter(figure.axes)
    for (backbone, _), metric in itertools.product(BACKBONES, ("accuracy", "f1")):
        axes = next(panels)
        assert axes.get_title(loc="left").startswith(backbone)
        assert axes.get_ylabel() == tables.METRIC_LABELS[metric]
        assert axes.get_xscale() == "log"
        assert list(axes.get_xticks()) == [1, 5, 50]
        bands = [band for band in axes.collections if isinstance(band, PolyCollection)]
        for token, line, band in zip(("q", "k", "x2"), data_lines(axes), bands, strict=True):
            assert line.get_label() == token
            means = [mean(rows, metric, backbone=backbone, token=token, shots=s) for s in (1, 5, 50)]
            np.testing.assert_allclose(line.get_ydata(), means, rtol=0, atol=1e-12)
            for s, center in zip((1, 5, 50), means, strict=True):
                trials = [mean(rows, metric, backbone=backbone, token=token, shots=s, trial=t) for t in range(3)]
                deviation = statistics.stdev(trials)
                edges = band.get_paths()[0].vertices
                at = edges[np.isclose(edges[:, 0], s), 1]
                np.testing.assert_allclose([at.min(), at.max()], [center - deviation, center + deviation], atol=1e-12)


def test_single_trials_have_no_bands(results_rows):
    figure = figures.scores_over_shots(make_table(results_rows(rules=("cosine",), trials=1)))
    assert not any(isinstance(band, PolyCollection) for axes in figure.axes for band in axes.collections)


@pytest.mark.parametrize(
    ("draw", "metrics", "rule"),
    [
        (figures.f1_by_category, ("f1",), "hyperplane"),
        (figures.precision_recall_by_category, ("precision", "recall"), "hyperplane"),
        (figures.cosine_by_category, ("accuracy", "f1"), "cosine"),
    ],
)
def test_points_by_category(results_rows, draw, metrics, rule):
    rows = full_rows(results_rows, layers=(3, 11))
    figure = draw(make_table(rows), rule=rule)
    place = {"rule": rule, "layer": 11, "shots": None if rule == "hyperplane" else 5, "evaluation": "patch"}
    panels = iter(figure.axes)
    for (backbone, _), metric in itertools.product(BACKBONES, metrics):
        axes = next(panels)
        assert axes.get_xlabel() == tables.METRIC_LABELS[metric]
        for token in ("q", "k", "x2"):
            expected = [
                mean(rows, metric, backbone=backbone, token=token, category=category, **place)
                for category in ("material", "object", "part")
            ]
            np.testing.assert_allclose(points(axes)[token], expected, rtol=0, atol=1e-12)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        "material (1)",
        "object (2)",
        "part (1)",
    ]


def test_heatmap_shows_every_cell_and_frames_the_best(results_rows):
    rows = results_rows(rules=("hyperplane",), layers=(0, 5, 11))
    figure = figures.layer_token_heatmap(make_table(rows), metric="recall")
    for axes, (backbone, _) in zip(figure.axes, BACKBONES, strict=False):
        expected = np.array(
            [
                [mean(rows, "recall", backbone=backbone, token=token, layer=layer) for token in ("q", "k", "x2")]
                for layer in (0, 5, 11)
            ]
        )
        (mesh,) = [one for one in axes.collections if isinstance(one, QuadMesh)]
        np.testing.assert_allclose(mesh.get_array(), expected, rtol=0, atol=1e-12)
        assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "5", "11"]
        written = {text.get_position()[::-1]: text.get_text() for text in axes.texts}
        assert written == {place: f"{value:.2f}" for place, value in np.ndenumerate(expected)}
        (frame,) = axes.patches
        row, column = np.unravel_index(expected.argmax(), expected.shape)
        assert (frame.get_x() + 0.5, frame.get_y() + 0.5) == (column, row)


def test_centred_beside_plain(results_rows):
    rows = full_rows(results_rows)
    panels = iter(figures.centred_beside_plain(make_table(rows)).axes)
    for (backbone, _), metric in itertools.product(BACKBONES, ("accuracy", "f1")):
        drawn = points(next(panels))
        for label, rule in (("cosine", "cosine"), ("cosine, features centred", "cosine_centered")):
            place = {"backbone": backbone, "rule": rule, "shots": 5}
            expected = [mean(rows, metric, token=token, **place) for token in ("q", "k", "x2")]
            np.testing.assert_allclose(drawn[label], expected, rtol=0, atol=1e-12)


def test_pixels_beside_patches(results_rows):
    rows = full_rows(results_rows)
    panels = iter(figures.pixels_beside_patches(make_table(rows)).axes)
    for (backbone, _), metric in itertools.product(BACKBONES, ("accuracy", "f1")):
        drawn = points(next(panels))
        for label, evaluation in (("patches", "patch"), ("pixels", "pixel")):
            place = {"backbone": backbone, "rule": "hyperplane", "evaluation": evaluation}
            expected = [mean(rows, metric, token=token, **place) for token in ("q", "k", "x2")]
            np.testing.assert_allclose(drawn[label], expected, rtol=0, atol=1e-12)


def test_trained_less_its_own_control_over_shared_concepts(results_rows):
    backbones = (("untrained_dino", UNTRAINED), ("dino", "x"), ("untrained_mae", UNTRAINED), ("mae", "y"))
    rows = results_rows(
        rules=("hyperplane",),
        backbones=backbones,
        skip=lambda row: "rare" if row["backbone"] == "mae" and row["name"] == "sky" else None,
    )
    panels = iter(figures.trained_less_control(make_table(rows)).axes)
    for backbone, control in (("dino", "untrained_dino"), ("mae", "untrained_mae")):
        for metric in ("accuracy", "f1"):
            axes = next(panels)
            assert axes.get_title(loc="left") == f"{backbone} less {control}"
            shared = [row for row in rows if backbone == "dino" or row["name"] != "sky"]
            expected = [
                mean(shared, metric, backbone=backbone, token=token)
                - mean(shared, metric, backbone=control, token=token)
                for token in ("q", "k", "x2")
            ]
            np.testing.assert_allclose(points(axes)["difference"], expected, rtol=0, atol=1e-12)
            assert all(low[0] <= x <= high[0] for x, (low, high) in zip(expected, whiskers(axes), strict=True))


def test_controls_are_hollow_and_named_so(results_rows):
    axes = figures.accuracy_by_token(make_table(results_rows(rules=("hyperplane",)))).axes[0]
    filled = {bars.get_label(): {bar.get_facecolor()[3] > 0 for bar in bars} for bars in axes.containers}
    assert filled == {"dino_vits16": {True}, "tiny_mae (control)": {False}}


@pytest.mark.parametrize(
    ("draw", "complaint"),
    [
        (lambda table: figures.accuracy_by_token(table, task="classification"), "no results of classification"),
        (lambda table: figures.cosine_by_token(table), "no cosine templates"),
        (lambda table: figures.accuracy_by_token(table, layer=5), "no hyperplane templates at block 5"),
        (lambda table: figures.pixels_beside_patches(table), "counted on pixels"),
        (lambda table: figures.centred_beside_plain(table), "no cosine templates"),
        (lambda table: figures.trained_less_control(table.slice(0, 12)), "no untrained control"),
        (lambda table: figures.accuracy_by_token(table.slice(0, 0)), "no results"),
    ],
)
def test_what_is_not_there_is_refused_in_one_line(results_rows, draw, complaint):
    table = make_table(results_rows(rules=("hyperplane",)))
    with pytest.raises(InputError, match=complaint) as error:
        draw(table)
    assert "\n" not in str(error.value)


def test_another_layer_and_another_number_of_shots(results_rows):
    rows = results_rows(rules=("cosine",), layers=(3, 11))
    axes = figures.cosine_by_token(make_table(rows), layer=3, shots=1).axes[0]
    place = {"backbone": "dino_vits16", "layer": 3, "shots": 1}
    expected = [mean(rows, "accuracy", token=token, **place) for token in ("q", "k", "x2")]
    np.testing.assert_allclose(heights(axes)["dino_vits16"], expected, rtol=0, atol=1e-12)


def test_all_metrics_can_be_drawn_by_token(results_rows):
    table = make_table(results_rows(rules=("hyperplane",)))
    assert len(figures.scores_by_token(table, METRICS).axes) == 4
