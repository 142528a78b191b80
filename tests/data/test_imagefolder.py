import logging as python_logging

import numpy as np
import pytest
from absl import logging

from tests.data.broden_tree import write_image
from vitprobe_jax.data.dataset import GroupedSplit
from vitprobe_jax.data.imagefolder import open_imagefolder
from vitprobe_jax.errors import InputError
from vitprobe_jax.types import Concept


@pytest.fixture
def folder(tmp_path):
    for name in ("train/dog/b.jpg", "train/dog/a.JPEG", "train/cat/nested/c.png", "val/dog/d.jpg", "val/emu/e.jpg"):
        write_image(tmp_path / name)
    return tmp_path


def names(split):
    return [split.name(i) for i in range(len(split))]


def test_classes_are_numbered_over_both_splits(folder):
    dataset = open_imagefolder(folder, "imagefolder:zoo")
    assert dataset.concepts == (Concept(1, "cat", "class"), Concept(2, "dog", "class"), Concept(3, "emu", "class"))
    train, val = dataset.splits["train"], dataset.splits["val"]
    assert names(train) == ["train/cat/nested/c.png", "train/dog/a.JPEG", "train/dog/b.jpg"]
    assert names(val) == ["val/dog/d.jpg", "val/emu/e.jpg"]
    assert [train.annotation(i).labels for i in range(3)] == [(("class", 1),), (("class", 2),), (("class", 2),)]
    assert val.annotation(1).labels == (("class", 3),)
    assert isinstance(train, GroupedSplit)
    assert train.group_names == val.group_names == ("cat", "dog", "emu")
    assert [train.groups(i) for i in range(3)] == [("cat",), ("dog",), ("dog",)]
    assert val.groups(1) == ("emu",)
    assert train.size(0) == (8, 8)
    assert dataset.skip_corrupt
    assert dataset.unprobed == ()


@pytest.mark.parametrize("name", ["validation", "test"])
def test_val_has_other_names(folder, name):
    (folder / "val").rename(folder / name)
    assert names(open_imagefolder(folder, "x").splits["val"]) == [f"{name}/dog/d.jpg", f"{name}/emu/e.jpg"]


def test_other_files_are_skipped_with_one_warning(folder, caplog):
    for name in ("train/dog/notes.txt", "train/Thumbs.db", "val/dog/d.jpg.part", "val/emu/x.json", "val/stray.jpg"):
        (folder / name).write_text("no image")
    (folder / "train/.cache").mkdir()
    (folder / "train/.cache/x.jpg").write_text("hidden")
    logger = logging.get_absl_logger()
    logger.addHandler(caplog.handler)
    try:
        with caplog.at_level(python_logging.WARNING):
            dataset = open_imagefolder(folder, "x")
    finally:
        logger.removeHandler(caplog.handler)
    messages = {record.getMessage() for record in caplog.records}
    assert len(messages) == 1
    assert "skipped 5 files" in messages.pop()
    assert [len(split) for split in dataset.splits.values()] == [3, 2]
    assert [concept.name for concept in dataset.concepts] == ["cat", "dog", "emu"]


def test_corrupt_image_is_named_when_decoded(folder):
    (folder / "val/emu/e.jpg").write_bytes(b"no jpeg")
    split = open_imagefolder(folder, "x").splits["val"]
    assert np.asarray(split.image(0)).shape == (8, 8, 3)
    with pytest.raises(InputError, match=r"val/emu/e.jpg: cannot be decoded"):
        split.image(1)
    (folder / "val/emu/e.jpg").unlink()
    with pytest.raises(InputError, match=r"val/emu/e.jpg"):
        split.image(1)


def test_what_is_no_image_folder_ends_in_one_line(folder, tmp_path):
    with pytest.raises(InputError, match=r"nowhere is not a folder"):
        open_imagefolder(folder / "nowhere", "x")
    (folder / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty is empty"):
        open_imagefolder(folder / "empty", "x")
    with pytest.raises(InputError, match=r"has no folder train"):
        open_imagefolder(folder / "train", "x")
    (folder / "val").rename(folder / "other")
    with pytest.raises(InputError, match=r"has no folder val or validation or test"):
        open_imagefolder(folder, "x")
    (folder / "val/dog").mkdir(parents=True)
    with pytest.raises(InputError, match=r"no images in .*val; expected val/CLASS/\*.jpg"):
        open_imagefolder(folder, "x")


def test_fingerprint_follows_names_and_sizes_not_the_place(folder, tmp_path_factory):
    before = open_imagefolder(folder, "x").fingerprint
    moved = tmp_path_factory.mktemp("elsewhere") / "zoo"
    folder.rename(moved)
    assert open_imagefolder(moved, "x").fingerprint == before
    with open(moved / "val/emu/e.jpg", "ab") as file:
        file.write(b"\0")
    longer = open_imagefolder(moved, "x").fingerprint
    assert longer != before
    (moved / "val/emu/e.jpg").rename(moved / "val/emu/f.jpg")
    assert open_imagefolder(moved, "x").fingerprint not in (before, longer)


def test_real_photographs(shared_data):
    dataset = open_imagefolder(shared_data / "imagenet_superclasses", "x")
    assert len(dataset.concepts) == 10
    assert sum(len(split) for split in dataset.splits.values()) == 339
    assert min(dataset.splits["val"].image(0).size) == 256
