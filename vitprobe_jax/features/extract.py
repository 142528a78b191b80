"""Images -> rows of the feature table: one jitted forward a batch, images spread over the devices of this process."""

import functools
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from vitprobe_jax.backbones.capture import capture_pixels
from vitprobe_jax.backbones.config import BackboneSpec, ViTConfig
from vitprobe_jax.backbones.loading import Backbone
from vitprobe_jax.data.dataset import ImageSplit, ImageSubset
from vitprobe_jax.data.pipeline import Batch
from vitprobe_jax.errors import InputError
from vitprobe_jax.features.store import Cell, RowShape, RowSink
from vitprobe_jax.features.table import DATA_AXIS
from vitprobe_jax.types import Rows


def select_rows(tokens: Float[Array, "B T D"], config: ViTConfig, task: Rows) -> Float[Array, "B R D"]:
    """The rows a task probes: for segmentation every patch, for classification one that stands for the image.

    That is [CLS] where the family speaks through it (`config.pool` is `class`); otherwise the mean of the patches, for
    models without [CLS] and for those fine-tuned on this mean, whose head never sees [CLS]. Registers are never patches.
    `pools` are both, [CLS] first; a model without [CLS] has the mean in its place too.
    """
    if task == "classification" and config.pool == "class":
        return tokens[:, :1]
    patches = tokens[:, config.num_prefix_tokens :]
    if task == "segmentation":
        return patches
    mean = jnp.mean(patches, axis=1, keepdims=True)
    if task == "classification":
        return mean
    return jnp.concatenate([tokens[:, :1] if config.class_token else mean, mean], axis=1)


def shard_images(split: ImageSplit, shape: RowShape, shards: Sequence[int]) -> ImageSubset:
    """The images of some shards, ascending, as a split of its own."""
    return ImageSubset(split, _numbers(shape, shards))


def fitting_batch(batch_size: int) -> int:
    """The largest power of two up to `batch_size`: such batches fill shards without a rest, or hold whole ones.

    So an image is always in the same batch, whatever else is missing, as long as a batch is no larger than a shard.
    """
    return 1 << (batch_size.bit_length() - 1)


def extract(
    backbone: Backbone,
    split: ImageSplit,
    batches: Iterable[Batch],
    store: RowSink,
    cells: Sequence[Cell],
    shards: Sequence[int],
    *,
    task: Rows,
    skip_corrupt: bool,
    mesh: Mesh,
    picks: Int[np.ndarray, "I R"] | None = None,
) -> None:
    """Runs the frozen backbone once over some shards of a split and stores the rows of every cell, shard by shard.

    Args:
        backbone: the frozen model.
        split: the whole split, for the names of its images.
        batches: `shard_images` decoded, in order, in batches of `fitting_batch`.
        store: takes the rows; its shape says the dtype, that of the computation too.
        cells: (block, token) pairs.
        shards: which, ascending.
        task: which rows are kept.
        skip_corrupt: give images that cannot be decoded rows of zeros and tell the store, instead of ending.
        mesh: devices of this process; images are spread over them, parameters copied to each.
        picks: rows of every image that are kept, of those of the task; all where None.

    Raises:
        InputError: an image that cannot be decoded (unless skipped), a token that is not finite, a store that cannot be
            written.
    """
    by_image, everywhere = (NamedSharding(mesh, PartitionSpec(axis)) for axis in (DATA_AXIS, None))
    step = _forward(backbone.spec, tuple(cells), task, store.shape.dtype, mesh)
    params = jax.device_put(backbone.params, everywhere)
    numbers = _numbers(store.shape, shards)
    by_shard = _Shards(store, cells, shards)

    def start(batch: Batch):
        chosen = None if picks is None else picks[numbers[batch.first : batch.first + batch.num_valid]]
        padded = [_padded(leaf, mesh.size, len(batch.images)) for leaf in (batch.images, chosen) if leaf is not None]
        return step(params, *jax.device_put(padded, by_image))

    def collect(batch: Batch, outputs) -> None:
        rows, finite = outputs
        wrong = {int(numbers[i]): message for i, message in batch.errors}
        if wrong and not skip_corrupt:
            raise InputError(next(iter(wrong.values())))
        images = numbers[batch.first : batch.first + batch.num_valid]
        good = np.array([image not in wrong for image in images])
        bad = np.argwhere(~np.asarray(finite)[:, : len(images)] & good[None])
        if len(bad):
            (layer, token), image = cells[bad[0, 0]], split.name(int(images[bad[0, 1]]))
            raise InputError(
                f"{backbone.spec.name}: token {token} of block {layer} is not finite for image {image}; "
                "check the checkpoint, or extract with --dtype=float32"
            )
        by_shard.add([np.asarray(row)[: len(images)] for row in rows], good, wrong)

    with by_shard:
        pending = None
        for batch in batches:
            # The next batch is on its way before the last one is fetched, so the device never waits for the copy back.
            outputs = start(batch)
            if pending is not None:
                collect(*pending)
            pending = (batch, outputs)
        if pending is not None:
            collect(*pending)


