"""Cosine templates: few-shot class means with the threshold that maximises F1 (paper section 3.5).

A template of concept c is (alpha, t): positive where cosine(z, alpha) >= t. alpha is the mean of the rows that carry c in
S support images; t maximises F1 on the rows of the same images, less `SLACK`.

This F1 is the plain one, 2 tp / (P + tp + fp) over the rows as they come: it is not balanced, so t depends on how many
negatives the support images hold. The metrics of the results, `f1` among them, are balanced. The paper's eq. 3 says F1 only.
"""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from vitprobe_jax.features.streaming import StreamedRows, finished, take_images
from vitprobe_jax.features.table import DATA_AXIS, FeatureTable, membership, on_all_devices, replicate
from vitprobe_jax.probes.feature_norm import Affine
from vitprobe_jax.probes.threshold import best_threshold
from vitprobe_jax.probes.trials import Support, images_together

SLACK = 2.0**-17
"""How far t is set below the cosine that the search chose: 64 units in the last place of 1, 7.6e-6.

The chosen t is the cosine of a support row, and the same row has another cosine in a batch of another shape, since float32
sums are taken in another order: without slack a template misses its own support row in half of the cases. Between batch
shapes cosines of 96 to 4096 features differed by up to 11 units in the last place, and by up to 21 where three features are
300 times larger than the others, as in some ViTs.
"""


def cosines(z: Float[Array, "*rows D"], alpha: Float[Array, "k D"]) -> Float[Array, "*rows k"]:
    """Cosines between rows and each alpha; 0 where either is a zero vector."""
    dots = jnp.einsum("...d,kd->...k", z, alpha, precision=jax.lax.Precision.HIGHEST)
    return dots * _inverse_size(z)[..., None] * _inverse_size(alpha).reshape((1,) * (z.ndim - 1) + (-1,))


def _inverse_size(vectors):
    size = jnp.linalg.norm(vectors, axis=-1)
    return jnp.where(size > 0, 1.0 / jnp.where(size > 0, size, 1.0), 0.0)


def fit_cosine(
    table: FeatureTable, support: Support, *, norm: Affine, shots: tuple[int, ...]
) -> tuple[Float[Array, "shots trials K D"], Float[Array, "shots trials K"], Int[Array, "shots trials K 2"]]:
    """Fits every concept, shot count and trial in one call, every device its own concepts.

    An image that several trials drew is read once for all of them, and again for the scores where a concept's images do
    not fit `trials.CHUNK_BYTES`. Every device has all rows, or fetches those of its own concepts from a streamed table.
    Results hang on the number of devices and on streaming by no more than float32 rounding: 1e-6 of alpha's length.

    Args:
        table: the training split.
        support: support images (`sampling.draw_support`), in which every concept has a positive row.
        norm: feature norm; cosines are taken between normalised rows and alpha.
        shots: shot counts, each at most the images drawn; the first s images of a draw are used.

    Returns:
        alpha and t in float32, and the numbers of (positive, negative) rows they were fitted on, on every device. Every
        support row that t accepts has a cosine of at least t in a batch of any shape.

    Raises:
        InputError: streamed rows could not be read.
    """
    return finished(table.rows, _fit(table, support, replicate(norm, table.mesh), shots=shots))


@functools.partial(jax.jit, static_argnames="shots")
def _fit(table: FeatureTable, support: Support, norm: Affine, *, shots: tuple[int, ...]):
    def of_device(rows, slots, slot_category, unions, norm):
        return _fit_unions(_Images(rows, slots, slot_category), unions, norm, shots)

    own, everywhere = PartitionSpec(DATA_AXIS), PartitionSpec()
    in_specs = (everywhere, everywhere, everywhere, own, everywhere)
    spread = jax.shard_map(of_device, mesh=table.mesh, in_specs=in_specs, out_specs=own, check_vma=False)
    fitted = [spread(table.rows, table.slots, table.slot_category, unions, norm) for unions in support.groups]
    joined = jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[support.place], *fitted)
    return on_all_devices(tuple(jnp.moveaxis(leaf, 0, 2) for leaf in joined), table.mesh)


class _Images(NamedTuple):
    """A table within a device's program."""

    rows: Float[Array, "I R D"] | StreamedRows
    slots: Int[Array, "I R M"]
    slot_category: Int[Array, " M"]


