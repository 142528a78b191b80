"""The cache on disk: whatever happens to it or to the process that writes, what is read is what was extracted."""

import json
import multiprocessing
import os
import shutil
import signal

import ml_dtypes
import numpy as np
import pytest
from absl import logging
from etils import epath

from tests.features.kill import killed_at
from tests.features.stores import CELLS, ERRORS, FINGERPRINT, SHAPE, contents, fill, rows_of
from vitprobe_jax.errors import InputError
from vitprobe_jax.features.cache import FeatureCache
from vitprobe_jax.features.store import RowShape


@pytest.fixture
def root(tmp_path):
    return epath.Path(tmp_path) / "cache"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = epath.Path(tmp_path_factory.mktemp("undisturbed")) / "cache"
    fill(folder)
    return contents(folder)


def shard_file(root, cell="0_q", shard=1):
    return next(root.glob(f"*/train/{cell}/rows/c/{shard}/0/0"))


def test_round_trip(root):
    missing, store = fill(root)
    assert missing == [0, 1, 2]
    again = FeatureCache(root, FINGERPRINT).store("train", SHAPE)
    assert all(again.complete(cell) for cell in CELLS)
    assert again.missing(CELLS, range(3)) == []
    assert again.errors() == ERRORS
    for cell in CELLS:
        expected = np.concatenate([rows_of(cell, shard) for shard in range(3)])
        for source in (store.source(cell), again.source(cell)):
            assert source.shape == SHAPE.full
            for images in (np.arange(80), np.array([7, 70, 7, 0]), np.array([], int)):
                np.testing.assert_array_equal(source.read(images), expected[images])


def test_bfloat16_keeps_its_bits(root):
    shape = RowShape(10, 2, 3, "bfloat16")
    cache = FeatureCache(root, {})
    cache.create()
    store = cache.store("val", shape)
    store.create([(0, "k")])
    rows = np.random.default_rng(0).standard_normal(shape.full).astype(ml_dtypes.bfloat16)
    store.write(0, {(0, "k"): rows}, {})
    store.finish([(0, "k")])
    source = cache.store("val", shape).source((0, "k"))
    assert source.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(source.read(np.arange(10)), rows)


def test_a_second_run_adds_only_the_cells_that_are_new(root):
    fill(root)
    before = contents(root)
    missing, _ = fill(root, [*CELLS, (5, "v")])
    assert missing == [0, 1, 2]
    after = contents(root)
    assert {name: after[name] for name in before} == before
    assert any("/5_v/" in name for name in after)


def test_zeros_are_written_as_any_other_rows(root):
    """Else a shard of corrupt images would be missing for ever."""
    cache = FeatureCache(root, {})
    cache.create()
    store = cache.store("train", SHAPE)
    store.create([(0, "q")])
    for shard in range(3):
        store.write(shard, {(0, "q"): np.zeros_like(rows_of((0, "q"), shard))}, {})
    assert cache.store("train", SHAPE).missing([(0, "q")], range(3)) == []


@pytest.mark.parametrize("change", [{"weights": "b"}, {"config": {"width": 6}}, {"dtype": "bfloat16"}])
def test_another_fingerprint_never_mixes_and_the_field_is_named(root, change):
    fill(root)
    other = FeatureCache(root, FINGERPRINT | change)
    field = next(iter(change)) + (".width" if "config" in change else "")
    assert f"{field} is {'5' if 'config' in change else repr(FINGERPRINT[field])} there" in other.why_new()
    other.create()
    assert other.store("train", SHAPE).missing(CELLS, range(3)) == [0, 1, 2]
    # Rows under a name that is not theirs are refused.
    shutil.rmtree(other.folder)
    FeatureCache(root, FINGERPRINT).folder.rename(other.folder)
    with pytest.raises(InputError, match=field):
        other.create()


