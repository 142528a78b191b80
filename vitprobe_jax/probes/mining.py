"""Hard-negative mining: of every concept's pool, the negatives that its template scores highest.

Exactly the k largest, without sorting: the k-th largest score is found by bisection over the bits of the scores, all
concepts at once, and what lies above it is moved to its place by counting. `top_k` takes three times as long on a CPU and
needs one width for all concepts.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from vitprobe_jax.probes.layout import BLOCK, LANES, Layout
from vitprobe_jax.probes.ordered import ordered_int
from vitprobe_jax.probes.permutation import permute

BLOCKS_AT_ONCE = 256
"""Blocks whose scores are read at a time."""
LOWEST = jnp.iinfo(jnp.int32).min
"""Below every score: places of a block without a row."""


def pool_scores(
    rows: Float[Array, "N D"], w: Float[Array, "C D"], layout: Layout, *, score_together: int
) -> Int[Array, "blocks BLOCK"]:
    """The score w.z of every row of every pool, as ordered integers; `LOWEST` where there is no row.

    All rows times all concepts in one matrix product, of which each concept's pool is read: a pool holds a good part of
    the rows, and a product goes through them at full speed.

    Args:
        rows: of the table, raw.
        w: template of every concept for raw rows.
        layout: the pools.
        score_together: concepts of one product, a divisor of C; N x as many scores are held.
    """
    num_blocks = len(layout.block_concept)
    at_once = min(BLOCKS_AT_ONCE, num_blocks)
    keys = jnp.full((num_blocks, BLOCK), LOWEST)

    def score_chunk(number, keys):
        first = number * score_together
        w_chunk = jax.lax.dynamic_slice_in_dim(w, first, score_together).astype(rows.dtype)
        scores = jnp.einsum("cd,nd->cn", w_chunk, rows, preferred_element_type=jnp.float32)

        def read(piece, keys):
            # The last piece overlaps the one before it rather than run over the end.
            start = jnp.minimum(begin + piece * at_once, num_blocks - at_once)
            cut = lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, at_once)  # noqa: E731
            concept, block = cut(layout.block_concept), start + jnp.arange(at_once)
            mine = (concept >= first) & (concept < first + score_together)
            place = (block - layout.first_block[concept])[:, None] * BLOCK + jnp.arange(BLOCK)[None]
            real = mine[:, None] & (place < layout.n_pool[concept][:, None])
            read = ordered_int(scores[jnp.clip(concept - first, 0, score_together - 1)[:, None], cut(layout.pool)])
            return jax.lax.dynamic_update_slice_in_dim(
                keys, jnp.where(real, read, jnp.where(mine[:, None], LOWEST, cut(keys))), start, 0
            )

        begin, end = jnp.searchsorted(layout.block_concept, jnp.array([first, first + score_together]))
        return jax.lax.fori_loop(0, -(-(end - begin) // at_once), read, keys)

    return jax.lax.fori_loop(0, len(w) // score_together, score_chunk, keys)


def hardest(
    keys: Int[Array, "blocks BLOCK"], members: Int[Array, "batches batch"], layout: Layout
) -> Int[Array, "batches batch"]:
    """The members with the negatives replaced by the `n_neg` of each pool whose keys are the largest.

    They keep the order of the pool; where the last place is tied, the tied ones follow, the first of the pool winning.
    """
    mine = layout.block_concept
    cut_off = cut_offs(keys, layout)[mine][:, None]
    above, equal = keys > cut_off, keys == cut_off
    # Both counts in one sum of floats, exact below 2^24: a block has BLOCK of either at most.
    counted = above + (2.0 * BLOCK) * equal
    lanes = counted.reshape(-1, BLOCK // LANES, LANES)
    # Sums up to each place by a triangular product: XLA's cumulative sum is many times slower on a CPU.
    within = jnp.einsum("blp,pq->blq", lanes, jnp.triu(jnp.ones((LANES, LANES))), precision=jax.lax.Precision.HIGHEST)
    totals = within[..., -1]
    before = jnp.cumsum(totals, axis=1) - totals
    packed = ((within + before[..., None]).reshape(keys.shape) - counted).astype(jnp.int32)
    in_block = (before[:, -1] + totals[:, -1]).astype(jnp.int32)
    rank_above = packed % (2 * BLOCK) + _before_block(in_block % (2 * BLOCK), layout)[:, None]
    num_above = _per_concept(in_block % (2 * BLOCK), layout)
    rank_equal = packed // (2 * BLOCK) + (_before_block(in_block // (2 * BLOCK), layout) + num_above[mine])[:, None]
    rank = jnp.where(above, rank_above, rank_equal)
    taken = (above | equal) & (rank < layout.n_neg[mine][:, None])
    start = layout.first_batch * members.shape[1] + layout.n_pos
    place = jnp.where(taken, start[mine][:, None] + rank, members.size)
    return members.reshape(-1).at[place].set(~layout.pool, mode="drop", unique_indices=True).reshape(members.shape)


def cut_offs(keys: Int[Array, "blocks BLOCK"], layout: Layout) -> Int[Array, " C"]:
    """What is above it, and if that is not enough some of what equals it, are the `n_neg` largest keys of a pool.

    By bisection, all concepts at once; it ends as soon as the middle happens to separate the right number.
    """

    def halve(state):
        low, high, open_ = state
        # At least n_neg keys are >= low, fewer are >= high. Their distance may need all 32 bits.
        distance = jax.lax.bitcast_convert_type(high - low, jnp.uint32)
        middle = low + (distance >> 1).astype(jnp.int32)
        at_least = _per_concept(jnp.sum(keys >= middle[layout.block_concept][:, None], axis=1), layout)
        exact = at_least == layout.n_neg
        new_low = jnp.where(exact, middle - 1, jnp.where(at_least > layout.n_neg, middle, low))
        new_high = jnp.where(at_least < layout.n_neg, middle, high)
        low, high = jnp.where(open_, new_low, low), jnp.where(open_, new_high, high)
        narrow = jax.lax.bitcast_convert_type(high - low, jnp.uint32) <= 1
        return low, high, open_ & ~exact & ~narrow

    low = jnp.full_like(layout.n_neg, LOWEST + 1)
    high = jnp.full_like(layout.n_neg, jnp.iinfo(jnp.int32).max)
    return jax.lax.while_loop(lambda state: jnp.any(state[2]), halve, (low, high, layout.n_neg > 0))[0]


def drawn(
    words: UInt32[Array, "C words"], members: Int[Array, "batches batch"], layout: Layout
) -> Int[Array, "batches batch"]:
    """The members with the negatives replaced by `n_neg` random ones of each pool."""
    mine = layout.batch_concept
    place = local_places(layout) - layout.n_pos[mine][:, None]
    negative = (place >= 0) & (place < layout.n_neg[mine][:, None])
    picked = permute(words[mine], jnp.where(negative, place, 0), layout.n_pool[mine])
    block = jnp.minimum(layout.first_block[mine][:, None] + picked // BLOCK, len(layout.pool) - 1)
    return jnp.where(negative, ~layout.pool[block, picked % BLOCK], members)


def local_places(layout: Layout) -> Int[Array, "batches batch"]:
    """The number of every member among its concept's members."""
    batch = layout.positives.shape[1]
    number = jnp.arange(len(layout.batch_concept)) - layout.first_batch[layout.batch_concept]
    return number[:, None] * batch + jnp.arange(batch)[None]


def _per_concept(per_block, layout: Layout):
    return jax.ops.segment_sum(per_block, layout.block_concept, len(layout.n_pos), indices_are_sorted=True)


def _before_block(per_block, layout: Layout):
    """The sum over the blocks of the same concept that come before each block."""
    before = jnp.cumsum(per_block) - per_block
    return before - before[jnp.minimum(layout.first_block, len(per_block) - 1)][layout.block_concept]
