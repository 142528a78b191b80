import multiprocessing
import os
import signal
import time

import pytest
from etils import epath

from vitprobe_jax.errors import InputError
from vitprobe_jax.features import lock


def hold(folder, ready, seconds):
    with lock.only_writer(epath.Path(folder)):
        ready.set()
        time.sleep(seconds)
        (epath.Path(folder) / "left").touch()


def start_holder(folder, seconds):
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=hold, args=(os.fspath(folder), ready, seconds))
    process.start()
    assert ready.wait(60)
    return process


def test_a_second_writer_waits_for_the_first(tmp_path):
    process = start_holder(tmp_path, 0.5)
    with lock.only_writer(epath.Path(tmp_path)):
        assert (tmp_path / "left").exists()
    process.join()


def test_a_killed_writer_holds_nothing(tmp_path):
    process = start_holder(tmp_path, 600)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with lock.only_writer(epath.Path(tmp_path)):
        pass


def test_where_there_are_no_locks_a_second_writer_is_refused_in_one_line(tmp_path):
    """What is done in a bucket, in a folder: tensorstore's conditional writes are the same."""
    path = epath.Path(tmp_path) / "writer.lock"
    with lock._marked(path, "first"):
        with (
            pytest.raises(InputError, match=r"another process writes .*first.* delete") as caught,
            lock._marked(path, ""),
        ):
            pass
        assert "\n" not in str(caught.value)
    with lock._marked(path, "second"):
        pass
