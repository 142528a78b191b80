"""Images of a split, decoded, transformed and batched by grain, in threads or in worker processes."""

import contextlib
import dataclasses
import functools
import gc
import os
from collections.abc import Iterator, Sequence
from typing import SupportsIndex

import grain
import numpy as np
from absl import flags
from jaxtyping import UInt8

from vitprobe_jax.data.dataset import ImageSplit
from vitprobe_jax.data.transforms import Transform
from vitprobe_jax.errors import InputError

_MESSAGE_BYTES = 1024


@dataclasses.dataclass(frozen=True)
class Batch:
    """Consecutive images of a split, in its order.

    Attributes:
        images: RGB in 0..255; zeros where an image could not be decoded, and after `num_valid`.
        num_valid: images of the split in this batch; the rest pads the last batch to the common size.
        errors: (index in the split, what is wrong) of images that could not be decoded; what to do is the caller's to say.
    """

    images: UInt8[np.ndarray, "B H W 3"]
    num_valid: int
    errors: tuple[tuple[int, str], ...] = ()


def image_batches(split: ImageSplit, transform: Transform, *, batch_size: int, num_workers: int = 0) -> Iterator[Batch]:
    """Yields the whole split once, in order; the batches are the same for every `num_workers`.

    A process of a multi-host run gives its own part of the split (an `ImageSubset`).

    Args:
        split: which images.
        transform: how they are brought to one size.
        batch_size: images in every batch, the padded last one included.
        num_workers: worker processes; 0 decodes in threads of this one. Workers are spawned, so a script that asks for
            them guards its entry point with `if __name__ == "__main__"`.
    """
    # An element of the data set is a batch, so that grain hands whole batches to workers in turn. A few in flight are
    # enough; grain's default of 500 would fill the memory.
    threads = min(os.cpu_count() or 1, 8) if num_workers == 0 else 1
    batches = (
        grain.MapDataset.source(_Decoded(split, transform))
        .batch(batch_size, batch_fn=functools.partial(_collate, batch_size=batch_size))
        .to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 1))
    )
    if num_workers > 0:
        # Worker processes receive grain's own absl flags, which cannot be read before somebody has parsed them.
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=num_workers))
    first = 0
    with contextlib.closing(iter(batches)) as iterator:
        for batch in iterator:
            messages = [bytes(message).decode(errors="ignore") for message in batch["messages"]]
            errors = tuple((first + i, message) for i, message in enumerate(messages) if message)
            num_valid = int(batch["num_valid"])
            # A copy, since a worker's array lies in shared memory, which would be held as long as the batch is.
            yield Batch(np.array(batch["images"]), num_valid, errors)
            first += num_valid
    if num_workers > 0:
        # grain's StopIteration and its frames are a cycle that holds each worker's last batch; left to chance, it lives
        # until the interpreter exits, which then complains of leaked shared memory.
        gc.collect()


class _Decoded:
    """A split as grain's random access source of (image, error message); one of the two is empty."""

    def __init__(self, split: ImageSplit, transform: Transform):
        self._split = split
        self._transform = transform

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, index: SupportsIndex) -> tuple[np.ndarray, bytes]:
        try:
            return self._transform.image(self._split.image(int(index))), b""
        except InputError as error:
            return np.zeros((*self._transform.size, 3), np.uint8), str(error).encode()


def _collate(examples: Sequence[tuple[np.ndarray, bytes]], *, batch_size: int) -> dict[str, np.ndarray]:
    """One array a field: that is what worker processes hand over through shared memory."""
    images = np.zeros((batch_size, *examples[0][0].shape), np.uint8)
    messages = np.zeros(batch_size, f"S{_MESSAGE_BYTES}")
    for i, (image, message) in enumerate(examples):
        images[i], messages[i] = image, message
    return {"images": images, "messages": messages, "num_valid": np.asarray(len(examples))}
