"""The feature table on the devices: rows by image, the concepts they carry, sharded over images."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, PyTree

from vitprobe_jax.data.labels import LabelTable
from vitprobe_jax.features.streaming import DEFAULT_DEVICE_BYTES, RowSource, StreamedRows, stream_rows, take_images

DATA_AXIS = "data"


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Some devices, by default all of this process, along one data axis; images, rows and concepts are spread over it."""
    return Mesh(np.array(jax.local_devices() if devices is None else devices), (DATA_AXIS,))


@dataclasses.dataclass(frozen=True)
class FeatureTable:
    """One token of one layer over one split, with what its rows carry.

    The image axis is padded to a multiple of the devices; padding carries no concept, so it is never a positive nor a
    negative.

    Attributes:
        rows: features of every row of every image, raw, float32 or bfloat16; on the devices or fetched (`streaming`).
        slots: concepts of every row, as in `LabelTable`.
        slot_category: category of every slot, as in `LabelTable`.
        real: images that are neither padding nor left out.
        mesh: the devices over whose data axis rows, slots and work are spread.
    """

    rows: Float[Array, "I R D"] | StreamedRows
    slots: Int[Array, "I R M"]
    slot_category: Int[Array, " M"]
    real: Bool[Array, " I"]
    mesh: Mesh


jax.tree_util.register_dataclass(FeatureTable, ["rows", "slots", "slot_category", "real"], ["mesh"])


def place_table(
    source: RowSource,
    labels: LabelTable,
    mesh: Mesh,
    *,
    resident: bool = True,
    device_bytes: int = DEFAULT_DEVICE_BYTES,
    left_out: Sequence[int] | Int[np.ndarray, " n"] = (),
) -> FeatureTable:
    """Rows and their labels for the programs that run on a mesh, images sharded.

    Each process calls it with all labels and a source that can read all images, and reads those of its own devices.

    Args:
        source: the rows.
        labels: of the same images.
        mesh: of one process or of several.
        resident: put all rows on the devices, rather than have programs fetch what they need of them (`streaming`). Fitting
            needs all of them on each device.
        device_bytes: bound on the rows that a device holds at a time where they are fetched, see `StreamedRows`.
        left_out: images that are no part of the table, since they could not be decoded: as padding, they carry nothing.

    Raises:
        InputError: the source cannot be read.
    """
    num_images = len(labels.slots)
    padded = num_images + -num_images % mesh.size
    slots, real = labels.slots, np.ones(num_images, bool)
    if len(left_out):
        slots = slots.copy()
        slots[np.asarray(left_out, int)], real[np.asarray(left_out, int)] = 0, False

    def put(unit: tuple[int, ...], read: Callable[[np.ndarray], np.ndarray]) -> Array:
        """`read(images)` of every device's images, then zeros."""

        def shard(index: tuple[slice, ...]) -> np.ndarray:
            start, stop, _ = index[0].indices(padded)
            leaf = read(np.arange(start, max(start, min(stop, num_images))))
            missing = stop - start - len(leaf)
            return np.pad(leaf, [(0, missing), *[(0, 0)] * len(unit)]) if missing else leaf

        return jax.make_array_from_callback((padded, *unit), NamedSharding(mesh, PartitionSpec(DATA_AXIS)), shard)

    stream = functools.partial(stream_rows, source, padded, mesh, device_bytes=device_bytes)
    return FeatureTable(
        rows=put(source.shape[1:], source.read) if resident else stream(),
        slots=put(slots.shape[1:], slots.__getitem__),
        slot_category=replicate(labels.slot_category, mesh),
        real=put((), real.__getitem__),
        mesh=mesh,
    )


