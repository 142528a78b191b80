"""The table of measurements refuses what a reader of it could not use."""

import math

import pytest

from vitprobe_jax.metrics.measurements import MEASUREMENTS, make_measurements
from vitprobe_jax.metrics.results import read_table, write_table

ROW = {
    "study": "local",
    "dataset": "shapes:8",
    "backbone": "dino",
    "family": "dino",
    "objective": "self-distillation",
    "part": "patches",
    "measure": "miou",
    "value": 0.5,
    "count": 10,
}


def test_what_is_left_out_is_null_and_the_file_reads_back(tmp_path):
    table = make_measurements([ROW, ROW | {"value": None, "skipped": "no pixel"}])
    assert table.schema.equals(MEASUREMENTS)
    assert table["layer"].to_pylist() == [None, None]
    write_table(table, tmp_path / "results.parquet")
    assert read_table(tmp_path / "results.parquet", MEASUREMENTS).equals(table)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"value": math.nan}, "value is nan"),
        ({"value": None}, "value is None"),
        ({"skipped": "no pixel"}, "is skipped, but has the value 0.5"),
        ({"features": "some"}, "'some' is none of"),
        ({"mesure": 1.0}, "no columns .'mesure'."),
        ({"count": None}, "lacks .'count'."),
    ],
)
def test_a_row_that_cannot_be_is_refused(change, complaint):
    with pytest.raises(ValueError, match=complaint):
        make_measurements([ROW | change])
