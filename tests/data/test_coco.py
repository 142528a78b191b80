import json
import logging as python_logging
import pickle
import shutil

import numpy as np
import pytest
from absl import logging

from tests.data.coco_tree import CATEGORIES, write_coco
from vitprobe_jax.data import open_dataset
from vitprobe_jax.data.coco import open_coco
from vitprobe_jax.data.dataset import GroupedSplit, SizedSplit
from vitprobe_jax.data.image_labels import image_labels
from vitprobe_jax.errors import InputError
from vitprobe_jax.types import Concept

TRAIN, VAL = "annotations/instances_train2017.json", "annotations/instances_val2017.json"


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("coco"), seed=0, train=9, val=3, size=(60, 80))


@pytest.fixture
def folder(tree, tmp_path):
    return shutil.copytree(tree, tmp_path / "coco")


def test_the_labels_of_an_image_are_what_its_colours_show(tree):
    dataset = open_dataset(f"coco:{tree}", seed=0)
    assert dataset.name == f"coco:{tree.name}"
    assert dataset.multilabel
    assert dataset.skip_corrupt
    assert dataset.concepts == tuple(Concept(number, name, "object") for number, name, _ in CATEGORIES)
    assert dataset.supercategories == ("person", "vehicle", "animal", "indoor")
    assert {split: len(images) for split, images in dataset.splits.items()} == {"train": 9, "val": 3}
    for split in dataset.splits.values():
        labels = image_labels(split, dataset.concepts)
        assert [split.name(i) for i in range(len(split))] == sorted(split.name(i) for i in range(len(split)))
        for i, row in enumerate(labels):
            pixels = np.asarray(split.image(i).convert("HSV")).astype(int)
            hues = pixels[..., 0][pixels[..., 1] > 110]
            # Hues are a fifth of the circle apart; pillow's circle has 256 steps.
            far = np.abs(hues[:, None] - np.round(256 * 0.85 * np.arange(4) / 4)[None])
            near = np.minimum(far, 256 - far) < 12
            np.testing.assert_array_equal(near.sum(0) > 60, row)
        # Those without an object are kept.
        assert labels.any(1).tolist() == [i % 8 > 0 for i in range(len(split))]


def test_images_are_of_the_groups_they_show_and_know_their_size(tree):
    split = pickle.loads(pickle.dumps(open_coco(tree, "x").splits["train"]))
    assert isinstance(split, GroupedSplit)
    assert isinstance(split, SizedSplit)
    assert split.group_names == ("person", "car", "dog", "toothbrush")
    names = {number: name for number, name, _ in CATEGORIES}
    for i in range(len(split)):
        assert split.groups(i) == tuple(names[number] for _, number in split.annotation(i).labels)
    assert split.size(3) == (60, 80) == split.image(3).size[::-1]


def test_other_places_and_years(folder):
    before = open_coco(folder, "x")
    (folder / "images").mkdir()
    for split in ("train2017", "val2017"):
        (folder / split).rename(folder / "images" / split)
    after = open_coco(folder, "x")
    assert after.splits["val"].name(0) == f"images/{before.splits['val'].name(0)}"
    assert after.splits["val"].image(0).size == (80, 60)
    for path in (TRAIN, VAL, "images/train2017", "images/val2017"):
        (folder / path).rename(folder / path.replace("2017", "2014"))
    assert open_coco(folder, "x").splits["train"].name(0).startswith("images/train2014/")


def test_the_fingerprint_tells_of_images_and_labels(folder):
    first = open_coco(folder, "x").fingerprint
    content = json.loads((folder / TRAIN).read_text())
    shutil.copytree(folder, folder.parent / "moved")
    assert open_coco(folder.parent / "moved", "y").fingerprint == first
    content["annotations"][0]["area"] = 1
    (folder / TRAIN).write_text(json.dumps(content))
    assert open_coco(folder, "x").fingerprint == first
    del content["annotations"][1:]
    (folder / TRAIN).write_text(json.dumps(content))
    second = open_coco(folder, "x").fingerprint
    with open(next(iter((folder / "val2017").iterdir())), "ab") as file:
        file.write(b" ")
    assert len({first, second, open_coco(folder, "x").fingerprint}) == 3


def test_missing_images_are_told_of_and_named_when_decoded(folder, caplog):
    split = open_coco(folder, "x").splits["val"]
    (folder / split.name(1)).unlink()
    logger = logging.get_absl_logger()
    logger.addHandler(caplog.handler)
    try:
        with caplog.at_level(python_logging.WARNING):
            assert len(open_coco(folder, "x").splits["val"]) == 3
    finally:
        logger.removeHandler(caplog.handler)
    assert {record.getMessage() for record in caplog.records} == {
        f"1 of the 3 val images are not in {folder}, the first is {split.name(1)}"
    }
    with pytest.raises(InputError, match=split.name(1)):
        split.image(1)
    shutil.rmtree(folder / "val2017")
    with pytest.raises(InputError, match=r"--dataset: 3 of the 3 val images are not in .*; unpack the images there"):
        open_coco(folder, "x")


def remove(table, i, key):
    return lambda content: content[table][i].pop(key)


def change(table, i, key, value):
    return lambda content: content[table][i].update({key: value})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content.pop("images"), "has no list of images"),
        (lambda content: content.update(annotations={}), "has no list of annotations"),
        (lambda content: content.update(categories=[1]), "has no list of categories"),
        (lambda content: content.update(categories=[]), "lists no categories"),
        (remove("categories", 1, "name"), "category 1 has no name"),
        (change("categories", 1, "id", 1), "category 1 has no name, or no id from 1 on of its own"),
        (change("categories", 1, "name", "dog"), "two of one name"),
        (change("categories", 1, "name", "cart"), "its categories are not those of the training list"),
        (remove("images", 2, "file_name"), "image 2 has no file_name"),
        (change("images", 2, "id", "7"), "image 2 has no file_name, or no id of its own"),
        (remove("annotations", 0, "image_id"), "annotation 0 is of image None"),
        (change("annotations", 0, "category_id", 2), "and category 2, which are not both listed"),
        (lambda content: content["images"].append(content["images"][0] | {"id": 1}), "two images have one file_name"),
    ],
)
def test_damaged_lists_end_in_one_line(folder, damage, message):
    content = json.loads((folder / VAL).read_text())
    damage(content)
    (folder / VAL).write_text(json.dumps(content))
    with pytest.raises(InputError, match=message) as caught:
        open_coco(folder, "x")
    assert str(caught.value).startswith(str(folder / VAL))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"[1, 2]", b'{"images": [', b"\xff\xfe\x00", b"[" * 100_000])
def test_what_is_no_json_ends_in_one_line(folder, content):
    (folder / TRAIN).write_bytes(content)
    with pytest.raises(InputError, match=r"instances_train2017.json: (is no JSON|has no list of images)") as caught:
        open_coco(folder, "x")
    assert "\n" not in str(caught.value)


def test_missing_lists_are_named(folder):
    (folder / VAL).unlink()
    with pytest.raises(InputError, match=r"--dataset: .*annotations has instances_train2017.json; .*val2017.json are"):
        open_coco(folder, "x")
    shutil.rmtree(folder / "annotations")
    with pytest.raises(InputError, match=r"--dataset: .*annotations has no lists"):
        open_coco(folder, "x")
