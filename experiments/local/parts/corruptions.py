"""Patch classification of corrupted images by what clean ones have taught (Figs 4 and 10, appendix A.6)."""

from collections.abc import Sequence

from experiments.local.classify import PatchClassifier, TrainingPatches, classify_view, measured_rows
from experiments.local.config import FIGURE_METHODS
from experiments.local.workbench import Workbench
from experiments.measuring import Measured, Part
from vitprobe_jax.data.corruptions import CORRUPTIONS, CorruptedSplit, Corruption
from vitprobe_jax.features.store import Cell


def measure(bench: Workbench, cell: Cell, cells: Sequence[Cell]) -> Measured:
    """The mIoU of each kind and level, and its drop relative to clean images; first tiling, largest training draw.

    The whole photograph is corrupted at its own size, then cut or resized: levels are in its pixels. The frequency bands
    stand as levels 0 (lowest) to 3.
    """
    config = bench.config
    columns = {"tiling": config.tiling[0], "shots": bench.shots}
    view = bench.view(columns["tiling"])
    train = TrainingPatches.of(bench, view, columns["tiling"], cell, cells)
    keeps = {m: bench.keep(view, cell, cells, m) for m in bench.drops}
    methods = tuple(method for method in config.methods if method in FIGURE_METHODS)
    classifier = PatchClassifier.of(bench, train, keeps, methods, shots=bench.shots)
    if classifier is None:
        reason = "no training patch carries a concept"
        return Measured([bench.row(PART.name, cell, measure="miou", count=0, skipped=reason, **columns)])
    counts = bench.counts(columns["tiling"], "val").counts
    counts = counts.reshape(-1, counts.shape[-1])
    states = [("clean", 0.0), *((kind, float(level)) for kind in config.corruptions for level in CORRUPTIONS[kind])]
    rows, clean = [], {}
    for kind, level in states:
        seen = view
        if kind != "clean":
            split = CorruptedSplit(bench.drawn.splits["val"], Corruption(kind, level), config.seed)
            seen = bench.view(columns["tiling"], {"val": split}, f"{kind} {level}")
        told = classify_view(bench, {bench.shots: classifier}, seen, cell, cells)[bench.shots]
        measured = measured_rows(bench, PART.name, cell, told, counts, setting=kind, level=level, **columns)
        rows += measured
        of_variant = {(row["method"], row["dropped"]): row for row in measured if row["measure"] == "miou"}
        if kind == "clean":
            clean = of_variant
        else:
            rows += [_drop(clean[variant], row) for variant, row in of_variant.items() if row.get("value") is not None]
    return Measured(rows)


def _drop(clean: dict, corrupted: dict) -> dict:
    """The row of how much is lost, as a share of what the clean images give."""
    row = corrupted | {"measure": "relative_drop"}
    if clean["value"] == 0:
        return row | {"value": None, "skipped": "nothing is right in the clean images either"}
    return row | {"value": 1 - corrupted["value"] / clean["value"]}


PART = Part("corruptions", "masks", measure)
