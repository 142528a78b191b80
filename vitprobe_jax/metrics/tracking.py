"""Objects of video frames that are told again some frames later by their features alone.

Frames have different numbers of objects, so their arrays are padded to the fullest frame: F frames of M places each, of
which the `present` ones hold an object.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vitprobe_jax.probes.knn import Metric

_PAIRS_AT_ONCE = 64  # 50 objects of 768 features in both frames: 20 MiB


@dataclasses.dataclass(frozen=True)
class TrackingShares:
    """How objects were told again, each a share of `count`.

    Attributes:
        count: objects that were asked for.
        same_instance: led to the same object.
        same_category: led to an object of the same category.
        upper_bound: were still there to be found.
    """

    count: int
    same_instance: float
    same_category: float
    upper_bound: float


def frame_pairs(frames: Sequence[tuple[str, int]], gap: int) -> Int[np.ndarray, "n 2"]:
    """Indices of all frames t and t + gap of one sequence that both are there.

    Args:
        frames: sequence and number of each.
        gap: difference of their numbers.
    """
    place = {frame: i for i, frame in enumerate(frames)}
    later = [place.get((sequence, number + gap), -1) for sequence, number in frames]
    return np.array([(i, j) for i, j in enumerate(later) if j >= 0], np.int32).reshape(-1, 2)


@functools.partial(jax.jit, static_argnames="metric")
def nearest_objects(
    features: Float[Array | np.ndarray, "F M D"],
    present: Bool[Array | np.ndarray, "F M"],
    pairs: Int[Array | np.ndarray, "n 2"],
    *,
    metric: Metric = "l2",
) -> Int[Array, "n M"]:
    """For every object of a pair's first frame the place of the nearest object in its second one.

    Of equally near objects the first is taken. What stands for places that hold no object, or in a pair whose second
    frame has none, means nothing.

    Args:
        features: of the objects.
        present: which places hold one.
        pairs: frames.
        metric: `l2` by Euclidean distance, `cosine` by cosine similarity.
    """
    features, present = jnp.asarray(features), jnp.asarray(present)
    if metric == "cosine":
        norm = jnp.linalg.norm(features, axis=-1, keepdims=True)
        features = features / jnp.where(norm > 0, norm, 1)

    def nearest_of_pair(pair):
        asked, base, there = features[pair[0]], features[pair[1]], present[pair[1]]
        bias = jnp.zeros(len(base))
        if metric == "l2":
            # Distances do not hang on the origin, but their rounding does: large features that all share go first.
            origin = jnp.mean(base, axis=0, where=there[:, None], keepdims=True)
            asked, base = asked - origin, base - origin
            bias = -jnp.sum(base**2, axis=1) / 2
        scores = jnp.einsum("qd,nd->qn", asked, base, precision=jax.lax.Precision.HIGHEST) + bias[None]
        return jnp.argmax(jnp.where(there[None], scores, -jnp.inf), axis=1)

    return jax.lax.map(nearest_of_pair, jnp.asarray(pairs), batch_size=_PAIRS_AT_ONCE)


def tracking_shares(
    found: Int[np.ndarray, "n M"],
    pairs: Int[np.ndarray, "n 2"],
    present: Bool[np.ndarray, "F M"],
    tracks: Int[np.ndarray, "F M"],
    categories: Int[np.ndarray, "F M"],
) -> TrackingShares:
    """Holds what `nearest_objects` found against the annotation.

    Args:
        found: places in the second frame of each pair.
        pairs: frames, each of which holds an object.
        present: which places hold one.
        tracks: of the objects, the same in all frames of a sequence.
        categories: of the objects.

    Raises:
        ValueError: there are no pairs, or one has a frame without objects.
    """
    first, second = pairs.T
    if not len(pairs) or not present[pairs].any(-1).all():
        raise ValueError("objects are told again in frames that hold some, in one pair of them at least")
    asked = present[first]

    def share(values: Bool[np.ndarray, "n M"]) -> float:
        return float(values[asked].mean())

    def agree(of_objects: Int[np.ndarray, "F M"]) -> float:
        return share(np.take_along_axis(of_objects[second], found, axis=1) == of_objects[first])

    # One number for a frame and a track, so that who is still there is a matter of sets, not of all pairs of objects.
    names, track = np.unique(tracks, return_inverse=True)
    track = track.reshape(tracks.shape)
    there = np.nonzero(present)[0] * len(names) + track[present]
    still_there = np.isin(second[:, None] * len(names) + track[first], there)
    return TrackingShares(int(asked.sum()), agree(tracks), agree(categories), share(still_there))
