"""Where extracted rows are kept between the backbone and the probes: in memory here, on disk in `cache`.

Rows are written a shard at a time, a shard being a fixed number of consecutive images of a split. What was written stays;
what is missing can be told and done again.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from vitprobe_jax.features.streaming import HostRows, RowSource
from vitprobe_jax.types import Token

Cell = tuple[int, Token]
"""(block, token): one table."""

SHARD_BYTES = 32 << 20
"""A shard of one cell at most; smaller ones would be too many files, larger ones too much work to lose."""
MAX_SHARD_IMAGES = 1024
MANY_SHARDS = 64
"""A split of some size has so many at least, so that they can be dealt evenly to the processes of a run."""
MIN_SHARD_IMAGES = 32


@dataclasses.dataclass(frozen=True)
class RowShape:
    """The rows of one cell over one split.

    Attributes:
        num_images: of the split.
        num_rows: of an image.
        width: features of a row.
        dtype: of a feature, `float32` or `bfloat16`.
    """

    num_images: int
    num_rows: int
    width: int
    dtype: str

    @property
    def full(self) -> tuple[int, int, int]:
        """[I, R, D]."""
        return self.num_images, self.num_rows, self.width

    @property
    def image_bytes(self) -> int:
        """What the rows of an image take."""
        return self.num_rows * self.width * (2 if self.dtype == "bfloat16" else 4)

    @property
    def bytes(self) -> int:
        """What all rows take."""
        return self.num_images * self.image_bytes

    @property
    def shard_images(self) -> int:
        """Images of a shard: a power of two, so that whole batches fill it, whatever devices they are spread over."""
        enough = max(self.num_images // MANY_SHARDS, MIN_SHARD_IMAGES)
        fitting = max(1, min(SHARD_BYTES // self.image_bytes, MAX_SHARD_IMAGES, enough))
        return 1 << (fitting.bit_length() - 1)

    @property
    def num_shards(self) -> int:
        """Shards of a cell; the last one may be smaller."""
        return -(-self.num_images // self.shard_images)

    def images_of(self, shard: int) -> range:
        """The images of a shard."""
        return range(shard * self.shard_images, min((shard + 1) * self.shard_images, self.num_images))


@runtime_checkable
class RowSink(Protocol):
    """What an extraction hands its rows to. Rows of images that could not be decoded are zeros.

    Attributes:
        shape: of every cell.
    """

    shape: RowShape

    def write(self, shard: int, rows: Mapping[Cell, Float[np.ndarray, "i R D"]], errors: Mapping[int, str]) -> None:
        """Adds a shard whole.

        Args:
            shard: its number.
            rows: of its images, by cell; what is there already is left as it is.
            errors: what was wrong with images of this shard that could not be decoded, by their number in the split.
        """
        ...


@runtime_checkable
class RowStore(RowSink, Protocol):
    """The rows of one split of one backbone, by cell."""

    def missing(self, cells: Sequence[Cell], shards: Iterable[int]) -> list[int]:
        """Those of the shards in which rows of some of the cells are missing or damaged."""
        ...

    def errors(self) -> dict[int, str]:
        """What was wrong with the images that could not be decoded, of all shards, by image."""
        ...

    def source(self, cell: Cell) -> RowSource:
        """The rows of a cell of which no shard is missing."""
        ...

    def release(self, cell: Cell) -> None:
        """Forgets a cell in memory; on disk it stays."""
        ...


class MemoryStore:
    """A `RowStore` in the memory of this process."""

    def __init__(self, shape: RowShape):
        self.shape = shape
        self._rows: dict[Cell, np.ndarray] = {}
        self._written: set[tuple[Cell, int]] = set()
        self._errors: dict[int, str] = {}

    def missing(self, cells: Sequence[Cell], shards: Iterable[int]) -> list[int]:
        return [shard for shard in shards if any((cell, shard) not in self._written for cell in cells)]

    def write(self, shard: int, rows: Mapping[Cell, Float[np.ndarray, "i R D"]], errors: Mapping[int, str]) -> None:
        images = self.shape.images_of(shard)
        for cell, block in rows.items():
            if cell not in self._rows:
                self._rows[cell] = np.empty(self.shape.full, block.dtype)
            self._rows[cell][images.start : images.stop] = block
            self._written.add((cell, shard))
        self._errors |= errors

    def errors(self) -> dict[int, str]:
        return dict(sorted(self._errors.items()))

    def source(self, cell: Cell) -> RowSource:
        return HostRows(self._rows[cell])

    def release(self, cell: Cell) -> None:
        del self._rows[cell]
        self._written = {(other, shard) for other, shard in self._written if other != cell}
