"""How backbones and their variants look in every figure: a backbone has a colour and a marker, a variant a dash."""

import dataclasses
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.lines import Line2D

from vitprobe_jax.backbones.untrained import OBJECTIVE as UNTRAINED
from vitprobe_jax.report.figures import style
from vitprobe_jax.report.local.rows import Row, backbones_of, drops_of, features_title, variant_name

BACKBONES = len(style.BACKBONE_COLOURS)
"""A figure shows so many backbones at most: with more, neither colours nor lines can be told apart."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES = ("-", (0, (3.5, 1.6)), (0, (1, 1.3)), (0, (5, 1.4, 1, 1.4)), (0, (8, 2)))
_DECIDING = ("miou", "same_instance", "accuracy", "same_patch", "mean_r2")
"""By which measure backbones are chosen, the first of these that a table has; for all of them more is better."""


@dataclasses.dataclass(frozen=True)
class Looks:
    """The backbones that figures show.

    Attributes:
        marks: of each shown backbone, in the table's order.
        count: how many backbones there are in all.
    """

    marks: Mapping[str, style.Mark]
    count: int

    @classmethod
    def of(cls, table: pa.Table) -> "Looks":
        """All backbones of a table, or of many the best one of each family, then the next best."""
        columns = ["backbone", "family", "objective"]
        named = table.select(columns).group_by(columns, use_threads=False).aggregate([]).to_pylist()
        families = {row["backbone"]: row["family"] for row in named}
        shown = choose(families, _bests(table)) if len(families) > BACKBONES else list(families)
        objectives = {row["backbone"]: row["objective"] for row in named}
        marks = style.backbone_marks(_Named(name, objectives[name] == UNTRAINED) for name in shown)
        return cls(
            {name: dataclasses.replace(mark, marker=MARKERS[i]) for i, (name, mark) in enumerate(marks.items())},
            len(families),
        )

    @property
    def note(self) -> str:
        """A sentence for captions, where not all backbones are shown; "" where they are."""
        shown = len(self.marks)
        return f"{shown} of {self.count} backbones are shown; the tables have all." if shown < self.count else ""

    def shown(self, rows: Sequence[Row]) -> list[Row]:
        """The rows of shown backbones."""
        return [row for row in rows if row.backbone in self.marks]

    def keys(self, rows: Sequence[Row], *, variants: bool = True) -> list[Line2D]:
        """A legend's entries: of the backbones of some rows and, where they have several and are asked for, of variants."""
        backbones = [style.points_key(self.marks[name], line=True) for name in backbones_of(rows)]
        drops = drops_of(rows)
        if not variants or drops in ([], [0]):
            return backbones
        return backbones + [
            Line2D(
                [],
                [],
                color=style.INK,
                linewidth=1.6,
                linestyle=dash(dropped, drops),
                label=features_title("without top", dropped),
            )
            for dropped in drops
        ]


def choose(families: Mapping[str, str], bests: Mapping[str, float]) -> list[str]:
    """`BACKBONES` of many: the best one of each family, then the next best; in their first order.

    Args:
        families: of each backbone.
        bests: its highest number; those without one come last.
    """
    ranked = sorted(families, key=lambda name: -bests.get(name, float("-inf")))
    firsts = {families[name]: name for name in reversed(ranked)}
    chosen = sorted(ranked, key=lambda name: name not in firsts.values())[:BACKBONES]
    return [name for name in families if name in chosen]


def dash(dropped: int, drops: Sequence[int]) -> str | tuple:
    """The dash of a variant among others; that of all features is solid."""
    turn = sorted({0, *drops}).index(dropped)
    return _DASHES[turn % len(_DASHES)]


def variants_note(rows: Sequence[Row]) -> str:
    """A sentence for captions on what dashes mean; "" where there is one variant."""
    drops = [dropped for dropped in drops_of(rows) if dropped]
    if not drops:
        return ""
    name = variant_name(next(row.backbone for row in rows if row.dropped == drops[0]), "without top", drops[0])
    return f"Not solid: without the features of highest variance (as {name}, without {drops[0]})."


def _bests(table: pa.Table) -> dict[str, float]:
    """The highest number of each backbone by the first deciding measure that the table has."""
    for measure in _DECIDING:
        rows = table.filter(pc.and_(pc.equal(table["measure"], measure), pc.is_valid(table["value"])))
        if len(rows):
            found = rows.group_by("backbone", use_threads=False).aggregate([("value", "max")])
            return dict(zip(found["backbone"].to_pylist(), found["value_max"].to_pylist(), strict=True))
    return {}


@dataclasses.dataclass(frozen=True)
class _Named:
    backbone: str
    untrained: bool
