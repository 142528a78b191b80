"""Small tables with known labels, for the tests of probes and metrics."""

import jax
import numpy as np

from vitprobe_jax.data.labels import LabelTable
from vitprobe_jax.features.streaming import HostRows
from vitprobe_jax.features.table import DATA_AXIS, FeatureTable, place_table
from vitprobe_jax.types import Concept


def random_labels(rng: np.random.Generator, *, images: int, rows: int, sizes: dict[str, int]) -> LabelTable:
    """Every row carries at most one concept of each category; a third of the slots are empty; concept k is twice as
    frequent as concept k + 1."""
    concepts, columns, slot_category = [], [], []
    for c, (category, size) in enumerate(sizes.items()):
        first = len(concepts)
        concepts += [Concept(10 * c + i + 1, f"{category}{i}", category) for i in range(size)]
        weights = 0.5 ** np.arange(size)
        drawn = first + 1 + rng.choice(size, (images, rows), p=weights / weights.sum())
        columns.append(np.where(rng.random((images, rows)) < 1 / 3, 0, drawn))
        slot_category.append(c)
    slots = np.stack(columns, axis=-1).astype(np.int32)
    return LabelTable(slots, np.array(slot_category, np.int32), tuple(concepts), tuple(sizes))


def planted_rows(rng: np.random.Generator, labels: LabelTable, *, width: int, strength: float):
    """Gaussian rows shifted along one random unit direction a concept; returns them with the directions."""
    directions = rng.standard_normal((len(labels.concepts), width))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    padded = np.concatenate([np.zeros((1, width)), directions])
    shift = strength * padded[labels.slots].sum(axis=2)
    noise = rng.standard_normal((*labels.slots.shape[:2], width))
    return (noise + shift).astype(np.float32), directions


def mesh_of(devices: int) -> jax.sharding.Mesh:
    """The first devices of this process."""
    return jax.sharding.Mesh(np.array(jax.local_devices()[:devices]), (DATA_AXIS,))


def table_of(
    rows: np.ndarray, labels: LabelTable, *, devices: int = 1, device_bytes: int | None = None
) -> FeatureTable:
    """On so many devices; with a bound, streamed."""
    if device_bytes is None:
        return place_table(HostRows(rows), labels, mesh_of(devices))
    return place_table(HostRows(rows), labels, mesh_of(devices), resident=False, device_bytes=device_bytes)
