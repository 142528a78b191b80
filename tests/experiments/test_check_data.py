"""The command that tells what of a data set is there: what it prints, what it exits with, what it misses nothing of."""

import subprocess
import sys

import numpy as np
import pytest
from absl import flags

from experiments import check_data
from tests.data.broden_tree import LABELS, write_image, write_mask, write_tables
from vitprobe_jax.errors import InputError


@pytest.fixture
def check(capsys, monkeypatch):
    """Runs the command in this process; returns what it prints, and the line that it ends with or None."""

    def run(*arguments):
        values = flags.FlagValues()
        check_data.define_flags(values)
        positional = values(["check_data", *arguments])
        monkeypatch.setattr(flags, "FLAGS", values)
        try:
            check_data.main(positional)
        except InputError as error:
            return capsys.readouterr().out, str(error)
        return capsys.readouterr().out, None

    return run


@pytest.fixture
def folder(tmp_path):
    """Two training images, one with masks of two categories, and one held-out image."""
    for name in "abc":
        write_image(tmp_path / f"images/{name}.jpg")
    write_mask(tmp_path / "images/a_object.png", np.full((4, 4), 7))
    write_mask(tmp_path / "images/a_part_1.png", np.full((4, 4), 300))
    write_mask(tmp_path / "images/a_part_2.png", np.full((4, 4), 7))
    write_mask(tmp_path / "images/c_object.png", np.full((4, 4), 12))
    write_tables(
        tmp_path,
        [
            "a.jpg,train,8,8,4,4,,a_object.png,a_part_1.png;a_part_2.png,,83,290;372",
            "b.jpg,train,8,8,4,4,,,,,0,290",
            "c.jpg,val,8,8,4,4,,c_object.png,,,83,",
        ],
    )
    return tmp_path


def lines(out):
    """The first cells of every line, by its first one."""
    return {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.strip()}


@pytest.mark.parametrize("decode", [(), ("--decode",)])
def test_a_whole_broden_folder(check, folder, decode):
    out, error = check(f"broden:{folder}", *decode)
    assert error is None
    table = lines(out)
    assert table["index.csv"] == ["yes", "yes"]
    assert table["category.csv"] == ["no", "no"]
    # Images, missing ones, masks, missing ones.
    assert table["train"] == ["2", "0", "3", "0"]
    assert table["val"] == ["1", "0", "1", "0"]
    # Concepts; then for both splits annotated images, masks, missing masks. A scene of 0 is no annotation.
    assert table["object"] == ["2", "1", "1", "0", "1", "1", "0"]
    assert table["part"] == ["2", "1", "2", "0", "0", "0", "0"]
    assert table["scene"] == ["1", "1", "0", "0", "1", "0", "0"]
    assert table["texture"] == ["2", "2", "0", "0", "0", "0", "0"]
    assert "Whole" in out
    assert "NetDissect" in out


def test_missing_files_are_counted_where_they_are_missing(check, folder):
    for name in ("b.jpg", "a_part_2.png", "c_object.png"):
        (folder / "images" / name).unlink()
    out, error = check(f"broden:{folder}", "--decode")
    assert "3 of 7 files are missing (a_part_2.png, b.jpg, c_object.png)" in error
    table = lines(out)
    assert table["train"] == ["2", "1", "3", "1"]
    assert table["val"] == ["1", "0", "1", "1"]
    assert table["part"] == ["2", "1", "2", "1", "0", "0", "0"]
    assert table["object"] == ["2", "1", "1", "0", "1", "1", "1"]
    # What is not there is not decoded as well.
    assert "unfit" not in out.lower()
    assert "netdissect.csail.mit.edu" in out


def test_unreadable_files_are_found_by_decoding_alone(check, folder):
    (folder / "images/b.jpg").write_bytes(b"no photograph")
    write_mask(folder / "images/a_part_2.png", np.full((4, 4), 12))  # 12 is no part
    assert check(f"broden:{folder}")[1] is None
    out, error = check(f"broden:{folder}", "--decode")
    assert "2 of 6 images and sets of masks are unfit" in error
    assert "b.jpg: cannot be decoded" in out
    assert "a_part_2.png: holds label 12" in out


@pytest.mark.parametrize("table", ["index.csv", "label.csv"])
def test_what_there_is_of_the_tables_is_printed_when_one_is_missing(check, folder, table):
    (folder / table).unlink()
    out, error = check(f"broden:{folder}")
    assert f"{table} cannot be read" in error
    assert lines(out)[table] == ["no", "yes"]
    assert "NetDissect" in out


def test_an_index_without_held_out_rows_is_not_whole(check, folder):
    write_tables(folder, ["b.jpg,train,8,8,4,4,,,,,0,290"], labels=LABELS)
    _, error = check(f"broden:{folder}")
    assert "index.csv: has no val rows" in error


def test_no_folder_is_one_line_beside_the_places(check, tmp_path):
    out, error = check(f"broden:{tmp_path / 'nowhere'}")
    assert "nowhere is not a folder" in error
    assert "NetDissect" in out


def test_classes_are_summarised(check, tmp_path):
    for split, sizes in {"train": (1, 2, 5), "val": (1, 1)}.items():
        for name, size in zip("abc", sizes, strict=False):
            for i in range(size):
                write_image(tmp_path / split / name / f"{i}.png")
    out, error = check(f"imagefolder:{tmp_path}", "--decode")
    assert error is None
    assert lines(out)["train"] == ["8", "3", "1", "2", "5"]
    assert lines(out)["val"] == ["2", "2", "1", "1", "1"]
    assert "1 of 3 classes have no val images: c" in out
    (tmp_path / "train/c/3.png").write_bytes(b"broken")
    assert check(f"imagefolder:{tmp_path}")[1] is None
    out, error = check(f"imagefolder:{tmp_path}", "--decode")
    assert lines(out)["train"] == ["8", "3", "1", "2", "5"]
    assert "3.png: cannot be decoded" in error


def test_imagenet_that_is_not_there(check, tmp_path):
    (tmp_path / "notes.txt").touch()
    out, error = check(f"imagenet200:{tmp_path}")
    assert "holds no ImageNet" in error
    assert "image-net.org" in out


@pytest.mark.parametrize("arguments", [(), ("broden:",), ("shapes:8",), ("broden:a", "broden:b")])
def test_another_argument_is_refused(check, arguments):
    out, error = check(*arguments)
    assert out == ""
    assert "broden:DIR, imagefolder:DIR, imagenet200:DIR" in error


def test_the_command_exits_with_2_and_one_line_when_a_file_is_missing(folder):
    command = [sys.executable, "-m", "experiments.check_data", f"broden:{folder}"]
    (folder / "images/b.jpg").unlink()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert lines(done.stdout)["train"] == ["2", "1", "3", "0"]
