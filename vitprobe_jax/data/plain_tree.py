"""Photographs and masks as people keep them, before they are a data set:

    images/      *.jpg, *.png, ..., in subfolders or not
    masks/       a PNG for every image, under the same path but for the ending; a pixel's value is its label number
    names.csv    number,name[,category]; category is `object` where there is no such column or its cell is empty
    split.csv    image,split with `train` or `val`; may be missing

A mask has one channel of 1 to 16 bits, or a palette, whose indices are the numbers then. 0 is no label.
"""

import csv
import dataclasses
import hashlib
import io
import struct
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Int

from vitprobe_jax.data.broden import CATEGORIES
from vitprobe_jax.data.files import read_image, walk_files
from vitprobe_jax.data.imagefolder import EXTENSIONS
from vitprobe_jax.errors import InputError
from vitprobe_jax.types import SPLITS, Concept, Split

LARGEST_NUMBER = 2**16 - 1
"""What a mask of Broden, R + 256 G, can hold."""

DEFAULT_CATEGORY = "object"


@dataclasses.dataclass(frozen=True)
class PlainTree:
    """What is in a tree by its lists and tables; no image or mask has been opened.

    Attributes:
        folder: with `images/`, `masks/` and `names.csv`.
        images: paths relative to `images/`, sorted.
        concepts: the lines of `names.csv`, sorted by number; a number has one category.
        splits: the split of each image by `split.csv`; None where there is no such file.
    """

    folder: Path
    images: tuple[str, ...]
    concepts: tuple[Concept, ...]
    splits: dict[str, Split] | None

    def image_path(self, image: str) -> Path:
        """Where an image is."""
        return self.folder / "images" / image

    def mask_path(self, image: str) -> Path:
        """Where the mask of an image is."""
        return self.folder / "masks" / f"{_stem(image)}.png"


def read_tree(folder: str | Path) -> PlainTree:
    """Lists a tree and reads its tables. Hidden files, and files in `images/` that are no images by their ending, are left
    out.

    Raises:
        InputError: a folder or `names.csv` is missing, a table is malformed, there are fewer than two images, two of them
            have the same name but for the ending, an image has no mask or a mask no image, `split.csv` leaves an
            image out, names one that is not there or puts all in one split.
    """
    folder = Path(folder).expanduser()
    for needed in (folder, folder / "images", folder / "masks"):
        if not needed.is_dir():
            raise InputError(f"--input: {needed} is not a folder; a tree has images/, masks/ and names.csv")
    concepts = _read_names(folder / "names.csv")
    images = sorted(name for name in _files(folder / "images") if name.lower().endswith(EXTENSIONS))
    if len(images) < 2:
        raise InputError(
            f"{folder / 'images'}: holds {len(images)} images ({', '.join(EXTENSIONS)}); two at least are needed, one to "
            "train on and one held out"
        )
    for name in images:
        _check_name(folder / "images", name)
    twins = [stem for stem, count in Counter(map(_stem, images)).items() if count > 1]
    if twins:
        pair = " and ".join(name for name in images if _stem(name) == twins[0])
        raise InputError(f"{folder / 'images'}: {pair} would share the mask {twins[0]}.png; rename one of them")
    stems, masks = set(map(_stem, images)), {name for name in _files(folder / "masks") if name.endswith(".png")}
    without = [name for name in images if f"{_stem(name)}.png" not in masks]
    if without:
        raise InputError(
            f"{folder / 'masks'}: {len(without)} of {len(images)} images have no mask, the first is {without[0]}; add "
            f"{_stem(without[0])}.png, or take the image out"
        )
    alone = sorted(name for name in masks if _stem(name) not in stems)
    if alone:
        raise InputError(
            f"{folder / 'masks'}: {len(alone)} masks have no image, the first is {alone[0]}; add images/{_stem(alone[0])} "
            f"as one of {', '.join(EXTENSIONS)}, or take the mask out"
        )
    table = folder / "split.csv"
    return PlainTree(folder, tuple(images), concepts, _read_splits(table, images) if table.exists() else None)


def draw_splits(images: Sequence[str], *, val_share: float, seed: int) -> dict[str, Split]:
    """Puts a share of the images, drawn by the seed, into `val` and the others into `train`, at least one into each.

    An image's lot hangs on the seed and its own name, so one more image moves at most one other from a split to the other.

    Args:
        images: two or more names.
        val_share: above 0 and below 1; the number of held-out images is rounded to the nearest.
        seed: of the draw.
    """
    lots = {name: hashlib.sha256(f"{seed}\0{name}".encode()).digest() for name in images}
    count = min(max(round(val_share * len(images)), 1), len(images) - 1)
    held_out = set(sorted(images, key=lots.__getitem__)[:count])
    return {name: "val" if name in held_out else "train" for name in images}


