"""Large images cut into square tiles of the size that a model takes, and what belongs to which pixel put together again.

An image of H x W has ceil(H / tile) rows of ceil(W / tile) tiles. The last of a row or column is moved back until it ends
with the image, so it shows again some of what those before it show; annotated it is in the rest alone, so that every pixel
is counted once. An image that is smaller than a tile in a direction has one tile there, of its own length.
"""

import functools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from PIL import Image

from vitprobe_jax.data.dataset import Annotation, Box, ImageSplit, image_size
from vitprobe_jax.data.latest import Latest
from vitprobe_jax.data.transforms import nearest_cells
from vitprobe_jax.errors import InputError


class TileBox(NamedTuple):
    """Where a tile lies in its image, in pixels."""

    top: int
    left: int
    height: int
    width: int


def tile_boxes(size: tuple[int, int], tile: int) -> list[TileBox]:
    """The tiles of an image of this height and width, row-major.

    Args:
        size: of the image.
        tile: side of a tile in pixels.
    """
    rows, columns = _grid(size, tile)
    return [_box(size, tile, row, column) for row in range(rows) for column in range(columns)]


def patch_of_pixels(
    boxes: Sequence[tuple[int, int, int, int]], grid: tuple[int, int], image_size: tuple[int, int]
) -> Int[np.ndarray, "H W"]:
    """For every pixel of an image the patch that shows it: `values.reshape(-1, ...)[patch]` puts patches' values together.

    A pixel belongs to the first tile that covers it, and there to the patch that its centre lies in.

    Args:
        boxes: the image's tiles as (top, left, height, width), together covering it.
        grid: rows and columns of patches of a tile.
        image_size: height and width of the image.

    Returns:
        Tile number x patches of a tile + patch, row-major; -1 where no tile is.
    """
    rows, columns = grid
    patch = np.full(image_size, -1, np.int32)
    for number in reversed(range(len(boxes))):
        top, left, height, width = boxes[number]
        row = nearest_cells(0, height, length=height, cells=rows)
        column = nearest_cells(0, width, length=width, cells=columns)
        patch[top : top + height, left : left + width] = number * rows * columns + row[:, None] * columns + column[None]
    return patch


class TiledSplit:
    """The tiles of all images of a split, those of an image together and row-major.

    Sizes of all images are looked up, in threads, when a tile is first asked for. Of the images and annotations
    themselves, every thread keeps the one that it asked for last, so going through the tiles in order reads each image
    once. Picklable without those.

    Args:
        parent: the images.
        tile: side of a tile in pixels.

    Raises:
        InputError: `tile` is no length.
    """

    def __init__(self, parent: ImageSplit, tile: int):
        if tile < 1:
            raise InputError(f"--tile: {tile} is no side of a tile; give 1 pixel or more")
        self._parent = parent
        self._tile = tile
        self._image = Latest(parent.image)
        self._annotation = Latest(parent.annotation)

    def __len__(self) -> int:
        return len(self.owner)

    @functools.cached_property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Height and width of each image of the parent."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return tuple(pool.map(functools.partial(image_size, self._parent), range(len(self._parent))))

    @functools.cached_property
    def grids(self) -> tuple[tuple[int, int], ...]:
        """Rows and columns of the tiles of each image of the parent."""
        return tuple(_grid(size, self._tile) for size in self.sizes)

    @functools.cached_property
    def first(self) -> Int[np.ndarray, " n"]:
        """Number of the first tile of each image of the parent."""
        counts = self._counts()
        return np.cumsum(counts) - counts

    @functools.cached_property
    def owner(self) -> Int[np.ndarray, " I"]:
        """The image of the parent that each tile is of."""
        return np.repeat(np.arange(len(self.grids)), self._counts())

    def boxes(self, index: int) -> list[TileBox]:
        """Where the tiles of an image of the parent lie in it."""
        return tile_boxes(self.sizes[index], self._tile)

    def over(self, parent: ImageSplit) -> "TiledSplit":
        """The same tiles of other images of the same sizes, which are not looked up again: corrupted ones."""
        other = TiledSplit(parent, self._tile)
        other.sizes = self.sizes
        return other

    def name(self, index: int) -> str:
        owner, box = self._place(index)
        return f"{self._parent.name(owner)}@{box.top},{box.left}"

    def image(self, index: int) -> Image.Image:
        owner, box = self._place(index)
        return self._image(owner).crop((box.left, box.top, box.left + box.width, box.top + box.height))

    def size(self, index: int) -> tuple[int, int]:
        _, box = self._place(index)
        return box.height, box.width

    def annotation(self, index: int) -> Annotation:
        """What is annotated on a tile.

        Masks have the tile's size, whatever theirs was: each pixel gets the label under its centre, and 0 where an
        earlier tile shows it. Boxes that reach into the tile are told in its pixels, in every tile that they reach into.
        Labels of the whole image are kept.
        """
        owner, box = self._place(index)
        annotation = self._annotation(owner)
        height, width = self.sizes[owner]
        seen_rows, seen_columns = _covered(box.top, self._tile), _covered(box.left, self._tile)

        def cut(mask: Int[np.ndarray, "sh sw"]) -> Int[np.ndarray, "H W"]:
            rows = nearest_cells(box.top, box.height, length=height, cells=mask.shape[0])
            columns = nearest_cells(box.left, box.width, length=width, cells=mask.shape[1])
            tile = mask[rows][:, columns]
            tile[:seen_rows] = 0
            tile[:, :seen_columns] = 0
            return tile

        return Annotation(
            masks=tuple((category, cut(mask)) for category, mask in annotation.masks),
            labels=annotation.labels,
            image_size=(box.height, box.width),
            boxes=tuple(_moved(thing, box) for thing in annotation.boxes if _meet(thing, box)),
        )

    def _counts(self) -> Int[np.ndarray, " n"]:
        return np.array(self.grids, np.int64).reshape(-1, 2).prod(-1)

    def _place(self, index: int) -> tuple[int, TileBox]:
        owner = int(self.owner[index])
        row, column = divmod(index - int(self.first[owner]), self.grids[owner][1])
        return owner, _box(self.sizes[owner], self._tile, row, column)


def _grid(size: tuple[int, int], tile: int) -> tuple[int, int]:
    """Rows and columns of tiles."""
    height, width = size
    return -(-height // tile), -(-width // tile)


def _box(size: tuple[int, int], tile: int, row: int, column: int) -> TileBox:
    """The tile in a row and column of them, moved back where it would reach beyond the image."""
    top, left = (min(i * tile, max(length - tile, 0)) for i, length in zip((row, column), size, strict=True))
    return TileBox(top, left, min(tile, size[0]), min(tile, size[1]))


def _covered(start: int, tile: int) -> int:
    """Pixels of a tile that begins at `start`, along a side, which the tile before it has.

    Tiles begin at multiples of `tile`, but for a last one that was moved back, from the multiple that follows.
    """
    return -start % tile


def _meet(thing: Box, box: TileBox) -> bool:
    inside_x = thing.left < box.left + box.width and thing.right > box.left
    inside_y = thing.top < box.top + box.height and thing.bottom > box.top
    return inside_x and inside_y


def _moved(thing: Box, box: TileBox) -> Box:
    return Box(
        number=thing.number,
        track=thing.track,
        left=thing.left - box.left,
        top=thing.top - box.top,
        right=thing.right - box.left,
        bottom=thing.bottom - box.top,
    )
