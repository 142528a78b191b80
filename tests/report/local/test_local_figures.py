"""Figures of study 2 show the numbers of the table, nothing of them is cut off, and many backbones stay few enough."""

import re

import numpy as np
import pytest
from matplotlib.collections import PolyCollection

from tests.report.drawn import assert_readable
from tests.report.local.made import CONCEPTS, Made
from vitprobe_jax.metrics.measurements import make_measurements
from vitprobe_jax.metrics.retrieval import OUTCOMES
from vitprobe_jax.report.figures import style
from vitprobe_jax.report.local.figures.maps import map_colours, map_figure
from vitprobe_jax.report.local.page import LOCAL
from vitprobe_jax.report.measured.figures.dots import dot_figure
from vitprobe_jax.report.measured.figures.lines import BOUND
from vitprobe_jax.report.measured.figures.looks import BACKBONES, dash, spread
from vitprobe_jax.report.measured.figures.photographs import IMAGES


def figure_of(whole, part, name):
    return next(one for one in whole.views[part].illustrations if one.name.endswith(name)).figure


def numbers(rows, order, by, **wanted):
    """The values of the rows with these columns, in an order of one of them."""
    found = {row[by]: row["value"] for row in rows if all(row.get(name) == own for name, own in wanted.items())}
    return [found[place] for place in order]


def lines_of(axes):
    return {line.get_label(): line for line in axes.lines}


def test_lines_over_training_sizes_are_those_of_the_table(whole):
    figure = figure_of(whole, "patches", "sizes")
    assert [axes.get_title("left") for axes in figure.axes] == ["1-NN", "linear probe", "linear, BatchNorm"]
    for axes, method in zip(figure.axes, ("1-nn", "linear", "linear_batchnorm"), strict=True):
        lines = lines_of(axes)
        assert len(lines) == 6
        for m, name in ((0, "mae_vitb16"), (200, "mae_vitb16-200")):
            of = {"part": "patches", "tiling": "tiles", "measure": "miou", "backbone": "mae_vitb16", "dropped": m}
            expected = numbers(whole.rows, (2, 4, 8), "shots", method=method, **of)
            np.testing.assert_array_equal(lines[name].get_ydata(), expected)
            assert lines[name].is_dashed() == (m > 0)
        assert [text.get_text() for text in axes.get_xticklabels()] == ["2", "4", "8"]


def test_spectrum_falls_and_curves_go_from_none_to_all(whole):
    spectrum, nearest, _ = figure_of(whole, "variance", "spectrum").axes
    assert spectrum.get_yscale() == "log"
    for line in spectrum.lines:
        assert np.all(np.diff(line.get_ydata()) < 0)
        assert line.get_xdata()[0] == 1
    of = {"part": "variance", "measure": "miou", "setting": "removed", "method": "1-nn", "backbone": "mae_vitb16"}
    x, y = lines_of(nearest)["mae_vitb16"].get_data()
    assert (x[0], x[-1]) == (0, 240)
    np.testing.assert_array_equal(y, numbers(whole.rows, x, "dropped", **of))


def test_clean_images_stand_before_the_corrupted_ones(whole):
    figure = figure_of(whole, "corruptions", "1-nn")
    scores, lost = figure.axes[:3], figure.axes[3:]
    of = {"part": "corruptions", "backbone": "dino_vits16", "dropped": 0, "method": "1-nn"}
    (clean,) = numbers(whole.rows, ("clean",), "setting", measure="miou", **of)
    for axes, kind, levels in zip(
        scores, ("blur", "noise", "frequency"), ([10, 20, 30, 40],) * 2 + ([0, 1, 2, 3],), strict=True
    ):
        assert axes.get_title("left") == kind
        drawn = lines_of(axes)["dino_vits16"].get_ydata()
        np.testing.assert_array_equal(
            drawn, [clean, *numbers(whole.rows, levels, "level", measure="miou", setting=kind, **of)]
        )
    assert {len(line.get_ydata()) for axes in lost for line in axes.lines} == {4}


