"""Cosine templates: few-shot class means with the threshold that maximises F1 (paper section 3.5).

A template of concept c is (alpha, t): positive where cosine(z, alpha) >= t. alpha is the mean of the rows that carry c in
S support images; t is chosen on the rows of the same images.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vitprobe_jax.features.table import FeatureTable
from vitprobe_jax.probes.feature_norm import Affine
from vitprobe_jax.probes.trials import Trials, map_trials


def cosine(z: Float[Array, "*rows D"], alpha: Float[Array, " D"]) -> Float[Array, "*rows"]:
    """Cosines between rows and alpha; 0 where either is a zero vector."""
    dots = jnp.einsum("...d,d->...", z, alpha, precision=jax.lax.Precision.HIGHEST)
    sizes = jnp.linalg.norm(z, axis=-1) * jnp.linalg.norm(alpha)
    return jnp.where(sizes > 0, dots / jnp.where(sizes > 0, sizes, 1.0), 0.0)


def best_threshold(scores: Float[Array, " n"], pos: Bool[Array, " n"], neg: Bool[Array, " n"]) -> Float[Array, ""]:
    """The largest of the scores that, as a threshold, gives the highest F1.

    All candidates are tried at once: rows in descending order of score, running counts of what lies at or above each. A
    candidate is the last of equal scores, as `>=` takes them all. Without negatives this is the lowest positive score,
    the largest threshold that keeps every positive.

    Args:
        scores: of all rows.
        pos: rows that carry the concept, one at least.
        neg: rows that do not; rows that are neither do not count.
    """
    counted = jnp.where(pos | neg, scores, -jnp.inf)
    order = jnp.argsort(-counted)
    ranked = counted[order]
    tp, fp = jnp.cumsum(pos[order]), jnp.cumsum(neg[order])
    # F1 = 2 tp / (P + tp + fp). Equal fractions of exact counts (below 2^24) are equal floats, so ties are real ties.
    f1 = 2.0 * tp / jnp.maximum(tp[-1] + tp + fp, 1)
    last_of_ties = jnp.append(ranked[:-1] != ranked[1:], True)
    return ranked[jnp.argmax(jnp.where(last_of_ties, f1, -1.0))]


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
        fitted = []
        for s in shots:
            z, pos, neg = z_SxRxD[:s], sides.pos[:s], sides.neg[:s]
            total = jnp.einsum("srd,sr->d", z, pos.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST)
            alpha = total / jnp.maximum(jnp.sum(pos), 1)
            t = best_threshold(cosine(z, alpha).reshape(-1), pos.reshape(-1), neg.reshape(-1))
            fitted.append((alpha, t, jnp.stack([jnp.sum(pos), jnp.sum(neg)])))
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *fitted)

    return map_trials(fit_one, table, norm, trials)
