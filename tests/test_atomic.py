import os

import pytest
from etils import epath

from vitprobe_jax.atomic import is_remote, write_whole


def test_the_file_is_the_old_one_or_the_new_one(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_whole(path, b"old")

    def fail(*_):
        assert path.read_bytes() == b"old"
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.json"]
    monkeypatch.undo()
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"


def test_buckets_are_told_from_disks():
    assert is_remote("gs://bucket/x")
    assert is_remote(epath.Path("gs://bucket/x"))
    assert not is_remote("/tmp/x")
    assert not is_remote("x:y/z")
