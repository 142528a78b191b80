"""Figures of study 3 show the numbers of the table, and nothing of them is cut off."""

import math
import re

import numpy as np
import pytest

from tests.report.aggregation.conftest import views_of
from tests.report.aggregation.made import BACKBONES, Made
from tests.report.drawn import assert_readable
from vitprobe_jax.report.aggregation.figures.divergences import divergence_figure
from vitprobe_jax.report.aggregation.figures.overlays import (
    FOUND_BOX,
    TRUE_BOX,
    draw_boxes,
    overlay_figure,
    paint_weights,
)
from vitprobe_jax.report.aggregation.representations import in_order, title
from vitprobe_jax.report.measured.figures.lines import BOUND


def figure_of(whole, part, name):
    return next(one for one in whole.views[part].illustrations if one.name.endswith(name)).figure


def values(rows, by, **wanted):
    found = {row[by]: row["value"] for row in rows if all(row.get(name) == own for name, own in wanted.items())}
    return [found[place] for place in sorted(found)]


def test_flow_has_lines_bands_and_bounds(whole):
    figure = figure_of(whole, "attention", "flow")
    titles = ["[CLS] to itself", "Entropy of [CLS]", "Patches to themselves", "Entropy of patches"]
    assert [axes.get_title("left") for axes in figure.axes] == titles
    for axes, measure in zip(
        figure.axes, ("cls_to_cls", "cls_entropy", "patch_to_itself", "patch_entropy"), strict=True
    ):
        lines = {line.get_label(): line for line in axes.lines}
        of = {"part": "attention", "setting": "all heads", "measure": measure}
        for backbone in ("dino_vits16", "mae_vitb16"):
            expected = values(whole.rows, "layer", backbone=backbone, **of)
            np.testing.assert_array_equal(lines[backbone].get_ydata(), expected)
        assert ("ijepa_vith14" in lines) == measure.startswith("patch")
        assert (BOUND in lines) == measure.endswith("entropy")
        if BOUND in lines:
            np.testing.assert_allclose(lines[BOUND].get_ydata(), math.log(36), atol=1e-6)
        # The interval of the first backbone at the first block: 1.96 deviations of a mean over 400 images.
        (first,) = [
            row
            for row in whole.rows
            if all(row.get(name) == own for name, own in (of | {"backbone": "dino_vits16", "layer": 0}).items())
        ]
        band = axes.collections[0].get_paths()[0].vertices
        at_first = band[np.isclose(band[:, 0], 0)][:, 1]
        away = 1.96 * first["deviation"] / 20
        assert (at_first.min(), at_first.max()) == pytest.approx((first["value"] - away, first["value"] + away))


def test_every_head_is_a_mark(whole):
    figure = figure_of(whole, "attention", "heads")
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title("left") for axes in shown] == ["dino_vits16", "mae_vitb16", "untrained_tiny (control)"]
    of = {"part": "attention", "setting": "head", "measure": "cls_entropy", "backbone": "mae_vitb16"}
    points = next(line for line in shown[1].lines if line.get_label() == "head")
    expected = [row["value"] for row in whole.rows if all(row.get(name) == own for name, own in of.items())]
    np.testing.assert_array_equal(points.get_ydata(), expected)
    assert points.get_marker() == "_"
    assert len(expected) == 6 * 4


def test_dots_stand_at_the_best_numbers_with_deviations_over_seeds(whole):
    axes = figure_of(whole, "probing", "best").axes[0]
    dots = {line.get_label(): line for line in axes.lines if line.get_marker() not in ("None", "")}
    assert list(dots) == [
        title(name) for name in ("mean", "cls", "abmilp_1", "abmilp_2_relu", "abmilp_3_tanh", "attentive_12")
    ]
    of = {"part": "probing", "measure": "top1_best", "method": "cls"}
    expected = [row["value"] for row in whole.rows if all(row.get(name) == own for name, own in of.items())]
    np.testing.assert_array_equal(dots["[CLS]"].get_xdata(), expected)
    whiskers = [
        np.ptp(segment[:, 0]) for lines in axes.collections for segment in getattr(lines, "get_segments", list)()
    ]
    np.testing.assert_allclose(whiskers, 2 * 0.004)
    assert [label.get_text() for label in axes.get_yticklabels()][-1] == "untrained_tiny (control)"


def test_losses_are_drawn_at_the_best_rate(whole):
    axes = next(own for own in figure_of(whole, "probing", "losses").axes if own.get_title("left") == "AbMILP")
    of = {"part": "probing", "backbone": "mae_vitb16", "method": "abmilp_1"}
    (rate,) = [
        row["level"]
        for row in whole.rows
        if all(row.get(name) == own for name, own in (of | {"measure": "top1_best"}).items())
    ]
    line = next(line for line in axes.lines if line.get_label() == "mae_vitb16")
    expected = values(whole.rows, "level", measure="loss", name=f"{rate:g}", **of)
    np.testing.assert_array_equal(line.get_ydata(), expected)


