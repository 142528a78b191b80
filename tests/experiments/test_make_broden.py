"""The command that makes a Broden folder of one's own images: what it writes, warns of, refuses, and leaves behind."""

import csv
import logging as python_logging
import os
import subprocess
import sys

import numpy as np
import pytest
from absl import flags, logging
from PIL import Image

from experiments import check_data, make_broden
from tests.data.broden_tree import write_image
from tests.data.plain_tree import NAMES, save_mask, write_tree
from vitprobe_jax.data import open_dataset
from vitprobe_jax.data.plain_tree import read_tree
from vitprobe_jax.errors import InputError


@pytest.fixture
def tree(tmp_path):
    """Ten images; all show sky and grass, three of them in a subfolder."""
    mask = np.array([[1, 2, 300], [7, 0, 2]]).repeat(4, 0).repeat(4, 1)
    names = [*(f"{i}.jpg" for i in range(7)), *(f"sub/{i}.png" for i in range(3))]
    return write_tree(tmp_path / "tree", dict.fromkeys(names, mask))


@pytest.fixture
def convert(monkeypatch, capsys, caplog, tree):
    """Runs the command in this process; returns its error line or None, what it printed, and its warnings."""

    def run(*arguments):
        values = flags.FlagValues()
        make_broden.define_flags(values)
        output = tree.parent / "out"
        positional = values(["make_broden", f"--input={tree}", f"--output={output}", *arguments])
        monkeypatch.setattr(flags, "FLAGS", values)
        monkeypatch.setattr(logging.get_absl_logger(), "propagate", True)
        caplog.clear()
        error = None
        with caplog.at_level(python_logging.WARNING):
            try:
                make_broden.main(positional)
            except InputError as caught:
                error = str(caught)
        return error, capsys.readouterr().out, caplog.messages

    return run


def test_the_folder_is_whole_and_says_what_it_is(convert, tree):
    error, out, warnings = convert("--val_share=0.3")
    folder = tree.parent / "out"
    assert error is None
    assert f"wrote {folder}: 7 train and 3 val images, 4 concepts (object, part, material)" in out
    assert f"--dataset=broden:{folder}" in out
    assert [message.split()[0] for message in warnings] == ["material", "part"]  # of one concept each
    assert check_data.check_broden(folder, decode=True) == []
    assert (folder / "images/sub/1.png").read_bytes() == (tree / "images/sub/1.png").read_bytes()
    assert os.stat(folder / "images/3.jpg").st_nlink == 1
    assert sorted(os.listdir(tree.parent)) == ["out", "tree"]


def test_the_same_command_writes_the_same_bytes_and_another_seed_another_split(convert, tree):
    def indexed(name):
        folder = tree.parent / name
        (tree.parent / "out").rename(folder)
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    convert()
    first = indexed("first")
    convert("--link")
    assert indexed("second") == first
    convert("--seed=1")
    third = indexed("third")
    assert {name for name in first if first[name] != third[name]} == {"index.csv"}


def test_linked_photographs_are_the_same_files(convert, tree):
    assert convert("--link")[0] is None
    assert (tree.parent / "out/images/0.jpg").samefile(tree / "images/0.jpg")


def test_a_split_of_ones_own(convert, tree):
    lines = [f"{path.relative_to(tree / 'images')},train" for path in sorted((tree / "images").rglob("*.*g"))]
    (tree / "split.csv").write_text("\n".join(["image,split", *lines[1:], lines[0].replace("train", "val")]))
    assert convert("--val_share=0.9")[0] is None
    dataset = open_dataset(f"broden:{tree.parent / 'out'}", seed=0)
    assert [dataset.splits["val"].name(0)] == ["0.jpg"]
    assert len(dataset.splits["train"]) == 9


def test_what_a_sweep_could_not_probe_is_warned_of(convert, tree):
    (tree / "names.csv").write_text(NAMES + "9,ghost,object\n10,unicorn,object\n")
    save_mask(tree / "masks/0.png", np.full((8, 12), 10))
    turned = Image.open(tree / "images/1.jpg")
    exif = turned.getexif()
    exif[0x0112] = 3
    turned.save(tree / "images/1.jpg", exif=exif)
    error, _, warnings = convert()
    assert error is None
    text = "\n".join(warnings)
    assert "1 of the names are in no mask, and have nothing to probe: ghost" in text
    assert "images alone" in text
    assert "unicorn" in text
    assert "1 images have an EXIF orientation" in text
    assert "1.jpg" in text


def remove(name):
    return lambda tree: (tree / name).unlink()


