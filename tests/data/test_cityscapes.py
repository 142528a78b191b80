import numpy as np
import pytest
from PIL import Image

from tests.data.cityscapes_tree import write_cityscapes, write_frame
from vitprobe_jax.data import open_dataset
from vitprobe_jax.data.cityscapes import open_cityscapes
from vitprobe_jax.data.dataset import GroupedSplit, SizedSplit
from vitprobe_jax.errors import InputError

EVALUATED = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
FRAME = "leftImg8bit/val/frankfurt/frankfurt_000000_000001_leftImg8bit.png"
MASK = "gtFine/val/frankfurt/frankfurt_000000_000001_gtFine_labelIds.png"


@pytest.fixture
def folder(tmp_path):
    return write_cityscapes(tmp_path / "streets", size=(8, 16))


def names(split):
    return [split.name(i) for i in range(len(split))]


def test_tree_is_listed_by_city(folder):
    for name in ("gtFine_color.png", "gtFine_instanceIds.png", "gtFine_polygons.json"):
        (folder / f"gtFine/train/aachen/aachen_000000_000000_{name}").write_text("of no interest")
    (folder / "leftImg8bit/train/aachen/._aachen_000000_000000_leftImg8bit.png").write_text("hidden")
    (folder / "leftImg8bit/test/berlin").mkdir(parents=True)
    dataset = open_dataset(f"cityscapes:{folder}/", seed=0)
    assert dataset.name == "cityscapes:streets"
    train, val = dataset.splits["train"], dataset.splits["val"]
    assert names(train) == [
        f"leftImg8bit/train/{city}/{city}_000000_{frame:06d}_leftImg8bit.png"
        for city in ("aachen", "bochum")
        for frame in range(3)
    ]
    assert isinstance(train, GroupedSplit)
    assert isinstance(train, SizedSplit)
    assert (train.group_names, val.group_names) == (("aachen", "bochum"), ("frankfurt",))
    assert [train.groups(i) for i in range(6)] == [("aachen",)] * 3 + [("bochum",)] * 3
    assert (dataset.tile, dataset.skip_corrupt) == (256, False)


def test_classes_are_those_that_are_evaluated(folder):
    dataset = open_cityscapes(folder, "x")
    assert tuple(concept.number for concept in dataset.concepts) == EVALUATED
    assert dataset.categories == ("object",)
    groups = {c.name: group for c, group in zip(dataset.concepts, dataset.supercategories, strict=True)}
    assert len(groups) == 19
    assert {name for name, group in groups.items() if group == "human"} == {"person", "rider"}
    assert {name for name, group in groups.items() if group == "object"} == {"pole", "traffic light", "traffic sign"}
    assert groups["train"] == groups["bicycle"] == "vehicle"
    assert [name for name, group in groups.items() if group is None] == [
        *("road", "sidewalk", "building", "wall", "fence", "vegetation", "terrain", "sky")
    ]


def test_other_ids_are_no_label(folder):
    ids = np.arange(34).reshape(2, 17)
    image = np.random.default_rng(0).integers(0, 256, (2, 17, 3), np.uint8)
    write_frame(folder, "val", "frankfurt", 1, ids, image)
    val = open_cityscapes(folder, "x").splits["val"]
    ((category, mask),) = val.annotation(1).masks
    assert category == "object"
    np.testing.assert_array_equal(mask, np.where(np.isin(ids, EVALUATED), ids, 0))
    assert val.annotation(1).image_size is None
    np.testing.assert_array_equal(np.asarray(val.image(1)), image)
    assert val.size(1) == (2, 17)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "gtFine").rename(root / "gtCoarse"), r"has no folder gtFine/train; expected"),
        (lambda root: (root / "leftImg8bit/val").rename(root / "val"), r"has no folder leftImg8bit/val; expected"),
        (lambda root: [path.unlink() for path in (root / "leftImg8bit/val").rglob("*.png")], r"no images in .*val; "),
        (
            lambda root: (root / MASK).unlink(),
            r"1 of 2 images in .* have no mask, the first is frankfurt/frankfurt_000000_000001_leftImg8bit.png; add gtFine",
        ),
        (
            lambda root: (root / FRAME).unlink(),
            r"1 of 2 masks in .* have no image, the first is frankfurt/.*labelIds.png",
        ),
        (
            lambda root: [path.rename(path.parents[1] / path.name) for part in (FRAME, MASK) for path in [root / part]],
            r"frankfurt_000000_000001_leftImg8bit.png lies in no folder of a city; expected leftImg8bit/val/CITY/",
        ),
    ],
)
def test_what_is_no_cityscapes_folder_ends_in_one_line(folder, spoil, message):
    spoil(folder)
    with pytest.raises(InputError, match=message) as caught:
        open_cityscapes(folder, "x")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.full((8, 15), 7), r"labelIds.png: is 8 x 15, its image .*leftImg8bit.png is 8 x 16; replace one of them"),
        (np.where(np.arange(16) == 3, 255, np.full((8, 16), 7)), r"labelIds.png: holds label 255, .* is 33; replace"),
        (np.zeros((8, 16, 3)), r"labelIds.png: is RGB; a mask is a PNG of one channel"),
        (None, r"labelIds.png: cannot be decoded"),
    ],
)
def test_unfit_masks_are_named(folder, mask, message):
    if mask is None:
        (folder / MASK).write_bytes(b"no PNG")
    else:
        Image.fromarray(mask.astype(np.uint8)).save(folder / MASK)
    val = open_cityscapes(folder, "x").splits["val"]
    assert val.annotation(0).masks
    with pytest.raises(InputError, match=message) as caught:
        val.annotation(1)
    assert "\n" not in str(caught.value)


def test_broken_images_are_named(folder):
    (folder / FRAME).write_bytes(b"no PNG")
    val = open_cityscapes(folder, "x").splits["val"]
    for ask in (val.image, val.size, val.annotation):
        with pytest.raises(InputError, match=r"frankfurt_000000_000001_leftImg8bit.png: "):
            ask(1)


def test_fingerprint_follows_names_and_sizes_not_the_place(folder):
    before = open_cityscapes(folder, "x").fingerprint
    moved = folder.rename(folder.with_name("elsewhere"))
    assert open_cityscapes(moved, "x").fingerprint == before
    with open(moved / MASK, "ab") as file:
        file.write(b"\0")
    assert open_cityscapes(moved, "x").fingerprint != before


def test_real_photographs(shared_data):
    folder = shared_data / "camvid_cityscapes"
    if not folder.is_dir():
        pytest.skip(f"no photographs in Cityscapes' layout at {folder}")
    splits = open_cityscapes(folder, "x").splits
    assert [len(splits[name]) for name in ("train", "val")] == [62, 26]
    assert splits["train"].group_names == ("0001tp", "0006r0", "0016e5")
    image, ((_, mask),) = splits["val"].image(3), splits["val"].annotation(3).masks
    assert (image.height, image.width) == mask.shape == splits["val"].size(3) == (360, 480)
    assert {7, 11, 23} <= set(np.unique(mask).tolist()) <= {0, 7, 8, 11, 13, 17, 20, 21, 23, 24, 26, 33}
