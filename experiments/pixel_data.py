"""Held-out images with what their pixels carry, for `--pixel_level`."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from jaxtyping import Int

from experiments.backbones import make_transform
from experiments.config import RunConfig
from experiments.preparation import PreparedData
from experiments.processes import share
from experiments.progress import progress
from vitprobe_jax.backbones.loading import Backbone
from vitprobe_jax.data.dataset import ImageSubset
from vitprobe_jax.data.labels import build_labels
from vitprobe_jax.errors import InputError
from vitprobe_jax.features.store import Cell
from vitprobe_jax.metrics.pixels import PixelBlock, PixelTable

S, T = TypeVar("S"), TypeVar("T")

PIXEL_STRIDE = 2
"""Every second pixel of the backbone's input is counted, along both sides. Broden's masks are half as large as its images:
there, these are the masks' own pixels. Elsewhere a pixel has the label of the mask at its place, as `patch_labels` gives it
for patches of 2 x 2 pixels by `nearest`."""
MAX_BLOCK_IMAGES = 64
BLOCK_BYTES = 64 << 20
"""Images of a block, and bytes of their rows and labels, at most."""
BLOCKS_AHEAD = 2
"""Blocks that are made ready, each in a thread, while one is counted."""
SLOT_MULTIPLE = 4
"""Slots of a block are filled up to a multiple, as their number differs from block to block: few numbers, few programs."""
_SLOTS = 16
"""Slots of a pixel that its memory is reckoned with."""


def pixel_grid(config: RunConfig, backbone: Backbone) -> tuple[int, int]:
    """Rows and columns of the pixels that are counted.

    Raises:
        InputError: a side of the input is odd.
    """
    height, width = make_transform(config, "segmentation", backbone).size
    if height % PIXEL_STRIDE or width % PIXEL_STRIDE:
        raise InputError(
            f"--pixel_level: counts every second pixel, and {height}x{width} of {backbone.spec.name} is odd; give an even "
            "--image_size, or --nopixel_level"
        )
    return height // PIXEL_STRIDE, width // PIXEL_STRIDE


def pixel_table(data: PreparedData, backbone: Backbone, cell: Cell) -> PixelTable:
    """The held-out images of a cell whose rows have been extracted: this process's share, without those left out."""
    spec, split, store = backbone.spec, data.splits["val"], data.store(backbone, "val")
    grid = pixel_grid(data.config, backbone)
    transform, left_out = make_transform(data.config, data.task, backbone), store.errors()
    images = np.array([image for image in share(len(split)) if image not in left_out], int)
    per_image = store.shape.image_bytes + math.prod(grid) * _SLOTS * 2
    # Blocks of one size, since another size would be another program.
    num_blocks = -(-len(images) // max(1, min(MAX_BLOCK_IMAGES, BLOCK_BYTES // per_image)))
    size = max(1, -(-len(images) // max(1, num_blocks)))
    padded = size + -size % data.local_mesh.size

    def block(numbers: Int[np.ndarray, " n"]) -> PixelBlock:
        labels = build_labels(
            ImageSubset(split, numbers),
            data.dataset.concepts,
            transform=transform,
            patch_size=PIXEL_STRIDE,
            task="segmentation",
            patch_label="nearest",
        )
        missing, spare = padded - len(numbers), -labels.slots.shape[-1] % SLOT_MULTIPLE
        return PixelBlock(
            np.pad(store.source(cell).read(numbers), [(0, missing), (0, 0), (0, 0)]),
            np.pad(labels.slots, [(0, missing), (0, 0), (0, spare)]),
            np.pad(labels.slot_category, (0, spare)),
        )

    def blocks() -> Iterator[PixelBlock]:
        parts = [images[first : first + size] for first in range(0, len(images), size)]
        ready = _made_ahead(block, parts)
        return progress(ready, total=len(parts), label=f"{spec.name} {cell[0]} {cell[1]} pixels", unit="block")

    patch_grid = tuple(side // spec.config.patch_size for side in transform.size)
    return PixelTable(patch_grid, grid, len(images), data.local_mesh, blocks)


def _made_ahead(make: Callable[[S], T], items: Iterable[S]) -> Iterator[T]:
    """`make` of every item, in their order."""
    with ThreadPoolExecutor(BLOCKS_AHEAD) as pool:
        coming = deque()
        for item in items:
            coming.append(pool.submit(make, item))
            if len(coming) > BLOCKS_AHEAD:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
