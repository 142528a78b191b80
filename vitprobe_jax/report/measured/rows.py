"""Rows of a table of measurements, sorted by part and data set, and the names of the variants that they are of."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from vitprobe_jax.backbones.untrained import OBJECTIVE as UNTRAINED
from vitprobe_jax.metrics.measurements import MEASUREMENTS
from vitprobe_jax.types import ALL_TOKENS, Token


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One number: the columns of `MEASUREMENTS`, see there; where nothing is said of features, all of them are used."""

    study: str
    dataset: str
    backbone: str
    family: str
    objective: str
    layer: int | None
    token: str | None
    part: str
    method: str | None
    tiling: str | None
    shots: int | None
    features: str
    dropped: int
    setting: str | None
    level: float | None
    concept: int | None
    name: str | None
    category: str | None
    measure: str
    value: float | None
    deviation: float | None
    count: int
    skipped: str | None

    @property
    def untrained(self) -> bool:
        """Whether the backbone is a control with random weights."""
        return self.objective == UNTRAINED

    @property
    def variant(self) -> str:
        """The backbone and which of its features are used, as `variant_name`."""
        return variant_name(self.backbone, self.features, self.dropped)


@dataclasses.dataclass(frozen=True, eq=False)
class PartTable:
    """What one part measured on one data set.

    A page shows one cell of each backbone: the token `preferred`, or the first there is, of its last measured block.

    Attributes:
        part: its name.
        dataset: the data set's.
        table: their rows of `MEASUREMENTS`.
        leading: measures of which one at least must have a number for the part to be shown: all others go with them.
        preferred: the token that is shown if it was measured.
    """

    part: str
    dataset: str
    table: pa.Table
    leading: tuple[str, ...]
    preferred: Token

    @functools.cached_property
    def tokens(self) -> list[str]:
        """The measured tokens, the one that is shown first."""
        order = [self.preferred, *ALL_TOKENS]
        tokens = pc.unique(self._scored["token"].drop_null()).to_pylist()
        return sorted(tokens, key=lambda token: order.index(token) if token in order else len(order))

    @property
    def token(self) -> str | None:
        """The token that is shown; None where rows have none."""
        return next(iter(self.tokens), None)

    @functools.cached_property
    def last_layers(self) -> dict[str, int]:
        """The last measured block of each backbone, of the token that is shown."""
        layers = self._scored.filter(pc.equal(self._scored["token"], self.token or ""))
        grouped = layers.group_by("backbone", use_threads=False).aggregate([("layer", "max")])
        return dict(zip(grouped["backbone"].to_pylist(), grouped["layer_max"].to_pylist(), strict=True))

    @property
    def several_cells(self) -> bool:
        """Whether a backbone has more than the cell that is shown."""
        cells = self._scored.group_by(["backbone", "layer", "token"], use_threads=False).aggregate([])
        return len(cells) > len(pc.unique(self._scored["backbone"]))

    def rows(self, *measures: str, layers: str = "last", **equal: str | int | float | None) -> list[Row]:
        """The numbers of some measures, in the table's order; what was skipped is in none.

        Args:
            measures: their names.
            layers: of the shown token: `last`, or `all` blocks; `every cell` for those of other tokens too.
            equal: what other columns must be.
        """
        chosen = _rows(_where(self._scored, measure=measures, **{name: (value,) for name, value in equal.items()}))
        if layers == "every cell":
            return chosen
        chosen = [row for row in chosen if row.token in (self.token, None)]
        if layers == "last":
            chosen = [row for row in chosen if row.layer in (self.last_layers.get(row.backbone), None)]
        return chosen

    @property
    def has_numbers(self) -> bool:
        """Whether there is a number of a leading measure."""
        return len(_where(self._scored, measure=self.leading)) > 0

    @property
    def trained(self) -> dict[str, str]:
        """The family of each backbone that is no control."""
        columns = ["backbone", "family", "objective"]
        named = self.table.select(columns).group_by(columns, use_threads=False).aggregate([]).to_pylist()
        return {row["backbone"]: row["family"] for row in named if row["objective"] != UNTRAINED}

    @property
    def num_concepts(self) -> int:
        """How many concepts have held-out pixels, as far as the part counts them."""
        counted = pc.and_(pc.equal(self.table["measure"], "iou"), pc.greater(self.table["count"], 0))
        columns = ["concept", "category"]
        return len(self.table.filter(counted).group_by(columns, use_threads=False).aggregate([]))

    @functools.cached_property
    def skipped(self) -> pa.Table:
        """The rows that have a reason instead of a number."""
        return self.table.filter(pc.is_valid(self.table["skipped"]))

    @functools.cached_property
    def _scored(self) -> pa.Table:
        return self.table.filter(pc.is_null(self.table["skipped"]))