def text(name, content):
    return lambda tree: (tree / name).write_bytes(content.encode() if isinstance(content, str) else content)


def append(name, content):
    return lambda tree: (tree / name).write_text((tree / name).read_text() + content)


def mask(array, kind="I;16"):
    return lambda tree: save_mask(tree / "masks/3.png", np.asarray(array), kind=kind)


def colour(mode):
    return lambda tree: Image.new(mode, (12, 8)).save(tree / "masks/3.png")


def image(name):
    def write(tree):
        write_image(tree / "images" / name, 8, 12)
        save_mask((tree / "masks" / name).with_suffix(".png"), np.full((8, 12), 1))

    return write


def fewer(tree):
    for path in [*(tree / "images").rglob("*.*g"), *(tree / "masks").rglob("*.*g")]:
        if path.stem != "0" or "sub" in path.parts:
            path.unlink()


def splits(**changed):
    def write(tree):
        lines = {f"{i}.jpg": "train" for i in range(7)} | {f"sub/{i}.png": "val" for i in range(3)}
        lines |= changed.get("lines", {})
        for name in changed.get("without", ()):
            del lines[name]
        content = ["image,split", *(f"{name},{split}" for name, split in lines.items()), *changed.get("more", ())]
        (tree / "split.csv").write_text("\n".join(content))

    return write


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (remove("masks/3.png"), "masks|1 of 10 images have no mask|3.jpg|add 3.png"),
        (remove("images/3.jpg"), "masks|1 masks have no image|3.png"),
        (remove("names.csv"), "names.csv|cannot be read"),
        (text("names.csv", ""), "names.csv|no column number, name"),
        (text("names.csv", "number;name\n1;sky\n"), "names.csv|no column number, name"),
        (text("names.csv", "number,name\n"), "names.csv|names nothing"),
        (text("names.csv", b"number,name\n1,\xff\xfe\n"), "names.csv|UTF-8"),
        (text("names.csv", "number,name\n1,cat, tabby\n"), "line 2|3 cells for 2 columns|quotes"),
        (text("names.csv", 'number,name\n1,"cat\n'), "names.csv|CSV"),
        (text("names.csv", "number,name,name\n1,a,b\n"), "names.csv|twice"),
        (append("names.csv", "0,background,\n"), "line 6|'0'|without a label"),
        (append("names.csv", "65536,big,\n"), "line 6|'65536'|65535"),
        (append("names.csv", "-3,less,\n"), "line 6|'-3'"),
        (append("names.csv", "x,less,\n"), "line 6|'x'"),
        (append("names.csv", "1,sky again,\n"), "line 6|number 1 again"),
        (append("names.csv", "8,,\n"), "line 6|no name for 8"),
        (append("names.csv", "8,smell,odour\n"), "line 6|'odour'|texture"),
        (mask(np.full((8, 12), 99)), "masks/3.png|99|names.csv|--ignore=99"),
        (mask(np.full((12, 8), 1)), "masks/3.png|12 x 8|8 x 12|proportions"),
        (mask(np.full((8, 8), 1)), "masks/3.png|8 x 8|8 x 12"),
        (colour("RGB"), "masks/3.png|RGB|one channel"),
        (colour("RGBA"), "masks/3.png|RGBA"),
        (colour("LA"), "masks/3.png|LA"),
        (lambda tree: write_image(tree / "masks/3.jpg") or (tree / "masks/3.jpg").rename(tree / "masks/3.png"), "JPEG"),
        (text("masks/3.png", "no image"), "masks/3.png|cannot be decoded"),
        (text("images/3.jpg", ""), "images/3.jpg|cannot be decoded"),
        (image("3.png"), "3.jpg and 3.png|3.png|rename"),
        (image("3_object.jpg"), None),
        (image("3_object.png"), "images/3_object.png|3.jpg|rename"),
        (image("a;b.jpg"), "'a;b.jpg'|semicolon"),
        (image(" a.jpg"), "' a.jpg'|blank"),
        (image(os.fsdecode(b"\xff.jpg")), "UTF-8"),
        (fewer, "images|holds 1 images"),
        (splits(), None),
        (splits(lines={"3.jpg": "test"}), "split.csv: line 5|'test'|train or val"),
        (splits(more=["nine.jpg,val"]), "split.csv: line 12|'nine.jpg'"),
        (splits(more=["3.jpg,val"]), "split.csv: line 12|3.jpg again"),
        (splits(without=["3.jpg"]), "split.csv|1 of 10|3.jpg"),
        (splits(lines={f"sub/{i}.png": "train" for i in range(3)}), "split.csv|no image into val"),
        (lambda tree: (tree / "images").rename(tree / "photos"), "--input|images is not a folder"),
        (lambda tree: tree.rename(tree.parent / "moved"), "--input|not a folder"),
    ],
)
def test_an_unfit_tree_ends_in_one_line_and_leaves_nothing(convert, tree, damage, words):
    damage(tree)
    error, _, _ = convert()
    if words is None:
        assert error is None
        return
    assert error is not None
    assert "\n" not in error
    for word in words.split("|"):
        assert word in error
    assert not [name for name in os.listdir(tree.parent) if "out" in name]


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--val_share=0", "--val_share"),
        ("--val_share=1.5", "--val_share"),
        ("--val_share=nan", "--val_share"),
        ("--ignore=x", "--ignore|'x'"),
        ("--ignore=7", "--ignore|7|names.csv"),
        ("more", "'more'"),
    ],
)
def test_unfit_flags(convert, argument, words):
    error, _, _ = convert(argument)
    for word in words.split("|"):
        assert word in error