def _fit_unions(table, unions, norm, shots):
    """`fit_cosine` of one group, as [K, shots, trials, ...]."""
    num_concepts, width = unions.images.shape
    num_trials = unions.rank.shape[1]
    images_at_once = images_together(table.rows)
    num_chunks = -(-num_concepts // max(1, images_at_once // width))
    # The last chunk repeats its last concept, so that chunks are of one size.
    chunk = -(-num_concepts // max(1, num_chunks))
    item = jnp.minimum(jnp.arange(num_chunks * chunk), num_concepts - 1).reshape(num_chunks, chunk)

    def fit_chunk(items):
        score = functools.partial(_score_concept, table, norm=norm, shots=shots, images_at_once=images_at_once)
        by_shots = jax.vmap(score)(jax.tree.map(lambda leaf: leaf[items], unions))
        fitted = []
        for alpha, *drawn in by_shots:
            t, counts = (
                best_threshold(*drawn) - SLACK,
                jnp.stack([jnp.sum(side, axis=-1) for side in drawn[1:]], axis=-1),
            )
            fitted.append([jnp.broadcast_to(x, (chunk, num_trials, *x.shape[2:])) for x in (alpha, t, counts)])
        return [jnp.stack(leaves, axis=1) for leaves in zip(*fitted, strict=True)]

    fitted = jax.lax.map(fit_chunk, item)
    return [leaf.reshape(-1, *leaf.shape[2:])[:num_concepts] for leaf in fitted]


def _score_concept(table, unions, *, norm, shots, images_at_once):
    """For every shot count, alpha [trials, D] of one concept and the drawn rows' scores and sides, all [trials, s * R].

    A concept of no more images than shots has them all in every trial: those trials are one, and one is returned.
    """
    num_trials, width = unions.rank.shape
    trials_of = [1 if s >= width else num_trials for s in shots]
    # The first images may be drawn for any shot count, the last ones for the largest alone.
    reach = [min(width, num_trials * s) for s in shots]
    pieces = [slice(*ends) for ends in itertools.pairwise([0, *sorted(set(reach))])]
    takers = [[i for i in range(len(shots)) if reach[i] > piece.start] for piece in pieces]

    def over_blocks(body, piece, *extra):
        """`body(rows [B, R, D], *extra)` of block after block of the images at `piece`, padded with zeros."""
        leaves = (unions.images[piece], *extra)
        count = len(leaves[0])
        num_blocks = -(-count // images_at_once)
        size = -(-count // num_blocks)
        padded = [jnp.pad(x, ((0, num_blocks * size - count), *[(0, 0)] * (x.ndim - 1))) for x in leaves]
        blocks = [x.reshape(num_blocks, size, *x.shape[1:]) for x in padded]
        return jax.lax.map(lambda block: body(norm(take_images(table.rows, block[0])), *block[1:]), blocks)

    def split(x, chosen, axis):
        return zip(chosen, jnp.split(x, np.cumsum([trials_of[i] for i in chosen])[:-1], axis=axis), strict=True)

    sides_UxR = membership(table.slots[unions.images], table.slot_category, unions.concept, unions.category)
    totals = [0.0] * len(shots)
    for piece, chosen in zip(pieces, takers, strict=True):
        drawn_kxU = jnp.concatenate([unions.rank[: trials_of[i], piece] < shots[i] for i in chosen])
        weights = drawn_kxU.T.astype(jnp.float32), sides_UxR.pos[piece].astype(jnp.float32)
        for i, total in split(jnp.sum(over_blocks(_sum_positives, piece, *weights), axis=0), chosen, 0):
            totals[i] += total
    real = (jnp.arange(unions.order.shape[1])[None] < unions.counts[:, None])[:, :, None]
    pos, neg = (side[unions.order] & real for side in sides_UxR)
    alpha = [
        total / jnp.maximum(jnp.sum(pos[:n, :s], axis=(1, 2)), 1)[:, None]
        for n, s, total in zip(trials_of, shots, totals, strict=True)
    ]
    scored = [[] for _ in shots]
    for piece, chosen in zip(pieces, takers, strict=True):
        alpha_kxD = jnp.concatenate([alpha[i] for i in chosen])
        blocks = over_blocks(lambda z_BxRxD, a=alpha_kxD: jnp.moveaxis(cosines(z_BxRxD, a), 2, 1), piece)
        for i, scores in split(blocks.reshape(-1, *blocks.shape[2:])[: piece.stop - piece.start], chosen, 1):
            scored[i].append(scores)
    fitted = []
    for i, (n, s) in enumerate(zip(trials_of, shots, strict=True)):
        scores_TxSxR = jnp.concatenate(scored[i])[unions.order[:n, :s], jnp.arange(n)[:, None]]
        fitted.append((alpha[i], *(x.reshape(n, -1) for x in (scores_TxSxR, pos[:n, :s], neg[:n, :s]))))
    return fitted


def _sum_positives(z_BxRxD, drawn_Bxk, pos_BxR):
    # Many rows an image are summed before they are dealt to the draws; a single one goes straight into the product.
    return jnp.einsum("bk,br,brd->kd", drawn_Bxk, pos_BxR, z_BxRxD, precision=jax.lax.Precision.HIGHEST)