def read_mask(path: Path, ignored: Sequence[int] = ()) -> Int[np.ndarray, "sh sw"]:
    """The label number of every pixel of a mask PNG, int32.

    Args:
        path: a PNG of one channel or with a palette.
        ignored: numbers that stand for no label, as 255 does in many data sets; they become 0.

    Raises:
        InputError: the file is missing, cannot be decoded, is no PNG, or has colours; names it.
    """
    image = read_image(path)
    if image.format != "PNG" or image.mode not in ("1", "L", "P", "I", "I;16"):
        kind = image.mode if image.format == "PNG" else image.format
        raise InputError(
            f"{path}: is {kind}; a mask is a PNG of one channel, or with a palette, whose values are label numbers: save "
            "it as such"
        )
    mask = np.asarray(image).astype(np.int32)
    if image.mode == "L":
        # Pillow stretches grey of 2 and 4 bits to 0..255; the numbers are what stands in the file.
        mask //= {2: 85, 4: 17}.get(_bit_depth(path), 1)
    if ignored:
        mask[np.isin(mask, ignored)] = 0
    return mask


def _bit_depth(path: Path) -> int:
    """Bits a sample of a PNG that pillow has decoded: the ninth byte of its first chunk's data."""
    with open(path, "rb") as file:
        return struct.unpack("B", file.read(25)[24:])[0]


def _stem(name: str) -> str:
    """A relative path without its ending; dots elsewhere in it stay."""
    return str(PurePosixPath(name).with_suffix(""))


def _files(folder: Path) -> list[str]:
    """Paths of all files that are not hidden, relative to the folder."""
    found = (Path(entry.path).relative_to(folder).as_posix() for entry in walk_files(folder) if entry.name[0] != ".")
    return sorted(found)


def _check_name(folder: Path, name: str) -> None:
    """Broden's index joins names by `;`, and its reader strips cells."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{folder}: the name {name!r} is not in UTF-8; rename the file") from error
    if ";" in name or name != name.strip():
        raise InputError(f"{folder}: the name {name!r} has a semicolon, or a blank at an end; rename the file")


def _read_names(path: Path) -> tuple[Concept, ...]:
    concepts: dict[int, Concept] = {}
    for where, line in _read_csv(path, ("number", "name")):
        cell, name = line["number"], line["name"]
        if not (cell.isascii() and cell.isdigit() and 1 <= int(cell) <= LARGEST_NUMBER):
            reason = "0 stands for pixels without a label" if cell == "0" else "it is a whole number"
            raise InputError(f"{where} has the number {cell!r}; {reason}: give one from 1 to {LARGEST_NUMBER}")
        number, category = int(cell), line.get("category") or DEFAULT_CATEGORY
        if number in concepts:
            raise InputError(f"{where} lists the number {number} again; a number has one name and one category")
        if not name:
            raise InputError(f"{where} has no name for {number}; give one")
        if category not in CATEGORIES:
            raise InputError(f"{where} has the category {category!r}; Broden's are {', '.join(CATEGORIES)}")
        concepts[number] = Concept(number=number, name=name, category=category)
    if not concepts:
        raise InputError(f"{path}: names nothing; give a line number,name for each value of the masks")
    return tuple(concepts[number] for number in sorted(concepts))


def _read_splits(path: Path, images: Sequence[str]) -> dict[str, Split]:
    known, splits = set(images), {}
    for where, line in _read_csv(path, ("image", "split")):
        image, split = line["image"], line["split"]
        if split not in SPLITS:
            raise InputError(f"{where} has the split {split!r}; it is {' or '.join(SPLITS)}")
        if image not in known:
            raise InputError(f"{where} names {image!r}, which is not in images/; give the path below that folder")
        if image in splits:
            raise InputError(f"{where} lists {image} again; keep one of the two")
        splits[image] = split
    missing = [image for image in images if image not in splits]
    if missing:
        raise InputError(
            f"{path}: leaves out {len(missing)} of {len(images)} images, the first is {missing[0]}; add it"
        )
    empty = [split for split in SPLITS if split not in splits.values()]
    if empty:
        raise InputError(f"{path}: puts no image into {empty[0]}; templates need both {' and '.join(SPLITS)}")
    return splits


def _read_csv(path: Path, required: tuple[str, ...]) -> list[tuple[str, dict[str, str]]]:
    """Where each line stands, for messages, and its stripped cells by column; blank lines are left out."""
    try:
        lines = list(csv.reader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline=""), strict=True))
    except OSError as error:
        raise InputError(
            f"--input: {path} cannot be read ({error.strerror}); it names {' and '.join(required)}"
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: is no CSV table in UTF-8 ({error}); save it as one") from error
    header = [cell.strip() for cell in lines[0]] if lines else []
    missing = [column for column in required if column not in header]
    if missing or len(set(header)) != len(header):
        reason = f"has no column {', '.join(missing)}" if missing else "has a column twice"
        raise InputError(f"{path}: {reason}; its first line is {','.join(required)}")
    found = []
    for number, line in enumerate(lines[1:], 2):
        cells = [cell.strip() for cell in line]
        if not any(cells):
            continue
        if len(cells) != len(header):
            raise InputError(
                f"{path}: line {number} has {len(cells)} cells for {len(header)} columns; put a name that has a comma "
                "into quotes"
            )
        found.append((f"{path}: line {number}", dict(zip(header, cells, strict=True))))
    return found
