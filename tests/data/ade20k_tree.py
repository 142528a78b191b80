"""A small ADEChallengeData2016 in the official layout, drawn by code."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from tests.data.cityscapes_tree import paint

FOLDERS = {"train": "training", "val": "validation"}
NAMES = ("wall", "building, edifice", "sky", "floor, flooring", "tree", "bed ", "windowpane, window ", "flag")
"""As in the official table, where blanks follow some names."""


def room(size: tuple[int, int], num_classes: int, rng: np.random.Generator) -> np.ndarray:
    """Labels in a few rectangles; the higher its number the rarer a class, 0 is other."""
    height, width = size
    chances = 1 / np.arange(1, num_classes + 2)
    cells = rng.choice(np.roll(np.arange(num_classes + 1), -1), (3, 4), p=chances / chances.sum())
    return cells[np.arange(height) * 3 // height][:, np.arange(width) * 4 // width].astype(np.uint8)


def write_pair(root: Path, split: str, number: int, labels: np.ndarray, image: np.ndarray) -> str:
    """An image and its mask; gives the name that both begin with."""
    folder, stem = FOLDERS[split], f"ADE_{split}_{number:08d}"
    for path in (root / "images" / folder / f"{stem}.jpg", root / "annotations" / folder / f"{stem}.png"):
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels, options = (labels.astype(np.uint8), {}) if path.suffix == ".png" else (image, {"quality": 95})
        Image.fromarray(pixels).save(path, **options)
    return stem


def write_table(root: Path, names: tuple[str, ...] = NAMES) -> None:
    lines = [f"{i}{' ' * (i == 3)}\t{0.2 / i:.4f}\t{40 - i}\t{20 - i}\t{name}" for i, name in enumerate(names, 1)]
    (root / "objectInfo150.txt").write_text("\n".join(["Idx\tRatio\tTrain\tVal\tName", *lines]) + "\n")


def write_ade20k(
    root: Path, *, counts: Mapping[str, int] | None = None, names: tuple[str, ...] = NAMES, seed: int = 0
) -> Path:
    """So many images of each split, 12 and 6 by default, of all sizes around 80 x 120; gives the root."""
    rng = np.random.default_rng(seed)
    for split, count in (counts or {"train": 12, "val": 6}).items():
        for number in range(1, count + 1):
            labels = room((int(rng.integers(60, 100)), int(rng.integers(90, 150))), len(names), rng)
            write_pair(root, split, number, labels, paint(labels, rng))
    write_table(root, names)
    return root
