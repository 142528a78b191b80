"""Broden: photographs from five data sets with pixel and image labels in one numbering.

The layout and the labels are those of Network Dissection (CVPR 2017):

    index.csv    image,split,ih,iw,sh,sw,color,object,part,material,scene,texture
    label.csv    number,name,category,...; category as `material(36);object(3)`, counts in brackets
    c_CATEGORY.csv   code,number,name,frequency,coverage; read for labels of several categories, where it is there
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
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from PIL import Image

from vitprobe_jax.data.dataset import Annotation, Dataset
from vitprobe_jax.data.encoded import mask_labels
from vitprobe_jax.data.files import existing_folder, read_image
from vitprobe_jax.errors import InputError
from vitprobe_jax.types import SPLITS, Concept, Split

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
        categories: those whose annotations are read.
    """

    folder: Path
    rows: tuple[Row, ...]
    known: dict[str, frozenset[int]]
    categories: tuple[str, ...] = CATEGORIES

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
        masks = tuple(
            (category, self._mask(name, category, row.mask_size))
            for category, name in row.masks
            if category in self.categories
        )
        labels = tuple(label for label in row.labels if label[0] in self.categories)
        return Annotation(masks=masks, labels=labels, image_size=row.image_size)

    def select(self, categories: tuple[str, ...]) -> "BrodenSplit":
        """The same images, annotated in these categories only; every image has a mask of color, which few ask for."""
        return dataclasses.replace(self, categories=categories)

    def _mask(self, name: str, category: str, size: tuple[int, int]) -> Int[np.ndarray, "sh sw"]:
        path = self.folder / name
        image = read_image(path)
        if image.mode not in ("RGB", "RGBA", "P"):
            raise InputError(f"{path}: a mask is an RGB PNG (label = R + 256 G), this one is {image.mode}; convert it")
        rgb = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
        if rgb.shape[:2] != size:
            raise InputError(
                f"{path}: is {rgb.shape[0]} x {rgb.shape[1]}, index.csv says sh x sw = {size[0]} x {size[1]}; "
                "correct that row or replace the mask"
            )
        mask = mask_labels(rgb)
        present = np.flatnonzero(np.bincount(mask.ravel())).tolist()
        unknown = [label for label in present if label and label not in self.known[category]]
        if unknown:
            raise InputError(
                f"{path}: holds {_numbers(unknown)}, which label.csv does not list for {category}; "
                "add it there or replace the mask"
            )
        return mask


@dataclasses.dataclass(frozen=True)
class BrodenTables:
    """What index.csv and label.csv say; the files that they name may be there or not.

    Attributes:
        folder: of the data set.
        concepts: labels of label.csv in the categories that index.csv has columns for, sorted by (category, number).
        rows: lines of index.csv by split, in its order.
        known: the label numbers of each category.
        digest: of both tables' bytes.
        coverage: as in `Dataset`.
    """

    folder: Path
    concepts: tuple[Concept, ...]
    rows: dict[Split, tuple[Row, ...]]
    known: dict[str, frozenset[int]]
    digest: bytes
    coverage: tuple[float, ...]

    @property
    def images(self) -> Path:
        """What the names in the rows are relative to."""
        return self.folder / "images"

    def split(self, split: Split) -> BrodenSplit:
        """The images of one split; nothing is opened yet."""
        return BrodenSplit(self.images, self.rows[split], self.known)


def open_broden(folder: str | Path, name: str) -> Dataset:
    """Reads index.csv and label.csv of a Broden folder; images and masks are read when asked for.

    Concepts are all labels of label.csv in the categories that index.csv has columns for; a label of two categories is
    two concepts, of which the one that covers more is primary: by the coverage in c_CATEGORY.csv, as NetDissect does; by the
    counts of images in label.csv where a c_CATEGORY.csv is missing or lacks the label; without these by the order in
    label.csv, whose first category is the most frequent. Color is left out unless asked for. The fingerprint covers
    index.csv and label.csv, and the name and size of every file that the index names, but not where the folder is.

    Args:
        folder: holds index.csv, label.csv and images/.
        name: what results call the data set.

    Raises:
        InputError: the folder is missing or empty, a table is missing or malformed, the index names files that are not
            there or image labels that label.csv lacks.
    """
    tables = read_tables(folder)
    sizes = file_sizes(tables)
    absent = [file for file, size in sizes.items() if size is None]
    if absent:
        raise InputError(
            f"{tables.folder / 'index.csv'}: {len(absent)} of its {len(sizes)} files are not in {tables.images}, the first "
            f"is {absent[0]}; complete the folder or delete their lines"
        )
    digest = hashlib.sha256(tables.digest)
    for file, size in sizes.items():
        digest.update(f"{file}\0{size}\n".encode())
    return Dataset(
        name=name,
        concepts=tables.concepts,
        splits={split: tables.split(split) for split in SPLITS},
        skip_corrupt=False,
        fingerprint=digest.hexdigest(),
        unprobed=("color",),
        coverage=tables.coverage,
    )


