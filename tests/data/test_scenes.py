"""UC Merced and RESISC45 as downloaded: a tenth of all images is held out, by the seed and the names alone."""

import logging as python_logging
import pickle
import shutil

import numpy as np
import pytest
from absl import logging

from tests.data.scenes_tree import write_resisc45, write_ucmerced
from vitprobe_jax.data import open_dataset
from vitprobe_jax.data.dataset import GroupedSplit, SizedSplit
from vitprobe_jax.data.image_labels import image_classes
from vitprobe_jax.data.scenes import RESISC45, UCMERCED, open_ucmerced
from vitprobe_jax.errors import InputError
from vitprobe_jax.types import Concept

WRITTEN = {"ucmerced": (write_ucmerced, UCMERCED, ".tif"), "resisc45": (write_resisc45, RESISC45, ".jpg")}


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    return {kind: write(root, seed=0, images=6, size=16) for kind, (write, _, _) in WRITTEN.items()}


def names(split):
    return [split.name(i) for i in range(len(split))]


@pytest.mark.parametrize("kind", WRITTEN)
def test_a_tenth_of_all_images_is_held_out(trees, kind):
    _, scenes, ending = WRITTEN[kind]
    dataset = open_dataset(f"{kind}:{trees[kind]}", seed=0)
    assert dataset.name == f"{kind}:{trees[kind].name}"
    assert dataset.concepts == tuple(Concept(i, name, "class") for i, name in enumerate(scenes.classes, 1))
    assert dataset.categories == ("class",)
    train, val = (names(dataset.splits[split]) for split in ("train", "val"))
    total = 6 * len(scenes.classes)
    assert len(val) == round(0.1 * total)
    assert len(set(train) | set(val)) == len(train) + len(val) == total
    assert all(name.endswith(ending) for name in train)
    for split in dataset.splits.values():
        labels = image_classes(split, dataset.concepts)
        assert [scenes.classes[label] for label in labels] == [name.split("/")[0] for name in names(split)]
    # Of the whole set, not of each class: classes have none, one or several held-out images.
    held_out = np.bincount(image_classes(dataset.splits["val"], dataset.concepts), minlength=len(scenes.classes))
    assert held_out.min() == 0
    assert held_out.max() > 1


def test_the_split_depends_on_the_seed_and_on_names_alone(trees, tmp_path):
    first, again, other = (open_ucmerced(trees["ucmerced"], "x", seed=seed) for seed in (0, 0, 1))
    assert names(first.splits["val"]) == names(again.splits["val"]) != names(other.splits["val"])
    assert first.fingerprint == again.fingerprint != other.fingerprint
    moved = shutil.copytree(trees["ucmerced"], tmp_path / "UCMerced_LandUse")
    for place in (tmp_path, moved, moved / "Images"):
        found = open_ucmerced(place, "x", seed=0)
        assert found.fingerprint == first.fingerprint
        assert names(found.splits["val"]) == names(first.splits["val"])


def test_lists_beside_the_classes_are_the_split(trees, tmp_path):
    """As Scale-MAE's code takes them; an image in neither is left out."""
    folder = shutil.copytree(trees["resisc45"], tmp_path / "NWPU-RESISC45")
    everything = [f"{name}/{name}_{i:03d}.jpg" for name in RESISC45.classes for i in range(6)]
    train, val = everything[::2], everything[1:-1:2]
    (folder / "train.txt").write_text("".join(f"./{name}\n" for name in train[::-1]))
    with pytest.raises(InputError, match=r"--dataset: .*val.txt is missing beside the other list"):
        open_dataset(f"resisc45:{folder}", seed=0)
    (folder / "val.txt").write_text("\n".join(val))
    dataset = open_dataset(f"resisc45:{folder}", seed=3)
    assert (names(dataset.splits["train"]), names(dataset.splits["val"])) == (train, val)
    for content, message in (
        (" \n", "val.txt: is empty"),
        ("./airplane/other.jpg", "val.txt: names airplane/other.jpg, which is not an image of a class"),
        (f"./{train[0]}", f"val.txt: names {train[0]}, which the other list has too"),
    ):
        (folder / "val.txt").write_text(content)
        with pytest.raises(InputError, match=message):
            open_dataset(f"resisc45:{folder}", seed=0)


def test_images_have_groups_and_sizes_and_can_be_decoded(trees):
    split = pickle.loads(pickle.dumps(open_ucmerced(trees["ucmerced"], "x", seed=0).splits["val"]))
    assert isinstance(split, GroupedSplit)
    assert isinstance(split, SizedSplit)
    assert split.groups(0) == (split.name(0).split("/")[0],)
    assert split.size(0) == split.image(0).size == (16, 16)


def test_other_numbers_of_images_are_a_warning_and_other_files_are_nothing(trees, tmp_path, caplog):
    folder = shutil.copytree(trees["ucmerced"], tmp_path / "UCMerced_LandUse")
    before = open_ucmerced(folder, "x", seed=0)
    (folder / "Images/beach/Thumbs.db").write_text("no image")
    (folder / "Images/unknown").mkdir()
    logger = logging.get_absl_logger()
    logger.addHandler(caplog.handler)
    try:
        with caplog.at_level(python_logging.WARNING):
            assert open_ucmerced(folder, "x", seed=0).fingerprint == before.fingerprint
    finally:
        logger.removeHandler(caplog.handler)
    told = {record.getMessage() for record in caplog.records}
    assert told == {f"{folder / 'Images'}: 21 classes have other than 100 images, the first is agricultural with 6"}


def test_what_is_no_such_tree_ends_in_one_line(trees, tmp_path):
    folder = shutil.copytree(trees["resisc45"], tmp_path / "scenes")
    for image in (folder / "wetland").iterdir():
        image.unlink()
    shutil.rmtree(folder / "palace")
    for spec, message in (
        (f"resisc45:{folder}", r"has no image of 2 of the 45 classes of NWPU-RESISC45, the first is palace"),
        (f"ucmerced:{tmp_path}", r"has no class folder of UC Merced, as agricultural/"),
        (f"ucmerced:{tmp_path}/nowhere", r"nowhere is not a folder"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            open_dataset(spec, seed=0)
        assert str(caught.value).startswith("--dataset: ")
        assert "\n" not in str(caught.value)
