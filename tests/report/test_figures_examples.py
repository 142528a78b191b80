"""Figures of photographs show the right concepts on the right images, and paint what was found and nothing else."""

import base64
import dataclasses
import io
import re
import xml.etree.ElementTree

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from tests.report.conftest import BACKBONES
from vitprobe_jax.errors import InputError
from vitprobe_jax.metrics.results import make_table
from vitprobe_jax.report import figures
from vitprobe_jax.report.examples import LEFT_OUT, NEGATIVE, POSITIVE, Example, Examples
from vitprobe_jax.report.figures.painting import OUTLINE, paint

RULES = ("hyperplane", "cosine")
NUM_CONCEPTS = 9
CONCEPTS = (*((i, f"thing {i}", "object") for i in range(1, NUM_CONCEPTS + 1)), (1, "wall", "material"))
SIDE, GRID = 64, 4
CELL = SIDE // GRID


def photograph(image):
    """One colour an image, so that a tile tells which it shows."""
    return np.full((SIDE, SIDE, 3), (200, 25 * (image % 10), 60), np.uint8)


def jpeg(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=100, subsampling=0)
    return buffer.getvalue()


def scored_table(results_rows, **options):
    """Concept i has F1 i / 10 in every cell."""
    rows = results_rows(rules=RULES, concepts=CONCEPTS, **options)
    return make_table([row | ({"f1": row["concept"] / 10} if row["skipped"] is None else {}) for row in rows])


def example(kind, backbone, rule, concept, image, *, iou, found):
    number, name, category = concept
    truth = np.full((GRID, GRID), NEGATIVE, np.uint8)
    truth[0, 0], truth[GRID - 1] = POSITIVE, LEFT_OUT
    return Example(
        kind=kind,
        backbone=backbone,
        layer=11,
        token="k",
        rule=rule,
        shots=None if rule == "hyperplane" else 5,
        concept=number,
        name=name,
        category=category,
        image=f"image {image}",
        iou=iou,
        truth=truth,
        found=found,
    )


@pytest.fixture
def examples():
    """The found patch of a template stands in the row of its backbone and the column of its rule."""
    rows = []
    for b, (backbone, _) in enumerate(BACKBONES):
        for r, rule in enumerate(RULES):
            found = np.zeros((GRID, GRID), np.uint8)
            found[b, 1 + r] = 1
            for concept in CONCEPTS:
                rows.append(example("coverage", backbone, rule, concept, concept[0], iou=0.1 * (b + r), found=found))
            for concept in CONCEPTS[2:NUM_CONCEPTS]:
                for i in (3, 1, 5, 2, 4, 6):
                    rows.append(example("iou", backbone, rule, concept, i, iou=i / 10, found=found))
    return Examples(tuple(rows), {f"image {i}": jpeg(photograph(i)) for i in range(10)})


def tiles(figure):
    """The pictures, from top to bottom and left to right."""
    (axes,) = figure.axes
    places = {(round(image.get_extent()[3], 3), round(image.get_extent()[0], 3)): image for image in axes.images}
    assert len(places) == len(axes.images)
    return [np.asarray(places[place].get_array()) for place in sorted(places)]


def shown_image(tile):
    """Which image a tile shows, by its positive pixels: those that are red."""
    tile = tile.astype(int)
    red = tile[(tile[..., 0] > tile[..., 2] + 100) & np.any(tile != OUTLINE, axis=-1)]
    (green,) = {round(value / 25) for value in red[:, 1].tolist()}
    return green


