"""Photographs with what templates found on them: Figures 15 and 16 of the paper."""

import dataclasses
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from jaxtyping import UInt8
from matplotlib.figure import Figure
from PIL import Image

from vitprobe_jax.errors import InputError
from vitprobe_jax.report.examples import LEFT_OUT, POSITIVE, Example, Examples
from vitprobe_jax.report.figures.painting import Block, Tile, paint, tile_figure
from vitprobe_jax.report.figures.selection import backbones_of, present_rule, study_of
from vitprobe_jax.report.tables import concept_scores, summarise
from vitprobe_jax.types import RULES, Rule

CONCEPTS = IMAGES = 5
BACKBONES = 6
"""A report shows photographs of so many backbones at most: with 19 and three rules, five concepts are 183 inches tall."""
_HEADS: Mapping[Rule, str] = {
    "hyperplane": "hyperplane",
    "hyperplane_paper": "hyperplane, SGD",
    "cosine": "cosine",
    "cosine_centered": "cosine, centred",
}
_MEND = "give the examples of the same sweep"


def mask_examples(table: pa.Table, examples: Examples, *, category: str) -> Figure:
    """Five concepts of a category from the best to the worst F1, each on one image: Figure 15.

    The image is the held-out one that the concept covers most of; the truth stands first, then what the best token of
    each backbone and rule found, and beside it what the paper's token found where it is another one, with the concept's F1
    there (mean over trials) and the IoU on this image. What
    is positive keeps its colours within a line, the rest is dim, and what takes no part is veiled: nothing of the
    category is annotated there.

    Args:
        table: results that the examples belong to.
        examples: of the same sweep.
        category: category of the concepts. They are ranked by mean F1 of the best tokens over the backbones and rules; the
            five are equally spaced in that ranking.

    Raises:
        InputError: no example of the category, or examples of other results.
    """
    table = study_of(table, "segmentation")
    picked = pick_over_ranks(table, examples, category)
    rows = [row for own in picked for row in own]
    order = backbones_of(summarise(table))
    backbones = sorted({row.backbone for row in rows}, key=order.index)
    # Every backbone has the same columns.
    columns = sorted({(row.rule, row.choice) for row in rows}, key=lambda own: (RULES.index(own[0]), own[1]))
    cells = {(row.backbone, row.rule, row.choice): (row.layer, row.token) for row in rows}
    scores = concept_f1(table, rows)
    across = _columns_across(len(columns))
    blocks = []
    for own in picked:
        truth = paint(_photograph(examples, own[0]), own[0].truth == POSITIVE, own[0].truth == LEFT_OUT)
        tiles = [Tile(truth, ("truth",), ())]
        found = {(row.backbone, row.rule, row.choice): row for row in own}
        for backbone in backbones:
            for rule, choice in columns:
                row, cell = found.get((backbone, rule, choice)), cells.get((backbone, rule, choice))
                head = (backbone, f"{_HEADS[rule]}{' (paper)' if choice == 'paper' else ''}", _cell_words(cell))
                if row is None:
                    # A paper's token that no example has is the best one, or has no template.
                    reason = "the same token" if cell is None and choice == "paper" else "skipped"
                    tiles.append(Tile(None, head, (reason,)))
                else:
                    below = f"F1 {scores[_place(row)]:.2f}, IoU {row.iou:.2f}"
                    tiles.append(Tile(_painted(examples, row), head, (below,)))
            tiles += [Tile(None, (), ())] * (-len(columns) % across if len(columns) > across else 0)
        blocks.append(Block(own[0].name, tiles))
    return tile_figure(blocks, pinned=across)