def test_divergences_have_their_number_in_every_cell():
    values = np.array([[0.0, 0.25], [1.5, np.nan]])
    figure = divergence_figure({"one": values}, ["first", "second"])
    axes = figure.axes[0]
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    assert texts == {(0, 0): "0.00", (1, 0): "0.25", (0, 1): "1.50"}  # column, row
    low, high = axes.get_ylim()
    assert low > high  # the first line is the upper one
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["first", "second"]


def test_maps_are_bright_where_weights_are():
    weights = np.zeros((4, 4))
    weights[1, 2] = 0.7
    painted = paint_weights(np.full((64, 64, 3), 100, np.uint8), weights).sum(axis=2)
    place = np.unravel_index(painted.argmax(), painted.shape)
    assert place == pytest.approx((24, 40), abs=1)  # the middle of that patch
    assert painted[60, 4] == painted.min()
    even = paint_weights(np.full((64, 64, 3), 100, np.uint8), np.full((4, 4), 1 / 16))
    assert np.ptp(even[..., 0]) == 0


def test_boxes_are_outlined_at_their_scale_within_the_image():
    image = np.zeros((50, 100, 3), np.uint8)
    boxes = np.array([[20.0, 10.0, 120.0, 60.0], [0.0, 0.0, 400.0, 400.0], [5.0, 5.0, 5.0, 5.0]])
    drawn = draw_boxes(image, boxes, "#FF0000", 0.5)
    red = (drawn == (255, 0, 0)).all(axis=2)
    assert red[5, 10:60].all()
    assert red[29, 10:60].all()
    assert red[5:30, 10].all()
    assert red[5:30, 59].all()
    assert red[0].all()
    assert red[-1].all()
    assert not red[15:20, 20:50].any()
    assert TRUE_BOX != FOUND_BOX


def test_photographs_have_names_and_boxes_their_legend():
    images = np.zeros((2, 20, 30, 3), np.uint8)
    maps = {"AbMILP": np.ones((2, 2, 3), np.float32)}
    figure = overlay_figure(images, maps, names=["a.png", "b.png"])
    assert [text.get_text() for text in figure.axes[0].texts] == ["image", "AbMILP", "a.png", "b.png"]
    assert not figure.legends
    box = np.array([[2.0, 2, 9, 9]])
    figure = overlay_figure(images, maps, truth=[box, box], boxes={"AbMILP": np.concatenate([box, box])})
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["annotated box", "box of the map"]
    assert len(figure.axes[0].images) == 4


def test_no_text_is_cut_off_or_under_another(whole):
    for illustration in (one for view in whole.views.values() for one in view.illustrations):
        assert_readable(illustration)


def test_many_backbones_and_heads_stay_readable(tmp_path):
    backbones = tuple((f"a_backbone_of_a_long_name_{i}", "mae", "MAE") for i in range(14))
    made = Made(parts=("attention", "untrained"), backbones=backbones, depth=24, heads=16, grid=(14, 14), rates=(0.1,))
    for view in views_of(made, tmp_path).values():
        for illustration in view.illustrations:
            assert_readable(illustration)
            assert "7 of 14 backbones are shown" in illustration.caption or illustration.name.endswith("scores")


def test_captions_name_the_paper_and_alternative_texts_the_numbers(whole):
    for view in whole.views.values():
        for one in view.illustrations:
            assert "of the paper." in one.caption or one.name.endswith(("rates", "losses", "levels", "heads"))
            assert re.search(r"\d\.\d", one.alt), one.alt
            assert not re.search(r"\bnan\b|None|  |\.\.", one.caption + one.alt), (one.caption, one.alt)


def test_answers_begin_with_numbers_of_trained_backbones(whole):
    for part, view in whole.views.items():
        assert re.search(r"\d", view.answer.sentences[0]), part
        assert all(said.endswith(".") for said in view.answer.sentences), part
        assert view.answer.holder in [name for name, *_ in BACKBONES[:3]], part
    change = next(said for said in whole.views["probing"].answer.sentences if "instead of [CLS]" in said)
    assert re.search(
        r"changes top-1 accuracy by \+0\.\d+ for mae_vitb16 \(.*\) and \N{MINUS SIGN}0\.\d+ for dino_vits16", change
    )


def test_representations_have_an_order_and_names():
    names = [
        "odd",
        "attentive_12",
        "abmilp_2_relu",
        "central_patch",
        "abmilp_1",
        "cls",
        "attentive_1",
        "sa_abmilp",
        "mean",
    ]
    assert in_order(names) == [
        "mean", "cls", "central_patch", "abmilp_1", "abmilp_2_relu", "sa_abmilp", "attentive_1", "attentive_12", "odd"
    ]  # fmt: skip
    assert [title(name) for name in ("abmilp_1", "abmilp_3_gelu", "attentive_1", "odd_2_x")] == [
        "AbMILP",
        "AbMILP (depth 3, GELU)",
        "attentive (1 head)",
        "odd_2_x",
    ]
