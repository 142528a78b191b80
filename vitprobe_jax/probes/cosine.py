"""Cosine templates: few-shot class means with the threshold that maximises F1 (paper section 3.5).

A template of concept c is (alpha, t): positive where cosine(z, alpha) >= t. alpha is the mean of the rows that carry c in
S support images; t is chosen on the rows of the same images.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vitprobe_jax.features.table import FeatureTable
from vitprobe_jax.probes.feature_norm import Affine
from vitprobe_jax.probes.trials import Trials, map_trials


def cosines(z: Float[Array, "*rows D"], alpha: Float[Array, "k D"]) -> Float[Array, "*rows k"]:
    """Cosines between rows and each alpha; 0 where either is a zero vector."""
    dots = jnp.einsum("...d,kd->...k", z, alpha, precision=jax.lax.Precision.HIGHEST)
    return dots * _inverse_size(z)[..., None] * _inverse_size(alpha).reshape((1,) * (z.ndim - 1) + (-1,))


def _inverse_size(vectors):
    size = jnp.linalg.norm(vectors, axis=-1)
    return jnp.where(size > 0, 1.0 / jnp.where(size > 0, size, 1.0), 0.0)


def best_threshold(scores: Float[Array, " n"], pos: Bool[Array, " n"], neg: Bool[Array, " n"]) -> Float[Array, ""]:
    """The largest threshold that gives the highest F1 when rows with `score >= threshold` are found.

    Only scores of positives need be tried: from anywhere else, raising the threshold to the next positive score loses no
    positive and can only drop negatives. Positives sorted on their own know how many of them lie at or above each; a
    binary search among the sorted negatives tells how many of those do. Among equal scores the first counts them all, and
    its F1 is the highest, so ties need no care. Without negatives this is the lowest positive score, the largest
    threshold that keeps every positive.

    Args:
        scores: of all rows.
        pos: rows that carry the concept, one at least.
        neg: rows that do not; rows that are neither do not count.
    """
    key = _ordered_int(scores)
    beyond = jnp.iinfo(jnp.int32).max
    pos_keys, neg_keys = jnp.sort(jnp.where(pos, key, beyond)), jnp.sort(jnp.where(neg, key, beyond))
    tp = jnp.sum(pos) - jnp.arange(len(scores))
    fp = jnp.sum(neg) - jnp.searchsorted(neg_keys, pos_keys)
    # F1 = 2 tp / (P + tp + fp). Equal fractions of exact counts (below 2^24) are equal floats, so ties are real ties.
    f1 = jnp.where(tp > 0, 2.0 * tp / jnp.maximum(tp[0] + tp + fp, 1), -1.0)
    best = pos_keys[len(scores) - 1 - jnp.argmax(f1[::-1])]
    return jax.lax.bitcast_convert_type(_flip_negatives(best), jnp.float32)


def _ordered_int(x):
    """float32 as int32 in the same order: XLA sorts integers five times faster than floats on a CPU."""
    return _flip_negatives(jax.lax.bitcast_convert_type(x + 0.0, jnp.int32))  # -0.0 becomes 0.0


def _flip_negatives(bits):
    """Negative floats are ordered backwards as integers; its own inverse."""
    return jnp.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@functools.partial(jax.jit, static_argnames="shots")
def fit_cosine(
    table: FeatureTable, trials: Trials, *, norm: Affine, shots: tuple[int, ...]
) -> tuple[Float[Array, "shots trials K D"], Float[Array, "shots trials K"], Int[Array, "shots trials K 2"]]:
    """Fits every concept, shot count and trial in one call.

    Args:
        table: the training split.
        trials: support images (`sampling.draw_support`), in which every concept has a positive row.
        norm: feature norm; cosines are taken between normalised rows and alpha.
        shots: shot counts, each at most the images drawn; the first s images of a draw are used.

    Returns:
        alpha and t in float32, and the numbers of (positive, negative) rows they were fitted on.
    """

    def fit_one(z_SxRxD, sides):
        num_images, num_rows, width = z_SxRxD.shape
        z_NxD = z_SxRxD.reshape(-1, width)
        pos_N, neg_N = sides.pos.reshape(-1), sides.neg.reshape(-1)
        ends = np.array(shots) * num_rows
        # All shot counts at once: one pass over the rows for their means, one for their cosines.
        pos_ZxN = (jnp.arange(num_images * num_rows)[None] < ends[:, None]) & pos_N[None]
        count_Z = jnp.sum(pos_ZxN, axis=1)
        total_ZxD = jnp.einsum("zn,nd->zd", pos_ZxN.astype(jnp.float32), z_NxD, precision=jax.lax.Precision.HIGHEST)
        alpha_ZxD = total_ZxD / jnp.maximum(count_Z, 1)[:, None]
        scores_NxZ = cosines(z_NxD, alpha_ZxD)
        t_Z = jnp.stack([best_threshold(scores_NxZ[:n, i], pos_N[:n], neg_N[:n]) for i, n in enumerate(ends)])
        neg_Z = jnp.stack([jnp.sum(neg_N[:n]) for n in ends])
        return alpha_ZxD, t_Z, jnp.stack([count_Z, neg_Z], axis=-1)

    return map_trials(fit_one, table, norm, trials)
