"""Concepts of all sizes side by side in flat arrays: what one compiled program needs to fit them together.

Positives per concept run from tens to millions. Nothing is padded to the largest: pools are cut into blocks, the rows of
a round into batches, and a concept owns as many of either as it needs. Concepts of like size stand together in groups,
whose members take their gradient steps side by side.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt32

from vitprobe_jax.probes.sampling import RowPool

BLOCK = 512
"""Pool rows of a block: large enough for fast sums, small beside the pool of a concept of 50 positives (1,000)."""
LANES = 32
"""A block is `BLOCK // LANES` lanes of this many rows, see `mining`."""


class Layout(NamedTuple):
    """C concepts in groups of G, the dense ones first, larger before smaller; the last may be padding without any rows.

    Every array holds int32 (`identity`: uint32). Members are the rows of a round: a concept's positives, then its
    negatives, in batches of its own, the last one padded.

    Attributes:
        identity: 32-bit number of every concept; all its randomness hangs on it.
        n_pos: positives of every concept.
        n_neg: negatives of a round.
        n_pool: rows in its pool.
        first_batch: where its batches begin.
        first_block: where its blocks begin.
        positives: rows of the table in the places of the positives, 0 elsewhere.
        batch_concept: whose every batch is.
        pool: rows of the table, ascending within a concept.
        block_concept: whose every block is.
        group_steps: batches of the largest concept of every group.
        num_dense: concepts whose pools are scored densely; they stand first.
    """

    identity: UInt32[np.ndarray, " C"]
    n_pos: Int[np.ndarray, " C"]
    n_neg: Int[np.ndarray, " C"]
    n_pool: Int[np.ndarray, " C"]
    first_batch: Int[np.ndarray, " C"]
    first_block: Int[np.ndarray, " C"]
    positives: Int[np.ndarray, "batches batch"]
    batch_concept: Int[np.ndarray, " batches"]
    pool: Int[np.ndarray, "blocks BLOCK"]
    block_concept: Int[np.ndarray, " blocks"]
    group_steps: Int[np.ndarray, " groups"]
    num_dense: Int[np.ndarray, ""]

    @property
    def rows_needed(self) -> int:
        """Rows that an epoch over all concepts has to visit."""
        return int((self.n_pos + self.n_neg).sum())

    @property
    def rows_visited(self) -> int:
        """Rows that it does visit, padding of batches and groups included."""
        group = len(self.n_pos) // len(self.group_steps)
        return int(self.group_steps.sum()) * group * self.positives.shape[1]


class Wave(NamedTuple):
    """Concepts that are in memory together.

    Attributes:
        concepts: which, in the order of `layout`; padding is left out.
        layout: their rows.
    """

    concepts: Int[np.ndarray, " c"]
    layout: Layout


def plan_waves(
    pools: Sequence[RowPool],
    identities: Sequence[int],
    *,
    negative_ratio: int,
    batch_size: int,
    group_size: int,
    max_slots: int,
    dense_from: int,
) -> list[Wave]:
    """Puts concepts, in the order of `Layout`, into as few waves as the bound allows, all of one shape: one program.

    Args:
        pools: rows of every concept.
        identities: 32-bit number of every concept, unique; breaks ties of size, so that the order of `pools` is of no
            account.
        negative_ratio: negatives of a round, in positives.
        batch_size: rows of a batch.
        group_size: concepts of a group.
        max_slots: pool and batch places of a wave; a concept that needs more has a wave for itself.
        dense_from: smallest pool that is scored densely.
    """
    n_pos = np.array([len(pool.positives) for pool in pools], np.int64)
    n_pool = np.array([len(pool.negatives) for pool in pools], np.int64)
    n_neg = np.minimum(negative_ratio * n_pos, n_pool)
    batches, blocks = -(-(n_pos + n_neg) // batch_size), -(-n_pool // BLOCK)
    order = np.lexsort((identities, -batches, n_pool < dense_from))
    slots = np.cumsum((batches * batch_size + blocks * BLOCK)[order])
    cuts = [0]
    for i in range(len(order)):
        start = cuts[-1]
        if i > start and slots[i] - (slots[start - 1] if start else 0) > max_slots:
            cuts.append(i)
    waves = np.split(order, cuts[1:])
    num_concepts = -(-max(map(len, waves)) // group_size) * group_size
    num_batches, num_blocks = (max(int(size[wave].sum()) for wave in waves) for size in (batches, blocks))

    def lay_out(wave: Int[np.ndarray, " c"]) -> Layout:
        def padded(values, width=num_concepts, fill=0, dtype=np.int32):
            return np.concatenate([values, np.full(width - len(values), fill)]).astype(dtype)

        # Batches and blocks beyond the last concept's are counted for padding, or for the last where there is none.
        spare = min(len(wave), num_concepts - 1)
        first_batch, first_block = (np.cumsum(size[wave]) - size[wave] for size in (batches, blocks))
        positives = np.zeros((num_batches, batch_size), np.int32)
        pool = np.zeros((num_blocks, BLOCK), np.int32)
        for k, batch, block in zip(wave, first_batch, first_block, strict=True):
            positives.reshape(-1)[batch * batch_size :][: n_pos[k]] = pools[k].positives
            pool.reshape(-1)[block * BLOCK :][: n_pool[k]] = pools[k].negatives
        return Layout(
            identity=padded(np.asarray(identities, np.uint32)[wave], dtype=np.uint32),
            n_pos=padded(n_pos[wave]),
            n_neg=padded(n_neg[wave]),
            n_pool=padded(n_pool[wave]),
            first_batch=padded(first_batch, fill=batches[wave].sum()),
            first_block=padded(first_block, fill=blocks[wave].sum()),
            positives=positives,
            batch_concept=padded(np.repeat(np.arange(len(wave)), batches[wave]), num_batches, spare),
            pool=pool,
            block_concept=padded(np.repeat(np.arange(len(wave)), blocks[wave]), num_blocks, spare),
            group_steps=padded(batches[wave]).reshape(-1, group_size).max(axis=1),
            num_dense=np.array(np.sum(n_pool[wave] >= dense_from), np.int32),
        )

    return [Wave(wave.astype(np.int32), lay_out(wave)) for wave in waves]
