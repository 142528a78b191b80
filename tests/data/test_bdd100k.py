import json
import logging as python_logging
import pickle

import numpy as np
import pytest
from absl import logging
from PIL import Image

from tests.data.bdd100k_tree import label, write_bdd100k, write_video
from vitprobe_jax.data import open_dataset
from vitprobe_jax.data.bdd100k import open_bdd100k
from vitprobe_jax.data.dataset import Box, FrameSplit
from vitprobe_jax.errors import InputError

IMAGES = [Image.new("RGB", (80, 60))] * 2


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return write_bdd100k(tmp_path_factory.mktemp("bdd100k"), seed=2)


@pytest.fixture
def folder(tmp_path):
    """Gives the data set of one video of two frames with these labels."""

    def write(*labels, video="v"):
        write_video(tmp_path, video, [*labels, *([[]] * (2 - len(labels)))], IMAGES)
        return tmp_path

    return write


def val_of(folder):
    return open_bdd100k(folder, "x").splits["val"]


def boxes_of(split):
    return [split.annotation(i).boxes for i in range(len(split))]


def test_frames_of_a_video_stand_together_and_ascend(tree):
    dataset = open_dataset(f"bdd100k:{tree}", seed=0)
    assert (dataset.name, list(dataset.splits)) == (f"bdd100k:{tree.name}", ["val"])
    split = dataset.splits["val"]
    assert isinstance(split, FrameSplit)
    videos = "b1c66a42-6f7d68ca", "b1c9c847-3bda4659"
    assert [split.frame(i) for i in range(len(split))] == [(video, i) for video in videos for i in range(6)]
    assert split.name(7) == f"images/track/val/{videos[1]}/{videos[1]}-0000002.jpg"
    assert split.size(7) == (144, 256) == split.image(7).size[::-1]
    kinds = dict(zip([concept.name for concept in dataset.concepts], dataset.supercategories, strict=True))
    assert [concept.number for concept in dataset.concepts] == list(range(1, 9))
    assert (kinds["pedestrian"], kinds["train"], kinds["bicycle"]) == ("human", "vehicle", "bike")


def test_boxes_lie_on_what_is_drawn_and_numbers_tell_the_category(tree):
    dataset = open_bdd100k(tree, "x")
    names = {concept.number: concept.name for concept in dataset.concepts}
    split = dataset.splits["val"]
    for i in range(len(split)):
        boxes = split.annotation(i).boxes
        assert [names[box.number] for box in boxes] == ["car", "car", "pedestrian", "bus", "bicycle"]
        assert [box.track for box in boxes] == [1, 2, 3, 4, 5]
        colored = np.ptp(np.asarray(split.image(i)).astype(int), axis=-1) > 60
        covered = np.zeros_like(colored)
        for box in boxes:
            covered[int(box.top) : int(box.bottom), int(box.left) : int(box.right)] = True
        assert colored[covered].mean() > 0.9
        assert colored[~covered].mean() < 0.05


def test_a_box_includes_its_last_pixel(folder):
    split = val_of(folder([label("a", "car", (10, 20.5, 30, 40))]))
    assert boxes_of(split) == [(Box(3, 1, 10.0, 20.5, 31.0, 41.0),), ()]
    assert boxes_of(val_of(folder([label("a", "car", (79.5, 3, 80, 3))], video="w")))[2:] == [
        (Box(3, 1, 79.5, 3.0, 81.0, 4.0),),
        (),
    ]


def test_tracks_are_numbered_in_each_video_as_they_appear(folder):
    box = (1, 1, 9, 9)
    folder([label("z", "car", box)], [label("a", "car", box), label("z", "car", box)], video="v1")
    root = folder([label("a", "bus", box)], [label("a", "bus", box)], video="v2")
    assert [[box.track for box in boxes] for boxes in boxes_of(val_of(root))] == [[1], [2, 1], [1], [1]]


