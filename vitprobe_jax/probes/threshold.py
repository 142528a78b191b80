"""The threshold of a template: where F1 is highest, exactly, of very many sets of scores at once.

F1 is the plain one, 2 tp / (P + tp + fp): rows count as they come, not as if both sides were equally many.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vitprobe_jax.probes.ordered import from_ordered_int, ordered_int


def best_threshold(
    scores: Float[Array, "*batch n"], pos: Bool[Array, "*batch n"], neg: Bool[Array, "*batch n"]
) -> Float[Array, "*batch"]:
    """The largest threshold that gives the highest F1 when rows with `score >= threshold` are found, of every batch.

    Only scores of positives need be tried: from anywhere else, raising the threshold to the next positive score loses no
    positive and can only drop negatives. Without negatives the best is the lowest positive score, the largest threshold
    that keeps every positive. Many rows are not sorted: see `_promising`.

    Args:
        scores: of all rows.
        pos: rows that carry the concept, one at least.
        neg: rows that do not; rows that are neither do not count.
    """
    return jax.lax.cond(
        jnp.any(neg),
        jnp.vectorize(_search, signature="(n),(n),(n)->()") if scores.shape[-1] < BINS else _search_bins,
        lambda scores, pos, neg: jnp.min(jnp.where(pos, scores, jnp.inf), axis=-1),
        *(scores, pos, neg),
    )


BINS = 1024
"""Of the histogram of scores; fewer rows are sorted at once."""
SURVIVORS = 8
"""After the histogram one row in so many is sorted, a side, where no more are left: mostly 1 in 100 are, 1 in 8 where the
sides overlap widely."""


def _search_bins(scores, pos, neg):
    """`_search` among the rows that a histogram leaves; among all where those are many, as with ties."""
    promising, above_2 = jnp.vectorize(_promising, signature="(n),(n),(n)->(n),(k)")(scores, pos, neg)
    width = scores.shape[-1] // SURVIVORS
    few = [jnp.all(jnp.sum(side & promising, axis=-1) <= width) for side in (pos, neg)]
    among = functools.partial(_search, width=width)
    return jax.lax.cond(
        few[0] & few[1],
        lambda: jnp.vectorize(among, signature="(n),(n),(n),(k),()->()")(
            scores, pos & promising, neg & promising, above_2, jnp.sum(pos, axis=-1)
        ),
        lambda: jnp.vectorize(_search, signature="(n),(n),(n)->()")(scores, pos, neg),
    )


def _promising(scores, pos, neg):
    """Rows from the lowest to the highest bin that may hold the best threshold; (positives, negatives) above them.

    A threshold within a bin finds no more positives than the bin's lower edge and no fewer negatives than its upper edge,
    which bounds its F1 from above; the F1 at any edge bounds the best from below. Bins keep the order of the scores
    whatever the rounding, so both bounds are exact.
    """
    low, high = jnp.min(jnp.where(pos, scores, jnp.inf)), jnp.max(jnp.where(pos, scores, -jnp.inf))
    scale = jnp.where(high > low, BINS / jnp.where(high > low, high - low, 1.0), 0.0)
    bins = jnp.clip((scores - low) * scale, 0, BINS - 1).astype(jnp.int32)
    counted = pos | (neg & (scores >= low))
    histogram = jnp.zeros(2 * BINS, jnp.int32).at[bins + BINS * neg].add(counted.astype(jnp.int32))
    found_2xB = jnp.cumsum(histogram.reshape(2, BINS)[:, ::-1], axis=1)[:, ::-1]
    beyond_2xB = jnp.pad(found_2xB[:, 1:], ((0, 0), (0, 1)))
    num_pos = found_2xB[0, 0]
    reached = jnp.max(_f1(found_2xB[0], found_2xB[1], num_pos))
    may = (found_2xB[0] > beyond_2xB[0]) & (_f1(found_2xB[0], beyond_2xB[1], num_pos) >= reached)
    first, last = jnp.argmax(may), BINS - 1 - jnp.argmax(may[::-1])
    return counted & (first <= bins) & (bins <= last), beyond_2xB[:, last]


def _search(scores, pos, neg, above_2=(0, 0), num_pos=None, *, width=None):
    """The best threshold among the scores of `pos`.

    Positives in descending order know how many of them lie at or above each; a binary search among the sorted negatives
    tells how many of those do. Among equal scores the last counts them all, and its F1 is the highest, so ties need no
    care.

    Args:
        scores: of all rows.
        pos: positives to be tried.
        neg: negatives that lie between them.
        above_2: further positives and negatives, above all of those.
        num_pos: all positives; by default `pos`.
        width: bound on the rows of either side; by default all rows.
    """
    width = width or len(scores)
    scores = jnp.where(scores == 0, 0.0, scores)  # Sorts and searches tell -0.0 from 0.0.
    pos_scores, neg_scores = (_largest(jnp.where(side, scores, -jnp.inf), width) for side in (pos, neg))
    tp = above_2[0] + 1 + jnp.arange(width)
    fp = above_2[1] + width - jnp.searchsorted(neg_scores[::-1], pos_scores)
    f1 = _f1(tp, fp, jnp.sum(pos) if num_pos is None else num_pos)
    return pos_scores[jnp.argmax(jnp.where(pos_scores > -jnp.inf, f1, -1.0))]


def _f1(tp, fp, num_pos):
    """2 tp / (P + tp + fp). Equal fractions of exact counts (below 2^24) are equal floats, so ties are real ties."""
    return 2.0 * tp / jnp.maximum(num_pos + tp + fp, 1)


def _largest(x, count):
    """The `count` largest numbers, descending."""
    if count < len(x):
        return jax.lax.top_k(x, count)[0]
    # XLA sorts integers five times faster than floats on a CPU.
    return from_ordered_int(jnp.sort(ordered_int(x))[::-1])
