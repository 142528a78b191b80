"""Linear probing of every representation, by MAE's protocol (Tables 1, 5 and 7)."""

from collections.abc import Sequence

from experiments.aggregate.heads import Heads
from experiments.aggregate.workbench import Workbench
from experiments.measuring import Measured, Part
from vitprobe_jax.features.store import Cell


def measure(bench: Workbench, cell: Cell, cells: Sequence[Cell]) -> Measured:
    """Top-1, or mean average precision where images carry several labels, and loss curves.

    The best rate is chosen by the held-out images, as linear probing does; its row says which it was.
    """
    heads, names = Heads.of(bench, cell), list(bench.config.representations)
    return Measured([heads.data_row(PART.name), *heads.rows(PART.name, names), *heads.loss_rows(PART.name, names)])


PART = Part("probing", "labels", measure)
