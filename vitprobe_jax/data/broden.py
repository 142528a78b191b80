"""Broden: photographs from five data sets with pixel and image labels in one numbering.

The layout and the labels are those of Network Dissection (CVPR 2017):

    index.csv    image,split,ih,iw,sh,sw,color,object,part,material,scene,texture
    label.csv    number,name,category,...; category as `material(36);object(3)`, counts in brackets
    images/      photographs and masks, named in index.csv relative to this folder

A category's cell of index.csv holds entries joined by `;`: the name of a mask, where a pixel's label is R + 256 G, or a
label number that holds for the whole image. 0 and an empty cell are none.
"""

import csv
import dataclasses
import hashlib
import io
import os
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from PIL import Image

from vitprobe_jax.data.dataset import Annotation, Dataset
from vitprobe_jax.data.files import existing_folder, read_image
from vitprobe_jax.errors import InputError
from vitprobe_jax.types import SPLITS, Concept

CATEGORIES = ("color", "object", "part", "material", "scene", "texture")
_SIZES = ("ih", "iw", "sh", "sw")


class Row(NamedTuple):
    """A line of index.csv: sizes are (height, width); masks and labels are (category, file name or label number)."""

    image: str
    image_size: tuple[int, int]
    mask_size: tuple[int, int]
    masks: tuple[tuple[str, str], ...]
    labels: tuple[tuple[str, int], ...]


@dataclasses.dataclass(frozen=True)
class BrodenSplit:
    """The images of one split.

    Attributes:
        folder: what the names in the rows are relative to.
        rows: in the order of index.csv.
        known: the label numbers of each category.
    """

    folder: Path
    rows: tuple[Row, ...]
    known: dict[str, frozenset[int]]

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        return self.rows[index].image

    def image(self, index: int) -> Image.Image:
        row = self.rows[index]
        path = self.folder / row.image
        image = read_image(path, mode="RGB")
        height, width = row.image_size
        # Masks are laid over the image by proportion, so only another aspect would put labels in wrong places.
        if height * image.width != width * image.height:
            raise InputError(
                f"{path}: is {image.height} x {image.width}, index.csv says ih x iw = {height} x {width}; correct that row"
            )
        return image

    def annotation(self, index: int) -> Annotation:
        row = self.rows[index]
        masks = tuple((category, self._mask(name, category, row.mask_size)) for category, name in row.masks)
        return Annotation(masks=masks, labels=row.labels, image_size=row.image_size)

    def _mask(self, name: str, category: str, size: tuple[int, int]) -> Int[np.ndarray, "sh sw"]:
        path = self.folder / name
        image = read_image(path)
        if image.mode not in ("RGB", "RGBA", "P"):
            raise InputError(f"{path}: a mask is an RGB PNG (label = R + 256 G), this one is {image.mode}; convert it")
        rgb = np.asarray(image.convert("RGB"))
        if rgb.shape[:2] != size:
            raise InputError(
                f"{path}: is {rgb.shape[0]} x {rgb.shape[1]}, index.csv says sh x sw = {size[0]} x {size[1]}; "
                "correct that row or replace the mask"
            )
        mask = rgb[..., 0] + np.int32(256) * rgb[..., 1]
        present = np.flatnonzero(np.bincount(mask.ravel())).tolist()
        unknown = [label for label in present if label and label not in self.known[category]]
        if unknown:
            raise InputError(
                f"{path}: holds {_numbers(unknown)}, which label.csv does not list for {category}; "
                "add it there or replace the mask"
            )
        return mask


def open_broden(folder: str | Path, name: str) -> Dataset:
    """Reads index.csv and label.csv of a Broden folder; images and masks are read when asked for.

    Concepts are all labels of label.csv in the categories that index.csv has columns for; a label of two categories is
    two concepts. Color is left out unless asked for.

    Args:
        folder: holds index.csv, label.csv and images/.
        name: what results call the data set.

    Raises:
        InputError: the folder is missing or empty, a table is missing or malformed, the index names files that are not
            there or image labels that label.csv lacks.
    """
    folder = existing_folder(folder)
    index_bytes, label_bytes = (_read(folder / table) for table in ("index.csv", "label.csv"))
    concepts = _read_labels(folder / "label.csv", label_bytes)
    known = {
        category: frozenset(concept.number for concept in concepts if concept.category == category)
        for category in CATEGORIES
    }
    columns, rows = _read_index(folder / "index.csv", index_bytes, known)
    images = folder / "images"
    _check_files(folder / "index.csv", images, [row for split in SPLITS for row in rows[split]])
    return Dataset(
        name=name,
        concepts=tuple(
            sorted(
                (concept for concept in concepts if concept.category in columns),
                key=lambda concept: (columns.index(concept.category), concept.number),
            )
        ),
        splits={split: BrodenSplit(images, tuple(rows[split]), known) for split in SPLITS},
        skip_corrupt=False,
        fingerprint=hashlib.sha256(index_bytes + label_bytes).hexdigest(),
        unprobed=("color",),
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            f"--dataset: {path} cannot be read ({error.strerror}); a Broden folder has index.csv, label.csv and images/"
        ) from error


