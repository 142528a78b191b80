"""What a part of the study is."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np

from experiments.local.workbench import Workbench
from vitprobe_jax.features.store import Cell

Need = Literal["masks", "tracks", "classes", "images"]
"""What a data set must offer: pixels that carry concepts, boxes of tracked objects, classes of whole images, or images."""


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a part came to for one cell.

    Attributes:
        rows: of the results table (`Workbench.row`), skipped ones included.
        pictures: arrays that the report draws pictures of, by name; see the part.
    """

    rows: Sequence[dict]
    pictures: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of the study.

    Attributes:
        name: of `config.PARTS`.
        needs: what a data set must offer.
        measure: `measure(bench, cell, cells)`: all of the part for one cell; `cells` are all that it will be asked for.
        all_layers: whether the cells are those of all blocks, whatever `--layers` says.
        once: whether it is measured once a backbone, not for every token and layer: at the last block's x2, which a
            decoder or a pooled image is made of.
    """

    name: str
    needs: Need
    measure: Callable[[Workbench, Cell, Sequence[Cell]], Measured]
    all_layers: bool = False
    once: bool = False

    def cells(self, bench: Workbench) -> list[Cell]:
        """The cells that it is measured for."""
        depth = bench.backbone.spec.config.depth
        if self.once:
            return [(depth - 1, "x2")]
        layers = range(depth) if self.all_layers else bench.config.blocks(depth)
        return [(layer, token) for layer in layers for token in bench.config.tokens]
