"""Templates x held-out rows -> counts, streamed: no matrix of all rows and all concepts is ever held."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vitprobe_jax.features.streaming import finished
from vitprobe_jax.features.table import FeatureTable, fold_images, on_all_devices, replicate
from vitprobe_jax.metrics.balanced import Counts
from vitprobe_jax.probes.cosine import cosines
from vitprobe_jax.probes.feature_norm import Affine
from vitprobe_jax.probes.trials import Trials, map_trials

CHUNK_BYTES = {"cpu": 1 << 23}
"""Bound on the rows and scores that a device holds at a time, by platform. On a CPU they stay in its cache, and the counts
take little longer than the matrix product alone; an accelerator wants large pieces."""
DEFAULT_CHUNK_BYTES = 1 << 28


def count_hyperplanes(
    table: FeatureTable,
    concept: Int[Array | np.ndarray, " K"],
    category: Int[Array | np.ndarray, " K"],
    w: Float[Array | np.ndarray, "K D"],
    b: Float[Array | np.ndarray, " K"],
    shift: Float[Array | np.ndarray, " D"],
) -> Int[Array, "K 4"]:
    """(tp, fp, n_pos, n_neg) of every hyperplane over all rows; row z is positive where `w @ (z - shift) - b >= 0`.

    Rows are shifted and multiplied with float32 weights in float32: around their mean they keep the digits that a product of
    rows of large means would lose.

    Args:
        table: resident or streamed; every device goes through its own images.
        concept: index of each hyperplane's concept as the slots count them, from 0; none twice.
        category: index of its category.
        w: normals.
        b: thresholds of shifted rows.
        shift: subtracted from every row.

    Raises:
        ValueError: a concept is given twice.
        InputError: streamed rows could not be read.
    """
    concept, category = np.asarray(concept), np.asarray(category)
    if not len(concept):
        return jnp.zeros((0, 4), jnp.int32)
    hyperplanes = replicate((slot_lookup(concept), category, w, b, shift), table.mesh)
    num_categories = int(np.max(category)) + 1
    return finished(table.rows, _count(table, *hyperplanes, num_categories=num_categories))


def slot_lookup(concept: Int[np.ndarray, " K"]) -> Int[np.ndarray, " slots"]:
    """From what stands in a slot to the number of the hyperplane of that concept; K where it has none.

    Raises:
        ValueError: a concept is given twice.
    """
    if len(np.unique(concept)) < len(concept):
        raise ValueError("a concept is given twice; a row's slot can only count for one hyperplane")
    hyperplane_of_slot = np.full(np.max(concept) + 2, len(concept), np.int32)
    hyperplane_of_slot[concept + 1] = np.arange(len(concept))
    return hyperplane_of_slot


@functools.partial(jax.jit, static_argnames="num_categories")
def _count(table, hyperplane_of_slot, category, w, b, shift, *, num_categories):
    slots_in_CxM = jnp.arange(num_categories)[:, None] == table.slot_category[None, :]
    _, num_rows, width = table.rows.shape
    bound = CHUNK_BYTES.get(jax.default_backend(), DEFAULT_CHUNK_BYTES)

    def add_block(counts_Kx4, rows, slots, real, shift, *hyperplanes):
        del real  # Images that are not carry nothing in their slots.
        z_NxD = rows.reshape(-1, width).astype(jnp.float32) - shift[None]
        return counts_Kx4 + _count_block(z_NxD, slots.reshape(len(z_NxD), -1), *hyperplanes)

    zeros = jnp.zeros((len(w), 4), jnp.int32)
    together = max(1, bound // (4 * num_rows * (width + len(w))))
    hyperplanes = (shift, slots_in_CxM, hyperplane_of_slot, category, w, b)
    by_device = fold_images(add_block, zeros, table, *hyperplanes, images_at_once=together)
    return on_all_devices(jnp.sum(by_device, axis=0), table.mesh)


def _count_block(z_NxD, slots_NxM, slots_in_CxM, hyperplane_of_slot, category, w, b):
    """The counts of one block of rows."""
    # Rows last: on a CPU, XLA's product and the pass over it are a tenth faster than the other way round.
    scores_KxN = jnp.einsum("kd,nd->kn", w, z_NxD, precision=jax.lax.Precision.HIGHEST)
    carried_CxN = carried_categories(slots_NxM, slots_in_CxM)
    return count_found(scores_KxN - b[:, None] >= 0, slots_NxM, carried_CxN, hyperplane_of_slot, category)


def carried_categories(slots: Int[Array, "N M"], slots_in: Bool[Array, "C M"]) -> Bool[Array, "C N"]:
    """Which rows carry some concept of each category, whose slots `slots_in` marks."""
    return jnp.any((slots.T > 0)[None] & slots_in[:, :, None], axis=1)


def count_found(
    found: Bool[Array, "K N"],
    slots: Int[Array, "N M"],
    carried: Bool[Array, "C N"],
    hyperplane_of_slot: Int[Array, " slots"],
    category: Int[Array, " K"],
) -> Int[Array, "K 4"]:
    """(tp, fp, n_pos, n_neg) of every hyperplane over one block of rows, within a program.

    Only tp + fp, the rows of its category that a hyperplane finds, needs all of `found`, and takes one pass over it. The
    true positives are looked up, one a slot; n_pos and n_neg need none.

    Args:
        found: where the hyperplanes are positive.
        slots: what the rows carry, as in `LabelTable`.
        carried: of `carried_categories`.
        hyperplane_of_slot: of `slot_lookup`.
        category: index of each hyperplane's category.
    """
    found_K = jnp.sum(found & carried[category], axis=1)
    carried_K = jnp.sum(carried, axis=1)[category]

    # Slots that are empty or hold a concept without a hyperplane lead beyond the last one, and drop out.
    place_NxM = hyperplane_of_slot.at[slots].get(mode="fill", fill_value=len(found))
    hits_NxM = found.at[place_NxM, jnp.arange(len(slots))[:, None]].get(mode="fill", fill_value=False)
    both_NMx2 = jnp.stack([hits_NxM, jnp.ones_like(hits_NxM)], axis=-1).reshape(-1, 2).astype(jnp.int32)
    tp_K, n_pos_K = jax.ops.segment_sum(both_NMx2, place_NxM.reshape(-1), num_segments=len(found)).T
    return jnp.stack([tp_K, found_K - tp_K, n_pos_K, carried_K - n_pos_K], axis=1)


def count_cosine(
    table: FeatureTable,
    trials: Trials,
    alpha: Float[Array | np.ndarray, "shots trials K D"],
    t: Float[Array | np.ndarray, "shots trials K"],
    *,
    norm: Affine,
) -> Int[Array, "shots trials K 4"]:
    """(tp, fp, n_pos, n_neg) of every cosine template over the rows of its query images (`sampling.draw_queries`).

    Every device counts for its own concepts.

    Raises:
        InputError: streamed rows could not be read.
    """
    return finished(table.rows, _count_trials(table, trials, *replicate((alpha, t, norm), table.mesh)))


@jax.jit
def _count_trials(table, trials, alpha, t, norm):
    def count_one(z_SxRxD, sides, alpha, t):
        found_NxZ = cosines(z_SxRxD.reshape(-1, z_SxRxD.shape[-1]), alpha) >= t[None, :]
        sides_2xN = jnp.stack(sides).reshape(2, -1)
        found_2xZ = jnp.stack([jnp.sum(found_NxZ & side_N[:, None], axis=0) for side_N in sides_2xN])
        totals_2x1 = jnp.sum(sides_2xN, axis=1, keepdims=True)
        return jnp.concatenate([found_2xZ, jnp.broadcast_to(totals_2x1, found_2xZ.shape)]).T

    counts = map_trials(count_one, table, norm, trials, alpha, t)[:, :, : t.shape[2]]
    return on_all_devices(counts, table.mesh)


def to_counts(counted: Int[Array | np.ndarray, "*shape 4"]) -> Counts:
    """What the functions of this module return, by name."""
    return Counts(*np.moveaxis(np.asarray(counted, np.int64), -1, 0))
