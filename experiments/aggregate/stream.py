"""Images of a split on the devices of all processes, batch by batch, in any order."""

import contextlib
import dataclasses
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Int, UInt8

from experiments import processes
from vitprobe_jax.data.dataset import ImageSplit, ImageSubset
from vitprobe_jax.data.pipeline import Batch, image_batches
from vitprobe_jax.data.transforms import Transform
from vitprobe_jax.errors import InputError
from vitprobe_jax.features.table import DATA_AXIS
from vitprobe_jax.probes.pooled_parts import parts_of

DECODED, LEAST_DECODED = 256, 32
"""Images that a thread decodes in one go: 2,048 at once would leave threads idle, and 17 such batches be in flight."""


@dataclasses.dataclass(frozen=True)
class Placed:
    """A batch on the devices.

    Attributes:
        images: RGB in 0..255, spread over the mesh; zeros where there is none.
        indices: of each image in its split; -1 where there is none.
        valid: images that are of the split and could be decoded.
    """

    images: UInt8[Array, "B height width 3"]
    indices: Int[np.ndarray, " B"]
    valid: Bool[np.ndarray, " B"]


@dataclasses.dataclass(frozen=True)
class Stream:
    """How images come.

    Attributes:
        mesh: devices of all processes.
        num_workers: that decode.
        skip_corrupt: take no notice of images that cannot be decoded, rather than end.
    """

    mesh: Mesh
    num_workers: int
    skip_corrupt: bool

    def fitting(self, batch: int) -> int:
        """The next batch size that can be dealt to the devices in the parts that heads are trained by."""
        return -(-batch // parts_of(self.mesh)) * parts_of(self.mesh)

    def batches(
        self, split: ImageSplit, transform: Transform, batch: int, order: Int[np.ndarray, " n"] | None = None
    ) -> Iterator[Placed]:
        """Batches of equal size, each process decoding its part of every one.

        Args:
            split: where the images are.
            transform: how they are brought to one size.
            batch: images of each, one that is `fitting`; the last one is filled up with nothing.
            order: which images, in turn; all of them unless given.

        Raises:
            InputError: an image that cannot be decoded, unless such are skipped.
        """
        order = np.arange(len(split)) if order is None else order
        padded = np.concatenate([order, np.full(-len(order) % batch, -1, order.dtype)]).reshape(-1, batch)
        own = processes.share(batch)
        piece = _piece(len(own))
        mine = ImageSubset(split, np.maximum(padded[:, own.start : own.stop], 0).ravel())
        sharding = NamedSharding(self.mesh, PartitionSpec(DATA_AXIS))
        decoded = image_batches(mine, transform, batch_size=piece, num_workers=self.num_workers)
        with contextlib.closing(decoded) as decoded:
            for indices, found in zip(padded, _joined(decoded, len(own) // piece), strict=True):
                wrong = [(place - found.first, message) for place, message in found.errors]
                wrong = [(place, message) for place, message in wrong if indices[own.start + place] >= 0]
                if wrong and not self.skip_corrupt:
                    raise InputError(wrong[0][1])
                good = np.ones(len(own), bool)
                good[[place for place, _ in wrong]] = False
                images = jax.make_array_from_process_local_data(sharding, found.images)
                yield Placed(images, indices, _of_all(good) & (indices >= 0))

    def put(self, leaf: np.ndarray) -> Array:
        """An array that is the same in all processes, spread over the devices by its first axis."""
        return jax.make_array_from_callback(
            leaf.shape, NamedSharding(self.mesh, PartitionSpec(DATA_AXIS)), leaf.__getitem__
        )


def fetched(leaf: Array) -> np.ndarray:
    """All of an array, in every process, however it lies on the devices."""
    if leaf.is_fully_addressable or leaf.is_fully_replicated:
        return np.asarray(leaf)
    return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))


def _piece(images: int) -> int:
    """Images that are decoded together, of so many that are placed together: a divisor near `DECODED`, or all of them."""
    divisors = (size for size in range(min(images, DECODED), LEAST_DECODED - 1, -1) if images % size == 0)
    return next(divisors, images)


def _joined(decoded: Iterator[Batch], count: int) -> Iterator[Batch]:
    """Every `count` consecutive batches as one."""
    for pieces in zip(*[iter(decoded)] * count, strict=True):
        yield Batch(
            pieces[0].images if count == 1 else np.concatenate([piece.images for piece in pieces]),
            pieces[0].first,
            sum(piece.num_valid for piece in pieces),
            tuple(error for piece in pieces for error in piece.errors),
        )


def _of_all(own: Bool[np.ndarray, " n"]) -> Bool[np.ndarray, " B"]:
    """What each process knows of its part, one after the other."""
    if jax.process_count() == 1:
        return own
    return np.asarray(multihost_utils.process_allgather(own)).reshape(-1)
