"""Objects of video frames that are matched some frames later by their features alone.

The N objects of F frames lie one after the other: those of frame f are from `starts[f]` to `starts[f + 1]`, so `starts` has
S = F + 1 entries. Nothing is padded to the fullest frame but a few pairs of frames at a time.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vitprobe_jax.probes.knn import Metric

DEFAULT_MEMORY = 256 << 20
"""Bytes that comparing some pairs of frames may take at a time."""
MOST_PAIRS = 256
"""Pairs of frames that are compared at a time, where memory allows; more would not be faster."""
LEAST_SIDE = 8
"""Frames are padded to this number of objects or a power of two above: few programs serve all."""
COPIES = 6
"""Features of a pair's objects on the host, on the device, and relative to their mean there."""


@dataclasses.dataclass(frozen=True)
class TrackingShares:
    """How objects were matched; shares are of `count`.

    Attributes:
        count: objects that were looked for.
        same_instance: share whose match is the same object.
        same_category: share whose match is of the same category.
        upper_bound: share that is in the later frame at all.
        failed: objects whose match is another object, those included that are no longer there.
        failed_same_category: those of them whose match is of the same category all the same.
    """

    count: int
    same_instance: float
    same_category: float
    upper_bound: float
    failed: int
    failed_same_category: int


def frame_pairs(frames: Sequence[tuple[str, int]], gap: int) -> Int[np.ndarray, "n 2"]:
    """Indices of all frames t and t + gap of one sequence that both are there.

    Args:
        frames: sequence and number of each.
        gap: difference of their numbers.
    """
    place = {frame: i for i, frame in enumerate(frames)}
    later = [place.get((sequence, number + gap), -1) for sequence, number in frames]
    return np.array([(i, j) for i, j in enumerate(later) if j >= 0], np.int32).reshape(-1, 2)


def objects_of(frames: Int[np.ndarray, " n"], starts: Int[np.ndarray, " S"]) -> Int[np.ndarray, " m"]:
    """The objects of some frames, one frame after the other; a frame may be named repeatedly."""
    counts = np.diff(starts)[frames]
    before = np.cumsum(counts) - counts
    return np.arange(counts.sum()) + np.repeat(starts[frames] - before, counts)


