"""Broden's layout, written from photographs and masks of label numbers; `broden.py` reads it.

    images/NAME.jpg            a photograph, byte for byte
    images/NAME_CATEGORY.png   its labels of one category, R + 256 G, in the size that the mask came in
    index.csv                  a line an image
    label.csv, category.csv, c_CATEGORY.csv   what there is, how often (images) and how much (shares of images, added up)

An image has no mask of a category of which it shows nothing.
"""

import contextlib
import csv
import io
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from vitprobe_jax.data.broden import CATEGORIES
from vitprobe_jax.data.encoded import encode_mask
from vitprobe_jax.data.files import read_image
from vitprobe_jax.errors import InputError
from vitprobe_jax.types import SPLITS, Concept, Split

_EXIF_ORIENTATION = 0x0112


class Placed(NamedTuple):
    """What `place_image` wrote of one image.

    Attributes:
        image: its path relative to `images/`.
        image_size: height and width, as stored.
        mask_size: height and width of its masks.
        masks: category -> path of the mask, relative to `images/`.
        shares: label number -> share of the mask's pixels, above 0 and at most 1.
        turned: whether viewers turn the image by its EXIF orientation, which no reader here does.
    """

    image: str
    image_size: tuple[int, int]
    mask_size: tuple[int, int]
    masks: dict[str, str]
    shares: dict[int, float]
    turned: bool


@contextlib.contextmanager
def whole_folder(output: Path) -> Iterator[Path]:
    """A folder beside `output` to write into, which takes its place at the end and is removed after any exception.

    Raises:
        InputError: `output` exists and is not an empty folder, or its parent cannot be written to, or the disk is full.
    """
    output = output.expanduser().resolve()
    partial = output.parent / f".{output.name}.partial-{os.getpid()}"
    try:
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise InputError(f"--output: {output} exists and is not an empty folder; name a new one")
        partial.mkdir(parents=True)
        yield partial
        partial.rename(output)
    except OSError as error:
        raise InputError(f"--output: {output} cannot be written ({error}); name another folder") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def mask_name(image: str, category: str) -> str:
    """What the mask of an image and category is called, relative to `images/`."""
    path = PurePosixPath(image)
    return str(path.with_name(f"{path.stem}_{category}.png"))


def check_names(images: Sequence[str], concepts: Iterable[Concept]) -> None:
    """Makes sure that no mask would take the name of a photograph.

    Raises:
        InputError: one would; names both.
    """
    known = set(images)
    for category in {concept.category for concept in concepts}:
        for image in images:
            name = mask_name(image, category)
            if name in known:
                raise InputError(f"images/{name}: the {category} mask of {image} takes this name; rename one of them")


def place_image(
    folder: Path,
    image: str,
    source: Path,
    mask: Int[np.ndarray, "sh sw"],
    mask_source: Path,
    categories: Mapping[int, str],
    *,
    link: bool = False,
) -> Placed:
    """Writes the photograph and one mask for each category that it shows.

    Args:
        folder: of the data set.
        image: the photograph's path relative to `images/`.
        source: where the photograph is; its bytes are kept.
        mask: the label number of every pixel, 0 for none. Of any size, in the photograph's proportions to within a pixel.
        mask_source: what messages call the mask.
        categories: of each label number.
        link: hard-links the photograph in place of copying it.

    Raises:
        InputError: the photograph cannot be decoded or linked, the mask has other proportions, or numbers that
            `categories` lacks; names the file.
    """
    photograph = read_image(source)
    (height, width), (sh, sw) = photograph.size[::-1], mask.shape
    if abs(sh * width - sw * height) >= max(height, width):
        raise InputError(
            f"{mask_source}: is {sh} x {sw}, its image {source.name} {height} x {width}; a mask may be smaller or larger, "
            "but has the proportions of its image: make it anew"
        )
    counts = np.bincount(mask.ravel())
    present = np.flatnonzero(counts[1:]) + 1
    unknown = [int(number) for number in present if int(number) not in categories]
    if unknown:
        shown = ", ".join(map(str, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
        raise InputError(
            f"{mask_source}: holds {shown}, which names.csv does not list; add a line there, or give --ignore={unknown[0]} "
            "where that means no label"
        )
    target = folder / "images" / image
    target.parent.mkdir(parents=True, exist_ok=True)
    _bring(source, target, link=link)
    masks = {}
    for category in CATEGORIES:
        numbers = [int(number) for number in present if categories[int(number)] == category]
        if numbers:
            masks[category] = mask_name(image, category)
            content = encode_mask(np.where(np.isin(mask, numbers), mask, 0))
            (folder / "images" / masks[category]).write_bytes(content)
    return Placed(
        image=image,
        image_size=(height, width),
        mask_size=(sh, sw),
        masks=masks,
        shares={int(number): int(counts[number]) / mask.size for number in present},
        turned=photograph.getexif().get(_EXIF_ORIENTATION, 1) != 1,
    )


def write_tables(
    folder: Path, concepts: Sequence[Concept], placed: Sequence[Placed], splits: Mapping[str, Split]
) -> dict[Concept, dict[Split, int]]:
    """Writes index.csv, label.csv, category.csv and a c_CATEGORY.csv for each category.

    Args:
        folder: of the data set; `images/` is there.
        concepts: all labels, those that no image shows too; a number has one category.
        placed: what was written of each image, in the order of the index.
        splits: of each image.

    Returns:
        How many images of each split show each concept.
    """
    index = []
    for item in placed:
        masks = [item.masks.get(category, "") for category in CATEGORIES]
        index.append([item.image, splits[item.image], *item.image_size, *item.mask_size, *masks])
    _write(folder / "index.csv", ["image", "split", "ih", "iw", "sh", "sw", *CATEGORIES], index)

    shown = {concept: {split: 0 for split in SPLITS} for concept in sorted(concepts)}
    coverage = dict.fromkeys(shown, 0.0)
    by_number = {concept.number: concept for concept in shown}
    for item in placed:
        for number, share in item.shares.items():
            shown[by_number[number]][splits[item.image]] += 1
            coverage[by_number[number]] += share
    counts = {concept: (sum(of_split.values()), f"{coverage[concept]:.6f}") for concept, of_split in shown.items()}
    _write(
        folder / "label.csv",
        ["number", "name", "category", "frequency", "coverage", "syns"],
        [[c.number, c.name, f"{c.category}({n})", n, share, ""] for c, (n, share) in counts.items()],
    )
    summary = []
    for category in CATEGORIES:
        members = [(c, *count) for c, count in counts.items() if c.category == category]
        if members:
            numbers = [c.number for c, _, _ in members]
            summary.append([category, min(numbers), max(numbers), len(members), sum(n for _, n, _ in members)])
            lines = [[code, c.number, c.name, n, share] for code, (c, n, share) in enumerate(members, 1)]
            _write(folder / f"c_{category}.csv", ["code", "number", "name", "frequency", "coverage"], lines)
    _write(folder / "category.csv", ["name", "first", "last", "count", "frequency"], summary)
    return shown


def _bring(source: Path, target: Path, *, link: bool) -> None:
    if not link:
        shutil.copyfile(source, target)
        return
    try:
        os.link(source.resolve(), target)
    except OSError as error:
        raise InputError(
            f"--link: {source} cannot be hard-linked into the output ({error.strerror}); leave --link out to copy"
        ) from error


def _write(path: Path, header: Sequence[str], lines: Iterable[Sequence[object]]) -> None:
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(header)
    table.writerows(lines)
    path.write_bytes(text.getvalue().encode())
