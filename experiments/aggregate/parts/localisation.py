"""Where objects are, by attention of [CLS] and by what aggregation weights (Table 8, Fig. 8)."""

import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from experiments.aggregate.config import REFERENCE
from experiments.aggregate.heads import Heads
from experiments.aggregate.stream import fetched
from experiments.aggregate.workbench import Workbench
from experiments.measuring import Measured, Part
from vitprobe_jax.data.transforms import Transform
from vitprobe_jax.features.store import Cell
from vitprobe_jax.metrics.localisation import IOUS, best_ious, boxes_at, map_to_image, max_box_acc
from vitprobe_jax.probes.pooling import parse_pooling

ATTENTION = "cls_attention"
COUNTED = {"maxboxacc": 0, "maxboxacc_any": 1}
"""Which boxes count at a threshold: that of the largest component, or any component's, as in the benchmark's own code."""


def measure(bench: Workbench, cell: Cell, cells: Sequence[Cell]) -> Measured:
    """MaxBoxAccV2 of every map, over the held-out images that have boxes.

    Images are resized whole to the model's size, as the benchmark does, so that no object is cut off. Maps are those of
    [CLS] attention and of every trained representation that weights patches, at its best rate, with its first seed.

    Pictures, of the first images: `images` [n, H, W, 3] uint8, `names` [n], `truth` [m, 5] (image, left, top, right,
    bottom), `weights_NAME` [n, rows, columns] and `boxes_NAME` [n, 4] at the best threshold for IoU 0.5.
    """
    split, boxes = bench.drawn.splits["val"], bench.drawn.boxes
    size = bench.eval_transform.size
    truth = {i: found for i in range(len(split)) if (found := boxes.of(split.name(i), size)) is not None and len(found)}
    if not truth:
        reason = "no file of --boxes has a box of a held-out image"
        return Measured([bench.row(PART.name, cell, measure="maxboxaccv2", count=0, skipped=reason)])
    if len(truth) < len(split):
        bench.folder.note(f"{bench.dataset.name}: {len(truth)} of {len(split)} held-out images have boxes (--boxes)")
    names, reasons = _maps(bench)
    heads = Heads.of(bench, cell) if bench.drawn.has_labels else None
    thresholds = np.linspace(0.0, 1.0, bench.config.box_thresholds, endpoint=False)
    ious: dict[str, list[Float[np.ndarray, "2 T"]]] = {name: [] for name in names}
    shown: dict[str, list[np.ndarray]] = {}
    order = np.array(sorted(truth))
    for placed in bench.held_out(PART.name, transform=Transform(size, "none"), order=order):
        given = [ATTENTION] if ATTENTION in names else []
        tokens = bench.tokens(placed.images, cell, given)
        of_names = {
            name: fetched(tokens.weights[name] if name in given else heads.weights(name, tokens)) for name in names
        }
        for place in np.flatnonzero(placed.valid):
            index = int(placed.indices[place])
            keep = len(next(iter(ious.values()), [])) < bench.config.examples
            for name, weights in of_names.items():
                score = map_to_image(weights[place].reshape(bench.grid), size)
                ious[name].append(np.stack(best_ious(score, truth[index], thresholds)))
                if keep:
                    shown.setdefault(f"weights_{name}", []).append(weights[place].reshape(bench.grid))
            if keep:
                shown.setdefault("images", []).append(fetched(placed.images)[place])
                shown.setdefault("names", []).append(split.name(index))
                first = np.full((len(truth[index]), 1), len(shown["images"]) - 1)
                shown.setdefault("truth", []).append(np.concatenate([first, truth[index]], axis=1))
    row = functools.partial(bench.row, PART.name, cell)
    rows = [row(method=name, measure="maxboxaccv2", count=0, skipped=reason) for name, reason in reasons.items()]
    best = {}
    for name, of_images in ious.items():
        by_image = np.stack(of_images)
        for measure_name, which in COUNTED.items():
            found = max_box_acc(by_image[:, which])
            said = functools.partial(row, method=name, count=len(of_images))
            rows.append(
                said(measure=f"{measure_name.replace('acc', 'accv2')}", value=float(np.mean(list(found.values()))))
            )
            rows += [said(measure=measure_name, setting="iou", level=iou, value=found[iou]) for iou in IOUS]
        best[name] = thresholds[int(np.argmax((by_image[:, 0] >= 0.5).mean(axis=0)))]
    return Measured(rows, _pictures(shown, best, size) if shown else {})


def _maps(bench: Workbench) -> tuple[list[str], dict[str, str]]:
    """The maps that boxes are taken from, and why there are no others."""
    poolings = [parse_pooling(ATTENTION)]
    if bench.drawn.has_labels:
        trained = [pooling for pooling in bench.config.poolings if pooling.kind in ("abmilp", "sa_abmilp", "attentive")]
        poolings += trained
        reasons = {}
    else:
        reasons = {REFERENCE: "the data set has no labels to train it on"}
    reasons |= {pooling.name: reason for pooling in poolings if (reason := bench.unfit(pooling))}
    return [pooling.name for pooling in poolings if pooling.name not in reasons], reasons


def _pictures(
    shown: dict[str, list[np.ndarray]], best: dict[str, float], size: tuple[int, int]
) -> dict[str, np.ndarray]:
    arrays = {name: np.stack(parts) for name, parts in shown.items() if name not in ("truth", "names")}
    arrays |= {"names": np.array(shown["names"]), "truth": np.concatenate(shown["truth"]).astype(np.float32)}
    for name, threshold in best.items():
        found = [
            boxes_at(map_to_image(weights, size), np.array([threshold]))[0][0] for weights in arrays[f"weights_{name}"]
        ]
        arrays[f"boxes_{name}"] = np.stack(found).astype(np.float32)
    return arrays


PART = Part("localisation", "boxes", measure)
