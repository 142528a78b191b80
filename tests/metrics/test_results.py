import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vitprobe_jax.errors import InputError
from vitprobe_jax.metrics.results import FIT, METRICS, SCHEMA, make_table, read_table, write_table


def row(**changes):
    base = {name: None for name in SCHEMA.names} | {
        "backbone": "b",
        "layer": 1,
        "token": "k",
        "rule": "hyperplane",
        "concept": 7,
        "name": "sky",
        "category": "object",
        "threshold": 0.5,
        "loss": 0.1,
        "gradient_norm": 1e-4,
        "converged": True,
        "scale_low": 0.25,
        "scale_high": 4.0,
        "accuracy": 0.75,
        "precision": 0.5,
        "recall": 1.0,
        "f1": 2 / 3,
        "degenerate": False,
    }
    return base | changes


def test_round_trip(tmp_path):
    table = make_table([row(), row(skipped="no positives in val", **dict.fromkeys(("threshold", *FIT, *METRICS)))])
    write_table(table, tmp_path / "results.parquet")
    assert read_table(tmp_path / "results.parquet").equals(table)
    assert [path.name for path in tmp_path.iterdir()] == ["results.parquet"]


@pytest.mark.parametrize("column", ["threshold", "accuracy", "precision", "recall", "f1"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nothing_infinite_reaches_a_file(column, value):
    with pytest.raises(ValueError, match=f"b layer 1 k hyperplane sky .*{column} is"):
        make_table([row(), row(**{column: value})])


def test_a_metric_outside_its_range_is_refused():
    with pytest.raises(ValueError, match=r"f1 is 1\.5"):
        make_table([row(f1=1.5)])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"loss": -0.1}, r"loss is -0\.1"),
        ({"loss": math.nan}, "loss is nan"),
        ({"gradient_norm": math.inf}, "gradient_norm is inf"),
        ({"loss": None}, "loss is None"),
        ({"converged": None}, "converged is None"),
        ({"scale_low": 0.0}, r"scale_low is 0\.0"),
        ({"scale_low": 5.0}, r"scale_low is 5\.0, scale_high is 4\.0"),
        ({"scale_high": None}, "scale_high is None"),
        ({"rule": "cosine"}, "has no regression"),
        ({"skipped": "no negatives in val", **dict.fromkeys(("threshold", *METRICS))}, "is skipped"),
    ],
)
@pytest.mark.parametrize("rule", ["hyperplane", "hyperplane_paper"])
def test_what_a_fit_says_is_checked(rule, changes, words):
    with pytest.raises(ValueError, match=words):
        make_table([row(**{"rule": rule} | changes)])
    make_table([row(rule=rule, scale_low=None, scale_high=None), row(rule="cosine", **dict.fromkeys(FIT))])


@pytest.mark.parametrize("side", ["n_pos_test", "n_neg_test"])
def test_a_number_needs_held_out_rows_of_both_sides(side):
    with pytest.raises(ValueError, match=f"{side} is 0"):
        make_table([row(**{side: 0})])


def test_a_skipped_row_has_no_numbers():
    with pytest.raises(ValueError, match="is skipped, but has numbers"):
        make_table([row(skipped="no negatives in val")])


def test_unreadable_files_are_one_line(tmp_path):
    path = tmp_path / "results.parquet"
    with pytest.raises(InputError, match="run a sweep"):
        read_table(path)
    write_table(make_table([row()]), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="not a readable results file"):
        read_table(path)
    pq.write_table(pa.table({"f1": [1.0]}), path)
    with pytest.raises(InputError, match="columns"):
        read_table(path)
