"""The results table of studies that measure many kinds of things: one row a number."""

import math
from collections.abc import Iterable, Mapping

import pyarrow as pa

MEASUREMENTS = pa.schema(
    [
        ("study", pa.string()),
        ("dataset", pa.string()),
        ("backbone", pa.string()),
        ("family", pa.string()),
        ("objective", pa.string()),
        ("layer", pa.int32()),
        ("token", pa.string()),
        ("part", pa.string()),
        ("method", pa.string()),
        ("tiling", pa.string()),
        ("shots", pa.int32()),
        ("features", pa.string()),
        ("dropped", pa.int32()),
        ("setting", pa.string()),
        ("level", pa.float64()),
        ("concept", pa.int32()),
        ("name", pa.string()),
        ("category", pa.string()),
        ("measure", pa.string()),
        ("value", pa.float64()),
        ("deviation", pa.float64()),
        ("count", pa.int64()),
        ("skipped", pa.string()),
    ]
)
"""What a number is of stands in the columns that the main study's table has too (`results.SCHEMA`), and in these:

`part` of the study; `method` (`1-nn`, `linear`); `tiling` (`tiles`, `whole`); `shots`, images a group of the training draw,
0 for all; `features`, which of them are used (`FEATURES`), with `dropped`, how many are not; `setting`, what else was
varied, and its `level` (`blur`, 20); `concept`, `name`, `category` where the number is one concept's. `measure` is what
`value` is (`miou`), `deviation` its standard deviation where it is a mean over draws, `count` over how many things it was
taken. A skipped row has its reason in `skipped` and no value; every other row has a finite value."""

FEATURES = ("all", "without top", "without bottom", "only random", "only top")
"""Which features are used: by variance, the `dropped` highest (top) or lowest (bottom) ones left out, as many random
ones, or the highest ones alone."""

_REQUIRED = ("study", "dataset", "backbone", "family", "objective", "part", "measure", "count")


def make_measurements(rows: Iterable[Mapping]) -> pa.Table:
    """Rows (dicts by column name; columns left out are null) as a table in the schema's order.

    Raises:
        ValueError: a column that there is not, one missing that every row has, or a row that is not skipped has no finite
            value.
    """
    rows = [dict(row) for row in rows]
    known = set(MEASUREMENTS.names)
    for row in rows:
        where = f"{row.get('backbone')} {row.get('part')} {row.get('measure')}"
        unknown = row.keys() - known
        missing = [name for name in _REQUIRED if row.get(name) is None]
        if unknown or missing:
            raise ValueError(f"{where}: no columns {sorted(unknown)}, lacks {missing}")
        if row.get("features") not in (None, *FEATURES):
            raise ValueError(f"{where}: features {row['features']!r} is none of {FEATURES}")
        if row.get("skipped") is None and not math.isfinite(math.nan if row.get("value") is None else row["value"]):
            raise ValueError(f"{where}: value is {row.get('value')}")
        if row.get("skipped") is not None and row.get("value") is not None:
            raise ValueError(f"{where}: is skipped, but has the value {row['value']}")
    return pa.Table.from_pylist(rows, schema=MEASUREMENTS)