def positive_patches(tile):
    """By the pixel in the middle of each patch."""
    middle = tile[CELL // 2 :: CELL, CELL // 2 :: CELL].astype(int)
    return {tuple(map(int, place)) for place in np.argwhere(middle[..., 0] > middle[..., 2] + 100)}


def written(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_masks_show_five_concepts_from_best_to_worst_with_truth_and_every_template(results_rows, examples):
    figure = figures.mask_examples(scored_table(results_rows), examples, category="object")
    pictures = tiles(figure)
    assert len(pictures) == 5 * (1 + len(BACKBONES) * len(RULES))
    for own, concept in zip(np.array_split(np.arange(25), 5), (9, 7, 5, 3, 1), strict=True):
        truth, *found = (pictures[i] for i in own)
        assert {shown_image(pictures[i]) for i in own} == {concept}
        assert positive_patches(truth) == {(0, 0)}
        assert [positive_patches(tile) for tile in found] == [{(0, 1)}, {(0, 2)}, {(1, 1)}, {(1, 2)}]
    text = written(figure)
    assert [line for line in text if line.startswith("thing")] == [f"thing {i}" for i in (9, 7, 5, 3, 1)]
    assert text.count("truth") == 1  # columns mean the same in every row
    for concept in (9, 7, 5, 3, 1):
        assert text.count(f"F1 {concept / 10:.2f}, IoU 0.10") == 2


def test_fewer_than_five_concepts_are_all_shown(results_rows, examples):
    figure = figures.mask_examples(scored_table(results_rows), examples, category="material")
    assert len(tiles(figure)) == 5
    assert written(figure)[0] == "wall"


def test_a_template_that_was_skipped_leaves_its_place(results_rows, examples):
    table = scored_table(
        results_rows, skip=lambda row: "rare" if (row["rule"], row["name"]) == ("cosine", "thing 9") else None
    )
    rows = tuple(row for row in examples.rows if (row.rule, row.name) != ("cosine", "thing 9"))
    figure = figures.mask_examples(table, Examples(rows, examples.images), category="object")
    assert len(tiles(figure)) == 23
    assert written(figure).count("skipped") == 2


@pytest.mark.parametrize("rule", RULES)
def test_best_concepts_on_their_best_images(results_rows, examples, rule):
    backbone = BACKBONES[1][0]
    figure = figures.best_concepts(scored_table(results_rows), examples, backbone=backbone, rule=rule)
    pictures = tiles(figure)
    assert [shown_image(tile) for tile in pictures] == [6, 5, 4, 3, 2] * 5
    assert all(positive_patches(tile) == {(1, 1 + RULES.index(rule))} for tile in pictures)
    text = written(figure)
    assert [line for line in text if line.startswith("thing")] == [
        f"thing {i} (object), F1 {i / 10:.2f}" for i in (9, 8, 7, 6, 5)
    ]
    assert [line for line in text if line.startswith("IoU")] == [f"IoU {i / 10:.2f}" for i in (6, 5, 4, 3, 2)] * 5


@pytest.fixture
def with_paper_tokens(examples):
    """Hyperplanes of the first backbone are best at k, its cosine templates at x2: beside those stands the paper's q."""
    (first, _), rows = BACKBONES[0], []
    corner = np.zeros((GRID, GRID), np.uint8)
    corner[2, 3] = 1
    for row in examples.rows:
        if (row.backbone, row.rule) == (first, "cosine"):
            rows.append(dataclasses.replace(row, choice="paper", token="q", found=corner))
            row = dataclasses.replace(row, token="x2")
        rows.append(row)
    return Examples(tuple(rows), examples.images)


def test_the_papers_tokens_stand_beside_the_best_ones(results_rows, with_paper_tokens):
    figure = figures.mask_examples(scored_table(results_rows), with_paper_tokens, category="object")
    pictures = tiles(figure)
    # The truth, three tiles of the first backbone, two of the other one.
    assert len(pictures) == 5 * (1 + 3 + 2)
    for own in np.array_split(np.arange(30), 5):
        found = [positive_patches(pictures[i]) for i in own[1:]]
        assert found == [{(0, 1)}, {(0, 2)}, {(2, 3)}, {(1, 1)}, {(1, 2)}]
    text = written(figure)
    assert {"q, block 11", "x2, block 11", "cosine (paper)"} <= set(text)
    assert "hyperplane (paper)" not in text
    assert text.count("the same token") == 5  # of the other backbone


def test_best_concepts_of_the_papers_token(results_rows, with_paper_tokens):
    backbone, options = BACKBONES[0][0], {"rule": "cosine", "choice": "paper"}
    figure = figures.best_concepts(scored_table(results_rows), with_paper_tokens, backbone=backbone, **options)
    assert all(positive_patches(tile) == {(2, 3)} for tile in tiles(figure))
    with pytest.raises(InputError, match="the paper's token"):
        figures.best_concepts(
            scored_table(results_rows), with_paper_tokens, backbone=backbone, rule="hyperplane", choice="paper"
        )


def test_illustrations_offer_the_papers_tokens(results_rows, with_paper_tokens):
    found = {one.name: one for one in figures.illustrate(scored_table(results_rows), with_paper_tokens)}
    backbone = BACKBONES[0][0]
    names = [name for name in found if name.endswith("_papers_token")]
    assert names == [f"seg_best_concepts_{backbone}_cosine_papers_token"]
    assert found[names[0]].title == f"Best concepts of {backbone} with cosine templates of the paper's token, q"
    assert "under q of block 11" in found[names[0]].caption
    objects = found["seg_masks_object"]
    assert "beside it the paper's (q for cosine templates) where it is another" in objects.caption
    assert f"{backbone} with cosine templates of the paper's token q 0.100" in objects.alt


@pytest.mark.parametrize("num_rules", [1, 2, 3])
def test_the_papers_tokens_leave_backbones_in_lines_of_their_own(results_rows, examples, num_rules):
    rules = ("hyperplane", "cosine", "cosine_centered")[:num_rules]
    (first, *_) = (row for row in examples.rows if row.kind == "coverage" and row.category == "object")
    rows = [
        dataclasses.replace(first, backbone=backbone, rule=rule, shots=None if rule == "hyperplane" else 5, **own)
        for backbone, _ in BACKBONES
        for rule in rules
        for own in ({"token": "x2"}, {"token": "k" if rule == "hyperplane" else "q", "choice": "paper"})
        if not (rule == "cosine_centered" and "choice" in own)
    ]
    table = make_table(results_rows(rules=rules, concepts=CONCEPTS))
    figure = figures.mask_examples(table, Examples(tuple(rows), examples.images), category="object")
    assert len(tiles(figure)) == 1 + len(rows)
    (axes,) = figure.axes
    lines = {}
    for text in axes.texts:
        if text.get_text() in dict(BACKBONES):
            lines.setdefault(round(text.get_position()[1], 3), set()).add(text.get_text())
    assert all(len(names) == 1 for names in lines.values()) or num_rules == 1


def test_painting_keeps_what_is_positive_and_marks_the_rest():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (60, 80, 3)).astype(np.uint8)
    positive, left_out = np.zeros((3, 4), bool), np.zeros((3, 4), bool)
    positive[0, 1], left_out[2] = True, True
    painted = paint(pixels, positive, left_out)
    assert painted.shape == pixels.shape
    np.testing.assert_array_equal(painted[:20, 20:40], pixels[:20, 20:40])
    line = np.all(painted == OUTLINE, axis=-1)
    assert line[10, 19]
    assert line[10, 40]
    assert line[20, 30]
    assert not line[:20, 20:40].any()
    others = ~line
    others[:20, 20:40] = False
    assert (np.ptp(painted[others].astype(int), axis=1) <= 1).all()  # no colours
    assert painted[45].min() > 130 > painted[25][others[25]].max()  # the veil is light, the rest dim


def test_patches_of_any_number_cover_the_photograph():
    """14 patches of 160 pixels: every pixel belongs to the patch that its share of the side falls into."""
    pixels = np.full((160, 160, 3), (250, 0, 0), np.uint8)
    positive = np.eye(14, dtype=bool)
    painted = paint(pixels, positive, np.zeros_like(positive))
    kept = np.all(painted == (250, 0, 0), axis=-1)
    index = np.arange(160) * 14 // 160
    np.testing.assert_array_equal(kept, index[:, None] == index[None])


def test_examples_of_other_results_are_refused(results_rows, examples):
    table = scored_table(results_rows, layers=(3,))
    with pytest.raises(InputError, match="no template of 'thing 1'"):
        figures.mask_examples(table, examples, category="object")
    with pytest.raises(InputError, match="no example of category 'scene'"):
        figures.mask_examples(table, examples, category="scene")
    with pytest.raises(InputError, match="no example of nobody"):
        figures.best_concepts(table, examples, backbone="nobody")


def test_illustrations_of_photographs(results_rows, examples):
    table = scored_table(results_rows)
    found = [one for one in figures.illustrate(table, examples) if one.photographs]
    best = [f"seg_best_concepts_{backbone}_{rule}" for backbone, _ in BACKBONES for rule in RULES]
    assert [one.name for one in found] == ["seg_masks_material", "seg_masks_object", *best]
    assert {one.section for one in found} == {"masks"}
    objects = found[1]
    assert "5 of 9 concepts" in objects.caption
    assert "Figure 15" in objects.caption
    assert all("Figure 16" in one.caption for one in found[2:])
    # In words are the concepts that are shown, and no others.
    assert "Concepts: thing 9, thing 7, thing 5, thing 3, thing 1." in objects.alt
    assert "tiny_mae with cosine templates 0.200 (0.200 to 0.200)" in objects.alt
    assert not any(one.photographs for one in figures.illustrate(table, None))


def test_of_many_backbones_the_best_are_shown(results_rows, examples):
    """Eight backbones, of which the third and the sixth are worst."""
    names = [f"model_{i}" for i in range(8)]
    rows = [row for row in examples.rows if (row.backbone, row.rule) == (BACKBONES[0][0], "hyperplane")]
    many = Examples(tuple(dataclasses.replace(row, backbone=name) for name in names for row in rows), examples.images)
    options = {"backbones": tuple((name, "self-distillation") for name in names)}
    table = make_table(
        [
            row | {"f1": row["f1"] / (2 if row["backbone"] in ("model_2", "model_5") else 1)}
            for row in scored_table(results_rows, **options).to_pylist()
            if row["rule"] == "hyperplane"
        ]
    )
    found = [one for one in figures.illustrate(table, many) if one.photographs]
    shown = [name for name in names if name not in ("model_2", "model_5")]
    best = [f"seg_best_concepts_{name}_hyperplane" for name in shown]
    assert [one.name for one in found if "best_concepts" in one.name] == best
    assert "Of 8 backbones the 6 with the highest F1 are shown." in found[1].caption
    assert len(tiles(found[1].figure)) == 5 * (1 + len(shown))


def test_photographs_in_pages_are_small_and_keep_their_colours(results_rows, examples):
    figure = figures.best_concepts(scored_table(results_rows), examples, backbone=BACKBONES[0][0])
    svg = figures.svg(figure)
    xml.etree.ElementTree.fromstring(svg)
    embedded = re.findall(r'href="data:image/(\w+);base64,([^"]*)"', svg)
    assert len(embedded) == 25
    assert {kind for kind, _ in embedded} == {"jpeg"}
    sizes = {Image.open(io.BytesIO(base64.b64decode(data))).size for _, data in embedded}
    assert sizes == {(SIDE, SIDE)}  # as they are, not as the figure's resolution would have them


@pytest.mark.parametrize("num_backbones", [1, 2, 5])
@pytest.mark.parametrize("rules", [("hyperplane",), ("hyperplane", "cosine", "cosine_centered")])
def test_any_number_of_templates_stays_within_the_figure(results_rows, examples, num_backbones, rules):
    backbones = tuple((f"untrained_backbone_of_a_long_name_{i}", "trained") for i in range(num_backbones))
    table = make_table(results_rows(rules=rules, backbones=backbones, concepts=CONCEPTS))
    (first, *_) = (row for row in examples.rows if row.kind == "coverage")
    rows = tuple(
        dataclasses.replace(
            first,
            backbone=backbone,
            rule=rule,
            shots=None if rule == "hyperplane" else 5,
            concept=number,
            name=name,
            category=category,
        )
        for backbone, _ in backbones
        for rule in rules
        for number, name, category in CONCEPTS[:2]
    )
    figure = figures.mask_examples(table, Examples(rows, examples.images), category="object")
    assert len(tiles(figure)) == 2 * (1 + num_backbones * len(rules))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    width, height = figure.get_size_inches() * figure.dpi
    for artist in (*figure.axes[0].texts, *figure.axes[0].images):
        box = artist.get_window_extent(canvas.get_renderer())
        assert box.x0 >= -1
        assert box.y0 >= -1
        assert box.x1 <= width + 1
        assert box.y1 <= height + 1
