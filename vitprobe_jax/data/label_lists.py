"""Photographs that a list names, each with any number of labels: what data sets of many labels share."""

import dataclasses
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from absl import logging
from PIL import Image

from vitprobe_jax.data.dataset import Annotation, Dataset
from vitprobe_jax.data.files import file_sizes, image_file_size, read_image
from vitprobe_jax.errors import InputError
from vitprobe_jax.types import Concept, Split

CATEGORY = "object"


class Listed(NamedTuple):
    """An image of a list.

    Attributes:
        file: path relative to the root of the data set.
        numbers: of its labels, ascending; there may be none.
    """

    file: str
    numbers: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class ListedSplit:
    """The images of one list; its groups are what they show, so an image is of several, or of none.

    A listed file that is not there is told of when it is asked for.

    Attributes:
        folder: the root of the data set.
        listed: the images.
        names: of the labels by number.
    """

    folder: Path
    listed: tuple[Listed, ...]
    names: Mapping[int, str]

    @property
    def group_names(self) -> tuple[str, ...]:
        """What there is to show, by number."""
        return tuple(self.names.values())

    def __len__(self) -> int:
        return len(self.listed)

    def name(self, index: int) -> str:
        return self.listed[index].file

    def image(self, index: int) -> Image.Image:
        return read_image(self.folder / self.listed[index].file, mode="RGB")

    def size(self, index: int) -> tuple[int, int]:
        return image_file_size(self.folder / self.listed[index].file)

    def annotation(self, index: int) -> Annotation:
        return Annotation(labels=tuple((CATEGORY, number) for number in self.listed[index].numbers))

    def groups(self, index: int) -> tuple[str, ...]:
        return tuple(self.names[number] for number in self.listed[index].numbers)


def listed_dataset(
    folder: Path,
    name: str,
    names: Mapping[int, str],
    listed: Mapping[Split, Sequence[Listed]],
    *,
    supercategories: tuple[str | None, ...] = (),
) -> Dataset:
    """The data set of these lists. Images are only looked for, by their size in bytes; nothing is decoded.

    Args:
        folder: the root of the data set.
        name: what results call the data set.
        names: of the labels by number from 1, ascending.
        listed: the images of each split.
        supercategories: of the labels, or ().

    Raises:
        InputError: none of the images of a list is there. If some are missing, a warning tells how many.
    """
    digest = hashlib.sha256(repr(sorted(names.items())).encode())
    for split, images in listed.items():
        sizes = file_sizes(folder, {os.path.dirname(image.file) for image in images})
        missing = [image.file for image in images if image.file not in sizes]
        if missing:
            told = f"{len(missing)} of the {len(images)} {split} images are not in {folder}, the first is {missing[0]}"
            if len(missing) == len(images):
                raise InputError(f"--dataset: {told}; unpack the images there")
            logging.warning("%s", told)
        for file, numbers in images:
            line = f"{split}\0{file}\0{sizes.get(file, -1)}\0{numbers}\n"
            digest.update(line.encode("utf-8", "surrogateescape"))
    return Dataset(
        name=name,
        concepts=tuple(Concept(number, label, CATEGORY) for number, label in names.items()),
        splits={split: ListedSplit(folder, tuple(images), names) for split, images in listed.items()},
        skip_corrupt=True,
        fingerprint=digest.hexdigest(),
        supercategories=supercategories,
        multilabel=True,
    )
