"""Concepts of all sizes side by side in flat arrays: what one compiled program needs to fit them together.

Positives per concept run from tens to millions. Nothing is padded to the largest: pools are cut into blocks, the rows of
a round into batches, and a concept owns as many of either as it needs. Concepts of like size stand together in groups,
whose members take their gradient steps side by side.

Concepts are dealt over the devices like cards, in that order: the n-th concepts of all devices are neighbours in size, so
that the groups made of them are, too, and all devices have the same work. From group to group the direction turns, or the
first device would get the larger of the neighbours every time.
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
    """C concepts of a device in groups of G, dense ones first, larger before smaller; the last may be padding without rows.

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
        concepts: which, by device, in the order of its layout; padding is left out.
        layouts: their rows, by device, all of one shape.
    """

    concepts: tuple[Int[np.ndarray, " c"], ...]
    layouts: tuple[Layout, ...]


def plan_waves(
    pools: Sequence[RowPool],
    identities: Sequence[int],
    *,
    negative_ratio: int,
    batch_size: int,
    group_size: int,
    max_slots: int,
    dense_from: int,
    num_devices: int = 1,
) -> list[Wave]:
    """Deals concepts, in the order of `Layout`, into as few waves as the bound allows, all of one shape: one program.

    Args:
        pools: rows of every concept.
        identities: 32-bit number of every concept, unique; breaks ties of size, so that the order of `pools` is of no
            account.
        negative_ratio: negatives of a round, in positives.
        batch_size: rows of a batch.
        group_size: concepts of a group.
        max_slots: pool and batch places of a wave on a device; a concept that needs more has a wave for itself there.
        dense_from: smallest pool that is scored densely.
        num_devices: over which every wave is spread.
    """
    n_pos = np.array([len(pool.positives) for pool in pools], np.int64)
    n_pool = np.array([len(pool.negatives) for pool in pools], np.int64)
    n_neg = np.minimum(negative_ratio * n_pos, n_pool)
    batches, blocks = -(-(n_pos + n_neg) // batch_size), -(-n_pool // BLOCK)
    order = np.lexsort((identities, -batches, n_pool < dense_from))
    slots = (batches * batch_size + blocks * BLOCK)[order]
    # A turn deals one concept to every device, and takes on each what the largest of them takes.
    turns = np.cumsum([slots[first : first + num_devices].max() for first in range(0, len(order), num_devices)])
    cuts = [0]
    for i in range(len(turns)):
        start = cuts[-1]
        if i > start and turns[i] - (turns[start - 1] if start else 0) > max_slots:
            cuts.append(i)
    waves = [_dealt(wave, num_devices, group_size) for wave in np.split(order, num_devices * np.array(cuts[1:], int))]
    hands = [hand for wave in waves for hand in wave]
    num_concepts = -(-max(map(len, hands)) // group_size) * group_size
    num_batches, num_blocks = (max(int(size[hand].sum()) for hand in hands) for size in (batches, blocks))

    def lay_out(hand: Int[np.ndarray, " c"]) -> Layout:
        def padded(values, width=num_concepts, fill=0, dtype=np.int32):
            return np.concatenate([values, np.full(width - len(values), fill)]).astype(dtype)

        # Batches and blocks beyond the last concept's are counted for padding, or for the last where there is none.
        spare = min(len(hand), num_concepts - 1)
        first_batch, first_block = (np.cumsum(size[hand]) - size[hand] for size in (batches, blocks))
        positives = np.zeros((num_batches, batch_size), np.int32)
        pool = np.zeros((num_blocks, BLOCK), np.int32)
        for k, batch, block in zip(hand, first_batch, first_block, strict=True):
            positives.reshape(-1)[batch * batch_size :][: n_pos[k]] = pools[k].positives
            pool.reshape(-1)[block * BLOCK :][: n_pool[k]] = pools[k].negatives
        return Layout(
            identity=padded(np.asarray(identities, np.uint32)[hand], dtype=np.uint32),
            n_pos=padded(n_pos[hand]),
            n_neg=padded(n_neg[hand]),
            n_pool=padded(n_pool[hand]),
            first_batch=padded(first_batch, fill=batches[hand].sum()),
            first_block=padded(first_block, fill=blocks[hand].sum()),
            positives=positives,
            batch_concept=padded(np.repeat(np.arange(len(hand)), batches[hand]), num_batches, spare),
            pool=pool,
            block_concept=padded(np.repeat(np.arange(len(hand)), blocks[hand]), num_blocks, spare),
            group_steps=padded(batches[hand]).reshape(-1, group_size).max(axis=1),
            num_dense=np.array(np.sum(n_pool[hand] >= dense_from), np.int32),
        )

    return [Wave(tuple(hand.astype(np.int32) for hand in wave), tuple(map(lay_out, wave))) for wave in waves]


def _dealt(concepts: Int[np.ndarray, " n"], num_devices: int, group_size: int) -> list[Int[np.ndarray, " c"]]:
    """Every device's share of concepts that stand in order, turn after turn, backwards in every other group."""
    turn, device = np.divmod(np.arange(len(concepts)), num_devices)
    backwards = turn // group_size % 2 == 1
    device = np.where(backwards, num_devices - 1 - device, device)
    return [concepts[device == number] for number in range(num_devices)]
