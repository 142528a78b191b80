import pickle

import numpy as np
import pytest
from PIL import Image

from tests.data.mot_tree import write_mot, write_sequence
from vitprobe_jax.data import open_dataset
from vitprobe_jax.data.dataset import Box, FrameSplit, SizedSplit
from vitprobe_jax.data.motchallenge import open_motchallenge
from vitprobe_jax.errors import InputError

IMAGES = [Image.new("RGB", (80, 60))] * 3


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return write_mot(tmp_path_factory.mktemp("mot17"), seed=1)


@pytest.fixture
def folder(tmp_path):
    """Gives the data set of one sequence of three frames with these lines of gt.txt."""

    def write(*lines, name="MOT17-02-FRCNN"):
        write_sequence(tmp_path / "train" / name, list(lines), IMAGES)
        return tmp_path

    return write


def opened(folder, benchmark="MOT17"):
    return open_motchallenge(folder, "x", benchmark=benchmark)


def val_of(folder, benchmark="MOT17"):
    return opened(folder, benchmark).splits["val"]


def boxes_of(split):
    return [split.annotation(i).boxes for i in range(len(split))]


def test_frames_of_a_sequence_stand_together_and_ascend(tree):
    dataset = open_dataset(f"mot17:{tree}", seed=0)
    assert (dataset.name, list(dataset.splits)) == (f"mot17:{tree.name}", ["val"])
    split = dataset.splits["val"]
    assert isinstance(split, FrameSplit)
    assert isinstance(split, SizedSplit)
    frames = [split.frame(i) for i in range(len(split))]
    assert frames == [(name, number) for name in ("MOT17-02", "MOT17-04") for number in range(1, 7)]
    assert split.name(7) == "train/MOT17-04-FRCNN/img1/000002.jpg"
    assert split.size(7) == (120, 160) == split.image(7).size[::-1]
    assert [(concept.number, concept.name) for concept in dataset.concepts] == [(1, "pedestrian")]
    assert dataset.supercategories == ("person",)


def test_boxes_lie_on_who_is_drawn(tree):
    split = val_of(tree)
    for i in range(len(split)):
        colored = np.ptp(np.asarray(split.image(i)).astype(int), axis=-1) > 60
        boxes = split.annotation(i).boxes
        assert [box.track for box in boxes] == [1, 2, 3, 4]
        covered = np.zeros_like(colored)
        for box in boxes:
            covered[int(box.top) : int(box.bottom), int(box.left) : int(box.right)] = True
        # JPEG lets colours bleed over the edges.
        assert colored[covered].mean() > 0.9
        assert colored[~covered].mean() < 0.05


def test_a_track_keeps_its_colour(tree):
    split = val_of(tree)

    def mean_colors(index):
        image = np.asarray(split.image(index)).astype(float)
        boxes = split.annotation(index).boxes
        return np.array([image[int(b.top) : int(b.bottom), int(b.left) : int(b.right)].mean((0, 1)) for b in boxes])

    for first in (0, 6):
        early, late = mean_colors(first), mean_colors(first + 5)
        distance = np.linalg.norm(early[:, None] - late[None], axis=-1)
        np.testing.assert_array_equal(distance.argmin(1), range(4))


def test_pixels_are_counted_from_zero(folder):
    split = val_of(folder("2,7,11,21,30.5,20,1,1,0.5"))
    assert boxes_of(split) == [(), (Box(1, 7, 10.0, 20.0, 40.5, 40.0),), ()]


def test_only_pedestrians_to_be_considered_are_kept_in_the_tables_order(folder):
    """As TrackEval's MotChallenge2DBox keeps them: class 1, and not zero-marked."""
    lines = ["1,9,1,1,5,5,1,1,1", "1,3,30,1,5,5,0,1,1", "1,4,30,1,5,5,0,8,1", "", "1,2,60,50,99,99,1,1,0.1"]
    lines += [f"1,{10 + number},1,1,5,5,1,{number},1" for number in range(2, 14)]
    boxes = boxes_of(val_of(folder(*lines)))
    assert [[(box.track, box.number) for box in frame] for frame in boxes] == [[(9, 1), (2, 1)], [], []]


