"""Images of a split, decoded, transformed and batched by grain, in threads or in worker processes."""

import dataclasses
import functools
import gc
import os
import signal
import time
import weakref
from collections.abc import Sequence
from typing import Any, SupportsIndex

import grain
import numpy as np
from absl import flags
from jaxtyping import UInt8

from vitprobe_jax.data.dataset import ImageSplit
from vitprobe_jax.data.transforms import Transform
from vitprobe_jax.errors import InputError

_MESSAGE_BYTES = 1024
_FREE_SECONDS = 5.0
"""Milliseconds are enough; nothing is to hang on them."""


@dataclasses.dataclass(frozen=True)
class Batch:
    """Consecutive images of a split, in its order.

    Attributes:
        images: RGB in 0..255; zeros where an image could not be decoded, and after `num_valid`.
        first: index in the split of the first image.
        num_valid: images of the split in this batch; the rest pads the last batch to the common size.
        errors: (index in the split, what is wrong) of images that could not be decoded; what to do is the caller's to say.
    """

    images: UInt8[np.ndarray, "B H W 3"]
    first: int
    num_valid: int
    errors: tuple[tuple[int, str], ...] = ()


def image_batches(split: ImageSplit, transform: Transform, *, batch_size: int, num_workers: int = 0) -> "ImageBatches":
    """One pass over the whole split, in order; the batches are the same for every `num_workers`.

    Nothing is shuffled and nothing is random. A process of a run with several gives its own part of the split, an
    `ImageSubset` of consecutive images: the parts of all processes, one after the other, are the split, whatever their
    number, and no process reads what is another's.

    Args:
        split: which images.
        transform: how they are brought to one size.
        batch_size: images in every batch, the padded last one included.
        num_workers: worker processes; 0 decodes in threads of this one. Workers are spawned, so a script that asks for
            them guards its entry point with `if __name__ == "__main__"`.
    """
    return ImageBatches(split, transform, batch_size=batch_size, num_workers=num_workers)


class ImageBatches(grain.DatasetIterator[Batch]):
    """The iterator of `image_batches`: resumable, to be closed by who leaves it before its end.

    Decoding starts with the first batch asked for, or with `start_prefetch`, which returns at once, so that workers
    start while something else is made ready. Its state is a place in the split, and nothing of how the batches are
    made: it may be resumed with other workers, or another batch size. Being a grain iterator, it can be an item of an
    Orbax checkpoint.
    """

    def __init__(self, split: ImageSplit, transform: Transform, *, batch_size: int, num_workers: int = 0):
        super().__init__()
        self._decoded = _Decoded(split, transform)
        self._batch_size = batch_size
        self._num_workers = num_workers
        self._next_image = 0
        self._running: list[grain.DatasetIterator] = []  # None or one.
        # At the latest when this is forgotten or the interpreter exits: grain closes itself too late then, when the
        # modules that it needs are gone, and leaves shared memory behind.
        weakref.finalize(self, _close_all, self._running)

    def __next__(self) -> Batch:
        """The next batch.

        Raises:
            ValueError: the iterator is closed.
        """
        self.start_prefetch()
        if self._next_image == len(self._decoded):
            _close_all(self._running)
            raise StopIteration
        try:
            batch = next(self._running[0])
        except BaseException:
            # Whoever goes on all the same gets this batch again: grain would skip it, or end.
            _close_all(self._running)
            raise
        first, num_valid = self._next_image, int(batch["num_valid"])
        messages = [bytes(message).decode(errors="ignore") for message in batch["messages"]]
        errors = tuple((first + i, message) for i, message in enumerate(messages) if message)
        self._next_image += num_valid
        # A copy, since a worker's array lies in shared memory, which would be held as long as the batch is.
        return Batch(np.array(batch["images"]), first, num_valid, errors)

    def get_state(self) -> dict[str, int]:
        """The place in the split, JSON-ready: `next_image` is the index of the first image not yet handed out."""
        return {"next_image": self._next_image}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to the place that `get_state` told, on this iterator or another one of the same split.

        What is left then comes as it would have come without a stop. Decoding starts anew, workers included.

        Raises:
            InputError: there is no such place in the split.
        """
        next_image = state.get("next_image")
        if not isinstance(next_image, int) or not 0 <= next_image <= len(self._decoded):
            raise InputError(
                f"state {state} is no place in a split of {len(self._decoded)} images; give a state of the same split"
            )
        _close_all(self._running)
        self._next_image = next_image

    def start_prefetch(self) -> None:
        """Starts to decode, unless it has been started.

        Raises:
            ValueError: the iterator is closed.
        """
        if self._closed:
            raise ValueError("these batches were closed; call image_batches again")
        if not self._running and self._next_image < len(self._decoded):
            iterator = iter(self._dataset())
            self._running.append(iterator)
            # Asking for the state makes the iterators of all workers; those that grain has not made yet it neither starts
            # here nor closes later.
            iterator.get_state()
            iterator.start_prefetch()

    def close(self) -> None:
        """Ends threads and workers, with what they have decoded; there are no further batches."""
        super().close()
        _close_all(self._running)

    def _dataset(self) -> grain.IterDataset:
        """Batches from the current place on."""
        # An element of the data set is a batch, so that grain hands whole batches to workers in turn. A few in flight are
        # enough; grain's default of 500 would fill the memory.
        threads = min(os.cpu_count() or 1, 8) if self._num_workers == 0 else 1
        batches = (
            grain.MapDataset.source(self._decoded)
            .slice(slice(self._next_image, None))
            .batch(self._batch_size, batch_fn=functools.partial(_collate, batch_size=self._batch_size))
            .to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 1))
        )
        if self._num_workers == 0:
            return batches
        # Worker processes receive grain's own absl flags, which cannot be read before somebody has parsed them.
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        options = grain.MultiprocessingOptions(num_workers=self._num_workers)
        return batches.mp_prefetch(options, worker_init_fn=_leave_interrupts)


def _close_all(iterators: list[grain.DatasetIterator]) -> None:
    while iterators:
        iterators.pop().close()
        _free_shared_memory()


def _free_shared_memory() -> None:
    """Returns when all shared memory that is of no use any more is given back, since an exit complains of any left.

    The StopIteration of a worker that is done and its frames are a cycle that holds the worker's last batch. And grain gives
    memory back in a thread, one block after the other, which an exit cuts off: a last block says when it is through.
    """
    gc.collect()
    last = grain.multiprocessing.SharedMemoryArray((1,), np.uint8)
    last.unlink_on_del()
    block = weakref.ref(last.shm)
    del last
    deadline = time.monotonic() + _FREE_SECONDS
    while block() is not None and time.monotonic() < deadline:
        time.sleep(1e-3)


def _leave_interrupts(worker: int, num_workers: int) -> None:
    """Ctrl-C goes to all processes of a terminal; it is for the first one to act on, which ends its workers."""
    del worker, num_workers
    signal.signal(signal.SIGINT, signal.SIG_IGN)


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
