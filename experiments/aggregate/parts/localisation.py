"""Where objects are, by attention of [CLS] and by what aggregation weights (Table 8, Fig. 8)."""

import functools
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Float, Int

from experiments import processes
from experiments.aggregate.config import REFERENCE
from experiments.aggregate.heads import Heads
from experiments.aggregate.stream import Placed, fetched
from experiments.aggregate.workbench import NO_IMAGE, Workbench
from experiments.measuring import Measured, Part
from vitprobe_jax.data.transforms import Transform
from vitprobe_jax.features.store import Cell
from vitprobe_jax.metrics.localisation import IOUS, best_ious, boxes_at, count_found, map_to_image, max_box_acc
from vitprobe_jax.probes.pooling import parse_pooling

ATTENTION = "cls_attention"
COUNTED = (("largest_box", "largest_box_iou"), ("maxboxaccv2", "maxboxacc"))
"""Measures (mean, by overlap) of the two rules, in the order of `best_ious`: the box of the largest region alone, or the
boxes of all contours, which is MaxBoxAccV2 in the benchmark's code."""


def measure(bench: Workbench, cell: Cell, cells: Sequence[Cell]) -> Measured:
    """MaxBoxAccV2 of every map, over the held-out images that have boxes, and the score of the largest region's box alone.

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
    row = functools.partial(bench.row, PART.name, cell)
    rows = [row(method=name, measure="maxboxaccv2", count=0, skipped=reason) for name, reason in reasons.items()]
    heads = Heads.of(bench, cell) if bench.drawn.has_labels else None
    rows += [heads.data_row(PART.name)] if heads else []
    thresholds = np.linspace(0.0, 1.0, bench.config.box_thresholds, endpoint=False)
    found = {name: np.zeros((len(COUNTED), len(IOUS), len(thresholds)), np.int64) for name in names}
    num_images = 0
    pictures = _Pictures(bench, truth)

    def counted(weights: Float[np.ndarray, "rows columns"], index: int) -> Int[np.ndarray, "2 L T"]:
        by_rule = best_ious(map_to_image(weights, size), truth[index], thresholds)
        return np.stack([count_found(ious[None]) for ious in by_rule])

    batches = bench.held_out(PART.name, transform=Transform(size, "none"), order=np.array(sorted(truth)))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for placed in batches:
            tokens = bench.tokens(placed.images, cell, [ATTENTION] if ATTENTION in names else [])
            maps = {}
            for name in names:
                weights = tokens.weights[name] if name == ATTENTION else heads.weights(name, tokens)
                maps[name] = fetched(weights)[placed.valid].reshape(-1, *bench.grid)
            # Every process scores its share of each batch.
            indices = placed.indices[placed.valid]
            num_images += len(indices)
            own = processes.share(len(indices))
            for name in names:
                for of_image in pool.map(
                    counted, maps[name][own.start : own.stop], indices[own.start : own.stop].tolist()
                ):
                    found[name] += of_image
            pictures.add(placed, maps)
    best = {}
    for name, own in found.items():
        by_rule = processes.total(own)
        if not num_images:
            rows.append(row(method=name, measure="maxboxaccv2", count=0, skipped=NO_IMAGE))
            continue
        for (mean, by_overlap), of_rule in zip(COUNTED, by_rule, strict=True):
            shares = max_box_acc(of_rule, num_images)
            said = functools.partial(row, method=name, count=num_images)
            rows.append(said(measure=mean, value=float(np.mean(list(shares.values())))))
            rows += [said(measure=by_overlap, setting="iou", level=iou, value=shares[iou]) for iou in IOUS]
        best[name] = thresholds[by_rule[0, IOUS.index(0.5)].argmax()]
    return Measured(rows, pictures.arrays(best))


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


class _Pictures:
    """The first images, with maps and boxes."""

    def __init__(self, bench: Workbench, truth: Mapping[int, Float[np.ndarray, "G 4"]]):
        self._bench, self._truth = bench, truth
        self._indices: list[int] = []
        self._images: list[np.ndarray] = []
        self._maps: dict[str, list[np.ndarray]] = {}

    def add(self, placed: Placed, maps: Mapping[str, Float[np.ndarray, "n rows columns"]]) -> None:
        """Takes as many of a batch as there is room for; maps are of its valid images."""
        room = self._bench.config.examples - len(self._indices)
        if room <= 0 or not maps:
            return
        self._indices += placed.indices[placed.valid].tolist()[:room]
        self._images += list(fetched(placed.images)[placed.valid][:room])
        for name, of_batch in maps.items():
            self._maps.setdefault(name, []).extend(of_batch[:room])

    def arrays(self, thresholds: Mapping[str, float]) -> dict[str, np.ndarray]:
        """All of it, with the box of each map at its threshold."""
        if not self._indices:
            return {}
        split = self._bench.drawn.splits["val"]
        truth = [(place, *box) for place, index in enumerate(self._indices) for box in self._truth[index]]
        arrays = {
            "images": np.stack(self._images),
            "names": np.array([split.name(index) for index in self._indices]),
            "truth": np.array(truth, np.float32),
        }
        for name, maps in self._maps.items():
            scores = [map_to_image(weights, self._bench.eval_transform.size) for weights in maps]
            boxes = [boxes_at(score, np.array([thresholds[name]]))[0][0] for score in scores]
            arrays |= {f"weights_{name}": np.stack(maps), f"boxes_{name}": np.array(boxes, np.float32)}
        return arrays


PART = Part("localisation", "boxes", measure)