@pytest.mark.parametrize(("benchmark", "other"), [("MOT16", "MOT20"), ("MOT17", "MOT16"), ("MOT20", "MOT17")])
def test_each_benchmark_takes_its_own_sequences(folder, tmp_path, benchmark, other):
    line = "2,7,11,21,30,20,1,1,0.5"
    for name in (f"{benchmark}-05", f"{other}-02"):
        folder(line, name=name)
    dataset = open_dataset(f"{benchmark.lower()}:{tmp_path}", seed=0)
    split = dataset.splits["val"]
    assert dataset.name == f"{benchmark.lower()}:{tmp_path.name}"
    assert [split.frame(i) for i in range(len(split))] == [(f"{benchmark}-05", number) for number in (1, 2, 3)]
    assert split.name(1) == f"train/{benchmark}-05/img1/000002.jpg"
    assert [len(boxes) for boxes in boxes_of(split)] == [0, 1, 0]


def test_a_folder_of_another_benchmark_is_told(folder):
    root = folder("1,1,1,1,5,5,1,1,1", name="MOT20-01")
    with pytest.raises(InputError, match=r"holds sequences of MOT20, as MOT20-01; give mot20:/") as caught:
        opened(root)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"has no sequences; expected train/MOT16-02/ with seqinfo"):
        opened(root / "train", "MOT16")


def test_who_has_left_the_image_altogether_is_left_out(folder):
    split = val_of(folder("1,5,-40,10,41,30,1,1,0", "2,5,-39,10,41,30,1,1,0.02"))
    assert boxes_of(split) == [(), (Box(1, 5, -40.0, 9.0, 1.0, 39.0),), ()]


def test_one_copy_of_each_sequence_is_taken(folder):
    line = "1,1,1,1,5,5,1,1,1"
    for name in (
        "MOT17-09-SDP",
        "MOT17-09-DPM",
        "MOT17-02-DPM",
        "MOT17-02-FRCNN",
        "MOT17-04-SDP",
        "MOT17-05",
        "MOT17-04",
    ):
        root = folder(line, name=name)
    split = val_of(root)
    taken = {split.frame(i)[0]: split.name(i).split("/")[1] for i in range(len(split))}
    assert len(split) == 12
    assert taken == {
        "MOT17-02": "MOT17-02-FRCNN",
        "MOT17-04": "MOT17-04-SDP",
        "MOT17-05": "MOT17-05",
        "MOT17-09": "MOT17-09-DPM",
    }


def test_splits_go_to_worker_processes(tree):
    split = val_of(tree)
    copy = pickle.loads(pickle.dumps(split))
    assert boxes_of(copy) == boxes_of(split)
    assert [copy.frame(i) for i in range(12)] == [split.frame(i) for i in range(12)]
    np.testing.assert_array_equal(copy.image(3), split.image(3))


def test_fingerprint_follows_frames_and_tables_not_the_place(folder, tmp_path_factory):
    line = "1,1,1,1,5,5,1,1,1"
    root = folder(line)
    prints = [opened(root).fingerprint]
    moved = tmp_path_factory.mktemp("elsewhere") / "other"
    root.rename(moved)
    assert opened(moved).fingerprint == prints[0]
    sequence = moved / "train/MOT17-02-FRCNN"
    (sequence / "gt/gt.txt").write_text("1,1,1,1,5,6,1,1,1\n")
    prints.append(opened(moved).fingerprint)
    with open(sequence / "img1/000002.jpg", "ab") as file:
        file.write(b"\0")
    prints.append(opened(moved).fingerprint)
    assert len(set(prints)) == 3


