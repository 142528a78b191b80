import shutil

import numpy as np
import pytest

from tests.data.box_tree import write_boxes, write_objects, write_xml
from vitprobe_jax.data.imagefolder import open_imagefolder
from vitprobe_jax.data.imagenet_boxes import open_boxes, read_boxes, resize_boxes
from vitprobe_jax.errors import InputError


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return write_objects(tmp_path_factory.mktemp("objects"), seed=1, train=2, val=3, size=(60, 80))


def boxes_of(tree):
    """(image, its boxes) of all."""
    found = open_boxes(tree)
    for split in open_imagefolder(tree, "x").splits.values():
        for i in range(len(split)):
            yield split.image(i), found.of(split.name(i), split.size(i))


def test_boxes_lie_on_what_is_drawn(tree):
    counts = set()
    for image, boxes in boxes_of(tree):
        colored = np.ptp(np.asarray(image).astype(int), axis=-1) > 60
        covered = np.zeros_like(colored)
        for left, top, right, bottom in boxes.astype(int):
            covered[top:bottom, left:right] = True
        assert colored[covered].mean() > 0.9
        assert colored[~covered].mean() < 0.05
        counts.add(len(boxes))
    assert counts == {1, 2}


def test_images_are_found_by_name_alone_and_boxes_scaled_as_they_were(tmp_path):
    write_xml(tmp_path, "val", "ILSVRC2012_val_00000293", (200, 400), [(0, 0, 400, 200), (100, 50, 101, 150)])
    found = open_boxes(tmp_path)
    assert len(found) == 1
    for name in ("ILSVRC2012_val_00000293.JPEG", "val/n01440764/ILSVRC2012_val_00000293.jpg"):
        np.testing.assert_allclose(found.of(name, (50, 800)), [[0, 0, 799, 50], [200, 12, 201, 38]])
    assert found.of("val/n01440764/ILSVRC2012_val_00000294.JPEG", (50, 800)) is None
    write_xml(tmp_path, "val", "bare", (10, 10), [])
    assert open_boxes(tmp_path).of("bare.png", (10, 10)) is None


@pytest.mark.parametrize(
    ("box", "drawn", "size", "resized"),
    [((1, 2, 4, 3), (20, 10), (10, 35), (3, 1, 14, 1)), ((1, 2, 1, 2), (3, 3), (3, 3), (1, 2, 1, 2))],
)
def test_boxes_are_resized_as_in_the_benchmark(box, drawn, size, resized):
    """Values of the benchmark's own test cases, whose boxes include their last pixel."""
    last = np.array([0.0, 0, 1, 1])
    np.testing.assert_array_equal(resize_boxes(np.array([box]) + last, drawn, size) - last, [resized])


def test_pixels_are_counted_from_0_and_the_last_one_is_included(tmp_path):
    """In the second file xmax and ymax are the image's own sides, which name no pixel."""
    path = write_xml(tmp_path, "val", "a", (30, 40), [(3, 4, 11, 13)])
    assert "<xmax>10</xmax>" in path.read_text()
    assert read_boxes(path).size == (30, 40)
    np.testing.assert_array_equal(read_boxes(path).boxes, [[3, 4, 11, 13]])
    path = write_xml(tmp_path, "val", "b", (30, 40), [(3, 4, 41, 31)])
    np.testing.assert_array_equal(read_boxes(path).boxes, [[3, 4, 40, 30]])


def test_random_boxes_of_any_image_folder(tree, tmp_path):
    shutil.copytree(tree / "val", tmp_path / "val")
    shutil.copytree(tree / "train", tmp_path / "train")
    for _, boxes in boxes_of(write_boxes(tmp_path, tmp_path, seed=0, originals=1.9)):
        assert len(boxes) in (1, 2)
        assert (boxes[:, 2:] - boxes[:, :2] > 10).all()
        assert (boxes >= 0).all()
        assert (boxes <= [80, 60, 80, 60]).all()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<annotation>", "annotation", r"a.xml: is no XML that can be read"),
        ("<width>40</width>", "", r"a.xml: tells no size/width"),
        ("<width>40</width>", "<width>0</width>", r"a.xml: tells no size/width"),
        ("<xmin>3</xmin>", "", r"a.xml: object 1: its bndbox is not xmin, ymin, xmax, ymax"),
        ("<xmin>3</xmin>", "<xmin>left</xmin>", r"object 1: its bndbox is not"),
        ("<xmin>3</xmin>", "<xmin>nan</xmin>", r"object 1: its bndbox has an edge that is not finite"),
        ("<xmin>3</xmin>", "<xmin>-1</xmin>", r"object 1: its box -1, 4, 10, 12 is none inside the 30 x 40 image"),
        ("<xmax>10</xmax>", "<xmax>41</xmax>", r"is none inside"),
        ("<ymax>12</ymax>", "<ymax>3</ymax>", r"is none inside"),
        ("<ymin>4</ymin>", "<ymin>30</ymin>", r"is none inside"),
    ],
)
def test_a_damaged_file_ends_in_one_line(tmp_path, old, new, message):
    path = write_xml(tmp_path, "val", "a", (30, 40), [(3, 4, 11, 13)])
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InputError, match=message) as caught:
        open_boxes(tmp_path).of("a.JPEG", (30, 40))
    assert "\n" not in str(caught.value)


def test_folders_without_boxes_or_with_two_of_a_name_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"--boxes: .*nowhere is not a folder"):
        open_boxes(tmp_path / "nowhere")
    (tmp_path / "readme.txt").write_text("no boxes")
    with pytest.raises(InputError, match=r"--boxes: no XML files"):
        open_boxes(tmp_path)
    for folder in ("val", "n00000001"):
        write_xml(tmp_path, folder, "a", (30, 40), [(3, 4, 11, 13)])
    with pytest.raises(InputError, match=r"has a.xml twice, .*CLS-LOC/n00000001/a.xml and .*CLS-LOC/val/a.xml"):
        open_boxes(tmp_path)
