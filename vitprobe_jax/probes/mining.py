"""Hard-negative mining: of every concept's pool, the negatives that its template scores highest.

Exactly the k largest, without sorting: the k-th largest score is found by bisection over the bits of the scores, all
concepts at once, and what lies above it is moved to its place by counting. `top_k` takes three times as long on a CPU and
needs one width for all concepts.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from vitprobe_jax.features.streaming import StreamedRows, take_images
from vitprobe_jax.probes.layout import BLOCK, LANES, Layout
from vitprobe_jax.probes.ordered import ordered_int
from vitprobe_jax.probes.permutation import permute

BLOCKS_READ = 256
"""Blocks whose scores are read from a product at a time."""
BLOCKS_FETCHED = 4
"""Blocks whose rows are fetched at a time: 3 MB of 384 features, which stay in the cache of a CPU."""
ROWS_MULTIPLIED = 8192
"""Rows of a product with the templates: 12 MB of 384 features."""
LOWEST = jnp.iinfo(jnp.int32).min
"""Below every score: places of a block without a row."""


def pool_scores(
    rows: Float[Array, "I R D"] | StreamedRows,
    w: Float[Array, "C D"],
    shift: Float[Array, " D"],
    layout: Layout,
    *,
    score_together: int,
) -> Int[Array, "blocks BLOCK"]:
    """The score w.(z - shift) of every row of every pool, as ordered integers; `LOWEST` where there is no row.

    Dense, for the first `layout.num_dense` concepts: all rows times the templates in matrix products, of which each
    pool is read. Sparse, for the others, whose pools are a small part of the rows: the rows of the pools are fetched.
    Streamed rows come window after window of images, and each gives the scores of the rows that it holds.

    Args:
        rows: rows of the table, raw.
        w: template of every concept for raw rows.
        shift: subtracted from the rows in float32. It changes no order of scores, but keeps their digits where means are
            large.
        layout: the pools.
        score_together: concepts of one product, a divisor of C; as many scores are held for each of `rows_scored(rows)`.
    """
    w = w.astype(rows.dtype)
    keys = jnp.full(layout.pool.shape, LOWEST)
    num_images, num_rows, width = rows.shape
    if not isinstance(rows, StreamedRows):
        return _score_window(rows.reshape(-1, width), None, w, shift, layout, keys, score_together)
    at_once = min(num_images, rows.images_together)

    def add_window(i, keys):
        # The last window is moved back to end with the table: some rows are scored twice, to the same end.
        start = jnp.minimum(i * at_once, num_images - at_once)
        window = take_images(rows, start + jnp.arange(at_once)).reshape(-1, width)
        return _score_window(window, start * num_rows, w, shift, layout, keys, score_together)

    return jax.lax.fori_loop(0, -(-num_images // at_once), add_window, keys)


def rows_scored(rows: Float[Array, "I R D"] | StreamedRows) -> int:
    """Rows of one product: all, or those of a window."""
    num_images = min(rows.shape[0], rows.images_together) if isinstance(rows, StreamedRows) else rows.shape[0]
    return num_images * rows.shape[1]


def _score_window(window_NxD, first_row, w, shift, layout: Layout, keys, score_together: int):
    """Writes the keys of the rows from `first_row` on that are in the window; None: all rows are, and nothing is checked."""

    def over_blocks(first, end, at_once, score, keys):
        """Writes `score(concepts [n], places in the window [n, BLOCK])` of the blocks of concepts first..end-1."""
        at_once = min(at_once, len(keys))
        begin, stop = jnp.searchsorted(layout.block_concept, jnp.stack([first, end]))

        def write(piece, keys):
            # The last piece overlaps what is no concern of it rather than run over the end.
            start = jnp.minimum(begin + piece * at_once, len(keys) - at_once)
            concept, place, old = (
                jax.lax.dynamic_slice_in_dim(x, start, at_once) for x in (layout.block_concept, layout.pool, keys)
            )
            number = start + jnp.arange(at_once) - layout.first_block[concept]
            real = number[:, None] * BLOCK + jnp.arange(BLOCK)[None] < layout.n_pool[concept][:, None]
            mine = ((concept >= first) & (concept < end))[:, None]
            if first_row is None:
                new = jnp.where(real, ordered_int(score(concept, place)), LOWEST)
                return jax.lax.dynamic_update_slice_in_dim(keys, jnp.where(mine, new, old), start, 0)
            place = place - first_row
            held = mine & real & (place >= 0) & (place < len(window_NxD))

            def write_held():
                new = ordered_int(score(concept, jnp.clip(place, 0, len(window_NxD) - 1)))
                return jax.lax.dynamic_update_slice_in_dim(keys, jnp.where(held, new, old), start, 0)

            return jax.lax.cond(jnp.any(held), write_held, lambda: keys)

        return jax.lax.fori_loop(0, -(-(stop - begin) // at_once), write, keys)

    def score_dense(chunk, keys):
        first = chunk * score_together
        w_chunk = jax.lax.dynamic_slice_in_dim(w, first, score_together)
        scores = _products(w_chunk, shift, window_NxD)
        read = lambda concept, place: scores[jnp.clip(concept - first, 0, score_together - 1)[:, None], place]  # noqa: E731
        end = jnp.minimum(first + score_together, layout.num_dense)
        return over_blocks(first, end, BLOCKS_READ, read, keys)

    def score_sparse(concept, place):
        fetched = _centred(window_NxD.at[place].get(mode="promise_in_bounds"), shift)
        return jnp.einsum("bnd,bd->bn", fetched, w[concept], preferred_element_type=jnp.float32)

    keys = jax.lax.fori_loop(0, -(-layout.num_dense // score_together), score_dense, keys)
    return over_blocks(layout.num_dense, jnp.int32(len(w)), BLOCKS_FETCHED, score_sparse, keys)


def _products(w_CxD, shift, z_NxD) -> Float[Array, "C N"]:
    """w.(z - shift), block after block of rows: no copy of all rows less the shift is made."""
    size = min(len(z_NxD), ROWS_MULTIPLIED)

    def write(i, scores_CxN):
        # The last block is moved back to end with the rows.
        start = jnp.minimum(i * size, len(z_NxD) - size)
        block_NxD = _centred(jax.lax.dynamic_slice_in_dim(z_NxD, start, size), shift)
        of_block = jnp.einsum("cd,nd->cn", w_CxD, block_NxD, preferred_element_type=jnp.float32)
        return jax.lax.dynamic_update_slice_in_dim(scores_CxN, of_block, start, axis=1)

    return jax.lax.fori_loop(0, -(-len(z_NxD) // size), write, jnp.zeros((len(w_CxD), len(z_NxD))))


def _centred(z: Float[Array, "*rows D"], shift) -> Float[Array, "*rows D"]:
    """The rows less the shift, in their own dtype: bfloat16 products run at full rate."""
    return (z.astype(jnp.float32) - shift.reshape((1,) * (z.ndim - 1) + (-1,))).astype(z.dtype)


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
