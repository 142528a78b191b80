import pickle
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.data.fair1m_tree import rotated, write_fair1m, write_image, write_labels
from tests.data.test_shots import Grouped
from vitprobe_jax.data import fair1m, open_dataset
from vitprobe_jax.data.dataset import GroupedSplit
from vitprobe_jax.data.fair1m import open_fair1m
from vitprobe_jax.data.shots import draw_shots
from vitprobe_jax.errors import InputError


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return write_fair1m(tmp_path_factory.mktemp("fair1m"), seed=3)


def upright(left, top, right, bottom):
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def write_split(folder, objects, size=(300, 300), stem="7"):
    """One image with labels."""
    write_image(folder / "images", stem, Image.new("RGB", size[::-1], (9, 9, 9)))
    return write_labels(folder / "labelXml", stem, objects, size)


@pytest.fixture
def folder(tmp_path):
    """Gives the data set whose validation image has these objects."""

    def write(objects, size=(300, 300)):
        write_split(tmp_path / "train/part1", [("Bridge", upright(3, 3, 9, 9))])
        write_split(tmp_path / "validation", objects, size)
        return tmp_path

    return write


def names(split):
    return [split.name(i) for i in range(len(split))]


def val_of(folder):
    return open_fair1m(folder, "x").splits["val"]


def test_concepts_are_the_37_fine_categories(tree):
    dataset = open_dataset(f"fair1m:{tree}", seed=0)
    assert [concept.number for concept in dataset.concepts] == list(range(1, 38))
    assert len({concept.name for concept in dataset.concepts}) == 37
    assert {concept.category for concept in dataset.concepts} == {"object"}
    kinds = dict(zip([concept.name for concept in dataset.concepts], dataset.supercategories, strict=True))
    assert (kinds["Boeing737"], kinds["Warship"], kinds["Truck Tractor"]) == ("airplane", "ship", "vehicle")
    assert (kinds["Tennis Court"], kinds["Bridge"]) == ("court", "road")
    assert len(set(kinds.values())) == 5
    assert (dataset.tile, dataset.name) == (0, f"fair1m:{tree.name}")
    assert (dataset.retrieval_split, dataset.draw.train, dataset.draw.in_turn) == ("train", 8, True)
    assert all(isinstance(split, GroupedSplit) for split in dataset.splits.values())


def test_images_are_tiles_that_cover_the_image(tree):
    train = open_fair1m(tree, "x").splits["train"]
    assert names(train)[:4] == [f"train/part1/images/0.tif@{at}" for at in ("0,0", "0,224", "32,0", "32,224")]
    assert names(train)[4] == "train/part2/images/1.tif@0,0"
    whole = np.asarray(Image.open(tree / "train/part1/images/0.tif"))
    for i, (top, left) in enumerate(((0, 0), (0, 224), (32, 0), (32, 224))):
        np.testing.assert_array_equal(train.image(i), whole[top : top + 224, left : left + 224])
        assert train.size(i) == (224, 224)


def test_masks_lie_on_what_is_drawn(tree):
    split = val_of(tree)
    for i in range(len(split)):
        (category, mask), *more = split.annotation(i).masks
        assert (category, more) == ("object", [])
        # What is drawn is coloured, the background grey; the edges of pillow's polygons are wider by up to a pixel.
        colored = np.ptp(np.asarray(split.image(i)).astype(int), axis=-1) > 60
        assert colored[mask > 0].mean() > 0.97
        assert colored[mask == 0].mean() < 0.05
        held = [fair1m.NAMES.index(name) + 1 for name in split.groups(i)]
        assert set(held) <= set(np.unique(mask)) - {0}


@pytest.mark.parametrize(("left_part", "held"), [(10, [True, True]), (9, [False, True]), (21, [True, False])])
def test_a_tile_holds_a_category_from_a_third_of_a_box_on(folder, left_part, held):
    box = upright(224 - left_part, 50, 224 - left_part + 30, 60)
    split = val_of(folder([("Bus", box)], (100, 448)))
    assert names(split) == ["validation/images/7.tif@0,0", "validation/images/7.tif@0,224"]
    assert [split.groups(i) == ("Bus",) for i in range(2)] == held
    assert [split.groups(i) == () for i in range(2)] == [not there for there in held]


def test_groups_stand_in_the_order_of_the_categories(folder):
    objects = [("Bridge", upright(1, 1, 9, 9)), ("A220", upright(20, 1, 40, 9)), ("Bridge", upright(50, 1, 60, 9))]
    split = val_of(folder(objects, (100, 100)))
    assert split.groups(0) == ("A220", "Bridge")
    assert split.group_names == fair1m.NAMES


