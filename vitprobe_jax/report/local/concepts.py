"""Concepts: those with the most pixels first, the others folded away."""

from collections.abc import Sequence

import numpy as np
import pyarrow.compute as pc

from vitprobe_jax.report.measured.figures.looks import Looks
from vitprobe_jax.report.measured.rows import PartTable, Row, values_by, variants_of
from vitprobe_jax.report.measured.tables import Column, Entry, Table, number_table

TOP = 10
"""A table shows so many concepts; the others are in one that is folded, unless they are `_FEW`."""
_FEW = 5

Concept = tuple[int, str, str]
"""Number, name, category."""


def by_pixels(rows: Sequence[Row]) -> list[Concept]:
    """The concepts of some rows of IoU, those with the most held-out pixels first."""
    counts: dict[Concept, int] = {}
    for row in rows:
        key = row.concept, row.name, row.category
        counts[key] = max(row.count, counts.get(key, 0))
    return sorted(counts, key=lambda key: -counts[key])


def ranked_concepts(part: PartTable) -> tuple[list[str], list[int]]:
    """The names of all concepts in the order of the data set, and the place of each by pixels, 0 for the most.

    Every method and variant has a row for each concept, skipped or not, in that order.
    """
    table = part.table.filter(pc.equal(part.table["measure"], "iou"))
    columns = ["concept", "name", "category"]
    counts = table.group_by(columns, use_threads=False).aggregate([("count", "max")])
    ranks = np.empty(len(counts), int)
    ranks[np.argsort(-counts["count_max"].to_numpy(), kind="stable")] = np.arange(len(counts))
    return pc.fill_null(counts["name"], "").to_pylist(), ranks.tolist()


def concept_tables(rows: Sequence[Row], looks: Looks, title: str, *, folded: bool = False) -> list[Table]:
    """A line for each concept, a column for each variant of the shown backbones; none without rows.

    Args:
        rows: of one measure, one for each concept and variant.
        looks: of backbones.
        title: of the tables.
        folded: whether all concepts are in one table that is folded.
    """
    rows = looks.shown(rows)
    concepts, variants = by_pixels(rows), variants_of(rows)
    values = values_by(rows, "backbone", "dropped", "concept", "name", "category")
    several = len({category for *_, category in concepts}) > 1
    entries = [
        Entry(
            f"{concept[1]} ({concept[2]})" if several else concept[1],
            [values.get((*variant, *concept)) for variant in variants],
            label_is_name=False,
        )
        for concept in concepts
    ]
    columns = [Column(name, "") for name in variants.values()]
    note = f"Concepts by their pixels in the held-out images. {looks.note}".strip()
    parts = [(title, entries, folded)]
    if not folded and len(entries) > TOP + _FEW:
        more = f"{title}: {len(entries) - TOP} more concepts"
        parts = [(title, entries[:TOP], False), (more, entries[TOP:], True)]
    return [
        number_table(heading, "Concept", columns, own, note=note, folded=closed)
        for heading, own, closed in parts
        if own
    ]
