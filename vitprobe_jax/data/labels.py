"""Annotations -> the concepts that every row carries, for a patch grid or for the image as a whole."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Int

from vitprobe_jax.types import Concept


@dataclasses.dataclass(frozen=True)
class LabelTable:
    """The concepts of every row of every image of a split.

    A row carries at most M concepts, one a slot; the slots of one category stand together. This is the sparse form: a
    dense [rows, concepts] matrix of Broden would be hundreds of times larger.

    Attributes:
        slots: index into `concepts` plus one, 0 for an empty slot. No row holds a concept twice.
        slot_category: index into `categories` of each slot.
        concepts: the concepts that are probed.
        categories: their categories.
    """

    slots: Int[np.ndarray, "I R M"]
    slot_category: Int[np.ndarray, " M"]
    concepts: tuple[Concept, ...]
    categories: tuple[str, ...]

    @property
    def concept_category(self) -> Int[np.ndarray, " K"]:
        """Index into `categories` of each concept."""
        return np.array([self.categories.index(concept.category) for concept in self.concepts], np.int32)

    def take(self, images: Int[np.ndarray, " n"]) -> "LabelTable":
        """The table of these images only, in this order."""
        return dataclasses.replace(self, slots=self.slots[images])

    def carries(self, concept: int) -> Bool[np.ndarray, "I R"]:
        """Which rows carry concept number `concept` of `concepts`."""
        return (self.slots == concept + 1).any(-1)

    def in_category(self, category: int) -> Bool[np.ndarray, "I R"]:
        """Which rows carry some concept of the category: only they take part in its concepts."""
        return (self.slots[..., self.slot_category == category] > 0).any(-1)
