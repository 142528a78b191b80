"""Hyperplanes on pixels: score maps of the patch grid are enlarged to the masks, and every pixel of those is counted.

Patch metrics ask whether a patch is told by its majority; these ask where a concept's outline runs, as far as scores that
are interpolated between patches can follow it.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from vitprobe_jax.features.table import DATA_AXIS, deal, replicate
from vitprobe_jax.metrics.counts import CHUNK_BYTES, DEFAULT_CHUNK_BYTES, carried_categories, count_found, slot_lookup


class PixelBlock(NamedTuple):
    """Some images: the rows of their patches, and what their pixels carry.

    Attributes:
        rows: of the patches, row-major.
        slots: of the pixels, row-major, as in `LabelTable`; empty for images that only fill the block.
        slot_category: as in `LabelTable`; may differ from block to block.
    """

    rows: Float[np.ndarray, "n R D"]
    slots: Int[np.ndarray, "n P M"]
    slot_category: Int[np.ndarray, " M"]


@dataclasses.dataclass(frozen=True)
class PixelTable:
    """Images that are gone through block by block; no more than a few of their blocks are in memory.

    Attributes:
        patch_grid: rows and columns of patches, R in all.
        pixel_grid: rows and columns of pixels, P in all.
        num_images: of all blocks, without those that only fill one.
        mesh: devices of this process, over which the images of a block are spread; it divides their number.
        blocks: gives all blocks, anew with every call.
    """

    patch_grid: tuple[int, int]
    pixel_grid: tuple[int, int]
    num_images: int
    mesh: Mesh
    blocks: Callable[[], Iterable[PixelBlock]]


def count_pixels(
    table: PixelTable,
    concept: Int[np.ndarray, " K"],
    category: Int[np.ndarray, " K"],
    w: Float[Array | np.ndarray, "K D"],
    b: Float[Array | np.ndarray, " K"],
    shift: Float[Array | np.ndarray, " D"],
) -> Int[np.ndarray, "K 4"]:
    """(tp, fp, n_pos, n_neg) of every hyperplane over all pixels of the table, in int64.

    The margins `w @ (z - shift) - b` of an image's patches are a map, which bilinear interpolation brings to the pixel
    grid: pixel and patch centres lie at half steps, beyond the outermost patch centres the map is constant (PyTorch's
    `interpolate` with `align_corners=False`). A pixel is found where the map is at least 0. Positives and negatives are
    those of patches: pixels that carry the concept, and pixels that carry another one of its category.

    An image is always computed alone, in bands of pixel rows: the counts are the same on any number of devices.

    Args:
        table: the images.
        concept: index of each hyperplane's concept as the slots count them, from 0; none twice.
        category: index of its category.
        w: normals.
        b: thresholds of shifted rows.
        shift: subtracted from every row.

    Raises:
        ValueError: a concept is given twice.
        InputError: rows or annotations cannot be read.
    """
    total = np.zeros((len(concept), 4), np.int64)
    if not len(concept):
        return total
    num_categories = int(np.max(category)) + 1
    hyperplanes = replicate((slot_lookup(concept), category, w, b, shift), table.mesh)
    for block in table.blocks():
        images = deal((np.asarray(block.rows), np.asarray(block.slots)), table.mesh)
        slot_category = replicate(block.slot_category, table.mesh)
        counts = _count(
            *images, slot_category, *hyperplanes, num_categories, table.patch_grid, table.pixel_grid, table.mesh
        )
        total += np.asarray(counts, np.int64)
    return total


@functools.partial(jax.jit, static_argnums=(8, 9, 10, 11))
def _count(
    rows, slots, slot_category, hyperplane_of_slot, category, w, b, shift, num_categories, patch_grid, pixel_grid, mesh
):
    height, width = pixel_grid
    bound = CHUNK_BYTES.get(jax.default_backend(), DEFAULT_CHUNK_BYTES)
    band = min(height, max(1, bound // (4 * width * len(w))))
    num_bands = -(-height // band)
    along_rows, along_columns = (_taps(*sizes) for sizes in zip(patch_grid, pixel_grid, strict=True))
    # Pixel rows that fill the last band repeat the last one and carry nothing.
    filled = np.minimum(np.arange(num_bands * band), height - 1).reshape(num_bands, band)
    bands = jax.tree.map(lambda leaf: jnp.asarray(leaf[filled]), along_rows)

    def count_image(image, slot_category, hyperplane_of_slot, category, w, b, shift):
        z_RxD, slots_PxM = image
        slots_in_CxM = jnp.arange(num_categories)[:, None] == slot_category[None, :]
        z_RxD = z_RxD.astype(jnp.float32) - shift[None]
        scores_RxK = jnp.einsum("rd,kd->rk", z_RxD, w, precision=jax.lax.Precision.HIGHEST)
        maps = (scores_RxK - b[None]).reshape(*patch_grid, -1)
        # Rows first, so that a band takes whole pieces of memory.
        maps_RxKxW = jnp.swapaxes(_interpolate(maps, along_columns, axis=1), 1, 2)
        missing = (num_bands * band - height) * width
        slots_of_bands = jnp.pad(slots_PxM, ((0, missing), (0, 0))).reshape(num_bands, band * width, -1)

        def count_band(item):
            taps, slots_NxM = item
            found_BxKxW = _interpolate(maps_RxKxW, taps, axis=0) >= 0
            found_KxN = jnp.swapaxes(found_BxKxW, 0, 1).reshape(len(w), -1)
            carried_CxN = carried_categories(slots_NxM, slots_in_CxM)
            return count_found(found_KxN, slots_NxM, carried_CxN, hyperplane_of_slot, category)

        return jnp.sum(jax.lax.map(count_band, (bands, slots_of_bands)), axis=0)

    def of_device(rows, slots, *shared):
        counts = jax.lax.map(lambda image: count_image(image, *shared), (rows, slots))
        return jnp.sum(counts, axis=0)[None]

    shared = (slot_category, hyperplane_of_slot, category, w, b, shift)
    own, everywhere = PartitionSpec(DATA_AXIS), PartitionSpec()
    in_specs = (own, own, *(everywhere for _ in shared))
    spread = jax.shard_map(of_device, mesh=mesh, in_specs=in_specs, out_specs=own, check_vma=False)
    return jnp.sum(spread(rows, slots, *shared), axis=0)


class _Taps(NamedTuple):
    """Between which two places of an axis each place of a finer one lies, and how far from the first, 0 to 1."""

    low: Int[np.ndarray, " target"]
    high: Int[np.ndarray, " target"]
    share: Float[np.ndarray, " target"]


def _taps(size: int, target: int) -> _Taps:
    place = np.clip((np.arange(target) + 0.5) * size / target - 0.5, 0, size - 1)
    low = np.floor(place).astype(np.int32)
    return _Taps(low, np.minimum(low + 1, size - 1), (place - low).astype(np.float32))


def _interpolate(maps: Float[Array, "*shape"], taps: _Taps, *, axis: int) -> Float[Array, "*interpolated"]:
    low, high = (jnp.take(maps, places, axis=axis) for places in (taps.low, taps.high))
    share = taps.share.reshape([-1 if i == axis else 1 for i in range(maps.ndim)])
    # Exact where both are equal: a constant map stays constant.
    return low + (high - low) * share