def test_a_moved_cache_still_opens(root, tmp_path):
    fill(root)
    moved = epath.Path(tmp_path) / "elsewhere" / "moved"
    moved.parent.mkdir()
    root.rename(moved)
    assert fill(moved)[0] == []


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "delete"])
def test_only_what_is_damaged_is_done_again_and_it_is_named(root, undisturbed, damage, monkeypatch):
    fill(root)
    told = []
    monkeypatch.setattr(logging, "warning", lambda text, *arguments: told.append(text % arguments))
    path = shard_file(root)
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 3] ^= 1
    elif damage == "truncate":
        content = content[:-7]
    elif damage == "empty":
        content = b""
    path.unlink() if damage == "delete" else path.write_bytes(content)
    missing, _ = fill(root)
    assert missing == [1]
    assert contents(root) == undisturbed
    if damage != "delete":
        [message] = told
        assert "shard 1 of" in message
        assert "0_q is damaged" in message


def test_damage_that_appears_while_it_is_read_ends_in_one_line(root):
    _, store = fill(root)
    path = shard_file(root)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(InputError, match="0_q is damaged") as caught:
        store.source((0, "q")).read(np.arange(33, 40))
    assert "\n" not in str(caught.value)


def test_an_array_that_cannot_be_opened_is_made_anew(root, undisturbed):
    fill(root)
    next(root.glob("*/train/0_q/rows/zarr.json")).write_text("{")
    assert fill(root)[0] == [0, 1, 2]
    assert contents(root) == undisturbed


def test_a_cell_that_lacks_a_shard_gets_no_commit_mark(root):
    cache = FeatureCache(root, FINGERPRINT)
    cache.create()
    store = cache.store("train", SHAPE)
    store.create(CELLS)
    store.write(0, {cell: rows_of(cell, 0) for cell in CELLS}, {})
    with pytest.raises(InputError, match="lacks shard 1"):
        store.finish(CELLS)
    assert not store.complete(CELLS[0])
    with pytest.raises(InputError, match="no commit mark"):
        store.source(CELLS[0])


def test_killed_at_every_step_and_filled_again(root, undisturbed):
    """SIGKILL before and after every write of the cache, in a process of its own; then a run that goes on."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.features.kill"])
    step, deaths = 0, 0
    while True:
        process = context.Process(target=killed_at, args=(step, os.fspath(root)))
        process.start()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        deaths += process.exitcode != 0
        finished = process.exitcode == 0
        fill(root)
        assert contents(root) == undisturbed, f"after a kill at step {step}"
        root.rmtree()
        if finished:
            break
        step += 1
    # fingerprint, 2 arrays, 3 shards of 2 cells, errors of one shard, 2 manifests: each before and after.
    assert deaths >= 2 * (1 + 2 + 6 + 1 + 2)


def test_a_full_disk_ends_in_one_line_and_what_was_written_stays(tmp_path, undisturbed):
    folder = tmp_path / "small"
    folder.mkdir()
    if os.system(f"mount -t tmpfs -o size=28k tmpfs {folder} 2>/dev/null"):
        pytest.skip("no right to mount a small tmpfs here")
    try:
        with pytest.raises(InputError, match="cannot be written") as caught:
            fill(epath.Path(folder) / "cache")
        assert "\n" not in str(caught.value)
        written = {name: content for name, content in contents(folder / "cache").items() if "/c/" in name}
        assert written
        assert all(undisturbed[name] == content for name, content in written.items())
        os.system(f"mount -o remount,size=64m {folder}")
        missing, _ = fill(epath.Path(folder) / "cache")
        assert 0 < len(missing) < 3
        assert contents(folder / "cache") == undisturbed
    finally:
        os.system(f"umount {folder}")


def test_a_folder_that_cannot_be_made_ends_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        FeatureCache(epath.Path(tmp_path) / "file" / "cache", {}).create()


def test_the_manifest_says_what_is_there(root):
    fill(root)
    manifest = json.loads(next(root.glob("*/train/3_x2/manifest.json")).read_text())
    assert (manifest["num_images"], manifest["shards"], manifest["shard_images"]) == (80, 3, 32)
    assert manifest["errors"] == {str(image): message for image, message in ERRORS.items()}


def test_buckets_are_named_as_tensorstore_names_them():
    import tensorstore as ts

    from vitprobe_jax.atomic import kvstore

    spec = ts.KvStore.Spec(kvstore(epath.Path("gs://bucket/cache/x")))
    assert spec.to_json() == {"driver": "gcs", "bucket": "bucket", "path": "cache/x/"}
