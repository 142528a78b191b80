"""Runs of several processes on the loopback, ended and unended; and what Ctrl-C does to a run of one."""

import os
import signal
import socket
import time

import numpy as np
import pytest

from experiments import processes
from experiments.processes import PEER_LOST
from tests.experiments.gathering import arrays, digest
from tests.experiments.launching import COMPILED, ended, launch, launch_together
from vitprobe_jax.metrics.results import read_table

SWEEP = (
    "--dataset=shapes:160",
    "--backbones=untrained_dino_tiny",
    "--image_size=64",
    "--tokens=k,x2",
    "--shots=1,5",
    "--trials=2",
    "--rules=hyperplane,cosine,cosine_centered",
    "--pixel_level",
)


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    """All these processes compile the same programs."""
    folder = tmp_path_factory.mktemp("compiled")
    COMPILED.update(JAX_COMPILATION_CACHE_DIR=str(folder), JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0")


def start(tmp_path, out, *arguments, **options):
    return launch("experiments.sweep", *SWEEP, f"--out={tmp_path / out}", *arguments, **options)


def start_together(tmp_path, out, count, *arguments):
    own = (f"--out={tmp_path / out}", f"--cache_dir={tmp_path / out}-cache")
    return launch_together("experiments.sweep", count, *SWEEP, *own, *arguments)


def wait_for(path, seconds=120):
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} never came"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    code, _, err = ended(start(folder, "out"))
    assert code == 0, err
    return folder / "out"


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_processes_together_come_to_the_table_of_one(tmp_path, alone, count):
    for code, _, err in map(ended, start_together(tmp_path, "out", count)):
        assert code == 0, err
    together, single = (read_table(folder / "results.parquet") for folder in (tmp_path / "out", alone))
    # Images are computed in batches of the same shapes, concepts by the same programs: not only close, but equal.
    assert together.equals(single)
    for path in (*(alone / "templates").rglob("*.safetensors"), *(alone / "examples").iterdir()):
        assert (tmp_path / "out" / path.relative_to(alone)).read_bytes() == path.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_when_one_is_killed_the_others_end_in_one_line_and_resume_completes(tmp_path, alone, victim):
    started = start_together(tmp_path, "out", 2)
    cells = tmp_path / "out" / "cells" / "untrained_dino_tiny"
    wait_for(cells / "3_k_hyperplane.parquet")
    os.killpg(started[victim].pid, signal.SIGKILL)
    code, _, err = ended(started[1 - victim], 60)
    assert code == 1, err
    assert err.splitlines() == [f"error: {PEER_LOST}"]
    ended(started[victim])
    assert not (tmp_path / "out" / "results.parquet").exists()
    for code, _, err in map(ended, start_together(tmp_path, "out", 2, "--resume")):
        assert code == 0, err
    assert read_table(tmp_path / "out" / "results.parquet").equals(read_table(alone / "results.parquet"))


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_arrays_of_all_processes_are_gathered_to_the_bit(count):
    """In pieces of 16 bytes; with one process that has nothing."""
    started = launch_together("tests.experiments.gathering", count)
    expected = [np.concatenate(leaves) for leaves in zip(*map(arrays, range(count)), strict=True)]
    turns = np.concatenate([np.arange(process, 7, count) for process in range(count)])
    for code, out, err in map(ended, started):
        assert code == 0, err
        assert out.splitlines()[-1].split() == [digest(expected), digest([turns])]


def test_one_process_keeps_what_it_has():
    for leaf in arrays(0):
        assert processes.gathered(leaf) is leaf


def test_whether_the_first_process_of_a_run_still_answers():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert not processes._is_gone(address)
    assert processes._is_gone(address)
    assert not processes._is_gone("auto")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_a_run_within_two_seconds_and_says_how_to_go_on(tmp_path, alone, number):
    process = start(tmp_path, "out", "--num_workers=1")
    wait_for(tmp_path / "out" / "config.json")
    time.sleep(1.0)
    process.send_signal(number)
    begin = time.monotonic()
    code, _, err = ended(process, 30)
    # A second of grace for the main thread, and what the interpreter takes to end.
    assert time.monotonic() - begin < 2.0
    assert code == 128 + number
    assert (
        err.splitlines()[-1]
        == "error: interrupted; what was finished is kept: go on with the same command and --resume"
    )
    code, _, err = ended(start(tmp_path, "out", "--resume"))
    assert code == 0, err
    assert (tmp_path / "out" / "results.parquet").read_bytes() == (alone / "results.parquet").read_bytes()


def test_processes_that_share_no_cache_end_in_one_line(tmp_path):
    code, _, err = ended(start(tmp_path, "out", "--coordinator=127.0.0.1:1", "--num_processes=2", "--process_id=1"))
    assert code == 2
    assert "--cache_dir" in err