def nearest_objects(
    features: Float[np.ndarray, "N D"],
    starts: Int[np.ndarray, " S"],
    pairs: Int[np.ndarray, "n 2"],
    *,
    keep: Bool[np.ndarray, " D"] | None = None,
    metric: Metric = "l2",
    memory: int = DEFAULT_MEMORY,
) -> Int[np.ndarray, " m"]:
    """For every object of every pair's first frame the nearest object of its second frame.

    Of equally near objects the first is taken. A pair's result depends on its own two frames alone, to the last bit: pairs
    are compared by programs of fixed shapes, chosen by the number of objects in the pair.

    Args:
        features: of the objects.
        starts: first object of each frame, and N at the end.
        pairs: frames; every second frame has an object.
        keep: the features that count; all unless given.
        metric: `l2` by Euclidean distance, `cosine` by cosine similarity.
        memory: bytes that are taken at a time beside `features`; exceeded only by a single pair that needs more.

    Returns:
        Numbers of objects, 0 to N - 1, in the order of `objects_of(pairs[:, 0], starts)`.

    Raises:
        ValueError: a second frame has no objects.
    """
    counts, width = np.diff(starts), features.shape[1]
    asked = counts[pairs[:, 0]]
    if not counts[pairs[:, 1]].all():
        raise ValueError("the later frame of a pair has no objects, so none of them is nearest")
    kept = np.ones(width, np.float32) if keep is None else keep.astype(np.float32)
    first, found = np.cumsum(asked) - asked, np.zeros(asked.sum(), np.int64)
    sides = LEAST_SIDE << np.ceil(np.log2(np.maximum(counts[pairs].max(axis=1), 1) / LEAST_SIDE).clip(0)).astype(int)
    for side in np.unique(sides).tolist():
        of_side = np.flatnonzero(sides == side)
        fitting = max(1, min(MOST_PAIRS, memory // (4 * side * (COPIES * width + 2 * side))))
        size = 1 << (fitting.bit_length() - 1)
        for start in range(0, len(of_side), size):
            chosen = of_side[start : start + size]
            best = _nearest_padded(features, starts, pairs[chosen], kept, side, size, metric)
            for pair, of_pair in zip(chosen, best, strict=True):
                found[first[pair] : first[pair] + asked[pair]] = starts[pairs[pair, 1]] + of_pair[: asked[pair]]
    return found


def tracking_shares(
    found: Int[np.ndarray, " m"],
    pairs: Int[np.ndarray, "n 2"],
    starts: Int[np.ndarray, " S"],
    tracks: Int[np.ndarray, " N"],
    categories: Int[np.ndarray, " N"],
) -> TrackingShares:
    """Holds what `nearest_objects` found against the annotation.

    Args:
        found: of these pairs.
        pairs: frames, each of which holds an object.
        starts: first object of each frame, and N at the end.
        tracks: of the objects, the same in all frames of a sequence.
        categories: of the objects.

    Raises:
        ValueError: there are no pairs, or one has a frame without objects.
    """
    counts = np.diff(starts)
    if not len(pairs) or not counts[pairs].all():
        raise ValueError("objects are matched in frames that hold some, in one pair of them at least")
    asked = objects_of(pairs[:, 0], starts)
    same = tracks[found] == tracks[asked]
    of_category = categories[found] == categories[asked]
    # One number for a frame and a track, so that who is still there is a matter of sets, not of all pairs of objects.
    names, track = np.unique(tracks, return_inverse=True)
    there = np.repeat(np.arange(len(counts)), counts) * len(names) + track
    wanted = np.repeat(pairs[:, 1].astype(np.int64), counts[pairs[:, 0]]) * len(names) + track[asked]
    return TrackingShares(
        count=len(asked),
        same_instance=float(same.mean()),
        same_category=float(of_category.mean()),
        upper_bound=float(np.isin(wanted, there).mean()),
        failed=int((~same).sum()),
        failed_same_category=int((of_category & ~same).sum()),
    )


def _nearest_padded(features, starts, pairs, kept, side: int, size: int, metric: Metric) -> Int[np.ndarray, "n side"]:
    """The place of the nearest object in the second frame, of every place of the first, of up to `size` pairs."""
    padded = np.concatenate([pairs, np.repeat(pairs[:1], size - len(pairs), axis=0)])
    place = np.arange(side)[None]
    within = place < np.diff(starts)[padded][..., None]
    # Places without an object repeat one that is there: they are masked, and no value of theirs is infinite.
    index = np.where(within, starts[padded][..., None] + place, 0)
    best = _nearest(features[index[:, 0]], features[index[:, 1]], within[:, 1], kept, metric=metric)
    return np.asarray(best)[: len(pairs)]


@functools.partial(jax.jit, static_argnames="metric")
def _nearest(
    asked: Float[Array, "n M D"],
    base: Float[Array, "n M D"],
    there: Bool[Array, "n M"],
    keep: Float[Array, " D"],
    *,
    metric: Metric,
) -> Int[Array, "n M"]:
    def of_pair(asked, base, there):
        asked, base = asked * keep[None], base * keep[None]
        bias = jnp.zeros(len(base))
        if metric == "cosine":
            asked, base = _unit(asked), _unit(base)
        else:
            # Distances do not depend on the origin, but their rounding does: large features that all share go first.
            origin = jnp.mean(base, axis=0, where=there[:, None], keepdims=True)
            asked, base = asked - origin, base - origin
            bias = -jnp.sum(base**2, axis=1) / 2
        scores = jnp.einsum("qd,nd->qn", asked, base, precision=jax.lax.Precision.HIGHEST) + bias[None]
        return jnp.argmax(jnp.where(there[None], scores, -jnp.inf), axis=1)

    return jax.vmap(of_pair)(asked, base, there)


def _unit(rows):
    norm = jnp.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / jnp.where(norm > 0, norm, 1)