def _columns_across(columns: int) -> int:
    """Tiles in a line beside the truth: whole backbones up to four tiles, or halves of one backbone."""
    return columns * max(1, 4 // columns) if columns <= 4 else -(-columns // 2)


def _cell_words(cell: tuple[int, str] | None) -> str:
    """Token and block over a tile."""
    return f"{cell[1]}, block {cell[0]}" if cell else ""


def best_concepts(
    table: pa.Table, examples: Examples, *, backbone: str, rule: Rule = "hyperplane", choice: str = "best"
) -> Figure:
    """The five best concepts of a backbone and rule by F1, each on the five images of highest IoU: Figure 16.

    Painted is what the backbone's best token under the rule, or the paper's, found, as in `mask_examples`.

    Args:
        table: results that the examples belong to.
        examples: of the same sweep.
        backbone: its name.
        rule: decision rule.
        choice: `best` for the best token, `paper` for the paper's where it is another one.

    Raises:
        InputError: no such example, or examples of other results.
    """
    table = study_of(table, "segmentation")
    picked = pick_best(table, examples, backbone, rule, choice)
    scores = concept_f1(table, [own[0] for own in picked])
    blocks = [
        Block(
            f"{own[0].name} ({own[0].category}), F1 {scores[_place(own[0])]:.2f}",
            [Tile(_painted(examples, row), (), (f"IoU {row.iou:.2f}",)) for row in own],
        )
        for own in picked
    ]
    return tile_figure(blocks, pinned=None)


def of_best_backbones(table: pa.Table, examples: Examples) -> Examples:
    """The examples of the `BACKBONES` backbones whose best tokens have the highest mean F1 over shown concepts and rules.

    Raises:
        InputError: examples of other results.
    """
    rows = [row for row in examples.rows if (row.kind, row.choice) == ("coverage", "best")]
    if len({row.backbone for row in rows}) <= BACKBONES:
        return examples
    scores, by_backbone = concept_f1(table, rows), defaultdict(list)
    for row in rows:
        by_backbone[row.backbone].append(scores[_place(row)])
    best = sorted(by_backbone, key=lambda name: -np.mean(by_backbone[name]))[:BACKBONES]
    return dataclasses.replace(examples, rows=tuple(row for row in examples.rows if row.backbone in best))


def pick_over_ranks(table: pa.Table, examples: Examples, category: str) -> list[list[Example]]:
    """What `mask_examples` shows: the examples of each concept.

    Raises:
        InputError: as there.
    """
    rows = [row for row in examples.rows if row.kind == "coverage" and row.category == category]
    if not rows:
        raise InputError(f"no example of category {category!r}; {_MEND}")
    best = [row for row in rows if row.choice == "best"]
    scores, groups = concept_f1(table, best), _by_concept(rows)
    mean = {concept: np.mean([scores[_place(row)] for row in own]) for concept, own in _by_concept(best).items()}
    ranked = sorted(mean, key=lambda concept: (-mean[concept], concept))
    places = np.unique(np.linspace(0, len(ranked) - 1, CONCEPTS).round().astype(int))
    return [groups[ranked[place]] for place in places]


def pick_best(
    table: pa.Table, examples: Examples, backbone: str, rule: Rule, choice: str = "best"
) -> list[list[Example]]:
    """What `best_concepts` shows: the examples of each concept.

    Raises:
        InputError: as there.
    """
    rule = present_rule(rule, {row.rule for row in examples.rows})
    wanted = ("iou", backbone, rule, choice)
    rows = [row for row in examples.rows if (row.kind, row.backbone, row.rule, row.choice) == wanted]
    if not rows:
        of_paper = " and the paper's token" if choice == "paper" else ""
        raise InputError(f"no example of {backbone} with the rule {rule}{of_paper}; {_MEND}")
    scores = concept_f1(table, rows)
    groups = _by_concept(rows)
    ranked = sorted(groups, key=lambda concept: (-scores[_place(groups[concept][0])], concept))
    return [sorted(groups[concept], key=lambda row: -row.iou)[:IMAGES] for concept in ranked[:CONCEPTS]]


def concept_f1(table: pa.Table, rows: Sequence[Example]) -> dict[tuple, float]:
    """F1 of the concept of each example in its cell, mean over trials, by `_place`.

    Raises:
        InputError: the results have no such concept or cell.
    """
    found = concept_scores(table)
    cells = {_cell(cell): cell for cell in found.cells if cell.evaluation != "pixel"}
    numbers = {(concept.number, concept.category): i for i, concept in enumerate(found.concepts)}
    scores = {}
    for row in rows:
        cell, number = cells.get(_cell(row)), numbers.get((row.concept, row.category))
        score = np.nan if cell is None or number is None else found.of(cell, "f1")[number]
        if np.isnan(score):
            raise InputError(f"the results have no template of {row.name!r} for {row.backbone}, {row.rule}; {_MEND}")
        scores[_place(row)] = float(score)
    return scores


def _by_concept(rows: Sequence[Example]) -> dict[tuple[str, str, int], list[Example]]:
    groups = {}
    for row in rows:
        groups.setdefault((row.category, row.name, row.concept), []).append(row)
    return groups


def _cell(row) -> tuple:
    """What an example and a cell of the results have in common."""
    return row.backbone, row.layer, row.token, row.rule, row.shots


def _place(row: Example) -> tuple:
    return *_cell(row), row.concept, row.category


def _painted(examples: Examples, row: Example) -> UInt8[np.ndarray, "height width 3"]:
    """What a template found."""
    return paint(_photograph(examples, row), row.found != 0, row.truth == LEFT_OUT)


def _photograph(examples: Examples, row: Example) -> UInt8[np.ndarray, "height width 3"]:
    with Image.open(io.BytesIO(examples.images[row.image])) as picture:
        return np.asarray(picture.convert("RGB"))