def part_tables(table: pa.Table, leading: Mapping[str, Sequence[str]], preferred: Token) -> list[PartTable]:
    """What each part measured on each data set: parts in the order of `leading`, data sets in the table's.

    Args:
        table: of `MEASUREMENTS`.
        leading: of each part of the study, see `PartTable`.
        preferred: see `PartTable`.
    """
    pairs = table.group_by(["part", "dataset"], use_threads=False).aggregate([])
    found = list(zip(pairs["part"].to_pylist(), pairs["dataset"].to_pylist(), strict=True))
    return [
        PartTable(part, dataset, _where(table, part=(part,), dataset=(dataset,)), tuple(measures), preferred)
        for part, measures in leading.items()
        for other, dataset in found
        if other == part
    ]


def variant_name(backbone: str, features: str, dropped: int) -> str:
    """A backbone with some of its features, as the paper names it: `mae-200` without the 200 of highest variance."""
    if not dropped or features == "all":
        return backbone
    if features == "without top":
        return f"{backbone}-{dropped}"
    return f"{backbone}, {features_title(features, dropped)}"


def features_title(features: str, dropped: int) -> str:
    """Which features are used, in words."""
    if not dropped or features == "all":
        return "all features"
    return {
        "without top": f"without the top {dropped}",
        "without bottom": f"without the bottom {dropped}",
        "only random": f"only {dropped} at random",
        "only top": f"only the top {dropped}",
    }[features]


def backbones_of(rows: Iterable[Row]) -> list[str]:
    """The backbones of some rows in the table's order."""
    return list(dict.fromkeys(row.backbone for row in rows))


def drops_of(rows: Iterable[Row]) -> list[int]:
    """How many features of highest variance are left out in some rows, ascending; 0 for all features."""
    return sorted({row.dropped for row in rows if row.features in ("all", "without top")})


def variants_of(rows: Iterable[Row]) -> dict[tuple[str, int], str]:
    """The names of the variants of some rows, by backbone and number of features left out; those of a backbone together."""
    rows = list(rows)
    return {
        (backbone, dropped): variant_name(backbone, "without top", dropped)
        for backbone in backbones_of(rows)
        for dropped in drops_of(row for row in rows if row.backbone == backbone)
    }


def values_by(rows: Iterable[Row], *fields: str) -> dict[tuple, float]:
    """Numbers by some columns of their rows; of rows that agree in all of them, the mean."""
    groups: dict[tuple, list[float]] = {}
    for row in rows:
        groups.setdefault(tuple(getattr(row, field) for field in fields), []).append(row.value)
    return {place: sum(own) / len(own) for place, own in groups.items()}


def _where(table: pa.Table, **allowed: Sequence) -> pa.Table:
    """The rows whose columns have some of these values; without values for a column, any."""
    for name, values in allowed.items():
        if not values:
            continue
        wanted = pa.array([value for value in values if value is not None], MEASUREMENTS.field(name).type)
        mask = pc.is_in(table[name], wanted)
        if None in values:
            mask = pc.or_(mask, pc.is_null(table[name]))
        table = table.filter(mask)
    return table


def _rows(table: pa.Table) -> list[Row]:
    table = table.set_column(table.column_names.index("features"), "features", pc.fill_null(table["features"], "all"))
    table = table.set_column(table.column_names.index("dropped"), "dropped", pc.fill_null(table["dropped"], 0))
    columns = [table[name].to_pylist() for name in MEASUREMENTS.names]
    return [Row(**dict(zip(MEASUREMENTS.names, values, strict=True))) for values in zip(*columns, strict=True)]
