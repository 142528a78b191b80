"""The papers' sizes: every case in small, and one in full, within the memory that it may take."""

import pytest

from experiments.real_sizes import CASES, measure_case

SLOW = ("bdd100k", "cityscapes", "fair1m")


@pytest.mark.parametrize("name", ["mot17", "ade20k", *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW)])
def test_every_case_is_measured_in_small(name, tmp_path):
    case = CASES[name]
    reports = measure_case(case, tmp_path / "out", "--host_memory=128", share=0.004)
    assert {"mot17", "ade20k", *SLOW} == CASES.keys()
    assert [report.part for report in reports] == list(case.parts)
    for report in reports:
        assert report.rows > 2
        assert report.added_mb is None or report.added_mb >= 0


@pytest.mark.slow
def test_mot17_as_a_whole_stays_within_its_memory(tmp_path):
    """128 GB of features, of which 345 MB are of objects."""
    (report,) = measure_case(CASES["mot17"], tmp_path / "out", "--host_memory=1024", "--drop_features=0")
    if report.added_mb is None:
        pytest.skip("this system does not tell a process's memory")
    assert report.rows == 7 * 4 + 1
    # The bound on features, and what JAX's programs take of calls of 64 MiB.
    assert report.added_mb < 1024 + 6 * 64
