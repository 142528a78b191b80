"""FAIR1M: satellite images with rotated boxes of 37 fine categories (ISPRS Journal 2022; releases 1.0 and 2.0).

The layout and the labels are the official ones:

    train/part1/images/1.tif    train/part1/labelXml/1.xml    part2 alike
    validation/images/1.tif     validation/labelXml/1.xml     may be absent

A label belongs to the image of the same part and name. Where below its part it lies is of no meaning: archives unpack to
labelXml, labelXmls or labelXmls/labelXml, and some copies have no parts. An XML file has

    annotation/size/{width,height}
    annotation/objects/object: coordinate (pixel), possibleresult/name, points/point (x,y; five, the first repeated)
"""

import dataclasses
import functools
import hashlib
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
from jaxtyping import Bool, Float, Int
from PIL import Image

from vitprobe_jax.data.dataset import Annotation, Dataset, FewShotDraw
from vitprobe_jax.data.files import existing_folder, read_image, walk_files
from vitprobe_jax.data.imagefolder import EXTENSIONS
from vitprobe_jax.data.latest import Latest
from vitprobe_jax.data.polygons import ordered_corners, overlap_areas, polygon_areas, rasterize
from vitprobe_jax.data.tiles import tile_boxes
from vitprobe_jax.errors import InputError
from vitprobe_jax.types import Concept, Split

TILE = 224
"""Side of a tile, in pixels."""

HELD_SHARE = 1 / 3
"""A tile holds a category when so much of the area of one of its boxes lies in the tile."""

CATEGORIES = {
    "airplane": (
        *("Boeing737", "Boeing747", "Boeing777", "Boeing787", "C919", "A220", "A321", "A330", "A350", "ARJ21"),
        "other-airplane",
    ),
    "ship": (
        *("Passenger Ship", "Motorboat", "Fishing Boat", "Tugboat", "other-ship", "Engineering Ship"),
        *("Liquid Cargo Ship", "Dry Cargo Ship", "Warship"),
    ),
    "vehicle": (
        *("Small Car", "Bus", "Cargo Truck", "Dump Truck", "other-vehicle", "Van", "Trailer", "Tractor", "Excavator"),
        "Truck Tractor",
    ),
    "court": ("Basketball Court", "Tennis Court", "Football Field", "Baseball Field"),
    "road": ("Intersection", "Roundabout", "Bridge"),
}
"""The fine categories of each super category; a fine category's number is its place among all, from 1."""

NAMES = tuple(name for names in CATEGORIES.values() for name in names)
_FOLDERS: dict[Split, tuple[str, ...]] = {"train": ("train",), "val": ("validation", "val")}
_EXPECTED = (
    "expected train/part1/images/*.tif, train/part1/labelXml/*.xml, and, unless there is no validation split, "
    "validation/images/*.tif, validation/labelXml/*.xml"
)


class Labels(NamedTuple):
    """What an XML file says: height and width of its image, of each box the category number and the ordered corners."""

    image_size: tuple[int, int]
    numbers: list[int]
    corners: Float[np.ndarray, "n 4 2"]


@dataclasses.dataclass(frozen=True, eq=False)
class TileSplit:
    """The tiles of all images of a split that a box reaches into, image by image, row-major.

    Attributes:
        folder: of the data set.
        files: of each image, relative to the folder.
        image_sizes: height and width of each image.
        tiles: index into `files`, top and left of each tile.
        starts: tile i is reached by the boxes that `members` lists from `starts[i]` to `starts[i + 1]`.
        members: numbers of boxes.
        held: whether so much of that box lies in that tile that the tile holds its category.
        numbers: category number of each box.
        corners: (x, y) of each box in its image, in order around it.
    """

    folder: Path
    files: tuple[str, ...]
    image_sizes: Int[np.ndarray, "n 2"]
    tiles: Int[np.ndarray, "I 3"]
    starts: Int[np.ndarray, "I+1"]
    members: Int[np.ndarray, " m"]
    held: Bool[np.ndarray, " m"]
    numbers: Int[np.ndarray, " b"]
    corners: Float[np.ndarray, "b 4 2"]
    group_names: tuple[str, ...] = NAMES
    _decode: Latest = dataclasses.field(default_factory=lambda: Latest(functools.partial(read_image, mode="RGB")))

    def __len__(self) -> int:
        return len(self.tiles)

    def name(self, index: int) -> str:
        image, top, left = self.tiles[index].tolist()
        return f"{self.files[image]}@{top},{left}"

    def image(self, index: int) -> Image.Image:
        image, top, left = self.tiles[index].tolist()
        path = self.folder / self.files[image]
        whole = self._decode(path)
        height, width = self.image_sizes[image].tolist()
        if (whole.height, whole.width) != (height, width):
            raise InputError(
                f"{path}: is {whole.height} x {whole.width}, its labels say {height} x {width}; replace it or correct them"
            )
        height, width = self.size(index)
        return whole.crop((left, top, left + width, top + height))

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of the tile."""
        height, width = self.image_sizes[self.tiles[index, 0]].tolist()
        return min(height, TILE), min(width, TILE)

    def annotation(self, index: int) -> Annotation:
        """One mask of the category numbers; where boxes overlap, the smaller ones lie over the larger ones."""
        _, top, left = self.tiles[index].tolist()
        boxes = self.members[self.starts[index] : self.starts[index + 1]]
        boxes = boxes[np.argsort(-polygon_areas(self.corners[boxes]), kind="stable")]
        corners = self.corners[boxes] - np.array([left, top])
        return Annotation(masks=(("object", rasterize(corners, self.numbers[boxes], self.size(index))),))

    def groups(self, index: int) -> tuple[str, ...]:
        """The fine categories that the tile holds, in the data set's order."""
        within = slice(self.starts[index], self.starts[index + 1])
        held = np.unique(self.numbers[self.members[within][self.held[within]]])
        return tuple(NAMES[number - 1] for number in held.tolist())


