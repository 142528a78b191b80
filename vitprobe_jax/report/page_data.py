"""What the page's script reads: each concept's scores in each cell and its examples, packed small.

Rounding is done here and not by the script, so that the page shows exactly `round(x, 3)`: scores travel as whole
thousandths. All four parts are text that is safe inside HTML.
"""

import base64
import dataclasses
import json
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, UInt16

from vitprobe_jax.report.examples import Example, Examples
from vitprobe_jax.report.mining import UnminedConcept
from vitprobe_jax.report.tables import ConceptScores, SkippedConcept
from vitprobe_jax.types import ALL_TOKENS, EVALUATIONS, RULES, Concept

ABSENT = 2**16 - 1
"""Instead of thousandths where a concept has no template in a cell."""

_IN_ORDER = {"token": ALL_TOKENS, "rule": RULES, "evaluation": EVALUATIONS}
_COLUMNS = ("task", "dataset", "backbone", "layer", "token", "rule", "shots", "evaluation")


@dataclasses.dataclass(frozen=True)
class SweepScores:
    """What the concept table takes from one sweep.

    Attributes:
        label: of the sweep, unique on the page.
        scores: of its concepts.
        skipped: its concepts without a template, and why.
        examples: images with masks, None where there are none.
        unmined: its concepts whose negative pool leaves mining no choice.
    """

    label: str
    scores: ConceptScores
    skipped: Sequence[SkippedConcept]
    examples: Examples | None
    unmined: Sequence[UnminedConcept] = ()


@dataclasses.dataclass(frozen=True)
class PageData:
    """Base64 texts; all but the images deflated (zlib).

    Attributes:
        record: JSON: the names of cells and concepts, why concepts were skipped, where mining had no choice, where
            examples are.
        scores: thousandths [metric, concept, cell], `ABSENT` where there is none: first all lower, then all upper bytes.
        masks: a byte for each patch, example after example in rows: `Example.truth`, plus 3 where found.
        images: JPEG files one after another; their lengths are in the record.
    """

    record: str
    scores: str
    masks: str
    images: str


def pack(sweeps: Sequence[SweepScores]) -> PageData:
    """All sweeps in one: concepts are the same where number, name and category are."""
    concepts = sorted({concept for sweep in sweeps for concept in sweep.scores.concepts}, key=_by_category)
    place = {concept: i for i, concept in enumerate(concepts)}
    cells = [(sweep.label, cell) for sweep in sweeps for cell in sweep.scores.cells]
    scores = [np.full((len(sweep.scores.scores), len(concepts), len(sweep.scores.cells)), ABSENT) for sweep in sweeps]
    for block, sweep in zip(scores, sweeps, strict=True):
        block[:, [place[concept] for concept in sweep.scores.concepts]] = thousandths(sweep.scores.scores)
    scores = np.concatenate(scores, axis=2).astype("<u2") if sweeps else np.zeros((0, 0, 0), "<u2")

    columns = {"sweep": _column([label for label, _ in cells], [sweep.label for sweep in sweeps].index)}
    for name in _COLUMNS:
        columns[name] = _column([getattr(cell, name) for _, cell in cells], _order(name, cells))
    images, shown, masks = _examples(sweeps, place)
    record = {
        "cells": columns,
        "controls": sorted({cell.backbone for _, cell in cells if cell.untrained}),
        "concepts": {
            "number": [concept.number for concept in concepts],
            "name": [concept.name for concept in concepts],
            "category": _column([concept.category for concept in concepts], lambda name: name),
        },
        "skipped": [line for sweep in sweeps for line in _skipped(sweep, concepts)],
        "unmined": [line for sweep in sweeps for line in _unmined(sweep, place)],
        "examples": shown,
        "images": [len(content) for content in images],
    }
    return PageData(
        record=_deflate(json.dumps(record, separators=(",", ":")).encode()),
        scores=_deflate(scores.reshape(-1, 1).view(np.uint8).T.tobytes()),
        masks=_deflate(b"".join(masks)),
        images=base64.b64encode(b"".join(images)).decode(),
    )


def thousandths(scores: Float[np.ndarray, "..."]) -> UInt16[np.ndarray, "..."]:
    """`round(1000 * round(x, 3))` of each score in [0, 1], `ABSENT` for NaN.

    Python rounds the exact binary value to decimals, NumPy the product with 1000, which may have become a tie by then:
    so what is close to one is left to Python.
    """
    scaled = 1000 * np.nan_to_num(scores)
    rounded = np.rint(scaled)
    for tie in np.argwhere(np.abs(scaled - np.floor(scaled) - 0.5) < 1e-6):
        rounded[tuple(tie)] = round(1000 * round(float(scores[tuple(tie)]), 3))
    return np.where(np.isnan(scores), ABSENT, rounded).astype(np.uint16)


def _by_category(concept: Concept) -> tuple:
    return concept.category, concept.name, concept.number


def _column(values: Sequence, key: Callable) -> dict:
    """The distinct values in their order, and each value's place among them."""
    distinct = sorted(set(values), key=key)
    place = {value: i for i, value in enumerate(distinct)}
    return {"names": distinct, "codes": [place[value] for value in values]}


def _order(name: str, cells: Iterable) -> Callable:
    """How the values of a cell's column are sorted: known names as everywhere, numbers ascending, others as they come."""
    if name in _IN_ORDER:
        return _IN_ORDER[name].index
    if name in ("layer", "shots"):
        return lambda value: -1 if value is None else value
    return list(dict.fromkeys(getattr(cell, name) for _, cell in cells)).index


def _skipped(sweep: SweepScores, concepts: Sequence[Concept]) -> Iterable[dict]:
    places = {}
    for i, concept in enumerate(concepts):
        places.setdefault((concept.category, concept.name), []).append(i)
    for skipped in sweep.skipped:
        for concept in places.get((skipped.category, skipped.name), ()):
            where = {"rules": ", ".join(skipped.rules), "backbones": ", ".join(skipped.backbones)}
            yield {"concept": concept, "sweep": sweep.label, "reason": skipped.reason} | where


def _unmined(sweep: SweepScores, place: Mapping[Concept, int]) -> Iterable[dict]:
    for unmined in sweep.unmined:
        numbers = {"positives": unmined.positives, "pool": unmined.pool, "backbones": list(unmined.backbones)}
        yield {"concept": place[unmined.concept], "sweep": sweep.label} | numbers


def _examples(
    sweeps: Sequence[SweepScores], place: Mapping[Concept, int]
) -> tuple[list[bytes], list[dict], list[bytes]]:
    """The images, where each example is found, and its masks."""
    images, shown, masks = [], [], []
    for sweep in sweeps:
        if sweep.examples is None:
            continue
        first = {name: len(images) + i for i, name in enumerate(sweep.examples.images)}
        images += sweep.examples.images.values()
        for row in sweep.examples.rows:
            concept = place.get(Concept(row.concept, row.name, row.category))
            if concept is not None:
                shown.append(_example(row) | {"sweep": sweep.label, "concept": concept, "image": first[row.image]})
                masks.append((row.truth + 3 * (row.found > 0)).astype(np.uint8).tobytes())
    return images, shown, masks


def _example(row: Example) -> dict:
    height, width = row.truth.shape
    names = ("kind", "backbone", "layer", "token", "rule", "shots")
    return {name: getattr(row, name) for name in names} | {"iou": f"{row.iou:.3f}", "rows": height, "columns": width}


def _deflate(content: bytes) -> str:
    return base64.b64encode(zlib.compress(content, 9)).decode()
