"""How backbones and their variants look in every figure: a backbone has a colour and a marker, a variant a dash."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.lines import Line2D

from vitprobe_jax.backbones.untrained import OBJECTIVE as UNTRAINED
from vitprobe_jax.report.figures import style
from vitprobe_jax.report.measured.rows import Row, backbones_of, drops_of, features_title, variant_name

BACKBONES = len(style.BACKBONE_COLOURS)
"""A figure shows so many backbones at most: with more, neither colours nor lines can be told apart."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES = ("-", (0, (3.5, 1.6)), (0, (1, 1.3)), (0, (5, 1.4, 1, 1.4)), (0, (8, 2)))


@dataclasses.dataclass(frozen=True)
class Looks:
    """The backbones that figures show.

    Attributes:
        marks: of each shown backbone, in the table's order.
        ranked: the shown backbones from the best down.
        count: how many backbones there are in all.
    """

    marks: Mapping[str, style.Mark]
    ranked: Sequence[str]
    count: int

    @classmethod
    def of(cls, table: pa.Table, deciding: Sequence[str]) -> "Looks":
        """All backbones of a table, or of many the best, the worst and some between them.

        Args:
            table: of `MEASUREMENTS`.
            deciding: by which measure backbones are ranked, the first of these that the table has; of all of them more is
                better.
        """
        columns = ["backbone", "objective"]
        named = table.select(columns).group_by(columns, use_threads=False).aggregate([]).to_pylist()
        untrained = {row["backbone"]: row["objective"] == UNTRAINED for row in named}
        means = _means(table, deciding)
        ranked = sorted(untrained, key=lambda name: -means.get(name, float("-inf")))
        chosen = spread(ranked, BACKBONES)
        marks = style.backbone_marks(_Named(name, of) for name, of in untrained.items() if name in chosen)
        return cls(
            {name: dataclasses.replace(mark, marker=MARKERS[i]) for i, (name, mark) in enumerate(marks.items())},
            chosen,
            len(untrained),
        )

    @property
    def note(self) -> str:
        """A sentence for captions, where not all backbones are shown; "" where they are."""
        if len(self.ranked) == self.count:
            return ""
        return f"{len(self.ranked)} of {self.count} backbones are shown, from the best to the worst; tables have all."

    def shown(self, rows: Sequence[Row]) -> list[Row]:
        """The rows of shown backbones."""
        return [row for row in rows if row.backbone in self.marks]

    def fewer(self, count: int) -> "Looks":
        """For what takes more room: so many of the shown backbones at most, the best and the worst among them."""
        chosen = spread(self.ranked, count)
        return Looks({name: mark for name, mark in self.marks.items() if name in chosen}, chosen, self.count)

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


def spread(ranked: Sequence, count: int) -> list:
    """So many of a sequence at most, at equal distances, the first and the last among them."""
    if len(ranked) <= count:
        return list(ranked)
    places = np.linspace(0, len(ranked) - 1, count).round().astype(int)
    return [ranked[place] for place in places]


def dash(dropped: int, drops: Sequence[int]) -> str | tuple:
    """The dash of a variant among others; that of all features is solid."""
    turn = sorted({0, *drops}).index(dropped)
    return _DASHES[turn % len(_DASHES)]


def variants_note(rows: Sequence[Row]) -> str:
    """A sentence for captions on what dashes mean; "" where there is one variant."""
    drops = [dropped for dropped in drops_of(rows) if dropped]
    if not drops:
        return ""
    backbone = next(row.backbone for row in rows if row.dropped == drops[0])
    names = [variant_name(backbone, "without top", dropped) for dropped in drops]
    return f"Broken lines: without the features of highest variance ({', '.join(names)} and so on)."


def _means(table: pa.Table, deciding: Sequence[str]) -> dict[str, float]:
    """The mean of each backbone with all features, by the first deciding measure that the table has."""
    plain = pc.and_(pc.equal(pc.fill_null(table["dropped"], 0), 0), pc.is_valid(table["value"]))
    table = table.filter(plain)
    for measure in deciding:
        rows = table.filter(pc.equal(table["measure"], measure))
        if len(rows):
            found = rows.group_by("backbone", use_threads=False).aggregate([("value", "mean")])
            return dict(zip(found["backbone"].to_pylist(), found["value_mean"].to_pylist(), strict=True))
    return {}


@dataclasses.dataclass(frozen=True)
class _Named:
    backbone: str
    untrained: bool
