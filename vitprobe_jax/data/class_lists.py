"""Photographs of one class each, listed with their classes: what readers of official lists and of class folders share."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from vitprobe_jax.data.dataset import Dataset
from vitprobe_jax.data.files import file_sizes
from vitprobe_jax.data.imagefolder import FolderSplit
from vitprobe_jax.errors import InputError
from vitprobe_jax.types import Concept, Split


class Classed(NamedTuple):
    """An image of a list.

    Attributes:
        file: path relative to the root of the data set.
        number: of its class, from 1.
    """

    file: str
    number: int


def class_dataset(folder: Path, name: str, names: Sequence[str], listed: Mapping[Split, Sequence[Classed]]) -> Dataset:
    """The data set of these lists, images in their order. Every image must exist; none is decoded.

    Args:
        folder: the root of the data set.
        name: what results call the data set.
        names: of the classes, number 1 first.
        listed: the images of each split.

    Raises:
        InputError: a listed image is not there.
    """
    digest = hashlib.sha256(repr(tuple(names)).encode())
    for split, images in listed.items():
        sizes = file_sizes(folder, {os.path.dirname(image.file) for image in images})
        missing = [image.file for image in images if image.file not in sizes]
        if missing:
            raise InputError(
                f"--dataset: {len(missing)} of the {len(images)} {split} images are not in {folder}, the first is "
                f"{missing[0]}; unpack all images there"
            )
        for file, number in images:
            line = f"{split}\0{file}\0{sizes[file]}\0{number}\n"
            digest.update(line.encode("utf-8", "surrogateescape"))
    return Dataset(
        name=name,
        concepts=tuple(Concept(number, label, "class") for number, label in enumerate(names, 1)),
        splits={
            split: FolderSplit(
                folder,
                tuple(image.file for image in images),
                tuple(image.number for image in images),
                tuple(names),
            )
            for split, images in listed.items()
        },
        skip_corrupt=True,
        fingerprint=digest.hexdigest(),
    )


def first_folder(folder: Path, inner: Sequence[str], holds: str, kind: str) -> Path:
    """The folder itself, or the first of its folders `inner`, that has `holds`.

    Args:
        folder: as given by the user: the archive's own folder, or that in which it was unpacked.
        inner: names of the archive's own folder.
        holds: a file or folder of the data set.
        kind: its name, for messages.

    Raises:
        InputError: none of them has it.
    """
    for place in (folder, *(folder / part for part in inner)):
        if (place / holds).exists():
            return place
    raise InputError(f"--dataset: {folder} has no {holds}; give the folder that {kind} was unpacked into")
