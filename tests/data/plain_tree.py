"""Small plain trees (images/, masks/, names.csv), written by code."""

from pathlib import Path

import numpy as np
from PIL import Image

from tests.data.broden_tree import write_image

NAMES = "number,name,category\n1,sky,object\n2,grass,material\n300,wheel,part\n7,cat,\n"


def save_mask(path: Path, labels: np.ndarray, *, kind: str = "I;16") -> None:
    """A mask as a PNG of 16 bits (`I;16`), 8 bits (`L`), a palette (`P`), or one bit (`1`)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = np.asarray(labels)
    if kind == "I;16":
        Image.fromarray(labels.astype(np.uint16)).save(path)
    elif kind == "1":
        Image.fromarray(labels.astype(bool)).save(path)
    else:
        image = Image.fromarray(labels.astype(np.uint8))
        if kind == "P":
            image = image.copy()
            image.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tolist())
        image.save(path)


def write_tree(folder: Path, masks: dict[str, np.ndarray], *, names: str = NAMES, kind: str = "I;16") -> Path:
    """Images of 8 x 12 pixels by name, each with its mask."""
    for name, labels in masks.items():
        write_image(folder / "images" / name, 8, 12)
        save_mask((folder / "masks" / name).with_suffix(".png"), labels, kind=kind)
    (folder / "names.csv").write_text(names)
    return folder