@functools.lru_cache(maxsize=16)
def _forward(spec: BackboneSpec, cells: tuple[Cell, ...], task: Rows, dtype: str, mesh: Mesh):
    """The jitted forward: rows of every cell, and which images have finite ones, [cells, B]."""

    def forward(params, images, *picks):
        tokens = capture_pixels(spec.config, spec.preprocess, params, images, cells, dtype=jnp.dtype(dtype))
        rows = [select_rows(tokens[cell], spec.config, task) for cell in cells]
        for chosen in picks:
            rows = [jnp.take_along_axis(row, chosen[:, :, None], axis=1) for row in rows]
        return rows, jnp.stack([jnp.all(jnp.isfinite(row), axis=(1, 2)) for row in rows])

    by_image = PartitionSpec(DATA_AXIS)
    # Every device does to its images what one device does to all: the same products of the same shapes, hence the same rows.
    out_specs = (by_image, PartitionSpec(None, DATA_AXIS))

    def spread(params, *per_image):
        in_specs = (PartitionSpec(), *(by_image for _ in per_image))
        return jax.shard_map(forward, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)(
            params, *per_image
        )

    return jax.jit(spread)


class _Shards:
    """Puts batches together to shards and hands them to the store in a thread, one at a time: as a shard is written the
    next one is computed, and two are in memory.
    """

    def __init__(self, store: RowSink, cells: Sequence[Cell], shards: Sequence[int]):
        self._store, self._cells, self._shards = store, cells, iter(shards)
        self._pool = ThreadPoolExecutor(1)
        self._writing: Future | None = None
        self._begin(next(self._shards, None))

    def _begin(self, shard: int | None) -> None:
        self._shard, self._filled, self._errors, self._rows = shard, 0, {}, {}

    def add(self, rows: list[np.ndarray], good: np.ndarray, errors: dict[int, str]) -> None:
        """Adds a batch; `good` tells which of its images have rows, the others get zeros."""
        start = 0
        while start < len(good):
            images = self._store.shape.images_of(self._shard)
            if not self._rows:
                self._rows = {
                    cell: np.zeros((len(images), *row.shape[1:]), row.dtype)
                    for cell, row in zip(self._cells, rows, strict=True)
                }
            taken = slice(start, start + min(len(images) - self._filled, len(good) - start))
            chosen = good[taken]
            for cell, row in zip(self._cells, rows, strict=True):
                self._rows[cell][self._filled : self._filled + len(chosen)][chosen] = row[taken][chosen]
            self._errors |= {image: message for image, message in errors.items() if image in images}
            self._filled += len(chosen)
            start = taken.stop
            if self._filled == len(images):
                self._wait()
                self._writing = self._pool.submit(self._store.write, self._shard, self._rows, self._errors)
                self._begin(next(self._shards, None))

    def _wait(self) -> None:
        if self._writing is not None:
            self._writing.result()

    def __enter__(self) -> "_Shards":
        return self

    def __exit__(self, kind, *_) -> None:
        self._pool.shutdown(wait=True)
        if kind is None:
            self._wait()


def _numbers(shape: RowShape, shards: Sequence[int]) -> Int[np.ndarray, " n"]:
    return np.array([image for shard in shards for image in shape.images_of(shard)], int)


def _padded(leaf: np.ndarray, multiple: int, batch: int) -> np.ndarray:
    """With zeros, to the length of a batch that can be dealt to so many devices."""
    missing = -(-batch // multiple) * multiple - len(leaf)
    return np.pad(leaf, [(0, missing)] + [(0, 0)] * (leaf.ndim - 1)) if missing else leaf
