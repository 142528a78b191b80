"""The feature table on the devices: rows by image, the concepts they carry, sharded over images."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from vitprobe_jax.data.labels import LabelTable

DATA_AXIS = "data"


def make_mesh() -> Mesh:
    """All local devices along one data axis; images and rows are spread over it."""
    return Mesh(np.array(jax.local_devices()), (DATA_AXIS,))


@dataclasses.dataclass(frozen=True)
class FeatureTable:
    """One token of one layer over one split, with what its rows carry.

    The image axis is padded to a multiple of the devices; padding carries no concept, so it is never a positive nor a
    negative.

    Attributes:
        rows: features of every row of every image, raw, float32 or bfloat16.
        slots: concepts of every row, as in `LabelTable`.
        slot_category: category of every slot, as in `LabelTable`.
        real: images that are no padding.
    """

    rows: Float[Array, "I R D"]
    slots: Int[Array, "I R M"]
    slot_category: Int[Array, " M"]
    real: Bool[Array, " I"]

    @property
    def flat(self) -> Float[Array, "N D"]:
        """The rows as one matrix, N = I * R."""
        return self.rows.reshape(-1, self.rows.shape[-1])


jax.tree_util.register_dataclass(FeatureTable, ["rows", "slots", "slot_category", "real"], [])


def place_table(rows: Float[np.ndarray, "I R D"], labels: LabelTable, mesh: Mesh) -> FeatureTable:
    """Puts host rows and their labels on the mesh, images sharded."""
    padding = -len(rows) % mesh.size

    def put(leaf: np.ndarray) -> Array:
        padded = np.pad(leaf, [(0, padding)] + [(0, 0)] * (leaf.ndim - 1)) if padding else leaf
        return jax.device_put(padded, NamedSharding(mesh, PartitionSpec(DATA_AXIS)))

    real = np.ones(len(rows), bool)
    slot_category = jax.device_put(labels.slot_category, NamedSharding(mesh, PartitionSpec()))
    return FeatureTable(put(rows), put(labels.slots), slot_category, put(real))


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