def test_what_the_official_evaluation_ignores_is_left_out_and_old_names_are_known(folder):
    box = (1, 1, 9, 9)
    ignored = [label("i", name, box) for name in ("other person", "other vehicle", "trailer")]
    crowd = [label("c", "pedestrian", box, crowd=True), label("d", "rider", box) | {"attributes": {"Crowd": True}}]
    bare = [{"id": "b", "category": "car"}, label("n", "car", box) | {"box2d": None}]
    old = [label(name, name, box) for name in ("person", "bike", "motor", "van", "caravan")]
    split = val_of(folder([*ignored, *crowd, *bare], [*old, label("t", "train", box) | {"attributes": None}]))
    assert [[box.number for box in boxes] for boxes in boxes_of(split)] == [[], [1, 8, 7, 3, 3, 6]]


def test_frames_are_sorted_and_may_have_no_labels(folder):
    root = folder([label("a", "car", (1, 1, 9, 9))])
    path = root / "labels/box_track_20/val/v.json"
    first, second = json.loads(path.read_text())
    del second["labels"]
    second["frameIndex"] = 7
    path.write_text(json.dumps({"frames": [second, first]}))
    split = val_of(root)
    assert [split.frame(i) for i in range(2)] == [("v", 0), ("v", 7)]
    assert [len(boxes) for boxes in boxes_of(split)] == [1, 0]
    path.write_text(json.dumps([second | {"labels": None}]))
    assert [val_of(root).name(i) for i in range(len(val_of(root)))] == ["images/track/val/v/v-0000002.jpg"]


def test_training_videos_stand_in_for_missing_validation(tmp_path):
    write_video(tmp_path, "t", [[], []], IMAGES, "train")
    assert val_of(tmp_path).name(0) == "images/track/train/t/t-0000001.jpg"
    (tmp_path / "labels/box_track_20").rename(tmp_path / "labels/box-track")
    (tmp_path / "labels").rename(tmp_path / "labels-20")
    assert val_of(tmp_path).frame(1) == ("t", 1)
    (tmp_path / "labels-20").rename(tmp_path / "labels")
    (tmp_path / "labels/box-track").rename(tmp_path / "labels/box_track_20")
    write_video(tmp_path, "v", [[], []], IMAGES)
    assert val_of(tmp_path).name(0) == "images/track/val/v/v-0000001.jpg"


def test_labels_without_images_are_told_of(folder, caplog):
    root = folder([])
    (root / "labels/box_track_20/val/w.json").write_text("[]")
    logger = logging.get_absl_logger()
    logger.addHandler(caplog.handler)
    try:
        with caplog.at_level(python_logging.WARNING):
            assert len(val_of(root)) == 2
    finally:
        logger.removeHandler(caplog.handler)
    messages = {record.getMessage().split(": ", 1)[1] for record in caplog.records}
    assert messages == {"has no images of 1 of the labelled videos"}


def test_splits_go_to_worker_processes(tree):
    split = val_of(tree)
    copy = pickle.loads(pickle.dumps(split))
    assert boxes_of(copy) == boxes_of(split)
    assert [copy.name(i) for i in range(12)] == [split.name(i) for i in range(12)]


def test_fingerprint_follows_frames_and_labels_not_the_place(folder, tmp_path_factory):
    root = folder([label("a", "car", (1, 1, 9, 9))])
    prints = [open_bdd100k(root, "x").fingerprint]
    moved = tmp_path_factory.mktemp("elsewhere") / "other"
    root.rename(moved)
    assert open_bdd100k(moved, "x").fingerprint == prints[0]
    path = moved / "labels/box_track_20/val/v.json"
    path.write_text(path.read_text().replace("9", "8"))
    prints.append(open_bdd100k(moved, "x").fingerprint)
    with open(moved / "images/track/val/v/v-0000002.jpg", "ab") as file:
        file.write(b"\0")
    prints.append(open_bdd100k(moved, "x").fingerprint)
    assert len(set(prints)) == 3