def test_stacks_are_the_shares_and_end_at_one(whole):
    figure = figure_of(whole, "retrieval", "_1-nn")
    axes = figure.axes[0]
    assert axes.get_title("left") == "shift"
    of = {"part": "retrieval", "backbone": "dino_vits16", "dropped": 0, "method": "1-nn", "setting": "shift"}
    floor = np.zeros(5)
    *stacked, limits = axes.collections
    for bars, outcome in zip(stacked, OUTCOMES, strict=True):
        low, high = np.transpose([np.sort(path.vertices[:4, 1])[[0, -1]] for path in bars.get_paths()])
        np.testing.assert_allclose(low, floor, atol=1e-12)
        expected = numbers(whole.rows, (1, 2, 3, 4), "level", measure=outcome, **of)
        np.testing.assert_allclose((high - low)[1:], expected, atol=1e-12)
        floor = high
    np.testing.assert_allclose(floor, 1.0, rtol=0, atol=1e-12)
    bounds = [line[0, 1] for line in limits.get_segments()]
    assert bounds == [1.0, *numbers(whole.rows, (1, 2, 3, 4), "level", measure="upper_bound", **of)]
    others = figure_of(whole, "retrieval", "other_images").axes
    assert {type(one) for axes in others for one in axes.collections} == {PolyCollection}  # no bound


def test_bands_are_pictured_in_columns_of_image_noise_and_mask(whole):
    figure = figure_of(whole, "corruptions", "bands")
    (axes,) = figure.axes
    shown = [np.asarray(image.get_array())[0, 0].tolist() for image in axes.images]
    images, noise, masks = shown[:5], shown[5:9], shown[9:]
    assert len({tuple(colour) for colour in images}) == 5
    # About mid grey, with twice the contrast of what the run kept.
    assert noise == [[128 + 2 * (value - 128)] * 3 for value in (100, 110, 120, 130)]
    assert masks == [[0] * 3, [255] * 3] * 2
    left = [image.get_extent()[0] for image in axes.images]
    assert left[1:5] == left[5:9] == left[9:]
    assert left[0] < left[1]
    texts = [text.get_text() for text in axes.texts]
    assert texts.count("band 0") == 1
    assert "no noise" in texts


def test_no_object_is_found_more_often_than_it_is_there(whole):
    same, _, category, _ = figure_of(whole, "tracking", "gaps").axes
    np.testing.assert_allclose(lines_of(same)[BOUND].get_ydata(), [1, 0.98, 0.96, 0.94, 0.92])
    assert BOUND not in lines_of(category)


def test_concepts_over_blocks_are_those_with_most_pixels(whole):
    figure = figure_of(whole, "layers", "blocks")
    assert [axes.get_title("left") for axes in figure.axes][:2] == ["dino_vits16", "dino_vits16-200"]
    lines = lines_of(figure.axes[0])
    assert list(lines) == [name for _, name, _ in CONCEPTS[:6]] + ["mean IoU"]
    of = {"part": "layers", "backbone": "dino_vits16", "dropped": 0}
    np.testing.assert_array_equal(
        lines["sky"].get_ydata(), numbers(whole.rows, range(6), "layer", measure="iou", name="sky", **of)
    )
    np.testing.assert_array_equal(
        lines["mean IoU"].get_ydata(), numbers(whole.rows, range(6), "layer", measure="miou", **of)
    )


def test_no_text_is_cut_off_or_under_another(whole):
    for illustration in (one for view in whole.views.values() for one in view.illustrations):
        assert_readable(illustration)


def test_captions_name_the_paper_and_alternative_texts_the_numbers(whole):
    named = {
        "patches": ["Figure 1 ", "Figure 13 ", "Figure 13 "],
        "variance": ["Figure 2 "],
        "corruptions": ["Figure 4 ", "Figure 4 ", "Figure 10 "],
        "retrieval": ["Figures 5 and 11 ", "Figure 6 "],
        "tracking": ["Figures 7, 9 and 12 "],
        "reconstruction": ["Table 4 "],
        "context": ["Table 6 "],
        "layers": ["Figure 3 "],
        "scale": ["Figure 8 "],
    }
    assert set(named) == set(whole.views)
    for part, places in named.items():
        for one, place in zip(whole.views[part].illustrations, places, strict=True):
            assert f"{place}of the paper." in one.caption
            assert re.search(r"\d\.\d", one.alt), one.alt
            assert not re.search(r"\bnan\b|None|  |\.\.", one.caption + one.alt), (one.caption, one.alt)


