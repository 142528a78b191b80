"""How an epoch is cut into optimiser steps, and these into micro batches, which share BatchNorm's statistics."""

import dataclasses
import itertools

import numpy as np
from jaxtyping import Int


@dataclasses.dataclass(frozen=True)
class Steps:
    """The steps of every epoch.

    Attributes:
        batch: images of a step.
        count: steps; images that fill no step are left out, others in each epoch.
        micro: images of a micro batch, padding included.
        turns: micro batches of a step.
    """

    batch: int
    count: int
    micro: int
    turns: int

    @classmethod
    def of(cls, images: int, *, step_images: int, micro_batch: int, multiple: int) -> "Steps":
        """The fewest micro batches that serve.

        Args:
            images: to train on.
            step_images: of a step, as far as there are so many.
            micro_batch: images of a micro batch at most, padding left out.
            multiple: of which a micro batch is one, with its padding.
        """
        batch = min(step_images, images)
        turns = -(-batch // micro_batch)
        largest = -(-batch // turns)
        return cls(batch, images // batch, -(-largest // multiple) * multiple, turns)

    @property
    def images(self) -> int:
        """Of an epoch."""
        return self.count * self.batch

    def order(self, images: Int[np.ndarray, " I"], seed: int, epoch: int) -> Int[np.ndarray, " n"]:
        """The images of an epoch in turn, drawn by `seed` and its number, -1 where a micro batch is padded."""
        drawn = np.random.default_rng([seed, epoch]).permutation(images)[: self.images].reshape(self.count, self.batch)
        # Dealt out evenly: BatchNorm would make nothing of a last micro batch of one image.
        ends = np.arange(self.turns + 1) * self.batch // self.turns
        padded = np.full((self.count, self.turns, self.micro), -1)
        for turn, (start, end) in enumerate(itertools.pairwise(ends)):
            padded[:, turn, : end - start] = drawn[:, start:end]
        return padded.ravel()
