import pickle
import shutil

import numpy as np
import pytest

from tests.data.nuswide_tree import CONCEPTS, write_nuswide
from vitprobe_jax.data import open_dataset
from vitprobe_jax.data.dataset import GroupedSplit, SizedSplit
from vitprobe_jax.data.image_labels import image_labels
from vitprobe_jax.data.nuswide import open_nuswide
from vitprobe_jax.errors import InputError
from vitprobe_jax.types import Concept

LABELS = "Groundtruth/TrainTestLabels/Labels_cat_Test.txt"


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return write_nuswide(tmp_path_factory.mktemp("nuswide"), seed=0, train=9, val=3, size=(60, 80))


@pytest.fixture
def folder(tree, tmp_path):
    return shutil.copytree(tree, tmp_path / "nuswide")


def test_the_labels_of_an_image_are_those_of_its_line(tree):
    dataset = open_dataset(f"nuswide:{tree}", seed=0)
    assert dataset.name == f"nuswide:{tree.name}"
    assert dataset.multilabel
    assert dataset.skip_corrupt
    assert dataset.concepts == tuple(Concept(i, name, "object") for i, name in enumerate(CONCEPTS, 1))
    for split, part in (("train", "Train"), ("val", "Test")):
        images = dataset.splits[split]
        columns = [
            (tree / f"Groundtruth/TrainTestLabels/Labels_{name}_{part}.txt").read_text().split() for name in CONCEPTS
        ]
        labels = image_labels(images, dataset.concepts)
        np.testing.assert_array_equal(labels, np.array(columns).T == "1")
        assert not labels[0].any()  # kept, though nothing is in it
        assert labels.any()
        listed = (tree / f"ImageList/{part}Imagelist.txt").read_text().split()
        assert [images.name(i) for i in range(len(images))] == ["Flickr/" + line.replace("\\", "/") for line in listed]


def test_images_are_of_the_groups_they_show_and_know_their_size(folder):
    (folder / "Flickr").rename(folder / "images")
    split = pickle.loads(pickle.dumps(open_nuswide(folder, "x").splits["train"]))
    assert isinstance(split, GroupedSplit)
    assert isinstance(split, SizedSplit)
    assert split.group_names == CONCEPTS
    for i in range(len(split)):
        assert split.groups(i) == tuple(CONCEPTS[number - 1] for _, number in split.annotation(i).labels)
    assert split.size(3) == (60, 80) == split.image(3).size[::-1]
    (folder / split.name(3)).unlink()
    with pytest.raises(InputError, match=split.name(3)):
        open_nuswide(folder, "x").splits["train"].image(3)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (LABELS, "0\n1\n", r"Labels_cat_Test.txt: has 2 labels, ImageList/TestImagelist.txt 3 images"),
        (LABELS, "0\n1\n2\n", r"Labels_cat_Test.txt: has lines that are neither 0 nor 1"),
        (LABELS, None, r"--dataset: .*Labels_cat_Test.txt is missing, the labels of the concept cat"),
        ("ImageList/TestImagelist.txt", None, r"--dataset: .*TestImagelist.txt is missing; NUS-WIDE has ImageList/"),
        ("ImageList/TestImagelist.txt", " \n", r"TestImagelist.txt: is empty"),
        ("ConceptsList/Concepts81.txt", None, r"--dataset: .*Concepts81.txt is missing"),
        ("ConceptsList/Concepts81.txt", "cat\ncat\n", r"Concepts81.txt: names a concept twice"),
        ("ImageList/TestImagelist.txt", "a\\1.jpg\na\\2.jpg\nb\\3.jpg", r"3 of the 3 val images are not in"),
    ],
)
def test_lists_that_do_not_fit_end_in_one_line(folder, file, content, message):
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        open_nuswide(folder, "x")
    assert "\n" not in str(caught.value)


def test_images_are_needed(folder):
    shutil.rmtree(folder / "Flickr")
    with pytest.raises(InputError, match=r"--dataset: .* has no folder Flickr or images"):
        open_nuswide(folder, "x")
