"""Results table -> the summaries that one figure shows."""

from collections.abc import Collection, Iterable, Sequence
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from vitprobe_jax.errors import InputError
from vitprobe_jax.report import tables
from vitprobe_jax.report.tables import Score, Summary
from vitprobe_jax.types import ALL_TOKENS, HYPERPLANE_RULES, TASKS, Rule, Task, Token


def studies(table: pa.Table) -> list[tuple[Task, str]]:
    """The pairs of task and data set that a table holds, tasks in their usual order."""
    pairs = table.select(["task", "dataset"]).group_by(["task", "dataset"], use_threads=False).aggregate([])
    found = zip(pairs["task"].to_pylist(), pairs["dataset"].to_pylist(), strict=True)
    return sorted(found, key=lambda pair: (TASKS.index(pair[0]), pair[1]))


def restrict(table: pa.Table, task: Task, dataset: str) -> pa.Table:
    """The rows of one task and data set; the table itself where it has no others, so that its sums are not made again."""
    if studies(table) == [(task, dataset)]:
        return table
    return table.filter(pc.and_(pc.equal(table["task"], task), pc.equal(table["dataset"], dataset)))


def study_of(table: pa.Table, task: Task | None = None) -> pa.Table:
    """The rows of one task on one data set: what a figure shows.

    Raises:
        InputError: there are none, or of several tasks or data sets.
    """
    found = [study for study in studies(table) if task in (None, study[0])]
    if not found:
        raise InputError(f"the table has no results{f' of {task}' if task else ''}; give the one of a finished sweep")
    if len(found) > 1:
        named = ", ".join(f"{own} on {dataset}" for own, dataset in found)
        raise InputError(f"the table holds {named}; a figure shows one: give its task, or filter the table by dataset")
    return restrict(table, *found[0])


def choose(
    rows: Iterable[Summary],
    *,
    rule: Rule,
    layer: int | Literal["last", "all"] = "last",
    shots: int | Literal["most", "all"] = "most",
    pixels: bool = False,
) -> list[Summary]:
    """The summaries of one rule at the places that a figure shows.

    Args:
        rows: of one task and data set.
        rule: decision rule, see `present_rule`.
        layer: a block, each backbone's last probed one, or all.
        shots: support images, the largest number there is, or all; nothing is asked of hyperplanes.
        pixels: those that count pixels instead of those that count patches or images.

    Raises:
        InputError: no row is left.
    """
    rows = list(rows)
    rule = present_rule(rule, {row.rule for row in rows})
    chosen = [row for row in rows if row.rule == rule and (row.evaluation == "pixel") == pixels]
    if layer == "last":
        chosen = tables.last_layer(chosen)
    elif layer != "all":
        chosen = [row for row in chosen if row.layer == layer]
    if shots == "most":
        chosen = tables.most_shots(chosen)
    elif shots != "all":
        chosen = [row for row in chosen if row.shots in (None, shots)]
    if not chosen:
        counted = " counted on pixels" if pixels else ""
        place = "" if layer in ("last", "all") else f" at block {layer}"
        budget = "" if shots in ("most", "all") else f" from {shots} support images"
        raise InputError(f"the table has no {rule} templates{counted}{place}{budget}; give others or sweep them first")
    return chosen


def present_rule(rule: Rule, present: Collection[str]) -> Rule:
    """The rule; `hyperplane`, the default of figures, stands for the other hyperplane rule where that alone is there."""
    others = [own for own in HYPERPLANE_RULES if own in present]
    return others[0] if rule == "hyperplane" and others else rule


def tokens_of(rows: Iterable[Summary]) -> list[Token]:
    """The tokens of some rows in their usual order."""
    present = {row.token for row in rows}
    return [token for token in ALL_TOKENS if token in present]


def backbones_of(rows: Iterable[Summary]) -> list[str]:
    """The backbones of some rows in the table's order."""
    return list(dict.fromkeys(row.backbone for row in rows))


def lookup(rows: Sequence[Summary], *fields: str) -> dict[tuple, Summary]:
    """Rows by some of their fields.

    Raises:
        ValueError: two rows have the same.
    """
    found = {tuple(getattr(row, field) for field in fields): row for row in rows}
    if len(found) < len(rows):
        raise ValueError(f"two rows of one {', '.join(fields)}: choose one layer and one number of shots")
    return found


def trials_differ(rows: Iterable[Summary]) -> bool:
    """Whether some rows are of few-shot templates whose scores have a deviation over trials."""
    return any(row.shots and any(score.deviation is not None for score in row.scores.values()) for row in rows)


def seeds_differ(rows: Iterable[Summary]) -> bool:
    """Whether some rows are means over several seeds, whose intervals cover them."""
    return any(row.seeds > 1 for row in rows)


def score_of(row: Summary | None, metric: str) -> Score | None:
    """The score, None where there is no such cell or every concept was skipped."""
    return row.scores[metric] if row is not None and row.scores else None