def read_tables(folder: str | Path) -> BrodenTables:
    """Reads index.csv and label.csv of a Broden folder, and c_CATEGORY.csv where labels have several categories.

    Raises:
        InputError: the folder is missing or empty, a table is missing or malformed, the index has image labels that
            label.csv lacks.
    """
    folder = existing_folder(folder)
    index_bytes, label_bytes = (_read(folder / table) for table in ("index.csv", "label.csv"))
    concepts, image_counts = _read_labels(folder / "label.csv", label_bytes)
    known = {
        category: frozenset(concept.number for concept in concepts if concept.category == category)
        for category in CATEGORIES
    }
    columns, rows = _read_index(folder / "index.csv", index_bytes, known)
    in_columns = [concept for concept in concepts if concept.category in columns]
    in_columns.sort(key=lambda concept: (columns.index(concept.category), concept.number))
    return BrodenTables(
        folder=folder,
        concepts=tuple(in_columns),
        rows=rows,
        known=known,
        digest=hashlib.sha256(index_bytes).digest() + hashlib.sha256(label_bytes).digest(),
        coverage=_coverage(folder, in_columns, image_counts),
    )


def file_sizes(tables: BrodenTables) -> dict[str, int | None]:
    """Bytes of every image and mask that the index names, None for one that is not there, in the order of the rows.

    Broden names some 200,000 files; a stat each takes half a second on a local disk.
    """
    sizes: dict[str, int | None] = {}
    root = f"{tables.images}{os.sep}"
    for split in SPLITS:
        for row in tables.rows[split]:
            for name in (row.image, *(mask for _, mask in row.masks)):
                if name not in sizes:
                    sizes[name] = _file_size(root + name)
    return sizes


def _file_size(path: str) -> int | None:
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # ValueError: no path can hold a null character.
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


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


def _read_labels(path: Path, content: bytes) -> tuple[list[Concept], dict[Concept, int | None]]:
    """One concept for each category of each label, and its count of images, None without; label 0 is none."""
    header, lines = _read_table(path, content, ("number", "name", "category"))
    concepts, image_counts = {}, {}
    for line_number, line in enumerate(lines, 2):
        if not line:
            continue
        number, name, cell = (line[header[column]].strip() for column in ("number", "name", "category"))
        if not number.isdecimal():
            raise InputError(f"{path}: line {line_number} has the number {number!r}; labels are whole numbers")
        if int(number) == 0:
            continue
        for part in map(str.strip, cell.split(";")):
            category, count = re.fullmatch(r"(.*?)(?:\((\d+)\))?", part, re.DOTALL).groups()
            if not category:
                continue
            if (int(number), category) in concepts:
                raise InputError(f"{path}: line {line_number} lists {number} for {category} again; keep one of the two")
            concept = Concept(number=int(number), name=name, category=category)
            concepts[int(number), category] = concept
            image_counts[concept] = int(count) if count else None
    if not concepts:
        raise InputError(f"{path}: lists no labels; restore the file")
    return list(concepts.values()), image_counts


def _coverage(
    folder: Path, concepts: Sequence[Concept], image_counts: Mapping[Concept, int | None]
) -> tuple[float, ...]:
    """How much each concept covers, comparable within a label; () where no label has several categories.

    All categories of a label are measured alike: by their c_CATEGORY.csv, else by their counts of images, else by the order
    of label.csv.
    """
    coverage = dict.fromkeys(concepts, 0.0)
    labels: dict[int, list[Concept]] = {}
    for concept in image_counts:  # In the order of label.csv.
        if concept in coverage:
            labels.setdefault(concept.number, []).append(concept)
    several = [own for own in labels.values() if len(own) > 1]
    if not several:
        return ()
    stated = {}
    for category in {concept.category for own in several for concept in own}:
        stated |= _read_coverage(folder / f"c_{category}.csv", category)
    for own in several:
        keys = [(concept.number, concept.category) for concept in own]
        counts = [image_counts[concept] for concept in own]
        if all(key in stated for key in keys):
            values = [stated[key] for key in keys]
        elif None not in counts:
            values = [float(count) for count in counts]
        else:
            values = [-float(place) for place in range(len(own))]
        coverage |= dict(zip(own, values, strict=True))
    return tuple(coverage.values())


def _read_coverage(path: Path, category: str) -> dict[tuple[int, str], float]:
    """The coverage of each label of a c_CATEGORY.csv, by (number, category); {} where there is no such file."""
    if not path.is_file():
        return {}
    header, lines = _read_table(path, _read(path), ("number", "coverage"))
    coverage = {}
    for line_number, line in enumerate(lines, 2):
        if not line:
            continue
        try:
            coverage[int(line[header["number"]]), category] = float(line[header["coverage"]])
        except ValueError as error:
            raise InputError(
                f"{path}: line {line_number}: number and coverage are numbers ({error}); restore the file"
            ) from error
    return coverage


def _read_index(
    path: Path, content: bytes, known: dict[str, frozenset[int]]
) -> tuple[tuple[str, ...], dict[Split, tuple[Row, ...]]]:
    """The categories that have a column, and the rows of each split in the file's order."""
    header, lines = _read_table(path, content, ("image", "split", *_SIZES))
    columns = tuple(category for category in CATEGORIES if category in header)
    rows: dict[str, list[Row]] = {split: [] for split in SPLITS}
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
    return columns, {split: tuple(rows[split]) for split in SPLITS}


def _numbers(labels: list[int]) -> str:
    shown = ", ".join(map(str, labels[:5])) + (", ..." if len(labels) > 5 else "")
    return f"label{'s' if len(labels) > 1 else ''} {shown}"
