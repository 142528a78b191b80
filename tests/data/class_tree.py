"""Small class folders as UC Merced's and RESISC45's, split/CLASS/*.png, drawn by code."""

from pathlib import Path

import numpy as np
from PIL import Image

from tests.data.moving import pattern

CLASSES = ("beach", "chaparral", "forest", "harbor", "runway")


def write_classes(
    root: Path, *, seed: int, train: int = 8, val: int = 4, size: int = 128, classes: tuple[str, ...] = CLASSES
) -> Path:
    """Squares of one pattern each, its hue and stripes those of its class, with noise of its own.

    Args:
        root: gets train/CLASS and val/CLASS.
        seed: of the noise and of the phase of the stripes.
        train: images of each class.
        val: held-out images of each class.
        size: side of an image in pixels.
        classes: names of the folders.
    """
    for s, (split, count) in enumerate((("train", train), ("val", val))):
        for number, name in enumerate(classes):
            for i in range(count):
                rng = np.random.default_rng([seed, s, number, i])
                folder = root / split / name
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.asarray(pattern(rng, number, len(classes), (size, size)))).save(folder / f"{i}.png")
    return root