def open_fair1m(folder: str | Path, name: str) -> Dataset:
    """Reads the labels of FAIR1M and lists the tiles of its images; no image is decoded yet.

    Without validation/ the data set has the split `train` alone. The images of a split are the tiles (`data.tiles`) of
    `TILE` pixels that a box reaches into. The last tiles of a row or column may overlap those before them; what they share
    is annotated on both. The corners of a box may stand in any order and beyond the image. A million boxes, which is all of
    FAIR1M, take about a minute.

    Args:
        folder: holds train/, and validation/ where there is a held-out split.
        name: what results call the data set.

    Raises:
        InputError: the folder is missing or empty, train/ is missing, an image has no XML file or the other way round, an
            XML file is malformed or has an unknown category, a box without area or one outside its image.
    """
    folder = existing_folder(folder)
    digest = hashlib.sha256()
    splits = {}
    for split, candidates in _FOLDERS.items():
        present = next((candidate for candidate in candidates if (folder / candidate).is_dir()), None)
        if present is None and split == "train":
            raise InputError(f"--dataset: {folder} has no folder {' or '.join(candidates)}; {_EXPECTED}")
        if present is None:
            continue
        images = _pair_files(folder, present)
        labels = []
        for file, size, xml in images:
            found, content = _read_labels(folder / xml)
            digest.update(f"{file}\0{size}\n".encode("utf-8", "surrogateescape") + content)
            labels.append(found)
        splits[split] = _cut_tiles(folder, tuple(file for file, _, _ in images), labels)
        if not len(splits[split]):
            raise InputError(f"--dataset: the labels in {folder / present} have no boxes; restore them")
    return Dataset(
        name=name,
        concepts=tuple(Concept(number=i, name=concept, category="object") for i, concept in enumerate(NAMES, 1)),
        splits=splits,
        skip_corrupt=False,
        fingerprint=digest.hexdigest(),
        supercategories=tuple(kind for kind, names in CATEGORIES.items() for _ in names),
        tile=0,
        # Section 3 and appendix A.4 of the paper on local representations: 8 tiles a category of the training set, category
        # by category; these tiles are transformed and searched.
        draw=FewShotDraw(train=8, val=10, compared=(), in_turn=True),
        retrieval_split="train",
    )


def _pair_files(folder: Path, split: str) -> list[tuple[str, int, str]]:
    """Each image of a split, its bytes, and its labels, relative to the root; sorted by part and name, numbers by value."""
    images: dict[tuple[str, str], tuple[str, int]] = {}
    labels: dict[tuple[str, str], str] = {}
    for entry in walk_files(folder / split):
        path = Path(entry.path).relative_to(folder)
        part = path.parts[1] if re.fullmatch(r"part\w+", path.parts[1]) else ""
        key = part, path.stem
        kind = images if entry.name.lower().endswith(EXTENSIONS) else labels
        if kind is labels and path.suffix.lower() != ".xml":
            continue
        if key in kind:
            raise InputError(
                f"--dataset: {folder / split} has {entry.name} of {part or split} twice; delete one of the two"
            )
        kind[key] = (path.as_posix(), entry.stat().st_size) if kind is images else path.as_posix()
    if not images:
        raise InputError(f"--dataset: no images in {folder / split}; {_EXPECTED}")
    alone = sorted(images.keys() ^ labels.keys())
    if alone:
        lacking = "labels" if alone[0] in images else "images"
        file = images[alone[0]][0] if alone[0] in images else labels[alone[0]]
        raise InputError(
            f"--dataset: {folder / file} has no {lacking} of its name, one of {len(alone)} files without their counterpart; "
            "complete the folder"
        )
    return [(*images[key], labels[key]) for key in sorted(images, key=_by_number)]


def _by_number(key: tuple[str, str]) -> tuple[str, int, str]:
    part, stem = key
    return part, int(stem) if stem.isdecimal() else -1, stem


