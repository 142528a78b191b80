import numpy as np
import pytest
from absl import logging
from etils import epath
from safetensors.numpy import save_file

from vitprobe_jax.data.label_cache import cached_labels
from vitprobe_jax.data.labels import LabelTable
from vitprobe_jax.errors import InputError
from vitprobe_jax.types import Concept

FINGERPRINT = {"dataset": ["broden:tiny", "0f"], "transform": {"size": [8, 8]}, "patch_size": 4}


def table(dtype=np.int16, seed=0):
    slots = np.random.default_rng(seed).integers(0, 3, (2, 4, 2)).astype(dtype)
    # A name beyond ASCII, quotes in another: both stand in the file's header.
    concepts = (Concept(7, "Tür", "object"), Concept(300, 'a "part"', "part"))
    return LabelTable(slots, np.array([0, 1], np.int32), concepts, ("object", "part"))


def same(one, other):
    return (
        one.slots.dtype == other.slots.dtype
        and np.array_equal(one.slots, other.slots)
        and np.array_equal(one.slot_category, other.slot_category)
        and (one.concepts, one.categories) == (other.concepts, other.categories)
    )


class Builder:
    """Counts how often a table is built."""

    def __init__(self, built=None):
        self.calls = 0
        self.built = built or table()

    def __call__(self):
        self.calls += 1
        return self.built


@pytest.fixture
def warnings(monkeypatch):
    """What was warned of so far."""
    told = []
    monkeypatch.setattr(logging, "warning", lambda text, *arguments: told.append(text % arguments))
    return told


@pytest.fixture
def root(tmp_path):
    return epath.Path(tmp_path / "cache")


def only_file(root):
    (path,) = (root / "labels").iterdir()
    return path


@pytest.mark.parametrize("dtype", [np.int16, np.int32])
def test_a_table_is_built_once_and_read_back_as_it_was(root, dtype):
    build = Builder(table(dtype))
    for _ in range(3):
        assert same(cached_labels(root, FINGERPRINT, build), build.built)
    assert build.calls == 1
    assert len(list((root / "labels").iterdir())) == 1


def test_tables_without_images_or_slots_come_back_too(root):
    for i, shape in enumerate([(0, 4, 2), (3, 4, 0), (0, 0, 0)]):
        build = Builder(LabelTable(np.zeros(shape, np.int16), np.zeros(shape[2], np.int32), (), ()))
        for _ in range(2):
            assert cached_labels(root, {"case": i}, build).slots.shape == shape
        assert build.calls == 1


def test_a_table_serves_only_its_own_fingerprint(root):
    first, second = Builder(table()), Builder(table(seed=1))
    cached_labels(root, FINGERPRINT, first)
    assert same(cached_labels(root, FINGERPRINT | {"patch_size": 8}, second), second.built)
    assert same(cached_labels(root, FINGERPRINT, first), first.built)
    # The order of the entries is no part of it.
    cached_labels(root, dict(reversed(FINGERPRINT.items())), first)
    assert (first.calls, second.calls) == (1, 1)


def test_any_changed_byte_is_noticed(root, warnings):
    build = Builder()
    cached_labels(root, FINGERPRINT, build)
    path = only_file(root)
    whole = path.read_bytes()
    for i in range(len(whole)):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :])
        warnings.clear()
        assert same(cached_labels(root, FINGERPRINT, build), build.built)
        assert build.calls == i + 2, f"byte {i} was changed and nobody noticed"
        (warning,) = warnings
        assert path.name in warning
        assert path.read_bytes() == whole


@pytest.mark.parametrize("length", [0, 4, 8, 200, -1])
def test_a_cut_off_file_is_built_again(root, warnings, length):
    build = Builder()
    cached_labels(root, FINGERPRINT, build)
    path = only_file(root)
    whole = path.read_bytes()
    path.write_bytes(whole[:length])
    assert same(cached_labels(root, FINGERPRINT, build), build.built)
    assert build.calls == 2
    assert [path.name in warning for warning in warnings] == [True]
    assert path.read_bytes() == whole


def test_a_foreign_file_is_built_again(root, warnings):
    ours, theirs = Builder(), Builder(table(seed=1))
    cached_labels(root, FINGERPRINT, ours)
    path = only_file(root)
    cached_labels(root, {"another": 1}, theirs)
    (other,) = (file for file in (root / "labels").iterdir() if file != path)
    other.replace(path)  # whole, but of another fingerprint
    assert same(cached_labels(root, FINGERPRINT, ours), ours.built)
    assert ["another fingerprint" in warning for warning in warnings] == [True]
    save_file({"slots": np.zeros(3)}, path)  # of another program
    assert same(cached_labels(root, FINGERPRINT, ours), ours.built)
    assert (ours.calls, len(warnings)) == (3, 2)


def test_nothing_is_left_of_a_building_that_fails(root):
    def fail():
        raise InputError("a_object.png: holds label 5")

    with pytest.raises(InputError, match="holds label 5"):
        cached_labels(root, FINGERPRINT, fail)
    assert list((root / "labels").iterdir()) == []


def test_a_place_that_takes_no_folder_is_refused_before_building(tmp_path):
    (tmp_path / "cache").write_text("a file")
    build = Builder()
    with pytest.raises(InputError, match=r"--cache_dir: .*labels cannot be made .*; name another folder"):
        cached_labels(epath.Path(tmp_path / "cache"), FINGERPRINT, build)
    assert build.calls == 0


def test_a_file_that_cannot_be_written_is_one_line(root, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vitprobe_jax.data.label_cache.write_whole", full)
    with pytest.raises(InputError, match=r"--cache_dir: .*safetensors cannot be written \(No space left on device\)"):
        cached_labels(root, FINGERPRINT, Builder())
