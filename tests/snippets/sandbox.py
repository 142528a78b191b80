"""A reader's machine in small: the files that the pages speak of, and a `python` that is this one."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.checkpoints_convert.official_files import write_dino, write_mae
from tests.data.box_tree import write_boxes
from tests.data.broden_tree import write_image
from tests.data.cityscapes_tree import write_cityscapes
from tests.data.fair1m_tree import write_fair1m
from tests.data.mot_tree import write_mot
from tests.data.plain_tree import save_mask
from tests.zoo.specimen import Sizes

_SIZES = {"width": 16, "depth": 12, "num_heads": 2, "patch_size": 16, "grid": 2}
_ZOO = Sizes(**_SIZES, mlp_dim=32)


def write_files(folder: Path) -> None:
    """Checkpoints and data sets in the official layouts, a Broden folder, class folders, and a new photograph."""
    write_dino(folder / "dino_deitsmall16_pretrain.pth", **_SIZES)
    write_dino(folder / "dino_vitbase16_pretrain.pth", **_SIZES)
    write_mae(folder / "mae_pretrain_vit_base.pth", **_SIZES)
    write_mae(folder / "mae_visualize_vit_base.pth", **_SIZES, decoder={"width": 8, "depth": 1, "num_heads": 2})
    _write_zoo(folder)
    write_image(folder / "new.jpg", 48, 64)
    for split, count in (("train", 8), ("val", 4)):
        for name in ("cat", "dog"):
            for i in range(count):
                write_image(folder / f"made/classes/{split}/{name}/{name}_{split}_{i}.jpg", 32, 32)
    write_boxes(folder / "made/boxes", folder / "made/classes", seed=0)
    rng = np.random.default_rng(0)
    for i in range(24):
        write_image(folder / f"made/plain/images/{i}.jpg", 32, 32)
        save_mask(folder / f"made/plain/masks/{i}.png", rng.integers(1, 4, (2, 2)).repeat(16, 0).repeat(16, 1))
    cities = {"train": {"aachen": 2, "bochum": 2}, "val": {"frankfurt": 2}}
    write_cityscapes(folder / "made/streets", cities=cities, size=(192, 384))
    write_fair1m(folder / "made/aerial", seed=0, size=(224, 224), cell=112)
    write_mot(folder / "made/people", seed=0, sequences=("MOT17-02-FRCNN",), num_frames=4, size=(64, 96))
    (folder / "made/plain/names.csv").write_text("number,name\n1,sky\n2,grass\n3,road\n")
    make = f"--input={folder / 'made/plain'}", f"--output={folder / 'made/broden'}"
    subprocess.run([sys.executable, "-m", "experiments.make_broden", *make], check=True, env=environment(folder))


def _write_zoo(folder: Path) -> None:
    # Here, so that what only reads the pages does not wait for transformers.
    from experiments.benchmarks import torch_ops  # noqa: F401, must come before it

    # isort: split
    import transformers

    from tests.zoo import capi, dinov2, plain_files

    dinov2.write(folder / "dinov2_vits14_reg4_pretrain.pth", _ZOO, 0, registers=4, swiglu=False)
    plain_files.write_augreg(folder / "model.safetensors", _ZOO, 0)
    plain_files.write_scalemae(folder / "scalemae-vitlarge-800.pth", _ZOO, 0)
    capi.write(folder / "capi_vitl14_p205.pth", _ZOO, 0)
    config = transformers.IJepaConfig(
        hidden_size=_ZOO.width,
        num_hidden_layers=_ZOO.depth,
        num_attention_heads=_ZOO.num_heads,
        intermediate_size=_ZOO.mlp_dim,
        image_size=_ZOO.grid * _ZOO.patch_size,
        patch_size=_ZOO.patch_size,
    )
    transformers.IJepaModel(config).save_pretrained(folder / "ijepa_vith14_1k")


def environment(folder: Path) -> dict[str, str]:
    """A home of its own, one CPU device, programs compiled once for all commands, and `python` on the path."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    for name in ("python", "python3"):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        (programs / name).chmod(0o755)
    return os.environ | {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(folder),
        "TFDS_DATA_DIR": str(folder / "tensorflow_datasets"),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "",
        "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def run_shell(folder: Path, script: str) -> subprocess.CompletedProcess:
    """Runs a script as a reader would, in the folder; it ends with the first command that fails."""
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=600,
    )
