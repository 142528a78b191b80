"""Patch classification by neighbours at every block, concept by concept (Fig. 3).

The final norm is applied at inner blocks too, where the token is x2.
"""

from collections.abc import Sequence

from experiments.local.classify import PatchClassifier, TrainingPatches, classify_view, measured_rows
from experiments.local.workbench import Workbench
from experiments.measuring import Measured, Part
from vitprobe_jax.features.store import Cell


def measure(bench: Workbench, cell: Cell, cells: Sequence[Cell]) -> Measured:
    """The first tiling and the largest training draw."""
    columns = {"tiling": bench.config.tiling[0], "shots": bench.shots}
    view = bench.view(columns["tiling"])
    train = TrainingPatches.of(bench, view, columns["tiling"], cell, cells)
    keeps = {m: bench.keep(view, cell, cells, m) for m in bench.drops}
    classifier = PatchClassifier.of(bench, train, keeps, ("knn",), shots=bench.shots)
    if classifier is None:
        reason = "no training patch carries a concept"
        return Measured([bench.row(PART.name, cell, measure="miou", count=0, skipped=reason, **columns)])
    counts = bench.counts(columns["tiling"], "val").counts
    told = classify_view(bench, {bench.shots: classifier}, view, cell, cells)[bench.shots]
    of_pixels = counts.reshape(-1, counts.shape[-1])
    return Measured(measured_rows(bench, PART.name, cell, told, of_pixels, by_concept=True, **columns))


PART = Part("layers", "masks", measure, all_layers=True)
