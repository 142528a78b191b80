"""Rows that do not fit the devices: they stay on the host or on disk, and programs fetch what they need of them.

A program fetches by `jax.pure_callback`. Two things about it are not obvious:

The program holds no source, only the number of one: sources are no arrays, and a source in static arguments would compile
every program anew for every table. Here stands which number is which source.

On a CPU, JAX copies the arguments of a callback on the very threads that may all be waiting for callbacks, and then hangs
for ever; arguments below 100 KiB it copies at once. Row numbers are therefore handed over in pieces.
"""

import dataclasses
import functools
import itertools
import weakref
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, PyTree

PIECE = 1 << 14
"""Row numbers of one argument of a callback: 64 KiB, safely below what JAX copies at once."""
COPIES = 4
"""A window is counted so many times against the bound: once as the host hands it over, once on the device, twice for what
is made of it there (in float32 where it is bfloat16)."""
READS = 4
"""The host reads at most so many parts of a window at a time, and keeps only the rows that are wanted. They are of
consecutive images: a source that reads in chunks has all chunks in memory that the images of a call are in."""
DEFAULT_DEVICE_BYTES = 1 << 30


@runtime_checkable
class RowSource(Protocol):
    """Rows by image, wherever they are.

    Attributes:
        shape: (images, rows of an image, features).
        dtype: float32 or bfloat16.
    """

    shape: tuple[int, int, int]
    dtype: np.dtype

    def read(self, images: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n R D"]:
        """The rows of some images, in any order, also repeated; zeros for images that could not be decoded.

        Raises:
            InputError: they cannot be read.
        """


@dataclasses.dataclass(frozen=True)
class HostRows:
    """A `RowSource` in the memory of the host.

    Attributes:
        array: the rows.
    """

    array: Float[np.ndarray, "I R D"]

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype:
        return self.array.dtype

    def read(self, images: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n R D"]:
        if len(images) and np.all(np.diff(images) == 1):
            return self.array[images[0] : images[-1] + 1]  # No copy.
        return self.array[images]


@dataclasses.dataclass(frozen=True)
class StreamedRows:
    """What a program knows of rows that are not on the devices; `stream_rows` makes it.

    Attributes:
        handle: number of the source in this process.
        shape: (images, rows of an image, features); images beyond those of the source are zeros.
        dtype: of the rows.
        device_bytes: bound on what fetched rows take at a time for each device, the host's copies included. It is exceeded
            only where a single image, or a single batch of a group of concepts, needs more.
    """

    handle: Int[Array, ""]
    shape: tuple[int, int, int]
    dtype: np.dtype
    device_bytes: int

    @property
    def rows_together(self) -> int:
        """Rows of a window."""
        return max(1, self.device_bytes // (COPIES * self.shape[2] * self.dtype.itemsize))

    @property
    def images_together(self) -> int:
        """Images of a window."""
        return max(1, self.rows_together // self.shape[1])


jax.tree_util.register_dataclass(StreamedRows, ["handle"], ["shape", "dtype", "device_bytes"])


def stream_rows(source: RowSource, num_images: int, mesh: Mesh, *, device_bytes: int) -> StreamedRows:
    """Rows that the programs of this process can fetch, for as long as the handle of the result is alive.

    Args:
        source: the rows. Every process of the mesh has to have one with the same rows.
        num_images: images, padding included.
        mesh: where they will be used.
        device_bytes: as in `StreamedRows`.
    """
    number = next(_numbers)
    everywhere = NamedSharding(mesh, PartitionSpec())
    # Not device_put, which would insist on the same number in all processes.
    handle = jax.make_array_from_callback((), everywhere, lambda _: np.array(number, np.int32))
    _, num_rows, width = source.shape
    rows = StreamedRows(handle, (num_images, num_rows, width), np.dtype(source.dtype), device_bytes)
    _streams[number] = _Stream(source, max(1, rows.images_together // READS))
    weakref.finalize(handle, _streams.pop, number, None)
    return rows


def take_rows(rows: Float[Array, "I R D"] | StreamedRows, index: Int[Array, "*lead"]) -> Float[Array, "*lead D"]:
    """The rows of these numbers, which count over all images: row r of image i is i * R + r. They must exist.

    Of streamed rows, each image is read once a call, in ascending order. On the host that takes memory for the rows and
    for some images, not for all the images that the rows are of.
    """
    if isinstance(rows, StreamedRows):
        return _fetch(rows, index, by_image=False)
    return rows.reshape(-1, rows.shape[-1]).at[index].get(mode="promise_in_bounds")


def take_images(rows: Float[Array, "I R D"] | StreamedRows, images: Int[Array, "*lead"]) -> Float[Array, "*lead R D"]:
    """The rows of these images, which must exist; see `take_rows`."""
    if isinstance(rows, StreamedRows):
        return _fetch(rows, images, by_image=True)
    return rows.at[images].get(mode="promise_in_bounds")


def finished(rows: Float[Array, "I R D"] | StreamedRows, results: PyTree) -> PyTree:
    """The results of a program that took from `rows`; of streamed ones, waits for them.

    Every caller of such a program passes its results through here, which also keeps the source until then. A callback
    that raises would leave the devices in the middle of the program and the user with JAX's traceback; instead it gives
    zeros, and what it met is raised here.

    Raises:
        InputError: the source could not be read.
    """
    if isinstance(rows, StreamedRows):
        jax.block_until_ready(results)
        error = _streams[int(rows.handle.addressable_data(0))].error
        if error is not None:
            raise error
    return results


class _Stream:
    """A source with what went wrong in reading it."""

    def __init__(self, source: RowSource, images_read: int):
        self.source = source
        self.images_read = images_read
        self.error: Exception | None = None

    def take(self, index: np.ndarray, by_image: bool) -> np.ndarray:
        num_images, num_rows, width = self.source.shape
        per_image, unit = (1, (num_rows, width)) if by_image else (num_rows, (width,))
        taken = np.zeros((len(index), *unit), self.source.dtype)
        order = np.argsort(index, kind="stable")
        order = order[: np.searchsorted(index, num_images * per_image, sorter=order)]
        image, place = np.divmod(index[order], per_image)
        # Parts are those of the table, wherever the wanted images begin.
        cuts = np.append(np.flatnonzero(np.diff(image // self.images_read, prepend=-1)), len(order))
        for start, end in itertools.pairwise(cuts):
            if self.error is not None:
                break
            is_new = np.diff(image[start:end], prepend=-1) > 0
            try:
                units = self.source.read(image[start:end][is_new]).reshape(-1, *unit)
            except Exception as error:
                self.error = error
                break
            taken[order[start:end]] = units[(np.cumsum(is_new) - 1) * per_image + place[start:end]]
        return taken


_streams: dict[int, _Stream] = {}
_numbers = itertools.count()


def _fetch(rows: StreamedRows, index, *, by_image: bool):
    _, num_rows, width = rows.shape
    unit = (num_rows, width) if by_image else (width,)

    @custom_vmap
    def fetch(handle, index):
        flat = index.reshape(-1)
        pieces = [flat[start : start + PIECE] for start in range(0, len(flat), PIECE)]
        result = jax.ShapeDtypeStruct((len(flat), *unit), rows.dtype)
        taken = jax.pure_callback(functools.partial(_take, by_image), result, handle, *pieces)
        return taken.reshape(*index.shape, *unit)

    @fetch.def_vmap
    def _(axis_size, batched, handle, index):
        # One call for the whole batch; JAX's own rule would make the pieces larger. A branch that differs within the batch
        # has a copy of everything for each element, also of the handle and of what does not differ.
        handle = handle[0] if batched[0] else handle
        return fetch(handle, index), batched[1]

    return fetch(rows.handle, index) if index.size else jnp.zeros((*index.shape, *unit), rows.dtype)


def _take(by_image: bool, handle: Array, *pieces: Array) -> np.ndarray:
    index = np.concatenate([np.asarray(piece) for piece in pieces])
    return _streams[int(handle)].take(index, by_image)