def _read_labels(path: Path) -> tuple[Labels, bytes]:
    """The labels of an image, and a digest of the file.

    Raises:
        InputError: the file cannot be read or is malformed, a category is unknown, a box has no area or lies outside its
            image.
    """
    try:
        content = path.read_bytes()
        root = ElementTree.fromstring(content)
    except (OSError, ElementTree.ParseError, ValueError, LookupError) as error:
        raise InputError(f"{path}: is no XML that can be read ({error}); restore the file") from error
    sides = [root.findtext(f"size/{side}", "").strip() for side in ("height", "width")]
    if not all(side.isdecimal() and int(side) for side in sides):
        raise InputError(f"{path}: tells no size/width and size/height of its image, in pixels; restore the file")
    image_size = int(sides[0]), int(sides[1])
    numbers, points = [], []
    for i, item in enumerate(root.iter("object"), 1):
        where = f"{path}: object {i}"
        category = item.findtext("possibleresult/name", "").strip()
        number = _number_of(category)
        if not number:
            raise InputError(f"{where}: is of the unknown category {category!r}; there are {', '.join(NAMES)}")
        if item.findtext("coordinate", "pixel").strip() != "pixel":
            raise InputError(f"{where}: its coordinates are not in pixels; convert them")
        numbers.append(number)
        points.append(_read_points([point.text or "" for point in item.findall("points/point")], where))
    corners = ordered_corners(np.array(points, np.float64).reshape(-1, 4, 2))
    _check_boxes(path, image_size, corners)
    return Labels(image_size, numbers, corners), hashlib.sha256(content).digest()


def _read_points(points: list[str], where: str) -> list[tuple[float, float]]:
    try:
        found = [(float(x), float(y)) for x, y in (point.split(",") for point in points)]
    except ValueError as error:
        raise InputError(f"{where}: its points are not all x,y in numbers ({error}); correct them") from error
    if not all(math.isfinite(value) for point in found for value in point):
        raise InputError(f"{where}: its points are not all finite; correct them")
    if len(found) == 5 and found[4] == found[0]:
        del found[4]
    if len(found) != 4:
        raise InputError(
            f"{where}: has {len(found)} points, not the four corners of a box and the first again; correct them"
        )
    return found


def _check_boxes(path: Path, image_size: tuple[int, int], corners: Float[np.ndarray, "n 4 2"]) -> None:
    """Raises where a box has no area or lies outside its image."""
    height, width = image_size
    outside = (corners.max(1) <= 0).any(1) | (corners.min(1) >= (width, height)).any(1)
    # Rounding may leave a trace of an area.
    bad = np.flatnonzero(outside | (polygon_areas(corners) < 1e-6))
    if len(bad):
        wrong = f"lies outside the {height} x {width} image" if outside[bad[0]] else "has no area"
        more = f" ({len(bad)} such boxes in this file)" if len(bad) > 1 else ""
        raise InputError(f"{path}: object {bad[0] + 1}: its box {wrong}; correct or delete it{more}")


def _cut_tiles(folder: Path, files: tuple[str, ...], labels: Sequence[Labels]) -> TileSplit:
    """The tiles of all images."""
    corners = np.concatenate([np.zeros((0, 4, 2)), *(found.corners for found in labels)])
    areas = polygon_areas(corners)
    places, members, first = [np.zeros((0, 5), np.int64)], [np.zeros(0, np.int64)], 0
    for image, found in enumerate(labels):
        tile, box = _reached_tiles(found.image_size, found.corners)
        places.append(np.column_stack([np.full(len(box), image), tile]))
        members.append(first + box)
        first += len(found.numbers)
    place, member = np.concatenate(places), np.concatenate(members)
    shown = overlap_areas(corners[member], place[:, [2, 1, 4, 3]].astype(np.float64))
    # What only touches a tile, up to rounding, does not reach into it.
    inside = shown > 1e-9 * areas[member]
    place, member, shown = place[inside, :3], member[inside], shown[inside]
    tiles, counts = np.unique(place, axis=0, return_counts=True)
    order = np.lexsort((member, *place.T[::-1]))
    return TileSplit(
        folder=folder,
        files=files,
        image_sizes=np.array([found.image_size for found in labels], np.int64).reshape(-1, 2),
        tiles=tiles,
        starts=np.cumsum([0, *counts]),
        members=member[order],
        held=(shown >= (HELD_SHARE - 1e-9) * areas[member])[order],
        numbers=np.array([number for found in labels for number in found.numbers], np.int64),
        corners=corners,
    )


def _reached_tiles(
    image_size: tuple[int, int], corners: Float[np.ndarray, "b 4 2"]
) -> tuple[Int[np.ndarray, "m 4"], Int[np.ndarray, " m"]]:
    """(top, left, bottom, right) of a tile and number of a box, for all pairs where the box's upright hull meets it."""
    tiles = np.array([(top, left, top + h, left + w) for top, left, h, w in tile_boxes(image_size, TILE)])
    low, high = corners.min(1)[:, None, ::-1], corners.max(1)[:, None, ::-1]
    box, tile = np.nonzero((low < tiles[:, 2:]).all(-1) & (high > tiles[:, :2]).all(-1))
    return tiles[tile], box


@functools.cache
def _number_of(name: str) -> int:
    """The number of a category, 0 of an unknown one; copies of the labels differ in capitals, spaces and hyphens."""
    return {_plain(known): number for number, known in enumerate(NAMES, 1)}.get(_plain(name), 0)


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).lower()