BOX = (1, 1, 9, 9)


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (label("7", "tram", BOX), r"v\.json: object '7' in v-0000001\.jpg: is of the unknown category 'tram'"),
        (label("7", "car", BOX) | {"category": None}, "object '7' in .*is of the unknown category None"),
        (label("7", "car", BOX) | {"category": ["car"]}, "unknown category"),
        (label("7", "car", BOX) | {"id": None}, r"object None in v-0000001\.jpg: has no id"),
        (label("7", "car", (9, 1, 7, 9)), r"object '7' in v-0000001\.jpg: its box \(9, 1\) to \(8, 10\) has no area"),
        (label("7", "car", (80, 1, 90, 9)), r"its box \(80, 1\) to \(91, 10\) lies outside the 60 x 80 image"),
        (label("7", "car", (-9, 1, -1, 9)), "lies outside the 60 x 80 image"),
        (label("7", "car", BOX) | {"box2d": {"x1": 1, "y1": 2, "x2": 3}}, "its box2d is not x1, y1, x2, y2"),
        (label("7", "car", BOX) | {"box2d": [1, 2, 3, 4]}, "its box2d is not x1, y1, x2, y2"),
        (label("7", "car", (1, 1, 9, "9")), "its box2d is not x1, y1, x2, y2"),
        (label("7", "car", (1, 1, 9, float("nan"))), "its box2d is not x1, y1, x2, y2"),
        ("car", r"v\.json: the labels of v-0000001\.jpg are no list of objects"),
    ],
)
def test_bad_labels_are_one_line_that_names_file_frame_and_object(folder, thing, message):
    with pytest.raises(InputError, match=message) as caught:
        open_bdd100k(folder([thing]), "x")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{", r"v\.json: is no JSON \("),
        ("\xff", r"v\.json: is no JSON \("),
        ("3", r"v\.json: is no list of frames"),
        ('{"images": []}', r"v\.json: is no list of frames"),
        ("[3]", r"v\.json: is no list of frames"),
        ("[{}]", r"v\.json: frame 0 has no name"),
        (
            '[{"name": "v-0000001.jpg", "frameIndex": "1"}]',
            r"v\.json: frame 0 has no name, or no frameIndex of its own",
        ),
        (
            '[{"name": "v-0000001.jpg", "frameIndex": 4}, {"name": "v-0000002.jpg", "frameIndex": 4}]',
            "frame 1 has no name",
        ),
        ('[{"name": "v-0000009.jpg"}]', r"v\.json: lists v-0000009\.jpg, which is not in .*/val/v"),
        ("[]", "lists no frames"),
    ],
)
def test_bad_label_files_are_one_line(folder, content, message):
    root = folder([])
    (root / "labels/box_track_20/val/v.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=message) as caught:
        open_bdd100k(root, "x")
    assert "\n" not in str(caught.value)


def test_what_is_no_bdd100k_ends_in_one_line(folder):
    root = folder([])
    with pytest.raises(InputError, match=r"has no labelled videos; expected images/track/val/VIDEO"):
        open_bdd100k(root / "labels", "x")
    (root / "images/track/val/w").mkdir()
    with pytest.raises(InputError, match=r"has no labels of 1 of the 2 videos in .*val, the first is w\.json"):
        open_bdd100k(root, "x")
    (root / "images/track/val/w").rmdir()
    Image.new("RGB", (40, 60)).save(root / "images/track/val/v/v-0000002.jpg")
    with pytest.raises(InputError, match=r"v-0000002\.jpg: is 60 x 40, the boxes of v are for frames of 60 x 80"):
        val_of(root).image(1)
    (root / "images/track/val/v/v-0000001.jpg").write_bytes(b"no jpeg")
    with pytest.raises(InputError, match=r"v-0000001\.jpg: has no readable size"):
        open_bdd100k(root, "x")
