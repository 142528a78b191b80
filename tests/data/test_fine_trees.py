"""CUB-200-2011, Stanford Cars, Oxford-IIIT Pet and Food-101 in their official layouts."""

import dataclasses
import pickle
import shutil
from collections.abc import Callable

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from tests.data.fine_trees import write_cars, write_cub200, write_food101, write_pets
from vitprobe_jax.data import open_dataset
from vitprobe_jax.data.dataset import GroupedSplit, SizedSplit
from vitprobe_jax.data.image_labels import image_classes
from vitprobe_jax.errors import InputError
from vitprobe_jax.types import Concept


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a tree is written, the names of its classes, and an image of its training split."""

    write: Callable
    names: tuple[str, ...]
    image: str


LAYOUTS = {
    "cub200": Layout(
        write_cub200,
        ("Black footed Albatross", "Laysan Albatross", "Sooty Albatross"),
        "images/002.Laysan_Albatross/Laysan_Albatross_0001_7.jpg",
    ),
    "cars": Layout(
        write_cars,
        ("AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Acura TL Sedan 2012"),
        "cars_train/00006.jpg",
    ),
    "pets": Layout(write_pets, ("Abyssinian", "american bulldog", "Birman"), "images/american_bulldog_2.jpg"),
    "food101": Layout(write_food101, ("apple pie", "baby back ribs", "baklava"), "images/baby_back_ribs/1005680.jpg"),
}


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    root = tmp_path_factory.mktemp("fine")
    return {kind: layout.write(root, seed=0, size=(24, 32)) for kind, layout in LAYOUTS.items()}


@pytest.fixture
def copied(trees, tmp_path):
    return {kind: shutil.copytree(tree, tmp_path / kind / tree.name) for kind, tree in trees.items()}


def names(split):
    return [split.name(i) for i in range(len(split))]


@pytest.mark.parametrize("kind", LAYOUTS)
def test_the_official_split_and_classes(trees, kind):
    layout = LAYOUTS[kind]
    dataset = open_dataset(f"{kind}:{trees[kind]}", seed=0)
    assert dataset.name == f"{kind}:{trees[kind].name}"
    assert dataset.concepts == tuple(Concept(i, name, "class") for i, name in enumerate(layout.names, 1))
    assert not dataset.multilabel
    assert dataset.skip_corrupt
    # Written class after class: four training images of each, two test images.
    for split, count in (("train", 4), ("val", 2)):
        images = dataset.splits[split]
        assert image_classes(images, dataset.concepts).tolist() == np.repeat(range(3), count).tolist()
        assert len(set(names(images))) == 3 * count
        assert {images.image(i).size for i in range(len(images))} == {(32, 24)}
    assert names(dataset.splits["train"])[5] == layout.image
    assert not set(names(dataset.splits["train"])) & set(names(dataset.splits["val"]))
    split = pickle.loads(pickle.dumps(dataset.splits["train"]))
    assert isinstance(split, GroupedSplit)
    assert isinstance(split, SizedSplit)
    assert split.groups(5) == (layout.names[1],)
    assert split.size(5) == (24, 32)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_the_folder_above_is_taken_too_and_names_nothing(copied, trees, kind):
    whole = open_dataset(f"{kind}:{trees[kind]}", seed=0)
    assert open_dataset(f"{kind}:{copied[kind].parent}", seed=1).fingerprint == whole.fingerprint


@pytest.mark.parametrize("kind", LAYOUTS)
def test_listed_images_must_be_there(copied, kind):
    before = open_dataset(f"{kind}:{copied[kind]}", seed=0).fingerprint
    image = copied[kind] / LAYOUTS[kind].image
    with open(image, "ab") as file:
        file.write(b"\0")
    assert open_dataset(f"{kind}:{copied[kind]}", seed=0).fingerprint != before
    image.unlink()
    with pytest.raises(InputError, match=f"1 of the 12 train images are not in .*, the first is {LAYOUTS[kind].image}"):
        open_dataset(f"{kind}:{copied[kind]}", seed=0)


def test_nested_copies_of_cars_are_read_as_the_official_ones(tmp_path, trees):
    nested = open_dataset(f"cars:{write_cars(tmp_path, seed=0, size=(24, 32), nested=True)}", seed=0)
    plain = open_dataset(f"cars:{trees['cars']}", seed=0)
    for split in ("train", "val"):
        assert names(nested.splits[split]) == [f"{n.split('/')[0]}/{n}" for n in names(plain.splits[split])]
        labels = [image_classes(data.splits[split], data.concepts).tolist() for data in (nested, plain)]
        assert labels[0] == labels[1]


@pytest.mark.parametrize(
    ("kind", "file", "content", "message"),
    [
        ("cub200", "images.txt", None, r"images.txt is missing; CUB-200-2011 has classes.txt, images.txt"),
        ("cub200", "classes.txt", None, r"has no classes.txt; give the folder that CUB-200-2011 was unpacked into"),
        ("cub200", "classes.txt", "1 a\n3 b\n", r"classes are not numbered from 1 to 2"),
        ("cub200", "images.txt", "1 a.jpg\n1 b.jpg\n", r"images.txt: line 2 does not have a new number and a value"),
        ("cub200", "image_class_labels.txt", "1 1\n", r"image_class_labels.txt: image 2 is not in both it and images"),
        ("cub200", "image_class_labels.txt", "4", r"image 1 has the class 4, not one of 1 to 3"),
        ("cub200", "train_test_split.txt", "2", r"image 1 has '2', which is neither 1 \(training\) nor 0 \(test\)"),
        ("cub200", "images.txt", "\n", r"images.txt: is empty"),
        (
            "pets",
            "annotations/test.txt",
            None,
            r"test.txt is missing; Oxford-IIIT Pet has images/ and annotations/train",
        ),
        ("pets", "annotations/test.txt", "# nothing\n", r"test.txt: lists no image"),
        ("pets", "annotations/test.txt", "Birman_1 3\n", r"line 1 is not as `Abyssinian_100 1 1 1`"),
        ("pets", "annotations/test.txt", "Birman_1 1 1 1\n", r"line 1 gives class 1 to Birman, which is Abyssinian"),
        ("pets", "annotations/test.txt", "Bengal_1 7 1 1\n", r"classes are not numbered from 1 to 4"),
        (
            "food101",
            "meta/test.txt",
            None,
            r"test.txt is missing; Food-101 has images/, meta/classes.txt and meta/train",
        ),
        ("food101", "meta/test.txt", "pizza/1\n", r"pizza/1 is of no class of meta/classes.txt"),
        ("food101", "meta/classes.txt", "a\na\n", r"names a class twice"),
        ("food101", "meta/train.txt", "\n", r"train.txt: is empty"),
        ("cars", "devkit/cars_train_annos.mat", None, r"cars_train_annos.mat is neither in .*devkit nor in"),
        ("cars", "cars_test_annos_withlabels.mat", None, r"cars_test_annos_withlabels.mat is neither in"),
        ("cars", "devkit/cars_meta.mat", "no matrix", r"cars_meta.mat: no readable annotations"),
    ],
)
def test_lists_that_do_not_fit_end_in_one_line(copied, kind, file, content, message):
    path = copied[kind] / file
    if content is None:
        path.unlink()
    elif content.isdigit():
        # Of a list of CUB, the value of every image.
        path.write_text("".join(f"{line.split()[0]} {content}\n" for line in path.read_text().splitlines()))
    else:
        path.write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        open_dataset(f"{kind}:{copied[kind]}", seed=0)
    assert "\n" not in str(caught.value)


def test_cars_of_no_class_end_in_one_line(copied):
    path = copied["cars"] / "devkit/cars_train_annos.mat"
    annotations = loadmat(path)["annotations"]
    whole = path.read_bytes()
    for changed, message in ((9, r"00001.jpg has the class 9, not one of 1 to 3"), (0, r"has the class 0, not one of")):
        annotations["class"][0, 0] = np.array([[changed]])
        savemat(path, {"annotations": annotations})
        with pytest.raises(InputError, match=message):
            open_dataset(f"cars:{copied['cars']}", seed=0)
    path.write_bytes(whole)
    # What comes with the download: test annotations without their classes.
    path = copied["cars"] / "cars_test_annos_withlabels.mat"
    files = [(own["fname"][0],) for own in loadmat(path)["annotations"][0]]
    savemat(path, {"annotations": np.array(files, [("fname", object)])[None]})
    with pytest.raises(InputError, match=r"annotations has no fname and class"):
        open_dataset(f"cars:{copied['cars']}", seed=0)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_other_folders_are_refused(tmp_path, kind):
    for folder, message in ((tmp_path / "nowhere", "is not a folder"), (tmp_path, "is empty")):
        with pytest.raises(InputError, match=message):
            open_dataset(f"{kind}:{folder}", seed=0)
    (tmp_path / "readme.txt").write_text("nothing else")
    with pytest.raises(InputError, match=r"--dataset: .* has no .*; give the folder that .* was unpacked into"):
        open_dataset(f"{kind}:{tmp_path}", seed=0)