def _read_table(path: Path, content: bytes, required: tuple[str, ...]) -> tuple[dict[str, int], list[list[str]]]:
    """The position of every column, and all lines below the header; blank lines are kept, empty."""
    try:
        lines = list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: is no CSV table in UTF-8 ({error}); restore the file") from error
    header = {column.strip(): i for i, column in enumerate(lines[0])} if lines else {}
    missing = [column for column in required if column not in header]
    if missing:
        raise InputError(f"{path}: has no column {', '.join(missing)}; its first line names the columns")
    for number, line in enumerate(lines[1:], 2):
        if line and len(line) != len(header):
            raise InputError(f"{path}: line {number} has {len(line)} cells for {len(header)} columns; restore the file")
    return header, lines[1:]


def _read_labels(path: Path, content: bytes) -> list[Concept]:
    """One concept for each category of each label; label 0 is none."""
    header, lines = _read_table(path, content, ("number", "name", "category"))
    concepts = {}
    for line_number, line in enumerate(lines, 2):
        if not line:
            continue
        number, name, cell = (line[header[column]].strip() for column in ("number", "name", "category"))
        if not number.isdecimal():
            raise InputError(f"{path}: line {line_number} has the number {number!r}; labels are whole numbers")
        if int(number) == 0:
            continue
        for category in filter(None, (re.sub(r"\(\d+\)$", "", part.strip()) for part in cell.split(";"))):
            if (int(number), category) in concepts:
                raise InputError(f"{path}: line {line_number} lists {number} for {category} again; keep one of the two")
            concepts[int(number), category] = Concept(number=int(number), name=name, category=category)
    if not concepts:
        raise InputError(f"{path}: lists no labels; restore the file")
    return list(concepts.values())


def _read_index(
    path: Path, content: bytes, known: dict[str, frozenset[int]]
) -> tuple[tuple[str, ...], dict[str, list[Row]]]:
    """The categories that have a column, and the rows of each split in the file's order."""
    header, lines = _read_table(path, content, ("image", "split", *_SIZES))
    columns = tuple(category for category in CATEGORIES if category in header)
    rows = {split: [] for split in SPLITS}
    for line_number, line in enumerate(lines, 2):
        if not line:
            continue
        split = line[header["split"]].strip()
        if split not in rows:
            raise InputError(f"{path}: line {line_number} has the split {split!r}; it is {' or '.join(SPLITS)}")
        try:
            ih, iw, sh, sw = (int(line[header[column]]) for column in _SIZES)
        except ValueError as error:
            raise InputError(f"{path}: line {line_number}: ih, iw, sh, sw are sizes in pixels ({error})") from error
        masks, labels = [], []
        for category in columns:
            for entry in filter(None, map(str.strip, line[header[category]].split(";"))):
                if not entry.isdecimal():
                    masks.append((category, entry))
                elif int(entry) in known[category]:
                    labels.append((category, int(entry)))
                elif int(entry):
                    raise InputError(
                        f"{path}: line {line_number} has {category} {entry}, which label.csv does not list for it; "
                        "add it there or correct the line"
                    )
        rows[split].append(Row(line[header["image"]].strip(), (ih, iw), (sh, sw), tuple(masks), tuple(labels)))
    if not any(rows.values()):
        raise InputError(f"{path}: lists no images; restore the file")
    return columns, rows


def _check_files(index: Path, images: Path, rows: list[Row]) -> None:
    """Refuses an index that names absent files. Lists each folder once: Broden names some 200,000 files."""
    names = dict.fromkeys(name for row in rows for name in (row.image, *(mask for _, mask in row.masks)))
    listed = {}
    for folder in {name.rpartition("/")[0] for name in names}:
        try:
            listed[folder] = set(os.listdir(images / folder))
        except OSError:
            listed[folder] = set()
    absent = [name for name in names if name.rpartition("/")[2] not in listed[name.rpartition("/")[0]]]
    if absent:
        raise InputError(
            f"{index}: {len(absent)} of its {len(names)} files are not in {images}, the first is {absent[0]}; "
            "complete the folder or delete their lines"
        )


def _numbers(labels: list[int]) -> str:
    shown = ", ".join(map(str, labels[:5])) + (", ..." if len(labels) > 5 else "")
    return f"label{'s' if len(labels) > 1 else ''} {shown}"
