"""Small trees of UC Merced and NWPU-RESISC45 as they are downloaded, drawn by code."""

from pathlib import Path

import numpy as np
from PIL import Image

from tests.data.moving import pattern
from vitprobe_jax.data.scenes import RESISC45, UCMERCED


def write_ucmerced(root: Path, *, seed: int, images: int = 4, size: int = 64) -> Path:
    """UCMerced_LandUse/Images/agricultural/agricultural00.tif and so on, of all 21 classes; returns UCMerced_LandUse.

    Args:
        root: gets UCMerced_LandUse.
        seed: of the stripes of each image; their hue is that of the class.
        images: of each class.
        size: side of an image in pixels.
    """
    folder = root / "UCMerced_LandUse"
    _write(folder / "Images", UCMERCED.classes, "{0}/{0}{1:02d}.tif", seed, images, size)
    (folder / "readme.txt").write_text("UC Merced Land Use Dataset\n")
    return folder


def write_resisc45(root: Path, *, seed: int, images: int = 4, size: int = 64) -> Path:
    """NWPU-RESISC45/airplane/airplane_001.jpg and so on, of all 45 classes, as `write_ucmerced`; returns NWPU-RESISC45."""
    folder = root / "NWPU-RESISC45"
    _write(folder, RESISC45.classes, "{0}/{0}_{1:03d}.jpg", seed, images, size)
    return folder


def _write(folder: Path, classes: tuple[str, ...], name: str, seed: int, images: int, size: int) -> None:
    for number, own in enumerate(classes):
        (folder / own).mkdir(parents=True)
        for i in range(images):
            pixels = pattern(np.random.default_rng([seed, number, i]), number, len(classes), (size, size))
            Image.fromarray(pixels).save(folder / name.format(own, i))