def test_ignored_values_become_no_label(convert, tree):
    save_mask(tree / "masks/3.png", np.where(np.arange(96).reshape(8, 12) % 2, 255, 1))
    assert "255" in convert()[0]
    assert convert("--ignore=255")[0] is None
    dataset = open_dataset(f"broden:{tree.parent / 'out'}", seed=0)
    for split in dataset.splits.values():
        for i in range(len(split)):
            if split.name(i) == "3.jpg":
                ((category, labels),) = split.annotation(i).masks
                assert (category, set(np.unique(labels))) == ("object", {0, 1})


def test_an_output_that_exists_is_left_alone(convert, tree):
    (tree.parent / "out").mkdir()
    (tree.parent / "out/mine").write_text("x")
    assert "not an empty folder" in convert()[0]
    assert os.listdir(tree.parent / "out") == ["mine"]


def test_a_link_to_another_disk_says_so(convert, tree, monkeypatch):
    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    error = convert("--link")[0]
    assert "--link" in error
    assert "cross-device" in error
    assert not (tree.parent / "out").exists()


def test_a_full_disk_leaves_nothing(convert, tree, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    error = convert()[0]
    assert "--output" in error
    assert "No space left" in error
    assert os.listdir(tree.parent) == ["tree"]


def test_bad_input_is_one_line_on_stderr_and_exit_code_2(tree):
    (tree / "masks/3.png").unlink()
    command = [sys.executable, "-m", "experiments.make_broden", f"--input={tree}", f"--output={tree.parent / 'out'}"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert "3.jpg" in line


def test_real_photographs_survive_the_way_there_and_back(shared_data, tmp_path):
    """camvid_broden as a plain tree of 16-bit masks, made into Broden's layout again: all labels, and its own label.csv."""
    source = open_dataset(f"broden:{shared_data / 'camvid_broden'}", seed=0).select(("object",))
    tree, originals = tmp_path / "tree", {}
    (tree / "images").mkdir(parents=True)
    for split, images in source.splits.items():
        for i in range(len(images)):
            name = images.name(i).replace("/", "_")
            os.symlink(images.folder / images.name(i), tree / "images" / name)
            ((_, mask),) = images.annotation(i).masks
            save_mask(tree / "masks" / name.replace(".jpg", ".png"), mask)
            originals[name] = (split, images.folder / images.name(i), mask)
    tables = {
        "names.csv": [["number", "name"], *([c.number, c.name] for c in source.concepts)],
        "split.csv": [["image", "split"], *([name, split] for name, (split, *_) in originals.items())],
    }
    for name, content in tables.items():
        with open(tree / name, "w", newline="") as file:
            csv.writer(file).writerows(content)

    make_broden.make_broden(read_tree(tree), tmp_path / "out", val_share=0.5, seed=0)
    made = open_dataset(f"broden:{tmp_path / 'out'}", seed=0)
    assert made.concepts == source.concepts
    assert sum(map(len, made.splits.values())) == len(originals) == 468
    for split, images in made.splits.items():
        for i in range(len(images)):
            belongs, photograph, mask = originals[images.name(i)]
            ((category, labels),) = images.annotation(i).masks
            assert (belongs, category) == (split, "object")
            np.testing.assert_array_equal(labels, mask)
            assert (images.folder / images.name(i)).read_bytes() == photograph.read_bytes()

    def labels(folder):
        with open(folder / "label.csv", newline="") as file:
            return [row for row in csv.DictReader(file) if row["category"].startswith("object")]

    assert labels(tmp_path / "out") == labels(shared_data / "camvid_broden")