def test_tiles_without_a_box_are_left_out(folder):
    split = val_of(folder([("Bus", rotated(300, 500, 30, 10, 0.5))], (672, 672)))
    assert names(split) == ["validation/images/7.tif@448,224"]
    touching = val_of(folder([("Bus", upright(100, 200, 200, 224))], (500, 500)))
    assert names(touching) == ["validation/images/7.tif@0,0"]


def test_the_last_tiles_end_with_the_image_and_small_images_are_tiles_of_their_own(folder):
    split = val_of(folder([("Bus", upright(0, 0, 300, 100))], (100, 300)))
    assert names(split) == ["validation/images/7.tif@0,0", "validation/images/7.tif@0,76"]
    assert [split.size(i) for i in range(2)] == [(100, 224)] * 2
    assert [split.image(i).size for i in range(2)] == [(224, 100)] * 2
    assert all(np.all(split.annotation(i).masks[0][1] == fair1m.NAMES.index("Bus") + 1) for i in range(2))


def test_smaller_boxes_lie_over_larger_ones(folder):
    car, court = ("Small Car", upright(40, 40, 50, 44)), ("Tennis Court", upright(10, 10, 90, 90))
    masks = [val_of(folder(objects)).annotation(0).masks[0][1] for objects in ([car, court], [court, car])]
    np.testing.assert_array_equal(*masks)
    assert np.count_nonzero(masks[0] == fair1m.NAMES.index("Small Car") + 1) == 40


def test_boxes_may_reach_beyond_the_image_and_have_their_corners_in_any_order(folder):
    a, b, c, d = upright(-20, 90, 40, 130)
    split = val_of(folder([("Van", [a, c, b, d])], (100, 100)))
    mask = split.annotation(0).masks[0][1]
    assert np.count_nonzero(mask) == 40 * 10
    # A sixth of the box is in view, so no tile holds it.
    assert split.groups(0) == ()


@pytest.mark.parametrize("place", ["labelXmls", "labelXmls/labelXml", "annotations"])
def test_where_the_labels_lie_and_how_they_write_names_is_of_no_meaning(tree, tmp_path, place):
    for split, old in (("train", tree / "train/part1"), ("val", tree / "validation")):
        (tmp_path / split / place).mkdir(parents=True)
        for file in (old / "labelXml").iterdir():
            (tmp_path / split / place / file.name).write_text(file.read_text().replace("Small Car", "small-car"))
        (tmp_path / split / "images").symlink_to(old / "images")
    before, after = val_of(tree), val_of(tmp_path)
    assert [before.groups(i) for i in range(len(before))] == [after.groups(i) for i in range(len(after))]
    np.testing.assert_array_equal(before.annotation(1).masks[0][1], after.annotation(1).masks[0][1])


def test_an_image_is_decoded_once_for_its_tiles_in_every_process(tree, monkeypatch):
    decoded = []

    def read(path, mode):
        decoded.append(path.name)
        return Image.open(path).convert(mode)

    monkeypatch.setattr(fair1m, "read_image", read)
    split = val_of(tree)
    assert decoded == []
    images = [np.asarray(split.image(i)) for i in range(len(split))]
    assert decoded == ["0.tif", "1.tif"]
    monkeypatch.undo()
    copy = pickle.loads(pickle.dumps(val_of(tree)))
    np.testing.assert_array_equal(copy.image(5), images[5])
    assert (copy.name(5), copy.groups(5)) == (split.name(5), split.groups(5))


def test_fingerprint_follows_images_and_labels_not_the_place(tree, tmp_path):
    before = open_fair1m(tree, "x").fingerprint
    copy = write_fair1m(tmp_path / "copy", seed=3)
    assert open_fair1m(copy, "x").fingerprint == before
    labels = copy / "validation/labelXml/0.xml"
    labels.write_text(labels.read_text().replace("Bus", "Van"))
    changed = open_fair1m(copy, "x").fingerprint
    assert changed != before
    with open(copy / "train/part1/images/0.tif", "ab") as file:
        file.write(b"\0")
    assert open_fair1m(copy, "x").fingerprint not in (before, changed)


