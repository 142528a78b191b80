"""Bad input of every kind: one line that names the place and the mend, exit code 2, nothing lost."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
from absl import flags
from PIL import Image

from experiments import sweep
from experiments.config import define_sweep_flags
from tests.data.broden_tree import write_mask, write_tables
from vitprobe_jax import cli

GOOD = {
    "dataset": "shapes:16",
    "backbones": "untrained_dino_tiny",
    "tokens": "k",
    "rules": "hyperplane",
    "image_size": "64",
}


def run(capsys, monkeypatch, *extra, **changed):
    """Runs the command in this process; returns its exit code and what it wrote to stderr."""
    if "dataset" not in flags.FLAGS:
        define_sweep_flags()
    flags.FLAGS.unparse_flags()
    arguments = [f"--{name}={value}" for name, value in (GOOD | changed).items()]
    monkeypatch.setattr(sys, "argv", ["sweep", *arguments, *extra])
    monkeypatch.setenv("PYTHONWARNINGS", "default")  # The command sets it, for processes that it starts.
    with pytest.raises(SystemExit) as stop:
        cli.run(sweep.main, flagfile_package="experiments.flags")
    return stop.value.code, capsys.readouterr().err


@pytest.fixture
def fails(capsys, monkeypatch, tmp_path):
    def check(words, *extra, **changed):
        code, err = run(capsys, monkeypatch, *extra, **({"out": tmp_path / "out"} | changed))
        lines = [line for line in err.splitlines() if line.startswith("error: ")]
        assert code == 2
        assert len(lines) == 1
        assert "Traceback" not in err
        for word in words.split("|"):
            assert word in lines[0]

    return check


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("tokens", "k,z", "--tokens|'z'|q, k, v, x1, xn, x2, q_rotated, k_rotated, x2_raw"),
        ("tokens", "", "--tokens"),
        ("rules", "svm", "--rules|'svm'|hyperplane, cosine"),
        ("shots", "1,many", "--shots|'many'"),
        ("shots", "0", "--shots"),
        ("trials", "0", "--trials"),
        ("mesh", "99", "--mesh|99 devices|8"),
        ("host_memory", "-1", "--host_memory"),
        ("patches_per_image", "-1", "--patches_per_image"),
        ("coordinator", "auto", "--cache_dir"),
        ("process_id", "1", "--coordinator"),
        ("trials", "three", "trials|three"),
        ("layers", "4", "--layers|no block 4|0..3"),
        ("layers", "first", "--layers|'first'"),
        ("image_size", "60", "--image_size|60x60|patch size 8"),
        ("gsd", "0", "--gsd"),
        ("gsd", "0.3", "--gsd|no backbone"),
        ("image_size", "big", "--image_size|'big'"),
        ("task", "detection", "task|detection|segmentation"),
        ("dtype", "float8", "dtype|float8"),
        ("feature_norm", "whiten", "feature_norm|whiten"),
        ("drop_features", "-1", "--drop_features"),
        ("drop_features", "96", "--drop_features|untrained_dino_tiny has 96 features|at most 95"),
        ("batch_size", "0", "--batch_size"),
        ("min_positives", "0", "--min_positives"),
        ("seed", "-1", "--seed"),
        ("optimizer", "sgd", "optimizer"),
        ("l2", "0.1", "l2"),
        ("rules", "hyperplane_paper", "--rules|'hyperplane_paper'|hyperplane, cosine, cosine_centered"),
        ("solver", "adam", "--solver|'adam'|lbfgs, paper"),
        ("solver", "", "--solver"),
        ("solver", "paper,paper", "--solver|twice"),
        ("penalty", "0", "--penalty"),
        ("penalty", "nan", "--penalty"),
        ("learning_rate", "0.1", "--learning_rate: applies to --solver=paper only; add it or remove the flag"),
        ("epochs", "3", "--epochs: applies to --solver=paper only"),
        ("probe_batch", "128", "--probe_batch: applies to --solver=paper only"),
        ("feature_norm", "center", "--feature_norm: applies to --rules=cosine and --solver=paper only"),
        ("probe_memory", "0", "--probe_memory"),
        ("rounds", "0", "--rounds"),
        ("backbones", "no_such_model", "--backbones|no_such_model|untrained_dino_tiny"),
        ("backbones", "/no/such/zoo/*", "--backbones|'/no/such/zoo/*'|backbone.json"),
        ("backbones", "untrained_dino_tiny,untrained_dino_tiny", "--backbones|twice"),
        ("dataset", "kitti:here", "--dataset|kitti|broden:DIR"),
        ("dataset", "shapes:many", "--dataset|shapes:many"),
        ("dataset", "shapes:", "--dataset"),
        ("dataset", "", "--dataset"),
        ("dataset", "broden:/no/such/folder", "/no/such/folder"),
        ("dataset", "imagefolder:/no/such/folder", "/no/such/folder"),
        ("categories", "smell", "--categories|smell|object"),
        ("out", "", "--out"),
        ("flagfile", "nowhere.flags", "--flagfile|nowhere.flags|seg.flags"),
        ("no_such_flag", "1", "no_such_flag"),
    ],
)
def test_flags(fails, flag, value, words):
    fails(words, **{flag: value})


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("learning_rate", "-1", "--learning_rate"),
        ("learning_rate", "nan", "--learning_rate"),
        ("epochs", "0", "--epochs"),
        ("probe_batch", "0", "--probe_batch"),
        ("penalty", "1e-3", "--penalty: applies to --solver=lbfgs only; add it or remove the flag"),
    ],
)
def test_flags_of_the_papers_solver(fails, flag, value, words):
    fails(words, solver="paper", **{flag: value})


def test_an_argument_that_is_no_flag(fails):
    fails("unexpected argument 'seg.flags'", "seg.flags")


def test_flag_files_in_both_spellings(fails):
    """The bundled file is found, so the error is that of the flag behind it."""
    fails("--tokens|'z'", "--flagfile=seg.flags", "--tokens=z")
    fails("--tokens|'z'", "--flagfile", "cls.flags", "--tokens=z")


@pytest.fixture
def broden(tmp_path):
    """Eight 64-pixel photographs' worth of noise with object masks of half the size: a door on the left, wood right."""
    folder, lines = tmp_path / "broden", []
    for i in range(8):
        split = "train" if i < 5 else "val"
        path = folder / "images" / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(i).integers(0, 256, (64, 64, 3)).astype(np.uint8)
        Image.fromarray(noise).save(path, quality=95)
        write_mask(folder / "images" / f"{i}_object.png", np.repeat([[7] * 16 + [12] * 16], 32, axis=0))
        lines.append(f"{i}.jpg,{split},64,64,32,32,,{i}_object.png,,,,")
    write_tables(folder, lines)
    return folder


