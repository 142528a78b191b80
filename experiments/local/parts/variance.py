"""The variance of features: its spectrum, what leaving out the highest ones does, and whether data sets agree (Fig. 2)."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from experiments.local.classify import PatchClassifier, TrainingPatches, classify_view, measured_rows
from experiments.local.config import FIGURE_METHODS
from experiments.local.workbench import Workbench
from experiments.measuring import Measured, Part
from vitprobe_jax.features.moments import highest_variance
from vitprobe_jax.features.store import Cell

STEPS = (0, 1, 2, 5, 10, 20, 50, 100, 200)
"""Features that are left out, and then a half, three quarters and all of them."""


def measure(bench: Workbench, cell: Cell, cells: Sequence[Cell]) -> Measured:
    """Spectrum, curves and the overlap with BatchNorm's ranking; first tiling, largest training draw."""
    config = bench.config
    columns = {"tiling": config.tiling[0], "shots": bench.shots}
    view = bench.view(columns["tiling"])
    train = TrainingPatches.of(bench, view, columns["tiling"], cell, cells)
    variance = bench.variance(view, cell, cells)
    rows = _spectrum(bench, cell, variance, columns)
    keeps = {m: highest_variance(variance, m) for m in removed(len(variance))}
    methods = tuple(method for method in config.methods if method in FIGURE_METHODS)
    classifier = PatchClassifier.of(bench, train, keeps, methods, shots=bench.shots)
    if classifier is None or not methods:
        reason = "no training patch carries a concept" if methods else f"it measures {', '.join(FIGURE_METHODS)} alone"
        return Measured([*rows, bench.row(PART.name, cell, measure="miou", count=0, skipped=reason, **columns)])
    if "val" in view.splits:
        counts = bench.counts(columns["tiling"], "val").counts
        told = classify_view(bench, {bench.shots: classifier}, view, cell, cells)[bench.shots]
        rows += measured_rows(
            bench, PART.name, cell, told, counts.reshape(-1, counts.shape[-1]), setting="removed", **columns
        )
    else:
        reason = "the data set has no held-out images"
        rows.append(bench.row(PART.name, cell, measure="miou", count=0, skipped=reason, setting="removed", **columns))
    probed = PatchClassifier(bench, classifier.rows, classifier.labels, {0: np.ones(len(variance), bool)}, ())
    running = np.asarray(probed.probes("linear_batchnorm").variance[0])
    for m in filter(None, bench.drops):
        ours, theirs = highest_variance(variance, m), highest_variance(running, m)
        value = float(np.sum(~ours & ~theirs) / m)
        rows.append(
            bench.row(
                PART.name, cell, measure="overlap", value=value, count=m, dropped=m, setting="batchnorm", **columns
            )
        )
    return Measured(rows)


def removed(width: int) -> list[int]:
    """The numbers of features that the curves leave out, from none to all."""
    return sorted({m for m in STEPS if m <= width} | {width // 2, 3 * width // 4, width})


def overlap_rows(table: pa.Table) -> list[dict]:
    """For each two data sets, how many of a backbone's top features they share, for every variant that was measured.

    Args:
        table: of `MEASUREMENTS`, with the spectra of this part.

    Returns:
        Rows of measure `overlap`, of either of the two data sets with the other one's name.
    """
    spectra: dict[tuple, dict[str, tuple[dict, list[int]]]] = {}
    drops: set[int] = set()
    for row in table.to_pylist():
        if row["part"] != PART.name:
            continue
        if row["setting"] == "batchnorm" and row["skipped"] is None:
            drops.add(row["dropped"])
        if row["measure"] == "variance":
            of_cell = spectra.setdefault((row["backbone"], row["layer"], row["token"]), {})
            # They stand in the order of their ranks.
            of_cell.setdefault(row["dataset"], (row, []))[1].append(row["concept"])
    rows = []
    for (row, first), (other, second) in itertools.chain.from_iterable(
        itertools.permutations(of_cell.values(), 2) for of_cell in spectra.values()
    ):
        for m in sorted(m for m in drops if m < len(first)):
            rows.append(
                {name: row[name] for name in ("study", "dataset", "backbone", "family", "objective", "layer", "token")}
                | {"part": PART.name, "measure": "overlap", "setting": "other data set", "name": other["dataset"]}
                | {"dropped": m, "count": m, "value": len(set(first[:m]) & set(second[:m])) / m}
            )
    return rows


def _spectrum(bench: Workbench, cell: Cell, variance: Float[np.ndarray, " D"], columns: Mapping) -> list[dict]:
    """The variance of every feature, highest first."""
    order = np.argsort(-variance, kind="stable")
    return [
        bench.row(
            PART.name,
            cell,
            measure="variance",
            setting="rank",
            level=float(rank),
            concept=int(feature),
            name=f"feature {feature}",
            value=float(variance[feature]),
            count=len(variance),
            **columns,
        )
        for rank, feature in enumerate(order, 1)
    ]


PART = Part("variance", "masks", measure, splits=("train",))