GOOD = "<point>3.000000,3.000000</point>"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("</annotation>", "", r"7\.xml: is no XML that can be read \(no element found"),
        ("<width>300</width>", "<width>wide</width>", r"7\.xml: tells no size/width and size/height"),
        ("<height>300</height>", "", r"7\.xml: tells no size/width and size/height"),
        ("Bridge", "Zeppelin", r"7\.xml: object 1: is of the unknown category 'Zeppelin'; there are Boeing737"),
        ("possibleresult", "result", r"7\.xml: object 1: is of the unknown category ''"),
        (">pixel<", ">geodegree<", r"7\.xml: object 1: its coordinates are not in pixels"),
        (GOOD, "<point>3</point>", r"7\.xml: object 1: its points are not all x,y in numbers"),
        (GOOD, "<point>3,north</point>", r"7\.xml: object 1: its points are not all x,y in numbers"),
        (GOOD, "<point>nan,3</point>", r"7\.xml: object 1: its points are not all finite"),
        (GOOD, "", r"7\.xml: object 1: has 3 points, not the four corners"),
        ("</points>", GOOD + "</points>", r"7\.xml: object 1: has 6 points"),
        ("9.000000,", "3.000000,", r"7\.xml: object 1: its box has no area"),
    ],
)
def test_bad_labels_are_one_line_that_names_file_and_object(folder, old, new, message):
    root = folder([("Bus", upright(3, 3, 9, 9))])
    path = root / "train/part1/labelXml/7.xml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(InputError, match=message) as caught:
        open_fair1m(root, "x")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("box", [(-9, 5, 0, 9), (5, 300, 9, 320), (400, 400, 420, 420), (5, -9, 9, -2)])
def test_a_box_outside_the_image_is_one_line(folder, box):
    root = folder([("Bus", upright(3, 3, 9, 9)), ("Van", upright(*box)), ("Van", upright(*box))])
    message = r"validation/labelXml/7\.xml: object 2: its box lies outside the 300 x 300 image; .*\(2 such boxes"
    with pytest.raises(InputError, match=message):
        open_fair1m(root, "x")


def test_what_is_no_fair1m_ends_in_one_line(folder, tmp_path_factory):
    root = folder([("Bus", upright(3, 3, 9, 9))])
    with pytest.raises(InputError, match="nowhere is not a folder"):
        open_fair1m(root / "nowhere", "x")
    with pytest.raises(InputError, match="has no folder train; expected train/part1/images"):
        open_fair1m(root / "validation", "x")
    write_image(root / "train/part1/images", "9", Image.new("RGB", (8, 8)))
    with pytest.raises(InputError, match=r"train/part1/images/9\.tif has no labels of its name"):
        open_fair1m(root, "x")
    (root / "train/part1/images/9.tif").rename(root / "train/part1/labelXml/9.xml")
    with pytest.raises(InputError, match=r"train/part1/labelXml/9\.xml has no images of its name"):
        open_fair1m(root, "x")
    (root / "train/part1/labelXml/9.xml").unlink()
    write_image(root / "train/part1/more", "7", Image.new("RGB", (8, 8)))
    with pytest.raises(InputError, match=r"has 7\.tif of part1 twice"):
        open_fair1m(root, "x")
    (root / "train/part1/more/7.tif").unlink()
    write_labels(root / "validation/labelXml", "7", [], (300, 300))
    with pytest.raises(InputError, match=r"the labels in .*validation have no boxes"):
        open_fair1m(root, "x")
    (root / "validation/labelXml/7.xml").unlink()
    (root / "validation/images/7.tif").unlink()
    with pytest.raises(InputError, match=r"no images in .*validation; expected"):
        open_fair1m(root, "x")


def test_without_validation_there_are_training_tiles_alone(tree, folder):
    whole = open_fair1m(tree, "x")
    root = folder([("Bus", upright(3, 3, 9, 9))])
    before = open_fair1m(root, "x").fingerprint
    shutil.rmtree(root / "validation")
    dataset = open_fair1m(root, "x")
    assert list(dataset.splits) == ["train"]
    assert names(dataset.splits["train"]) == ["train/part1/images/7.tif@0,0"]
    assert (dataset.concepts, dataset.draw) == (whole.concepts, whole.draw)
    assert dataset.fingerprint != before
    message = r"--dataset: x has no val images, only train, .*; give a data set that has train and val$"
    with pytest.raises(InputError, match=message):
        dataset.require_splits("train", "val")


def test_the_papers_draw_has_295_tiles():
    """8 tiles for each of 37 categories, but 7 of buses, category by category (A.4)."""
    rng = np.random.default_rng(0)
    held = [[name for name in fair1m.NAMES if name != "Bus" and rng.random() < 0.05] for _ in range(2000)]
    held += [["Bus"]] * 7
    split = Grouped(held, fair1m.NAMES)
    draw = draw_shots(split, (8,), 1, in_turn=True)
    assert len(draw.images) == 295
    assert draw.lacking == {"Bus": 7}


def test_an_image_of_another_size_than_its_labels_say_is_named(folder):
    root = folder([("Bus", upright(3, 3, 9, 9))])
    split = val_of(root)
    write_image(root / "validation/images", "7", Image.new("RGB", (300, 200)))
    with pytest.raises(InputError, match=r"validation/images/7\.tif: is 200 x 300, its labels say 300 x 300"):
        split.image(0)
    (root / "validation/images/7.tif").write_bytes(b"no tif")
    with pytest.raises(InputError, match=r"validation/images/7\.tif: cannot be decoded"):
        val_of(root).image(0)
