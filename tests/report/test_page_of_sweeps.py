"""The page of several sweeps: what it compares with the first one, by plain loops, and what it refuses."""

import json
import re
import statistics

import numpy as np
import pytest

from tests.report.page_text import NOTHING, Page
from vitprobe_jax.errors import InputError
from vitprobe_jax.metrics.results import make_table, read_table, write_table
from vitprobe_jax.metrics.statistics import paired_test
from vitprobe_jax.report import figures
from vitprobe_jax.report.page import write_report
from vitprobe_jax.report.sweep_comparison import compare_sweeps
from vitprobe_jax.report.tables import concept_scores

CONCEPTS = tuple((i, f"concept {i}", "object") for i in range(1, 13))


@pytest.fixture(autouse=True)
def one_figure(monkeypatch):
    """The first figure of a sweep stands for all: what they show is tested elsewhere."""
    illustrate = figures.illustrate
    monkeypatch.setattr(figures, "illustrate", lambda table, examples: illustrate(table, examples)[:1])


@pytest.fixture
def two_sweeps(results_rows, results_folder, tmp_path):
    """Writes two folders, the second with accuracy raised by `gain` and another setting."""

    def write(*, gain=0.05):
        rows = results_rows(rules=("hyperplane",), concepts=CONCEPTS)
        rows = [row | {"accuracy": 0.5 + row["accuracy"] / 4} for row in rows]
        first = results_folder(rows).rename(tmp_path / "first")
        second = results_folder([row | {"accuracy": row["accuracy"] + gain} for row in rows]).rename(
            tmp_path / "second"
        )
        config = json.loads((second / "config.json").read_text())
        (second / "config.json").write_text(json.dumps(config | {"image_size": 448, "out": str(second)}))
        return first, second

    return write


def test_two_sweeps_are_compared_in_the_first_one(two_sweeps):
    first, second = two_sweeps()
    path = write_report([first, second])
    assert path == first / "report" / "index.html"
    assert not (second / "report").exists()
    page = Page(path.read_text(encoding="utf-8"))
    said = page.said()
    assert said.index("Compared Every sweep against first") < said.index("The answer")
    same = page.table("Sweep", "Cell", "Accuracy")
    assert len(same) == 6  # two backbones in three tokens
    for row in same:
        assert row[0] == "second"
        assert re.sub(r" \[.*", "", row[3]) == "0.050"
        assert row[-2:] == ["12", "ahead"]
    assert page.table("Setting", "first", "second") == [["image_size", NOTHING, "448"]]
    names = {file.name for file in (first / "report" / "figures").iterdir()}
    assert {name[:2] for name in names} == {"1_", "2_"}
    assert len(names) == 4


def test_the_best_cells_of_two_sweeps_are_compared(two_sweeps, results_rows):
    """Of other backbones, so that no cell is in both; the difference is that of plain loops."""
    first, second = two_sweeps()
    rows = read_table(second / "results.parquet").to_pylist()
    rows = [row | {"backbone": row["backbone"] + "_b"} for row in rows]
    write_table(make_table(rows), second / "results.parquet")
    page = Page(write_report([first, second]).read_text(encoding="utf-8"))
    (row,) = page.table("Sweep", "Cell", "Accuracy")
    bests = []
    for table in (read_table(first / "results.parquet").to_pylist(), rows):
        trained = [row for row in table if row["objective"] == "self-distillation"]
        tokens = {row["token"] for row in trained}
        bests.append(
            max(statistics.fmean(row["accuracy"] for row in trained if row["token"] == token) for token in tokens)
        )
    assert row[2] == f"{bests[1]:.3f} against {bests[0]:.3f}"
    assert row[3].startswith(f"{bests[1] - bests[0]:.3f} [")


def test_sweeps_without_a_shared_concept(two_sweeps):
    first, second = two_sweeps()
    rows = read_table(second / "results.parquet").to_pylist()
    write_table(make_table([row | {"concept": row["concept"] + 100} for row in rows]), second / "results.parquet")
    assert "They share no concept with scores" in Page(write_report([first, second]).read_text("utf-8")).said()


def test_sweeps_of_the_same_name_are_told_apart(two_sweeps, tmp_path):
    first, second = two_sweeps()
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    folders = [first.rename(tmp_path / "a" / "out"), second.rename(tmp_path / "b" / "out")]
    said = Page(write_report(folders).read_text("utf-8")).said()
    assert "a/out: Segmentation" in said
    assert "b/out: Segmentation" in said


def test_a_sweep_of_another_version_is_refused(two_sweeps):
    first, second = two_sweeps()
    table = read_table(second / "results.parquet").drop_columns(["evaluation"])
    write_table(table, second / "results.parquet")
    with pytest.raises(InputError, match="its columns are not those of this version") as error:
        write_report([first, second])
    assert str(error.value).startswith(str(second))
    assert not (first / "report").exists()


def test_a_sweep_named_twice(two_sweeps):
    first, _ = two_sweeps()
    with pytest.raises(InputError, match="is named twice"):
        write_report([first, first / ".." / "first"])


@pytest.mark.parametrize(("first_seeds", "second_seeds"), [((0, 1, 2), (2, 1)), ((0, 1), (7, 8, 9)), ((0, 1, 2), (1,))])
def test_sweeps_are_compared_on_the_seeds_that_both_have(results_rows, first_seeds, second_seeds):
    """Paired by number; without a common one, in ascending order."""

    def scores(seeds, gain):
        rows = [row | {"seed": s} for s in seeds for row in results_rows(seed=s, rules=("hyperplane",), tokens=("k",))]
        return concept_scores(make_table(row | {"accuracy": 0.5 + row["accuracy"] / 4 + gain} for row in rows))

    first, second = scores(first_seeds, 0.0), scores(second_seeds, 0.05)
    common = [(s, s) for s in sorted(first_seeds) if s in second_seeds]
    pairs = common or list(zip(sorted(first_seeds), sorted(second_seeds), strict=False))
    for found in compare_sweeps(["first", "second"], [first, second]):
        x = np.stack([scores((s,), 0.0).of(found.first, "accuracy") for s, _ in pairs], axis=1)
        y = np.stack([scores((s,), 0.05).of(found.second, "accuracy") for _, s in pairs], axis=1)
        assert found.means == pytest.approx((x.mean(), y.mean()))
        assert found.test == paired_test(y, x)
        if common:
            assert found.test.difference.mean == pytest.approx(0.05)
