"""The results table: its columns, and how it is written and read."""

import math
from collections.abc import Iterable, Mapping

import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from vitprobe_jax.atomic import write_whole
from vitprobe_jax.errors import InputError
from vitprobe_jax.types import HYPERPLANE_RULES

METRICS = ("accuracy", "precision", "recall", "f1")
FIT = ("loss", "gradient_norm", "converged", "scale_low", "scale_high")
"""Columns on how a hyperplane was fitted."""

SCHEMA = pa.schema(
    [
        ("study", pa.string()),
        ("task", pa.string()),
        ("dataset", pa.string()),
        ("backbone", pa.string()),
        ("family", pa.string()),
        ("objective", pa.string()),
        ("layer", pa.int32()),
        ("token", pa.string()),
        ("rule", pa.string()),
        ("evaluation", pa.string()),
        ("seed", pa.int64()),
        ("shots", pa.int32()),
        ("trial", pa.int32()),
        ("effective_shots", pa.int32()),
        ("concept", pa.int32()),
        ("name", pa.string()),
        ("category", pa.string()),
        ("n_pos_train", pa.int64()),
        ("n_neg_train", pa.int64()),
        ("n_pos_test", pa.int64()),
        ("n_neg_test", pa.int64()),
        ("threshold", pa.float64()),
        ("loss", pa.float64()),
        ("gradient_norm", pa.float64()),
        ("converged", pa.bool_()),
        ("scale_low", pa.float64()),
        ("scale_high", pa.float64()),
        *((metric, pa.float64()) for metric in METRICS),
        ("degenerate", pa.bool_()),
        ("skipped", pa.string()),
    ]
)
"""One row per template and metric set: `evaluation` tells what was counted (`types.Evaluation`), `seed` which draw of pools,
support sets and queries the template was fitted and tested on. `shots`, `trial` and `effective_shots` are null for
hyperplanes. A skipped row has its reason in `skipped` and nulls for threshold and metrics: the concept has no template (then
`trial` is null too), or the template has no held-out positives or no held-out negatives to be measured on. Every other row
has null in `skipped`, held-out rows of both sides and finite numbers.

`loss`, `gradient_norm` and `converged` describe where the regression of a hyperplane ended (`hyperplane.Hyperplanes`);
`scale_low` and `scale_high` are the smallest and the largest deviation over the training rows among the features of the
token that vary and are kept, null where none does. All five are null for cosine rules and skipped rows."""


def make_table(rows: Iterable[Mapping]) -> pa.Table:
    """Rows (dicts by column name) as a table in the schema's order.

    Raises:
        ValueError: a row that is not skipped holds a NaN or an infinity, a metric outside [0, 1], or has no held-out
            positives or negatives; a row of a hyperplane does not say how it was fitted; a skipped row has a threshold, a
            metric or anything of a fit, or a row of a cosine rule has anything of a fit.
    """
    rows = list(rows)
    for row in rows:
        if row["skipped"] is None:
            _check_numbers(row)
            _check_fit(row)
        elif any(row.get(name) is not None for name in ("threshold", *FIT, *METRICS)):
            raise ValueError(f"{_where(row)}: is skipped, but has numbers")
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _where(row: Mapping) -> str:
    return f"{row['backbone']} layer {row['layer']} {row['token']} {row['rule']} {row['name']} ({row['category']})"


def _check_numbers(row: Mapping) -> None:
    where = _where(row)
    for side in ("n_pos_test", "n_neg_test"):
        if row[side] == 0:
            raise ValueError(f"{where}: {side} is 0, so its metrics are undefined; skip the row")
    if not math.isfinite(row["threshold"]):
        raise ValueError(f"{where}: threshold is {row['threshold']}")
    for metric in METRICS:
        if not 0.0 <= row[metric] <= 1.0:
            raise ValueError(f"{where}: {metric} is {row[metric]}")


def _check_fit(row: Mapping) -> None:
    where = _where(row)
    if row["rule"] not in HYPERPLANE_RULES:
        if any(row.get(name) is not None for name in FIT):
            raise ValueError(f"{where}: has no regression, but numbers of one")
        return
    for name in ("loss", "gradient_norm"):
        value = row.get(name)
        if value is None or not 0.0 <= value < math.inf:
            raise ValueError(f"{where}: {name} is {value}")
    if row.get("converged") is None:
        raise ValueError(f"{where}: converged is None")
    low, high = row.get("scale_low"), row.get("scale_high")
    if (low is None) != (high is None) or (low is not None and not 0.0 < low <= high < math.inf):
        raise ValueError(f"{where}: scale_low is {low}, scale_high is {high}")


def write_table(table: pa.Table, path: epath.PathLike) -> None:
    """Writes whole or not at all; the same rows give the same bytes."""
    content = pa.BufferOutputStream()
    # In one piece: how the rows came together must not show in the file.
    pq.write_table(table.combine_chunks(), content)
    write_whole(path, content.getvalue().to_pybytes())


def read_table(path: epath.PathLike, schema: pa.Schema = SCHEMA) -> pa.Table:
    """Reads a results file.

    Raises:
        InputError: no such file, not a parquet file, or other columns than the schema's.
    """
    try:
        with epath.Path(path).open("rb") as file:
            table = pq.read_table(file)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no results here; run a sweep with this --out first") from error
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a readable results file ({error}); run the sweep again") from error
    if not table.schema.equals(schema):
        raise InputError(f"{path}: its columns are not those of this version; run the sweep again")
    return table
