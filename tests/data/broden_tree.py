"""Small Broden folders, written by code."""

from pathlib import Path

import numpy as np
from PIL import Image

HEADER = "image,split,ih,iw,sh,sw,color,object,part,material,scene,texture"
LABELS = """number,name,category,frequency,coverage,syns
0,-,,0,0.000000,
1,black-c,color(4),4,1.0,
7,"door, wooden",object(2);part(9),11,1.0,door;wooden door
12,wood,material(36);object(3),39,1.0,
83,street,scene(5),5,5,
290,dotted,texture(2),2,2,
300,window,part(3),3,1.0,
372,woven,texture(1),1,1,
"""


def write_mask(path: Path, labels) -> None:
    """A mask as Broden stores it: R the low byte, G the high byte, B of no meaning."""
    labels = np.asarray(labels)
    rgb = np.stack([labels % 256, labels // 256, np.full_like(labels, 99)], -1).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgb).save(path)


def write_image(path: Path, height: int = 8, width: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(path.name)).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(noise).save(path)


def write_tables(folder: Path, lines: list[str], *, labels: str = LABELS) -> None:
    """index.csv from its lines below the header, and label.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "index.csv").write_text("\n".join([HEADER, *lines]) + "\n")
    (folder / "label.csv").write_text(labels)
