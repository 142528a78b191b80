"""Objects of video frames are looked for some frames later, by ROIAlign over the patches (Figs 7, 9 and 12)."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from experiments import processes
from experiments.local.classify import features_without
from experiments.local.objects import Objects, object_features, read_objects
from experiments.local.workbench import Workbench
from experiments.measuring import Measured, Part
from vitprobe_jax.features.store import Cell
from vitprobe_jax.metrics.tracking import frame_pairs, nearest_objects, objects_of, tracking_shares

MEASURES = ("same_instance", "same_category", "upper_bound")
FAILED = "failed_same_category"


def measure(bench: Workbench, cell: Cell, cells: Sequence[Cell]) -> Measured:
    """Every tiling, variant and gap. Every object of a frame is looked for whose later frame is there and holds objects.

    `failed_same_category` is the share of the objects whose match is another object, no longer there or not, that have
    the right category all the same (Section 5.3): by gap, and over all gaps together (`all gaps`). The count of its rows is
    that of the failed matches.
    """
    objects = read_objects(bench)
    rows = []
    for tiling in bench.config.tiling:
        view = bench.view(tiling)
        features, seen = object_features(bench, objects, tiling, cell, cells)
        usable = seen & (np.diff(objects.starts) > 0)
        pairs = {gap: frame_pairs(objects.frames, gap) for gap in bench.config.gaps}
        pairs = {gap: both[usable[both].all(-1)] for gap, both in pairs.items()}
        for dropped in bench.drops:
            keep = bench.keep(view, cell, cells, dropped)
            columns = {"method": "1-nn", "tiling": tiling, **features_without(dropped)}
            rows += _rows(bench, cell, objects, pairs, matches(bench, objects, features, pairs, keep), columns)
    return Measured(rows)


def matches(
    bench: Workbench,
    objects: Objects,
    features: Float[np.ndarray, "N D"],
    pairs: Mapping[int, Int[np.ndarray, "n 2"]],
    keep: Bool[np.ndarray, " D"],
) -> dict[int, Int[np.ndarray, " m"]]:
    """`nearest_objects` of the pairs of every gap; every process compares its share of all pairs."""
    together = np.concatenate(list(pairs.values()))
    own = processes.share(len(together))
    found = nearest_objects(
        features,
        objects.starts,
        together[own.start : own.stop],
        keep=keep,
        metric=bench.config.metric,
        memory=bench.config.knn_memory << 20,
    )
    lengths = [len(objects_of(both[:, 0], objects.starts)) for both in pairs.values()]
    parts = np.split(processes.gathered(found), np.cumsum(lengths)[:-1])
    return dict(zip(pairs, parts, strict=True))


def _rows(
    bench: Workbench,
    cell: Cell,
    objects: Objects,
    pairs: Mapping[int, Int[np.ndarray, "n 2"]],
    found: Mapping[int, Int[np.ndarray, " m"]],
    columns: dict,
) -> list[dict]:
    """Rows of one tiling and variant."""
    rows, failed, right = [], 0, 0
    for gap, both in pairs.items():
        of_gap = columns | {"setting": "gap", "level": float(gap)}
        if not len(both):
            reason = "no two frames so far apart hold objects"
            rows.append(bench.row(PART.name, cell, measure="same_instance", count=0, skipped=reason, **of_gap))
            continue
        shares = tracking_shares(found[gap], both, objects.starts, objects.tracks, objects.categories)
        rows += [
            bench.row(PART.name, cell, measure=name, value=getattr(shares, name), count=shares.count, **of_gap)
            for name in MEASURES
        ]
        rows.append(_failed_row(bench, cell, shares.failed, shares.failed_same_category, of_gap))
        failed, right = failed + shares.failed, right + shares.failed_same_category
    return [*rows, _failed_row(bench, cell, failed, right, columns | {"setting": "all gaps"})]


def _failed_row(bench: Workbench, cell: Cell, failed: int, right: int, columns: dict) -> dict:
    """The row of the share of failed matches whose category is right."""
    number = {"value": right / failed} if failed else {"skipped": "no match failed"}
    return bench.row(PART.name, cell, measure=FAILED, count=failed, **number, **columns)


PART = Part("tracking", "tracks", measure)
