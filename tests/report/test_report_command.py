"""`python -m experiments.report OUT`, as its user sees it."""

import subprocess
import sys

import pytest


def run(*arguments):
    command = [sys.executable, "-m", "experiments.report", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_writes_the_page_and_says_where(results_rows, results_folder):
    folder = results_folder(results_rows(rules=("hyperplane",)))
    done = run(folder)
    assert done.returncode == 0, done.stderr
    page = folder / "report" / "index.html"
    assert done.stdout == f"report: {page}\n"
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


@pytest.mark.slow
def test_several_sweeps_and_the_paper(results_rows, results_folder, tmp_path):
    rows = results_rows(rules=("hyperplane",))
    first = results_folder(rows).rename(tmp_path / "first")
    second = results_folder(rows)
    done = run(first, second, "--paper")
    assert done.returncode == 0, done.stderr
    page = first / "report" / "index.html"
    assert done.stdout == f"report: {page}\n"
    text = page.read_text(encoding="utf-8")
    assert 'id="compared"' in text
    assert 'id="paper"' in text


@pytest.mark.parametrize("arguments", [(), ("a", "b"), ("/no/such/folder",), (".", "--no_such_flag"), (".",)])
def test_bad_calls_end_in_one_line_and_exit_code_2(arguments, tmp_path):
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_damaged_results_end_in_one_line_and_exit_code_2(results_rows, results_folder):
    folder = results_folder(results_rows(rules=("hyperplane",)))
    (folder / "run.json").write_text("[")
    done = run(folder)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {folder / 'run.json'}: ")
    assert done.stderr.count("\n") == 1
