"""Fewer patches an image: a seeded sample of those that carry a label."""

import dataclasses

import numpy as np
from jaxtyping import Int

from vitprobe_jax.data.labels import LabelTable

_AT_ONCE = 1024


def pick_patches(labels: LabelTable, per_image: int, *, seed: int) -> tuple[LabelTable, Int[np.ndarray, "I n"]]:
    """Draws patches without replacement, of each image those that carry a concept.

    Args:
        labels: of all patches.
        per_image: patches that are kept of an image, at most as many as it has. One that has fewer labelled patches is
            filled up with others, which take part in nothing.
        seed: of the draws. The draw of an image depends on its place in the split and on its labels.

    Returns:
        The labels of the patches that are kept, and their numbers in the image, ascending.
    """
    num_images, num_rows = labels.slots.shape[:2]
    count = min(per_image, num_rows)
    picks = np.empty((num_images, count), np.int32)
    for first in range(0, num_images, _AT_ONCE):
        slots = labels.slots[first : first + _AT_ONCE]
        # The smallest of random keys are a draw without replacement; unlabelled patches come after all others.
        keys = np.random.default_rng([seed, first]).random((len(slots), num_rows)) + (slots == 0).all(-1)
        picks[first : first + len(slots)] = np.sort(np.argpartition(keys, count - 1, axis=1)[:, :count], axis=1)
    kept = np.take_along_axis(labels.slots, picks[:, :, None], axis=1)
    return dataclasses.replace(labels, slots=kept), picks