def test_of_many_backbones_the_best_and_the_worst_are_among_the_shown():
    backbones = tuple((f"b{i}", "mae" if i == 7 else "dino", "DINO") for i in range(20))
    table = make_measurements(Made(parts=("patches",), backbones=backbones, datasets=("shapes:4",), shots=(2,)).rows())
    looks = LOCAL.sources(table, ".").looks
    assert len(looks.marks) == BACKBONES
    assert looks.ranked[-1] == "b7"  # the only one whose neighbours are poor
    assert list(looks.marks) == sorted(looks.marks, key=lambda name: int(name[1:]))
    assert len({(mark.colour, mark.marker) for mark in looks.marks.values()}) == BACKBONES
    assert looks.note.startswith("7 of 20 backbones are shown")
    fewer = looks.fewer(3)
    assert fewer.ranked == [looks.ranked[0], looks.ranked[3], "b7"]
    assert all(fewer.marks[name] is looks.marks[name] for name in fewer.ranked)


def test_spread_keeps_both_ends():
    assert spread("abc", 3) == ["a", "b", "c"]
    assert spread("abcdefghij", 4) == ["a", "d", "g", "j"]


def test_a_variant_has_the_same_dash_whoever_lacks_it():
    assert dash(0, [0, 200]) == dash(0, [0]) == "-"
    assert dash(200, [0, 200]) == dash(200, [200]) != "-"
    assert len({str(dash(m, [0, 10, 50, 200])) for m in (0, 10, 50, 200)}) == 4


def test_dots_stand_at_their_numbers():
    values = {("a", "all features"): 0.5, ("a", "only the top 5"): -2.0, ("b", "all features"): 0.1}
    figure = dot_figure({"one": values}, ["a", "b"], ["all features", "only the top 5"], {"one": "R2"})
    drawn = {line.get_label(): list(line.get_xdata()) for line in figure.axes[0].lines if line.get_marker() != "None"}
    assert drawn == {"all features": [0.5, 0.1], "only the top 5": [-2.0]}
    low, high = figure.axes[0].get_xlim()
    assert low < -2.0 < 0.5 < high


def test_each_concept_of_ade20k_has_a_colour_of_its_own():
    colours = map_colours(list(range(150)))
    assert colours.shape == (151, 3)
    assert colours.min() >= 0
    assert colours.max() <= 1
    assert len({tuple(np.round(255 * colour)) for colour in colours}) == 151
    first = colours[1:9]
    assert min(np.abs(a - b).max() for i, a in enumerate(first) for b in first[:i]) > 0.2
    swapped = map_colours([1, 0])
    np.testing.assert_array_equal(swapped[[2, 1]], map_colours([0, 1])[1:])


def test_maps_are_painted_in_the_colours_of_the_legend():
    grey = np.full((IMAGES + 1, 6, 8, 3), 120, np.uint8)
    truth = np.zeros((IMAGES + 1, 6, 8), np.uint16)
    truth[:, :3], truth[:, 3:, :5] = 2, 1
    figure, present = map_figure(grey, {"annotated": truth}, ["few", "many", "none of it"], [1, 0, 2])
    assert present == ["many", "few"]  # by pixels: 24 and 15
    legend = figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["many", "few", "no concept"]
    many, few, nothing = (np.array(patch.get_facecolor()[:3]) for patch in legend.get_patches())
    images = [image.get_array() for image in figure.axes[0].images]
    assert len(images) == 2 * IMAGES
    for place, colour in (((0, 0), many), ((5, 0), few), ((5, 7), nothing)):
        np.testing.assert_allclose(images[-1][place], 0.3 * 120 + 0.7 * 255 * colour, atol=0.51)
    assert [text.get_text() for text in figure.axes[0].texts] == ["image", "annotated"]


def test_control_is_hollow():
    table = make_measurements(Made(parts=("scale",)).rows())
    marks = LOCAL.sources(table, ".").looks.marks
    assert [mark.hollow for mark in marks.values()] == [False, False, True]
    assert marks["untrained_tiny"].label == "untrained_tiny (control)"
    assert style.points_key(marks["untrained_tiny"], line=True).get_markerfacecolor() == "none"


@pytest.mark.parametrize("part", ["patches", "variance", "tracking", "layers"])
def test_no_point_is_beyond_its_axes(whole, part):
    for illustration in whole.views[part].illustrations:
        for axes in illustration.figure.axes:
            low, high = axes.get_ylim()
            for line in axes.lines:
                y = np.asarray(line.get_ydata(), float)
                assert y.min() >= low, illustration.name
                assert y.max() <= high, illustration.name