def test_the_tree_itself_is_fine(broden, capsys, monkeypatch, tmp_path):
    code, err = run(capsys, monkeypatch, dataset=f"broden:{broden}", out=tmp_path / "out")
    assert code in (0, None), err
    assert (tmp_path / "out" / "results.parquet").exists()


def test_an_empty_folder(fails, tmp_path):
    (tmp_path / "empty").mkdir()
    fails("empty", dataset=f"broden:{tmp_path / 'empty'}")
    fails("empty", dataset=f"imagefolder:{tmp_path / 'empty'}")


def test_an_index_that_names_absent_files(fails, broden):
    (broden / "images" / "3.jpg").unlink()
    fails("3.jpg", dataset=f"broden:{broden}")


def test_an_absent_mask(fails, broden):
    (broden / "images" / "6_object.png").unlink()
    fails("6_object.png", dataset=f"broden:{broden}")


def test_a_mask_of_the_wrong_size(fails, broden):
    write_mask(broden / "images" / "2_object.png", np.full((30, 32), 7))
    fails("2_object.png|30|32", dataset=f"broden:{broden}")


def test_a_label_that_label_csv_lacks(fails, broden):
    write_mask(broden / "images" / "6_object.png", np.full((32, 32), 4242))
    fails("6_object.png|4242|label.csv", dataset=f"broden:{broden}")


def test_a_truncated_jpeg_ends_the_run_and_leaves_finished_work(fails, broden, capsys, monkeypatch, tmp_path):
    """The first backbone is finished when the second one, whose images are another size, meets the broken file."""
    out, cache = tmp_path / "out", tmp_path / "cache"
    run(capsys, monkeypatch, dataset=f"broden:{broden}", out=out, cache_dir=cache, tokens="k,v")
    finished = {path: path.read_bytes() for path in out.rglob("*.parquet")}
    assert len(finished) == 5  # two cells, their results, masks and images of the examples
    path = broden / "images" / "4.jpg"
    content = path.read_bytes()
    path.write_bytes(content[:600] + bytes(len(content) - 600))  # Of the same size: the data set looks unchanged.
    (out / "cells" / "untrained_dino_tiny" / "3_v_hyperplane.parquet").unlink()
    shutil.rmtree(cache)
    fails("4.jpg", dataset=f"broden:{broden}", out=out, tokens="k,v", resume=True)
    kept = {path: path.read_bytes() for path in out.rglob("*.parquet")}
    assert kept == {path: content for path, content in finished.items() if "3_v" not in path.name}


@pytest.mark.slow
def test_a_data_set_that_changed_under_its_name(fails, broden, capsys, monkeypatch, tmp_path):
    out = tmp_path / "out"
    run(capsys, monkeypatch, dataset=f"broden:{broden}", out=out)
    index = broden / "index.csv"
    index.write_text("\n".join(index.read_text().splitlines()[:-1]) + "\n")
    fails("the content of broden:broden changed", dataset=f"broden:{broden}", out=out, resume=True)


def test_the_installed_command_works_from_any_folder(tmp_path):
    """Once as a user runs it: another process, another folder, a real exit code."""
    command = [sys.executable, "-m", "experiments.sweep", "--flagfile=seg.flags", "--tokens=nose", "--out=out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: --tokens: 'nose' unknown; choose from q, k, v, x1, xn, x2, q_rotated, k_rotated, x2_raw",
    ]
    assert list(tmp_path.iterdir()) == []


def test_help_lists_every_flag(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "experiments.sweep", "--help"], cwd=tmp_path, capture_output=True, text=True
    )
    values = flags.FlagValues()
    define_sweep_flags(values)
    assert len(values) > 20
    assert [name for name in values if f"--{name}" not in done.stdout and f"--[no]{name}" not in done.stdout] == []
