"""The labels of whole images: what a classifier of images is trained on."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Int

from vitprobe_jax.data.dataset import ImageSplit
from vitprobe_jax.errors import InputError
from vitprobe_jax.types import Concept

_BLOCK = 64
"""Images that a thread goes through at a time: most annotations are at hand, and a task each would cost more than they."""

T = TypeVar("T")


def image_labels(split: ImageSplit, concepts: tuple[Concept, ...]) -> Bool[np.ndarray, "I K"]:
    """Which concepts hold for each image as a whole; masks say nothing here.

    Args:
        split: which images; only their annotations are read.
        concepts: those that count, in the order of the columns.

    Raises:
        InputError: an annotation cannot be read.
    """
    present = np.zeros((len(split), len(concepts)), bool)
    for index, columns in enumerate(_columns(split, concepts)):
        present[index, columns] = True
    return present


def image_classes(split: ImageSplit, concepts: tuple[Concept, ...]) -> Int[np.ndarray, " I"]:
    """The one class of each image as its index in `concepts`, -1 where it is of none: `image_labels` without its size.

    Args:
        split: which images; only their annotations are read.
        concepts: the classes.

    Raises:
        InputError: an image is of several classes, or an annotation cannot be read.
    """
    classes = np.full(len(split), -1, np.int32)
    for index, columns in enumerate(_columns(split, concepts)):
        if len(columns) > 1:
            names = ", ".join(concepts[column].name for column in columns)
            raise InputError(
                f"--dataset: {split.name(index)} is of {len(columns)} classes ({names}), where each image is to be of "
                "one; give a data set of classes, or leave all but one of its categories out"
            )
        classes[index] = columns[0] if columns else -1
    return classes


def read_all(read: Callable[[int], T], count: int) -> list[T]:
    """`read` of 0 to `count` - 1, in order, called in threads: what it raises for the first of them is raised."""

    def read_block(start: int) -> list[T]:
        return [read(index) for index in range(start, min(start + _BLOCK, count))]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [value for block in pool.map(read_block, range(0, count, _BLOCK)) for value in block]


def _columns(split: ImageSplit, concepts: tuple[Concept, ...]) -> list[list[int]]:
    """Of each image the indices of its concepts, ascending."""
    place = {(concept.category, concept.number): i for i, concept in enumerate(concepts)}

    def columns_of(index: int) -> list[int]:
        return sorted({place[label] for label in split.annotation(index).labels if label in place})

    return read_all(columns_of, len(split))
