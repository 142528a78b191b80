"""Results table -> summarised rows: means over trials and concepts, what was skipped, which token did best.

A *cell* is what one mean speaks of: backbone, layer, token, rule and, for cosine templates, the number of shots. All
means over concepts are unweighted. Results of whole Broden sweeps have millions of rows, so the sums are Arrow's; it
runs them on one thread here, which keeps the order of summation and so every digit.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping

import pyarrow as pa
import pyarrow.compute as pc

from vitprobe_jax.backbones.untrained import OBJECTIVE as UNTRAINED
from vitprobe_jax.metrics.results import METRICS
from vitprobe_jax.types import TOKENS

_CELL = ["backbone", "objective", "layer", "token", "rule", "shots"]
_CONCEPT = ["concept", "category"]
_NO_SHOTS = 0


@dataclasses.dataclass(frozen=True)
class Score:
    """A metric of a cell, in [0, 1].

    Attributes:
        mean: over trials first, then over concepts.
        deviation: sample standard deviation (n - 1), over trials, of the mean over concepts; None for a single trial.
    """

    mean: float
    deviation: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """One cell.

    Attributes:
        shots: support images asked for; None for hyperplanes.
        effective_shots: support images used, mean over templates; None for hyperplanes.
        concepts: how many concepts the means are over.
        templates: how many templates: concepts times trials, less what was skipped.
        degenerate: how many of the templates have an undefined metric, which counts as 0 in the means.
        skipped: how many concepts have no template; they are in no mean.
        scores: by metric; empty where every concept was skipped.
    """

    backbone: str
    objective: str
    layer: int
    token: str
    rule: str
    shots: int | None
    effective_shots: float | None = None
    concepts: int = 0
    templates: int = 0
    degenerate: int = 0
    skipped: int = 0
    scores: Mapping[str, Score] = dataclasses.field(default_factory=dict)

    @property
    def untrained(self) -> bool:
        """Whether the backbone is a control with random weights."""
        return self.objective == UNTRAINED


@dataclasses.dataclass(frozen=True)
class Best:
    """The token with the highest mean of a backbone under a rule, and the best of its other tokens (None: no other)."""

    first: Summary
    second: Summary | None


@dataclasses.dataclass(frozen=True)
class SkippedConcept:
    """A concept that has no template somewhere, why, and under which rules of which backbones."""

    category: str
    name: str
    reason: str
    rules: tuple[str, ...]
    backbones: tuple[str, ...]


def summarise(table: pa.Table) -> list[Summary]:
    """Every cell of a results table: backbones in the table's order, then layer, token, rule and shots ascending.

    A concept with some trials skipped is averaged over the others; one with none left counts as skipped.
    """
    # Joins never match a null, so hyperplanes get a number of shots as well.
    table = table.set_column(
        table.schema.get_field_index("shots"), "shots", pc.fill_null(table["shots"], pa.scalar(_NO_SHOTS, pa.int32()))
    )
    scored = table.filter(pc.is_null(table["skipped"]))
    per_concept = _mean(scored, [*_CELL, *_CONCEPT])
    means = _by_cell(per_concept, [(metric, "mean") for metric in METRICS] + [("concept", "count")])
    sample = pc.VarianceOptions(ddof=1)
    deviations = _by_cell(_mean(scored, [*_CELL, "trial"]), [(metric, "stddev", sample) for metric in METRICS])
    templates = _by_cell(scored, [("degenerate", "sum"), ("degenerate", "count"), ("effective_shots", "mean")])
    skipped = _count_skipped(table, per_concept)

    rows = [
        Summary(
            **_identity(cell),
            effective_shots=templates[cell]["effective_shots_mean"],
            concepts=mean["concept_count"],
            templates=templates[cell]["degenerate_count"],
            degenerate=templates[cell]["degenerate_sum"],
            skipped=skipped.pop(cell, 0),
            scores={m: Score(mean[f"{m}_mean"], deviations[cell][f"{m}_stddev"]) for m in METRICS},
        )
        for cell, mean in means.items()
    ]
    rows += [Summary(**_identity(cell), skipped=count) for cell, count in skipped.items()]
    backbones = pc.unique(table["backbone"]).to_pylist()
    return sorted(
        rows,
        key=lambda row: (backbones.index(row.backbone), row.layer, TOKENS.index(row.token), row.rule, row.shots or 0),
    )


def summarise_by_category(table: pa.Table) -> dict[str, list[Summary]]:
    """`summarise` of each category of concepts alone, by category in alphabetical order."""
    categories = sorted(pc.unique(table["category"]).to_pylist())
    return {category: summarise(table.filter(pc.equal(table["category"], category))) for category in categories}


def last_layer(rows: Iterable[Summary]) -> list[Summary]:
    """The rows at the last probed layer of each backbone."""
    rows = list(rows)
    last = {row.backbone: row.layer for row in sorted(rows, key=lambda row: row.layer)}
    return [row for row in rows if row.layer == last[row.backbone]]


def most_shots(rows: Iterable[Summary]) -> list[Summary]:
    """The rows with the largest number of shots there is; all rows where none has any."""
    rows = list(rows)
    most = max((row.shots or 0 for row in rows), default=0)
    return [row for row in rows if (row.shots or 0) == most]


def best_tokens(rows: Iterable[Summary], *, metric: str = "f1") -> list[Best]:
    """The best token of every backbone under every rule, over all layers, at the largest number of shots.

    At one number of shots, since tokens are to be compared and not budgets. Of equals, the first in the order of
    `TOKENS` leads. A backbone and rule where every concept was skipped has no entry.
    """
    groups = defaultdict(list)
    for row in rows:
        if row.scores:
            groups[row.rule, row.backbone].append(row)
    best = []
    for group in groups.values():
        ranked = sorted(most_shots(group), key=lambda row: (-row.scores[metric].mean, TOKENS.index(row.token)))
        others = (row for row in ranked if row.token != ranked[0].token)
        best.append(Best(ranked[0], next(others, None)))
    return best


def skipped_concepts(table: pa.Table) -> list[SkippedConcept]:
    """Each concept and reason of the skipped rows, by category and name."""
    columns = ["category", "concept", "name", "skipped"]
    rows = table.filter(pc.is_valid(table["skipped"]))
    places = defaultdict(set)
    for *reason, rule, backbone in _tuples(
        rows.group_by([*columns, "rule", "backbone"], use_threads=False).aggregate([])
    ):
        places[tuple(reason)].add((rule, backbone))
    return [
        SkippedConcept(
            category=category,
            name=name,
            reason=reason,
            rules=tuple(sorted({rule for rule, _ in places[category, concept, name, reason]})),
            backbones=tuple(sorted({backbone for _, backbone in places[category, concept, name, reason]})),
        )
        for category, concept, name, reason in sorted(places, key=lambda key: (key[0], key[2], key[1], key[3]))
    ]


def _mean(table: pa.Table, keys: list[str]) -> pa.Table:
    """The means of the metrics by keys, under the names of the metrics."""
    means = table.group_by(keys, use_threads=False).aggregate([(metric, "mean") for metric in METRICS])
    return means.select([*keys, *(f"{metric}_mean" for metric in METRICS)]).rename_columns([*keys, *METRICS])


def _by_cell(table: pa.Table, aggregations: list[tuple]) -> dict[tuple, dict]:
    rows = table.group_by(_CELL, use_threads=False).aggregate(aggregations).to_pylist()
    return {tuple(row.pop(key) for key in _CELL): row for row in rows}


def _count_skipped(table: pa.Table, per_concept: pa.Table) -> dict[tuple, int]:
    """Skipped concepts by cell."""
    keys = [*_CELL, *_CONCEPT]
    attempted = table.filter(pc.is_valid(table["skipped"])).group_by(keys, use_threads=False).aggregate([])
    never_scored = attempted.join(per_concept.select(keys), keys, join_type="left anti")
    return {cell: row["concept_count"] for cell, row in _by_cell(never_scored, [("concept", "count")]).items()}


def _tuples(table: pa.Table) -> list[tuple]:
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def _identity(cell: tuple) -> dict:
    identity = dict(zip(_CELL, cell, strict=True))
    return identity | {"shots": identity["shots"] or None}
