"""How many pixels and patches of each concept retrieval searches, beside what the paper prints of FAIR1M (Table 3)."""

from collections.abc import Mapping, Sequence

from vitprobe_jax.report.measured.rows import Row, values_by
from vitprobe_jax.report.measured.tables import Column, Entry, Table, number_table
from vitprobe_jax.report.paper import paper_numbers
from vitprobe_jax.report.sentences import count

_NO_OBJECT = ""
_PUBLISHED = {"fair1m": "fair1m_statistics"}
"""Where the published numbers of a kind of data set stand in `paper_numbers.json`."""


def statistics_tables(rows: Sequence[Row]) -> list[Table]:
    """A folded table of pixels and patches by concept, those of a super category together under its name, with sums.

    Backbones with patches of one size share a column. Of FAIR1M, published numbers stand beside those of the run.

    Args:
        rows: of measures `pixels` and `patches`; of one data set.
    """
    if not rows:
        return []
    grids = sorted({int(row.level) for row in rows})
    places = [("pixels", grids[0]), *(("patches", grid) for grid in grids)]
    published = _published(rows[0].dataset)
    values = values_by(rows, "measure", "level", "name")
    kinds = {row.name: row.setting or _NO_OBJECT for row in rows}
    columns = []
    for measure, grid in places:
        head = "Pixels" if measure == "pixels" else f"Patches, {grid:,} an image"
        columns.append(Column(head, "", 0))
        if _column(measure, grid) in published:
            columns.append(Column("published", "", 0))

    def line(label: str, names: Sequence[str]) -> Entry:
        numbers: list[float | None] = []
        for measure, grid in places:
            numbers.append(sum(values[measure, grid, name] for name in names))
            printed = published.get(_column(measure, grid))
            if printed is not None:
                known = [printed.get(name) for name in names]
                numbers.append(None if None in known else float(sum(known)))
        return Entry(label, numbers, group=kinds[names[0]], label_is_name=False)

    entries = []
    for kind in dict.fromkeys(kinds.values()):
        names = [name for name, own in kinds.items() if own == kind]
        entries += [line(name, [name]) for name in names]
        entries += [line("all of them", names)] if kind != _NO_OBJECT else []
    images = count(max(row.count for row in rows), "image")
    note = f"Of the {images} that are searched; a patch counts for what most of its pixels show."
    if published:
        note += " Published: Table 3 of the paper, about its own draw, as far as its text is legible."
    return [number_table("Pixels and patches of each concept", "Concept", columns, entries, note=note, folded=True)]


def _published(dataset: str) -> Mapping[str, Mapping[str, int | None]]:
    """What the paper prints of this kind of data set: numbers by concept, by column; {} where it prints nothing."""
    key = _PUBLISHED.get(dataset.split(":")[0])
    if key is None:
        return {}
    table = paper_numbers()["local"][key]
    return {
        column: {name: values[i] for name, values in table["concepts"].items()}
        for i, column in enumerate(table["columns"])
    }


def _column(measure: str, grid: int) -> str:
    """The published column of a measure, of images of so many patches; pixels do not depend on patches."""
    return measure if measure == "pixels" else f"{measure}_{grid}"
