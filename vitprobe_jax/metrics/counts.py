"""Templates x held-out rows -> counts, streamed: no matrix of all rows and all concepts is ever held."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vitprobe_jax.features.table import FeatureTable, membership
from vitprobe_jax.metrics.balanced import Counts
from vitprobe_jax.probes.cosine import cosines
from vitprobe_jax.probes.feature_norm import Affine
from vitprobe_jax.probes.trials import Trials, map_trials

CHUNK_BYTES = 1 << 28
"""Bound on the scores that are held at a time."""


@jax.jit
def count_hyperplanes(
    table: FeatureTable,
    concept: Int[Array | np.ndarray, " K"],
    category: Int[Array | np.ndarray, " K"],
    w: Float[Array, "K D"],
    b: Float[Array, " K"],
) -> Int[Array, "K 4"]:
    """(tp, fp, n_pos, n_neg) of every hyperplane over all rows of the table; row z is found where `w @ z - b >= 0`.

    Scores are products of float32 weights with rows as the table holds them, summed in float32.
    """

    def count_one(item):
        concept, category, w, b = item
        scores_IxR = jnp.einsum("ird,d->ir", table.rows, w, preferred_element_type=jnp.float32)
        found = scores_IxR - b >= 0
        pos, neg = membership(table.slots, table.slot_category, concept, category)
        return jnp.stack([jnp.sum(which) for which in (found & pos, found & neg, pos, neg)])

    chunk = max(1, CHUNK_BYTES // (8 * table.slots.shape[0] * table.slots.shape[1]))
    return jax.lax.map(count_one, (concept, category, w, b), batch_size=chunk)


@jax.jit
def count_cosine(
    table: FeatureTable,
    trials: Trials,
    alpha: Float[Array, "shots trials K D"],
    t: Float[Array, "shots trials K"],
    *,
    norm: Affine,
) -> Int[Array, "shots trials K 4"]:
    """(tp, fp, n_pos, n_neg) of every cosine template over the rows of its query images (`sampling.draw_queries`)."""

    def count_one(z_SxRxD, sides, alpha, t):
        found_NxZ = cosines(z_SxRxD.reshape(-1, z_SxRxD.shape[-1]), alpha) >= t[None, :]
        sides_2xN = jnp.stack(sides).reshape(2, -1)
        found_2xZ = jnp.stack([jnp.sum(found_NxZ & side_N[:, None], axis=0) for side_N in sides_2xN])
        totals_2x1 = jnp.sum(sides_2xN, axis=1, keepdims=True)
        return jnp.concatenate([found_2xZ, jnp.broadcast_to(totals_2x1, found_2xZ.shape)]).T

    return map_trials(count_one, table, norm, trials, alpha, t)


def to_counts(counted: Int[Array | np.ndarray, "*shape 4"]) -> Counts:
    """What the functions of this module return, by name."""
    return Counts(*np.moveaxis(np.asarray(counted, np.int64), -1, 0))
