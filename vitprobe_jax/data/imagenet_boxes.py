"""The boxes of ImageNet's objects: PASCAL's XML, one file an image, as the localisation task gives them out.

    Annotations/CLS-LOC/val/ILSVRC2012_val_00000001.xml
    Annotations/CLS-LOC/train/n01440764/n01440764_10040.xml        any folders in between will do

    <annotation>
      <size><width>500</width><height>375</height></size>
      <object><bndbox><xmin>111</xmin><ymin>108</ymin><xmax>441</xmax><ymax>193</ymax></bndbox></object>
    </annotation>

Pixels are counted from 0, and a box includes those at xmax and ymax, as the evaluation of the challenge has it. Some files
give the image's own width or height there: such a box ends at the edge.
"""

import dataclasses
import hashlib
import math
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
from jaxtyping import Float

from vitprobe_jax.data.files import walk_files
from vitprobe_jax.errors import InputError

_EDGES = ("xmin", "ymin", "xmax", "ymax")


class ImageBoxes(NamedTuple):
    """What one file tells.

    Attributes:
        size: height and width of the image that the boxes were drawn on, in pixels.
        boxes: left, top, right, bottom in pixels; a pixel is the unit square from its index on, so right and bottom are
            where the box ends. Inside the image, none empty.
    """

    size: tuple[int, int]
    boxes: Float[np.ndarray, "n 4"]


@dataclasses.dataclass(frozen=True)
class BoxFolder:
    """Where the boxes of each image are, by what the image's file is called without folder and ending.

    Attributes:
        files: paths of the XML files.
    """

    files: dict[str, Path]

    def __len__(self) -> int:
        return len(self.files)

    @property
    def fingerprint(self) -> str:
        """Of the files' names and sizes."""
        listed = sorted((stem, path.stat().st_size) for stem, path in self.files.items())
        return hashlib.sha256(repr(listed).encode("utf-8", "surrogateescape")).hexdigest()

    def has(self, name: str) -> bool:
        """Whether there is a file for an image, with boxes in it or without; `name` as in `of`."""
        return PurePosixPath(name).stem in self.files

    def of(self, name: str, size: tuple[int, int]) -> Float[np.ndarray, "n 4"] | None:
        """The boxes of an image, at least one, in its own pixels; None where there are none.

        Images may have been resized since the boxes were drawn: boxes are scaled along each side, as the image was, and
        their first and last pixels are rounded down, see `resize_boxes`.

        Args:
            name: of the image; folders and ending are of no matter, `val/n01440764/ILSVRC2012_val_00000293.JPEG`.
            size: height and width of the image.

        Returns:
            left, top, right, bottom, see `ImageBoxes`.

        Raises:
            InputError: the file is no box XML, or has a box outside its image; names the file.
        """
        if not self.has(name):
            return None
        path = self.files[PurePosixPath(name).stem]
        drawn, boxes = read_boxes(path)
        return resize_boxes(boxes, drawn, size) if len(boxes) else None


def resize_boxes(
    boxes: Float[np.ndarray, "n 4"], drawn: tuple[int, int], size: tuple[int, int]
) -> Float[np.ndarray, "n 4"]:
    """Boxes in the pixels of a resized image, as the localisation benchmark resizes them (clovaai/wsolevaluation).

    The coordinates of the first and the last pixel are scaled and rounded down.

    Args:
        boxes: left, top, right, bottom; right and bottom exclusive.
        drawn: height and width of the image that they were drawn on.
        size: height and width of the resized image.

    Returns:
        whole numbers; right and bottom exclusive. No box is empty.
    """
    ends = np.array([0, 0, 1, 1])
    sides = np.array([size[1], size[0]] * 2), np.array([drawn[1], drawn[0]] * 2)
    return np.floor((boxes - ends) * sides[0] / sides[1]) + ends


def open_boxes(folder: str | Path) -> BoxFolder:
    """Lists the XML files below a folder, at any depth; they are read when asked for.

    Raises:
        InputError: the folder is missing or has no XML file, or two files are called the same.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise InputError(f"--boxes: {root} is not a folder; give the one that ImageNet's box annotations lie in")
    files: dict[str, Path] = {}
    for entry in walk_files(root):
        path = Path(entry.path)
        if path.suffix.lower() != ".xml":
            continue
        other = files.setdefault(path.stem, path)
        if other != path:
            first, second = sorted(found.relative_to(root).as_posix() for found in (other, path))
            raise InputError(
                f"--boxes: {root} has {path.name} twice, {first} and {second}; give the folder of one of them"
            )
    if not files:
        raise InputError(
            f"--boxes: no XML files in {root}; unpack ImageNet's boxes into it, Annotations/CLS-LOC/val/*.xml"
        )
    return BoxFolder(files)


def read_boxes(path: Path) -> ImageBoxes:
    """The boxes that an XML file gives.

    Raises:
        InputError: the file cannot be read, lacks the image's size or an edge of a box, or a box is empty or reaches
            beyond the image.
    """
    try:
        root = ElementTree.fromstring(path.read_bytes())
    except (OSError, ElementTree.ParseError, ValueError, LookupError) as error:
        raise InputError(f"{path}: is no XML that can be read ({error}); restore the file") from error
    sides = [root.findtext(f"size/{side}", "").strip() for side in ("height", "width")]
    if not all(side.isdecimal() and int(side) for side in sides):
        raise InputError(f"{path}: tells no size/width and size/height of its image, in pixels; restore the file")
    height, width = int(sides[0]), int(sides[1])
    boxes = np.zeros((0, 4))
    for i, item in enumerate(root.findall("object"), 1):
        left, top, right, bottom = _read_edges(item, f"{path}: object {i}")
        if not (0 <= left <= right <= width and 0 <= top <= bottom <= height and left < width and top < height):
            raise InputError(
                f"{path}: object {i}: its box {left:g}, {top:g}, {right:g}, {bottom:g} is none inside the "
                f"{height} x {width} image; correct or delete it"
            )
        box = left, top, min(right + 1, width), min(bottom + 1, height)
        boxes = np.concatenate([boxes, np.array([box], np.float64)])
    return ImageBoxes((height, width), boxes)


def _read_edges(item: ElementTree.Element, where: str) -> list[float]:
    try:
        edges = [float(item.findtext(f"bndbox/{edge}", "")) for edge in _EDGES]
    except ValueError as error:
        raise InputError(f"{where}: its bndbox is not {', '.join(_EDGES)}, all of them numbers; restore it") from error
    if not all(math.isfinite(edge) for edge in edges):
        raise InputError(f"{where}: its bndbox has an edge that is not finite; correct it")
    return edges
