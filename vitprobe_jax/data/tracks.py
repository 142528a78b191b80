"""Frames of sequences with boxes of tracked objects: what the readers of tracking data sets share."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from vitprobe_jax.data.dataset import Annotation, Box
from vitprobe_jax.data.files import read_image
from vitprobe_jax.errors import InputError


class Frame(NamedTuple):
    """A frame: its file relative to the data set's folder, its number in the sequence, its boxes."""

    file: str
    number: int
    boxes: tuple[Box, ...]


class Sequence(NamedTuple):
    """A sequence: height and width of all its frames, and the frames in ascending order of their numbers."""

    name: str
    image_size: tuple[int, int]
    frames: tuple[Frame, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class TrackSplit:
    """The frames of all sequences, one sequence after the other.

    Boxes are kept in arrays: BDD100K has half a million of them, which as objects would fill each worker's memory.

    Attributes:
        folder: of the data set.
        files: of each frame, relative to the folder.
        sequences: name, height and width of each sequence.
        frames: index into `sequences`, and number in the sequence, of each frame.
        starts: boxes of frame i are those from `starts[i]` to `starts[i + 1]`.
        objects: label number and track of each box.
        edges: left, top, right and bottom of each box, in pixels.
    """

    folder: Path
    files: tuple[str, ...]
    sequences: tuple[tuple[str, int, int], ...]
    frames: Int[np.ndarray, "I 2"]
    starts: Int[np.ndarray, "I+1"]
    objects: Int[np.ndarray, "n 2"]
    edges: Float[np.ndarray, "n 4"]

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        return self.files[index]

    def image(self, index: int) -> Image.Image:
        path = self.folder / self.files[index]
        image = read_image(path, mode="RGB")
        sequence, height, width = self.sequences[self.frames[index, 0]]
        if (image.height, image.width) != (height, width):
            raise InputError(
                f"{path}: is {image.height} x {image.width}, the boxes of {sequence} are for frames of {height} x {width}; "
                "replace the file"
            )
        return image

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of a frame; `image` makes sure of them."""
        _, height, width = self.sequences[self.frames[index, 0]]
        return height, width

    def annotation(self, index: int) -> Annotation:
        boxes = slice(self.starts[index], self.starts[index + 1])
        rows = zip(self.objects[boxes].tolist(), self.edges[boxes].tolist(), strict=True)
        return Annotation(boxes=tuple(Box(*of, *edges) for of, edges in rows))

    def frame(self, index: int) -> tuple[str, int]:
        sequence, number = self.frames[index].tolist()
        return self.sequences[sequence][0], number


def pack_sequences(folder: Path, sequences: Iterable[Sequence]) -> TrackSplit:
    """The split of these sequences, in their order."""
    files, names, frames, counts, objects, edges = [], [], [], [], [], []
    for sequence in sequences:
        for frame in sequence.frames:
            files.append(frame.file)
            frames.append((len(names), frame.number))
            counts.append(len(frame.boxes))
            objects += [(box.number, box.track) for box in frame.boxes]
            edges += [(box.left, box.top, box.right, box.bottom) for box in frame.boxes]
        names.append((sequence.name, *sequence.image_size))
    return TrackSplit(
        folder=folder,
        files=tuple(files),
        sequences=tuple(names),
        frames=np.array(frames, np.int64).reshape(-1, 2),
        starts=np.cumsum([0, *counts]),
        objects=np.array(objects, np.int64).reshape(-1, 2),
        edges=np.array(edges, np.float64).reshape(-1, 4),
    )


def check_box(box: Box, image_size: tuple[int, int], where: str) -> None:
    """Raises where a box shows nothing; one that reaches beyond its image is fine.

    Args:
        box: any.
        image_size: height and width of its frame.
        where: how the message begins: file, line or frame, object.

    Raises:
        InputError: the box has no area, or lies outside the image.
    """
    if not (box.left < box.right and box.top < box.bottom):
        raise InputError(f"{where}: its box {_edges(box)} has no area; correct or delete it")
    if is_outside(box, image_size):
        height, width = image_size
        raise InputError(
            f"{where}: its box {_edges(box)} lies outside the {height} x {width} image; correct or delete it"
        )


def is_outside(box: Box, image_size: tuple[int, int]) -> bool:
    """Whether no part of a box lies in an image of this height and width."""
    height, width = image_size
    return box.right <= 0 or box.bottom <= 0 or box.left >= width or box.top >= height


def _edges(box: Box) -> str:
    return f"({box.left:g}, {box.top:g}) to ({box.right:g}, {box.bottom:g})"
