"""How many pixels of each concept every patch shows: what a patch is told by, and held against."""

import dataclasses
import functools
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Int, UInt

from vitprobe_jax.data.dataset import Annotation, ImageSplit
from vitprobe_jax.data.labels import count_patches, look_up, patch_votes, slot_dtype, slot_lookup
from vitprobe_jax.data.transforms import Transform
from vitprobe_jax.types import Concept

_BLOCK = 64
"""Images that a thread goes through at a time: tiles of one image, which is read once for them, mostly lie in one block."""


@dataclasses.dataclass(frozen=True)
class LabelCounts:
    """Pixels of each concept in every patch of every image of a split.

    Attributes:
        counts: pixels; uint16, or uint32 for patches of more than 255 pixels a side. Column 0 counts those that carry no
            concept, column k + 1 those of `concepts[k]`, so a patch's counts add up to its pixels.
        concepts: what is counted.
    """

    counts: UInt[np.ndarray, "I P K1"]
    concepts: tuple[Concept, ...]

    def majority(self) -> Int[np.ndarray, "I P"]:
        """The most frequent concept of each patch as its index in `concepts` plus one, 0 for none.

        None counts as any other, and the first column of equals wins: the majority of `labels.patch_labels`, but that
        labels which are no concept vote together for none here.
        """
        return self.counts.argmax(-1).astype(np.int32)


def pixel_concepts(
    annotation: Annotation, concepts: tuple[Concept, ...], transform: Transform
) -> Int[np.ndarray, "H W"]:
    """The concept of every pixel as its index plus one, 0 for none, after the masks took the way of their image.

    Where masks overlap, that of the first one, in the order of the annotation, which labels the pixel with a concept. Labels
    of the whole image say nothing of a pixel and are left out.
    """
    slots = np.zeros(transform.size, slot_dtype(len(concepts)))
    lookups = _lookups(concepts)
    for category, mask in annotation.masks:
        if category in lookups:
            found = look_up(lookups[category], transform.mask(mask, annotation.image_size or mask.shape))
            slots = np.where(slots > 0, slots, found)
    return slots


def count_labels(
    split: ImageSplit, concepts: tuple[Concept, ...], *, transform: Transform, patch_size: int
) -> LabelCounts:
    """Counts the pixels of each concept in each patch, after the masks took the way of their images.

    A pixel counts once, see `pixel_concepts`.

    Args:
        split: which images; only their annotations are read.
        concepts: those that are counted; other labels are none.
        transform: how the images are brought to one size.
        patch_size: side of a patch in pixels, a divisor of both sides of `transform.size`.

    Raises:
        InputError: the patch size does not divide the image size, or an annotation is unfit.
    """
    num_patches, num_codes = count_patches(transform.size, patch_size), len(concepts) + 1
    dtype = np.uint16 if patch_size**2 <= np.iinfo(np.uint16).max else np.uint32
    counts = np.zeros((len(split), num_patches, num_codes), dtype)

    def count_image(index: int) -> None:
        slots = pixel_concepts(split.annotation(index), concepts, transform)
        counts[index] = patch_votes(slots, patch_size=patch_size, num_codes=num_codes)

    def count_block(start: int) -> None:
        for index in range(start, min(start + _BLOCK, len(split))):
            count_image(index)

    # Threads, as in `labels.build_labels`; each writes its own images.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(count_block, range(0, len(split), _BLOCK)):
            pass
    return LabelCounts(counts, concepts)


@functools.lru_cache(maxsize=8)
def _lookups(concepts: tuple[Concept, ...]) -> dict[str, Int[np.ndarray, " n"]]:
    """`slot_lookup` of each category."""
    return {category: slot_lookup(concepts, category) for category in {concept.category for concept in concepts}}
