"""ImageNet's box XML, and a small image folder of objects whose boxes are known, drawn by code."""

from pathlib import Path

import numpy as np

from tests.data.moving import background, draw, movers
from vitprobe_jax.data.files import image_file_size, walk_files
from vitprobe_jax.data.imagefolder import EXTENSIONS

XML = """<annotation>
\t<folder>{folder}</folder>
\t<filename>{stem}</filename>
\t<source>
\t\t<database>ILSVRC_2012</database>
\t</source>
\t<size>
\t\t<width>{width}</width>
\t\t<height>{height}</height>
\t\t<depth>3</depth>
\t</size>
\t<segmented>0</segmented>{objects}
</annotation>
"""
OBJECT = """
\t<object>
\t\t<name>{name}</name>
\t\t<pose>Unspecified</pose>
\t\t<truncated>0</truncated>
\t\t<difficult>0</difficult>
\t\t<bndbox>
\t\t\t<xmin>{0}</xmin>
\t\t\t<ymin>{1}</ymin>
\t\t\t<xmax>{2}</xmax>
\t\t\t<ymax>{3}</ymax>
\t\t</bndbox>
\t</object>"""

Edges = tuple[int, int, int, int]


def write_xml(root: Path, folder: str, stem: str, size: tuple[int, int], boxes: list[Edges]) -> Path:
    """`root/Annotations/CLS-LOC/folder/stem.xml`: of an image of this height and width, boxes as left, top, right, bottom.

    The file names the last pixel of a box, not where it ends.
    """
    path = root / "Annotations/CLS-LOC" / folder / f"{stem}.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    objects = "".join(
        OBJECT.format(left, top, right - 1, bottom - 1, name=folder) for left, top, right, bottom in boxes
    )
    path.write_text(XML.format(folder=folder, stem=stem, height=size[0], width=size[1], objects=objects))
    return path


def write_boxes(root: Path, images: Path, *, seed: int, originals: float = 1.0) -> Path:
    """XML with one or two random boxes for every image of an image folder; photographs have no others.

    Args:
        root: gets Annotations/CLS-LOC/val/*.xml and, of training images, Annotations/CLS-LOC/CLASS/*.xml.
        images: holds train/CLASS/* and val/CLASS/*, no two images of one name.
        seed: of the boxes.
        originals: how many times as large as the images those are that the boxes were drawn on.
    """
    for split in ("train", "val"):
        paths = sorted(Path(entry.path) for entry in walk_files(images / split))
        for i, path in enumerate(path for path in paths if path.suffix.lower() in EXTENSIONS):
            rng = np.random.default_rng([seed, split == "val", i])
            height, width = (round(side * originals) for side in image_file_size(path))
            boxes = []
            for _ in range(rng.integers(1, 3)):
                left, top = int(rng.integers(0, width // 2)), int(rng.integers(0, height // 2))
                boxes.append(
                    (
                        left,
                        top,
                        int(rng.integers(left + width // 4, width)) + 1,
                        int(rng.integers(top + height // 4, height)) + 1,
                    )
                )
            write_xml(root, "val" if split == "val" else path.parent.name, path.stem, (height, width), boxes)
    return root


def write_objects(
    root: Path,
    *,
    seed: int,
    classes: tuple[str, ...] = ("n00000001", "n00000002", "n00000003"),
    train: int = 8,
    val: int = 4,
    size: tuple[int, int] = (128, 160),
) -> Path:
    """An image folder with its boxes: every image shows one or two objects of its class, in stripes of the class's hue.

    Args:
        root: gets train/CLASS, val/CLASS and Annotations/CLS-LOC.
        seed: of all that is drawn.
        classes: names of the folders.
        train: images of each class.
        val: held-out images of each class.
        size: height and width of the images.
    """
    for s, (split, count) in enumerate((("train", train), ("val", val))):
        for number, name in enumerate(classes):
            (root / split / name).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                rng = np.random.default_rng([seed, s, number, i])
                shown = movers(rng, [number] * int(rng.integers(1, 3)), len(classes), size, 1)
                stem = f"{name}_{split}_{i}"
                draw(background(rng, size), shown, 0).save(root / split / name / f"{stem}.png")
                folder = "val" if split == "val" else name
                write_xml(root, folder, stem, size, [mover.box(0) for mover in shown])
    return root
