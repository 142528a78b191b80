import numpy as np
import pytest
from PIL import Image

from tests.data.ade20k_tree import NAMES, write_ade20k, write_pair, write_table
from vitprobe_jax.data import open_dataset
from vitprobe_jax.data.ade20k import open_ade20k
from vitprobe_jax.data.dataset import GroupedSplit, SizedSplit
from vitprobe_jax.errors import InputError
from vitprobe_jax.types import Concept

MASK = "annotations/validation/ADE_val_00000001.png"
IMAGE = "images/validation/ADE_val_00000001.jpg"


@pytest.fixture
def folder(tmp_path):
    return write_ade20k(tmp_path / "ADEChallengeData2016", counts={"train": 2, "val": 1})


def test_tree_is_listed_and_named_by_its_table(folder):
    dataset = open_dataset(f"ade20k:{folder}", seed=0)
    assert dataset.name == "ade20k:ADEChallengeData2016"
    assert dataset.concepts == tuple(Concept(i, name.strip(), "object") for i, name in enumerate(NAMES, 1))
    train = dataset.splits["train"]
    assert [train.name(i) for i in range(2)] == [f"images/training/ADE_train_0000000{i}.jpg" for i in (1, 2)]
    assert isinstance(train, GroupedSplit)
    assert isinstance(train, SizedSplit)
    assert train.group_names == tuple(concept.name for concept in dataset.concepts)
    assert (dataset.supercategories, dataset.tile, dataset.skip_corrupt) == ((), 224, False)


def test_images_and_masks_come_at_one_size(folder):
    train = open_ade20k(folder, "x").splits["train"]
    for i in range(2):
        stem = f"training/ADE_train_{i + 1:08d}"
        image = Image.open(folder / f"images/{stem}.jpg").resize((672, 448), Image.Resampling.BICUBIC)
        mask = Image.open(folder / f"annotations/{stem}.png").resize((672, 448), Image.Resampling.NEAREST)
        np.testing.assert_array_equal(np.asarray(train.image(i)), np.asarray(image))
        ((category, found),) = train.annotation(i).masks
        assert category == "object"
        np.testing.assert_array_equal(found, np.asarray(mask))
        assert train.size(i) == found.shape == (448, 672)
        assert train.groups(i) == tuple(NAMES[n - 1].strip() for n in np.unique(mask) if n)


def test_a_class_that_vanishes_in_the_resize_is_no_group(folder):
    labels = np.ones((900, 1344), np.uint8)
    labels[0, 0] = 5
    write_pair(folder, "val", 1, labels, np.zeros((900, 1344, 3), np.uint8))
    assert open_ade20k(folder, "x").splits["val"].groups(0) == ("wall",)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "images/validation").rename(root / "val"), r"has no folder images/validation; expected"),
        (lambda root: (root / IMAGE).rename((root / IMAGE).with_suffix(".JPG")), r"no images in .*images/validation"),
        (lambda root: (root / MASK).unlink(), r"1 of 1 images in .* have no mask, the first is ADE_val_00000001.jpg"),
        (
            lambda root: (root / MASK).with_name("ADE_val_00000002.png").write_bytes(b""),
            r"1 of 2 masks in .* have no image, the first is ADE_val_00000002.png",
        ),
        (lambda root: (root / "objectInfo150.txt").unlink(), r"objectInfo150.txt cannot be read \(No such file"),
        (lambda root: (root / "objectInfo150.txt").write_bytes(b"\xff\xfe"), r"objectInfo150.txt: is not UTF-8 text"),
        (lambda root: (root / "objectInfo150.txt").write_text(""), r"has no columns Idx and Name"),
        (lambda root: (root / "objectInfo150.txt").write_text("Idx,Name\n1,wall\n"), r"has no columns Idx and Name"),
        (lambda root: (root / "objectInfo150.txt").write_text("Idx\tName\n"), r"lists no classes"),
        (lambda root: (root / "objectInfo150.txt").write_text("Idx\tName\n2\twall\n"), r"row 1 .* is not class 1"),
        (lambda root: (root / "objectInfo150.txt").write_text("Idx\tName\n1\n"), r"row 1 .* is not class 1"),
        (lambda root: write_table(root, ("wall", "sky", "sky")), r"gives the name 'sky' to several classes"),
    ],
)
def test_what_is_no_ade20k_folder_ends_in_one_line(folder, spoil, message):
    spoil(folder)
    with pytest.raises(InputError, match=message) as caught:
        open_ade20k(folder, "x")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones((9, 10)), r"ADE_val_00000001.png: is 9 x 10, its image images/validation/ADE_val_00000001.jpg is "),
        (None, r"ADE_val_00000001.png: holds label 9, the largest there is is 8; replace the mask"),
    ],
)
def test_unfit_masks_are_named(folder, mask, message):
    if mask is None:
        mask = np.asarray(Image.open(folder / MASK)).copy()
        mask[0, 0] = 9
    Image.fromarray(mask.astype(np.uint8)).save(folder / MASK)
    val = open_ade20k(folder, "x").splits["val"]
    for ask in (val.annotation, val.groups):
        with pytest.raises(InputError, match=message):
            ask(0)


def test_fingerprint_follows_files_and_table(folder):
    before = open_ade20k(folder, "x").fingerprint
    assert open_ade20k(folder, "y").fingerprint == before
    write_table(folder, (*NAMES[:-1], "pole"))
    renamed = open_ade20k(folder, "x").fingerprint
    with open(folder / IMAGE, "ab") as file:
        file.write(b"\0")
    assert len({before, renamed, open_ade20k(folder, "x").fingerprint}) == 3
