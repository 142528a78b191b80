"""Which rows and images every template is fitted and tested on. Pure NumPy; depends on labels and the seed alone.

Each concept draws from its own stream, seeded by the run's seed and the concept's identity, so that a concept's result
does not depend on which others run beside it, nor on their order.
"""

import dataclasses
import zlib

import numpy as np
from jaxtyping import Int

from vitprobe_jax.data.labels import LabelTable
from vitprobe_jax.types import Concept

NUM_QUERY = 50
"""Query images with, and as many without, the concept (paper section 3.5)."""


def concept_identity(concept: Concept) -> int:
    """A 32-bit number that tells concepts apart and never changes."""
    return zlib.crc32(f"{concept.category}/{concept.number}".encode())


def concept_stream(concept: Concept, seed: int, purpose: str) -> np.random.Generator:
    """The random stream of one concept for one purpose."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode()), concept_identity(concept)])


@dataclasses.dataclass(frozen=True)
class RowPool:
    """The training rows of one concept; numbers index the table's rows flattened to N = I * R.

    Attributes:
        positives: all rows that carry the concept, ascending.
        negatives: the negative pool, ascending: rows that carry another concept of the category, but not this one.
        num_negatives: all such rows in the split, of which the pool is a sample.
    """

    positives: Int[np.ndarray, " p"]
    negatives: Int[np.ndarray, " n"]
    num_negatives: int


def draw_pools(labels: LabelTable, *, ratio: int, seed: int) -> list[RowPool]:
    """One pool a concept: all its positives, at most `ratio` times as many negatives drawn without replacement."""
    positives = rows_by_concept(labels)
    members = [np.flatnonzero(labels.in_category(c).reshape(-1)) for c in range(len(labels.categories))]
    pools = []
    for concept, rows, category in zip(labels.concepts, positives, labels.concept_category, strict=True):
        available = len(members[category]) - len(rows)
        count = min(ratio * len(rows), available)
        stream = concept_stream(concept, seed, "pool")
        ranks = np.sort(stream.choice(available, count, replace=False, shuffle=False)) if count else np.arange(0)
        # `ranks` number the negatives in row order. A rank becomes a place among the category's members by stepping over
        # the positives in front of it, so that no list of all negatives is ever made.
        places = np.searchsorted(members[category], rows)
        places = ranks + np.searchsorted(places - np.arange(len(rows)), ranks, side="right")
        pools.append(RowPool(rows, members[category][places], available))
    return pools


def rows_by_concept(labels: LabelTable) -> list[Int[np.ndarray, " p"]]:
    """The rows of every concept, ascending, from one pass over the slots."""
    slots = labels.slots.reshape(-1, labels.slots.shape[-1])
    rows, columns = np.nonzero(slots)
    concepts = slots[rows, columns] - 1
    order = np.argsort(concepts, kind="stable")
    ends = np.cumsum(np.bincount(concepts, minlength=len(labels.concepts)))
    return np.split(rows[order], ends[:-1])


@dataclasses.dataclass(frozen=True)
class ImageDraw:
    """Images drawn for every concept and trial; -1 pads.

    Attributes:
        images: image numbers of the split.
        counts: how many of them are real, they stand first.
    """

    images: Int[np.ndarray, "K trials S"]
    counts: Int[np.ndarray, "K trials"]


def draw_support(labels: LabelTable, *, shots: int, trials: int, seed: int) -> ImageDraw:
    """`shots` random images that contain each concept, per trial; all there are where there are fewer.

    A smaller shot count uses the first images of the same draw, so that the curve over shots is one of growing sets.
    """
    containing = images_by_concept(labels)
    streams = [concept_stream(concept, seed, "support") for concept in labels.concepts]
    draws = [
        [stream.permutation(images)[:shots] for _ in range(trials)]
        for stream, images in zip(streams, containing, strict=True)
    ]
    return _pad(draws, trials, shots)


def draw_queries(labels: LabelTable, *, trials: int, seed: int) -> ImageDraw:
    """50 held-out images with and 50 without each concept, per trial.

    "Without" are images that carry some concept of the category but not this one; others could say nothing about it.
    """
    containing = images_by_concept(labels)
    members = [np.flatnonzero(labels.in_category(c).any(-1)) for c in range(len(labels.categories))]
    draws = []
    for concept, present, category in zip(labels.concepts, containing, labels.concept_category, strict=True):
        stream = concept_stream(concept, seed, "query")
        absent = np.setdiff1d(members[category], present, assume_unique=True)
        sides = [[stream.permutation(side)[:NUM_QUERY] for side in (present, absent)] for _ in range(trials)]
        draws.append([np.concatenate(pair) for pair in sides])
    return _pad(draws, trials, 2 * NUM_QUERY)


def images_by_concept(labels: LabelTable) -> list[Int[np.ndarray, " n"]]:
    """The images that contain each concept in at least one row, ascending."""
    num_rows = labels.slots.shape[1]
    return [np.unique(rows // num_rows) for rows in rows_by_concept(labels)]


def _pad(draws: list[list[np.ndarray]], trials: int, width: int) -> ImageDraw:
    images = np.full((len(draws), trials, width), -1, np.int32)
    counts = np.zeros((len(draws), trials), np.int32)
    for k, per_trial in enumerate(draws):
        for trial, drawn in enumerate(per_trial):
            images[k, trial, : len(drawn)] = drawn
            counts[k, trial] = len(drawn)
    return ImageDraw(images, counts)
