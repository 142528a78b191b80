"""Nothing of a figure is cut off or hidden, nothing depends on colour alone, and all that is said around it is true."""

import hashlib
import itertools
import os
import re
import subprocess
import sys
import xml.etree.ElementTree
from importlib import resources

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from tests.report.conftest import BACKBONES, CONCEPTS
from tests.report.drawn import assert_readable, full_rows, heights, mean
from vitprobe_jax.backbones.untrained import OBJECTIVE as UNTRAINED
from vitprobe_jax.errors import InputError
from vitprobe_jax.metrics.results import SCHEMA, make_table, write_table
from vitprobe_jax.report import figures, tables
from vitprobe_jax.report.figures import style
from vitprobe_jax.types import ALL_TOKENS, TOKENS

LONG = (
    ("dino_vits8_of_a_very_long_name_that_goes_on_and_on_until_it_ends_here", "self-distillation"),
    ("mae_vitb16", "masked"),
    ("untrained_dino_tiny", UNTRAINED),
    ("untrained_mae_tiny_of_a_very_long_name_as_well", UNTRAINED),
)
LONG_CONCEPTS = tuple((i, f"concept {i}", f"{name} and some more of it") for i, name in enumerate("abcdefghi", start=1))
EIGHT = (*((f"dino_{i}", "self-distillation") for i in range(7)), ("untrained_dino_tiny", UNTRAINED))


def lab(rgb):
    """CIELAB of linear sRGB."""
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ rgb
    f = np.cbrt(np.maximum(xyz / (0.9505, 1.0, 1.089), 1e-4))
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


# Linear sRGB as seen without one kind of cones: Machado, Oliveira and Fernandes (2009), severity 1.
SIGHT = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize("palette", [tuple(map(style.TOKEN_COLOURS.get, TOKENS)), style.BACKBONE_COLOURS])
def test_colours_are_told_apart_by_the_colour_blind(sight, palette):
    """By a distance of 15 in CIELAB, six times what is just noticed (2.3); a grey of middle lightness would be nearer."""
    linear = [
        np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) for c in map(np.array, map(to_rgb, palette))
    ]
    seen = [lab(np.clip(SIGHT[sight] @ colour, 0, 1)) for colour in linear]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 15


def test_nothing_depends_on_colour_alone(results_rows):
    tokens = style.token_marks(TOKENS)
    assert len({mark.marker for mark in tokens.values()}) == len(TOKENS)
    # Rotated queries and keys look as the plain ones, but hollow; the page's own charts know them too.
    assert len({(mark.marker, mark.hollow) for mark in style.token_marks(ALL_TOKENS).values()}) == len(ALL_TOKENS)
    script = resources.files("vitprobe_jax.report").joinpath("concept_dialog.js").read_text("utf-8")
    drawn = re.findall(r'(\w+): \["#\w+", "([\w ]+)"\]', script.split("TOKEN_LINES")[1].splitlines()[0])
    assert [token for token, _ in drawn] == list(ALL_TOKENS)
    assert len({shape for _, shape in drawn}) == len(ALL_TOKENS)
    rows = results_rows(rules=("hyperplane",), backbones=tuple((f"b{i}", "trained") for i in range(20)))
    marks = style.backbone_marks(tables.summarise(make_table(rows))).values()
    assert len({mark.hatch for mark in list(marks)[:7]}) == 7
    assert len({(mark.colour, mark.hatch) for mark in marks}) == 20


SHAPES = {
    "two backbones": {"layers": (3, 11)},
    "one token": {"tokens": ("k",), "backbones": BACKBONES[:1], "concepts": CONCEPTS[:1]},
    "eight backbones": {"backbones": EIGHT, "tokens": TOKENS, "rules": ("hyperplane",), "concepts": CONCEPTS[:1]},
    "long names": {"backbones": LONG, "concepts": LONG_CONCEPTS, "tokens": TOKENS, "rules": ("hyperplane",)},
    "24 layers": {"layers": tuple(range(24)), "rules": ("hyperplane",), "concepts": CONCEPTS[:1]},
    "many shots": {"shots": (1, 2, 3, 4, 5, 10, 20, 50, 100, 200, 500), "rules": ("cosine",), "backbones": LONG[:2]},
    "skipped": {"skip": lambda row: "rare" if row["name"] in ("wheel", "sky") or row["rule"] == "cosine" else None},
    "classification": {"task": "classification", "evaluation": "image", "tokens": TOKENS, "backbones": EIGHT[6:]},
}


