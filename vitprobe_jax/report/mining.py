"""Concepts whose negative pool leaves hard-negative mining nothing to choose."""

import dataclasses
from collections import defaultdict
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from vitprobe_jax.types import HYPERPLANE_RULES, Concept


@dataclasses.dataclass(frozen=True)
class UnminedConcept:
    """A concept whose whole pool is taken in every round, because it has too few negatives.

    Attributes:
        concept: the concept.
        positives: training rows that carry it.
        pool: negatives of its pool.
        backbones: for which this is so; the numbers depend on the patch grid.
    """

    concept: Concept
    positives: int
    pool: int
    backbones: tuple[str, ...]


def unmined_concepts(table: pa.Table, config: Mapping) -> list[UnminedConcept]:
    """The concepts with hyperplanes whose pool has at most `--negative_ratio` negatives a positive, by category and name.

    Args:
        table: results.
        config: every flag as resolved; without the two ratios of hyperplanes nothing is known, and the list is empty.
    """
    hyperplane = config.get("hyperplane")
    ratios = hyperplane if isinstance(hyperplane, Mapping) else {}
    most, taken = ratios.get("pool_ratio"), ratios.get("negative_ratio")
    if most is None or taken is None:
        return []
    fitted = pc.and_(pc.is_in(table["rule"], pa.array(HYPERPLANE_RULES)), pc.is_null(table["skipped"]))
    columns = ["concept", "name", "category", "n_pos_train", "n_neg_train", "backbone"]
    rows = table.filter(fitted).select(columns).group_by(columns, use_threads=False).aggregate([])
    found = defaultdict(list)
    for row in rows.to_pylist():
        positives = row["n_pos_train"]
        pool = min(most * positives, row["n_neg_train"])
        if pool <= taken * positives:
            found[Concept(row["concept"], row["name"], row["category"]), positives, pool].append(row["backbone"])
    order = sorted(found, key=lambda key: (key[0].category, key[0].name, key[0].number, *key[1:]))
    return [UnminedConcept(*key, tuple(sorted(found[key]))) for key in order]