def replicate(tree: PyTree[Array | np.ndarray], mesh: Mesh) -> PyTree[Array]:
    """Arrays that are equal in all processes on every device of the mesh; programs of several processes refuse others."""
    everywhere = NamedSharding(mesh, PartitionSpec())

    def put(leaf):
        if isinstance(leaf, Array):
            if leaf.sharding.is_equivalent_to(everywhere, leaf.ndim):
                return leaf
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                return jax.random.wrap_key_data(put(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, everywhere, host.__getitem__)

    return jax.tree.map(put, tree)


def deal(tree: PyTree[np.ndarray], mesh: Mesh) -> PyTree[Array]:
    """Host arrays, equal in all processes, split over the mesh along their first axis, a multiple of its devices long."""
    split = NamedSharding(mesh, PartitionSpec(DATA_AXIS))
    return jax.tree.map(lambda leaf: jax.make_array_from_callback(leaf.shape, split, leaf.__getitem__), tree)


def fold_images(
    body: Callable[..., PyTree[Array]],
    carry: PyTree[Array],
    table: FeatureTable,
    *shared: PyTree[Array],
    images_at_once: int,
) -> PyTree[Array]:
    """Goes through all images of a table once, every device through its own, block by block.

    Args:
        body: `body(carry, rows [B, R, D], slots [B, R, M], real [B], *shared)` returns the next carry.
        carry: the first one, of every device.
        table: resident or streamed; the numbers of its images divide evenly among the devices.
        shared: further arguments, the same for all blocks.
        images_at_once: images of a block at most; streamed tables may set a lower bound.

    Returns:
        The last carry of every device, along a new first axis.
    """
    streamed = isinstance(table.rows, StreamedRows)
    at_once = min(images_at_once, table.rows.images_together) if streamed else images_at_once

    def fold(rows, slots, real, *shared):
        num_images = len(real)
        size = min(num_images, at_once)
        own = jax.lax.axis_index(DATA_AXIS) * num_images

        def add_block(i, carry):
            # The last block is moved back to end with the table; what was counted before carries nothing.
            start = jnp.minimum(i * size, num_images - size)
            fresh = start + jnp.arange(size) >= i * size
            of_block = functools.partial(jax.lax.dynamic_slice_in_dim, start_index=start, slice_size=size)
            block = take_images(rows, own + start + jnp.arange(size)) if streamed else of_block(rows)
            slots_of_block = jnp.where(fresh[:, None, None], of_block(slots), 0)
            return body(carry, block, slots_of_block, of_block(real) & fresh, *shared)

        last = jax.lax.fori_loop(0, -(-num_images // max(1, size)), add_block, carry)
        return jax.tree.map(lambda leaf: leaf[None], last)

    own, everywhere = PartitionSpec(DATA_AXIS), PartitionSpec()
    in_specs = (everywhere if streamed else own, own, own, *(everywhere for _ in shared))
    # Loops start from carries that are the same on all devices, which the check would refuse.
    spread = jax.shard_map(fold, mesh=table.mesh, in_specs=in_specs, out_specs=own, check_vma=False)
    return spread(table.rows, table.slots, table.real, *shared)


def on_all_devices(results: PyTree[Array], mesh: Mesh) -> PyTree[Array]:
    """Within a program: its results on every device of the mesh, so that every process can read them."""
    return jax.lax.with_sharding_constraint(results, NamedSharding(mesh, PartitionSpec()))


class Membership(NamedTuple):
    """Which rows take part in a concept, and on which side."""

    pos: Bool[Array, "*rows"]
    neg: Bool[Array, "*rows"]


def membership(
    slots: Int[Array, "*rows M"], slot_category: Int[Array, " M"], concept: Int[Array, ""], category: Int[Array, ""]
) -> Membership:
    """Positives carry the concept; negatives carry another of its category; all others take no part."""
    pos = jnp.any(slots == concept + 1, axis=-1)
    of_category = (slot_category == category).reshape((1,) * (slots.ndim - 1) + (-1,))
    return Membership(pos, jnp.any((slots > 0) & of_category, axis=-1) & ~pos)