@pytest.fixture(scope="module")
def galleries():
    """The illustrations of tables of each shape."""
    from tests.report.conftest import make_rows

    shapes = ((name, make_table(full_rows(make_rows, **options))) for name, options in SHAPES.items())
    return {name: figures.illustrate(table, None) for name, table in shapes}


@pytest.mark.parametrize("shape", SHAPES)
def test_no_text_is_cut_off_small_or_under_another(galleries, shape):
    for illustration in galleries[shape]:
        assert_readable(illustration)


def test_every_figure_of_the_paper_is_there_once(results_rows):
    wanted = {
        "segmentation": {9: 2, 10: 1, 11: 1, 12: 1, 13: 1, 14: 1},
        "classification": {6: 2, 7: 1, 8: 1},
    }
    for task, numbers in wanted.items():
        rows = (
            full_rows(results_rows, task=task, evaluation="image")
            if task == "classification"
            else full_rows(results_rows)
        )
        captions = [illustration.caption for illustration in figures.illustrate(make_table(rows), None)]
        found = [int(number) for caption in captions for number in re.findall(r"Figure (\d+)", caption)]
        assert {number: found.count(number) for number in set(found)} == numbers
    documented = " ".join(getattr(figures, name).__doc__ for name in figures.__all__ if name.islower())
    for number in range(6, 17):
        assert re.search(rf"Figures? [^:]*\b{number}\b", documented) or re.search(rf", {number}\b", documented), number


def test_illustrations_have_names_sections_and_words(galleries):
    for shape, illustrations in galleries.items():
        names = [one.name for one in illustrations]
        assert len(set(names)) == len(names) > 0, shape
        assert all(re.fullmatch(r"[A-Za-z0-9_-]+", name) for name in names)
        assert {one.section for one in illustrations} <= set(figures.SECTIONS)
        assert [one.section for one in illustrations] == sorted(
            (one.section for one in illustrations), key=figures.SECTIONS.index
        )
        for one in illustrations:
            assert one.title
            assert re.search(r"\d concept|of each category", one.caption), one.caption
            assert re.search(r"\d\.\d{3}", one.alt), one.alt
            assert not re.search(r"\bnan\b|None|  |\.\.", one.caption + one.alt), (one.caption, one.alt)


def test_alternative_texts_say_the_numbers(results_rows):
    rows = results_rows(rules=("hyperplane",))
    alt = figures.illustrate(make_table(rows), None)[0].alt
    for (backbone, _), token in itertools.product(BACKBONES, ("q", "k", "x2")):
        value = mean(rows, "accuracy", backbone=backbone, token=token)
        accuracy = alt[alt.index("Balanced accuracy") : alt.index("Balanced F1")]
        own = re.search(rf"{backbone} ([^;]*)", accuracy)[1]
        assert f"{token} {value:.3f}" in own


def test_captions_say_how_many_concepts_trials_and_shots(results_rows):
    rows = results_rows(rules=("cosine",), skip=lambda row: "rare" if row["name"] == "sky" else None)
    captions = {one.name: one.caption for one in figures.illustrate(make_table(rows), None)}
    assert "Mean over 3 trials, then unweighted over 3 concepts" in captions["seg_cosine_by_token"]
    assert "(block 11), from 5 support images" in captions["seg_cosine_by_token"]
    assert "from 1, 5 support images" in captions["seg_cosine_over_shots"]
    assert "one standard deviation over trials" in captions["seg_cosine_over_shots"]
    assert "An interval over one concept (material, object, part) has no width" in captions["seg_cosine_by_category"]


def test_what_a_table_lacks_is_not_drawn(results_rows):
    names = {
        one.name
        for one in figures.illustrate(make_table(results_rows(rules=("hyperplane",), concepts=CONCEPTS[:2])), None)
    }
    assert names == {
        "seg_hyperplane_accuracy_f1_by_token",
        "seg_hyperplane_precision_recall_by_token",
        "seg_hyperplane_trained_less_control",
    }
    assert figures.illustrate(make_table(results_rows(skip=lambda row: "rare")), None) == []
    assert figures.illustrate(SCHEMA.empty_table(), None) == []