def test_an_empty_table_of_boxes_is_refused(folder):
    with pytest.raises(InputError, match=r"gt\.txt: is empty; restore the file"):
        opened(folder())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1,2,3,4", r"gt\.txt: line 2 has 4 cells, not frame,id,left"),
        ("1,2,3,4,5,wide,1,1,1", r"gt\.txt: line 2: could not convert string to float: 'wide'"),
        ("1,two,3,4,5,6,1,1,1", r"gt\.txt: line 2: invalid literal for int"),
        ("1,2,nan,4,5,6,1,1,1", r"gt\.txt: line 2: has a cell that is not a finite number"),
        ("1,2,3,4,5,6,1,14,1", r"gt\.txt: line 2: has the unknown class 14"),
        ("1,2,3,4,5,6,0,0,1", r"gt\.txt: line 2: has the unknown class 0"),
        ("4,2,3,4,5,6,1,1,1", r"gt\.txt: line 2: is of frame 4, seqinfo\.ini tells of frames 1 to 3"),
        ("1,2,3,4,0,6,1,1,1", r"gt\.txt: line 2: object 2 in frame 1: its box .* has no area"),
        ("1,2,3,4,5,-6,1,1,0", r"gt\.txt: line 2: object 2 in frame 1: its box .* has no area"),
        ("3,8,81,4,5,6,1,1,1", r"gt\.txt: line 2: object 8 in frame 3: its box .* lies outside the 60 x 80 image"),
        ("3,8,5,-40,5,41,1,1,0.1", r"gt\.txt: line 2: object 8 in frame 3: its box .* lies outside"),
    ],
)
def test_bad_lines_are_named(folder, line, message):
    with pytest.raises(InputError, match=message) as caught:
        opened(folder("1,1,1,1,5,5,1,1,1", line))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[Sequence]\nimDir=img1\n", r"seqinfo\.ini: lacks imDir, seqLength.*'seqLength'"),
        ("seqLength=3\n", r"seqinfo\.ini: lacks imDir.*no section headers"),
        (None, r"seqinfo\.ini cannot be read \(No such file"),
        (
            "[Sequence]\nimDir=img1\nseqLength=3\nimWidth=80\nimHeight=zwei\nimExt=.jpg",
            r"seqinfo\.ini: lacks .*'zwei'",
        ),
        ("[Sequence]\nimDir=img1\nseqLength=0\nimWidth=80\nimHeight=60\nimExt=.jpg", "tells of 0 frames of 60 x 80"),
        (
            "[Sequence]\nimDir=img1\nseqLength=5\nimWidth=80\nimHeight=60\nimExt=.jpg",
            "lacks 2 of the 5 frames.*000004.jpg",
        ),
        ("[Sequence]\nimDir=img2\nseqLength=3\nimWidth=80\nimHeight=60\nimExt=.jpg", "img2: lacks 3 of the 3 frames"),
    ],
)
def test_bad_sequence_records_are_one_line(folder, content, message):
    root = folder("1,1,1,1,5,5,1,1,1")
    path = root / "train/MOT17-02-FRCNN/seqinfo.ini"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        opened(root)
    assert "\n" not in str(caught.value)


def test_what_is_no_mot17_ends_in_one_line(folder, tmp_path):
    root = folder("1,1,1,1,5,5,1,1,1")
    with pytest.raises(InputError, match=r"has no sequences; expected train/MOT17-02-FRCNN/"):
        opened(root / "train")
    Image.new("RGB", (90, 60)).save(root / "train/MOT17-02-FRCNN/img1/000002.jpg")
    with pytest.raises(InputError, match=r"000002\.jpg: is 60 x 90, the boxes of MOT17-02 are for frames of 60 x 80"):
        val_of(root).image(1)
    (root / "train/MOT17-02-FRCNN/gt/gt.txt").unlink()
    with pytest.raises(InputError, match=r"gt/gt\.txt cannot be read"):
        opened(root)


def test_what_needs_training_images_is_refused_in_one_line(tree):
    dataset = open_dataset(f"mot17:{tree}", seed=0)
    dataset.require_splits("val")
    with pytest.raises(InputError, match=r"--dataset: mot17:\S+ has no train images, only val, which parts of experi"):
        dataset.require_splits("train", "val")