def test_two_tasks_and_data_sets_have_figures_of_their_own(results_rows):
    rows = results_rows(rules=("hyperplane",), seed=1) + results_rows(
        rules=("hyperplane",), seed=2, dataset="broden:fields"
    )
    rows += results_rows(rules=("hyperplane",), seed=3, task="classification", evaluation="image")
    table = make_table(rows)
    names = [one.name for one in figures.illustrate(table, None)]
    assert len(set(names)) == len(names)
    assert {name.split("_hyperplane")[0] for name in names} == {"seg_broden_streets", "seg_broden_fields", "cls"}
    with pytest.raises(InputError, match="segmentation on broden:fields, segmentation on broden:streets"):
        figures.f1_by_category(table, task="segmentation")
    axes = figures.accuracy_by_token(table, task="classification").axes[0]
    expected = [
        mean(rows, "accuracy", task="classification", backbone="dino_vits16", token=t) for t in ("q", "k", "x2")
    ]
    np.testing.assert_allclose(heights(axes)["dino_vits16"], expected, rtol=0, atol=1e-12)


def test_svg_stands_in_any_page(galleries):
    ids = set()
    for illustration in galleries["two backbones"]:
        svg = figures.svg(illustration.figure)
        root = xml.etree.ElementTree.fromstring(svg)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert "currentColor" in svg
        assert style.INK not in svg.lower()
        assert not re.search(r"<style|<metadata|<script|<!--", svg)  # a style sheet would reach all of the page
        assert set(re.findall(r"https?://[^\"']*", svg)) == {"http://www.w3.org/2000/svg"}
        own = re.findall(r' id="([^"]*)"', svg)
        assert len(set(own)) == len(own)
        assert not ids & set(own)  # two figures of one page share none
        ids |= set(own)
        assert set(re.findall(r'(?:url\(|href=")#([^")]+)', svg)) == set(own)
        ground = next(root.iter("{http://www.w3.org/2000/svg}path"))
        assert ground.get("style") == "fill: none"


ELSEWHERE = """
import hashlib, sys
from vitprobe_jax.metrics.results import read_table
from vitprobe_jax.report import figures
texts = [figures.svg(one.figure) for one in figures.illustrate(read_table(sys.argv[1]), None)]
print(hashlib.sha256("".join(texts).encode()).hexdigest(), "matplotlib.pyplot" in sys.modules)
"""


@pytest.mark.slow
def test_same_table_same_svg_in_any_process_and_without_pyplot(results_rows, tmp_path):
    """The other process hashes names differently; in this one another test may have imported pyplot."""
    table = make_table(results_rows(layers=(3, 11), concepts=CONCEPTS[2:]))
    write_table(table, tmp_path / "table.parquet")
    command = [sys.executable, "-c", ELSEWHERE, str(tmp_path / "table.parquet")]
    elsewhere = subprocess.run(command, env=os.environ | {"PYTHONHASHSEED": "1"}, capture_output=True, check=True)
    here = "".join(figures.svg(one.figure) for one in figures.illustrate(table, None))
    assert elsewhere.stdout.decode().split() == [hashlib.sha256(here.encode()).hexdigest(), "False"]


def test_files_stand_alone_on_white_ground(results_rows, tmp_path):
    figure = figures.accuracy_by_token(make_table(results_rows(rules=("hyperplane",))))
    figures.save(figure, tmp_path / "figures", "accuracy")
    with Image.open(tmp_path / "figures" / "accuracy.png") as picture:
        assert picture.width == pytest.approx(200 * figure.get_figwidth(), abs=1)
        assert picture.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    svg = (tmp_path / "figures" / "accuracy.svg").read_text()
    assert xml.etree.ElementTree.fromstring(svg).tag.endswith("svg")
    assert "currentColor" not in svg
    assert "fill: #ffffff" in svg
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"accuracy.png", "accuracy.svg"}


def test_names_are_shown_as_they_are(results_rows):
    """Dollar signs are no mathematics, broken mathematics raises no error, and markup stays text."""
    hostile = '$x^$ & <script>alert("1")</script> --> '
    concepts = ((1, hostile, f"a {hostile}"), (2, "sky", "object"))
    rows = full_rows(results_rows, layers=(3, 11), rules=("hyperplane", "cosine"), tokens=("k",), concepts=concepts)
    renamed = {"dino_vits16": hostile}
    rows = [row | {"backbone": renamed.get(row["backbone"], row["backbone"])} for row in rows]
    for illustration in figures.illustrate(make_table(rows), None):
        svg = figures.svg(illustration.figure)
        xml.etree.ElementTree.fromstring(svg)
        assert "script" not in svg
