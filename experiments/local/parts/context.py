"""How much the token of the central patch knows of the whole image: each concept's share of the pixels (Table 6).

A sample is a tile, or a whole image, as the first of `--tiling` has them: the features of the patch at its centre (of an
even grid, the one below and to the right of it), and for each concept its share of all pixels, whether they carry a concept
or none. Of a tile those count too that an earlier tile shows. A ridge regression of the shares on the features as they are,
neither centred by hand nor standardised (the intercept is not penalised), is fitted to the training draw; its strength is
chosen by closed-form leave-one-out among `STRENGTHS`. R2 is that of the held-out draw.
"""

import functools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Bool, Float, Int

from experiments import processes
from experiments.local.views import View
from experiments.local.workbench import Workbench
from experiments.measuring import Measured, Part
from vitprobe_jax.data.label_counts import pixel_concepts
from vitprobe_jax.data.transforms import Transform
from vitprobe_jax.features.store import Cell
from vitprobe_jax.metrics.regression import r2
from vitprobe_jax.probes.ridge import fit_ridge
from vitprobe_jax.types import Split

STRENGTHS = tuple(10.0**power for power in range(-8, 3))
"""Of the penalty, in units of the features' mean variance times the number of samples: a penalty of 1 halves the
coefficient along a direction of that variance. Far down, since a few features may have nearly all of the variance."""

COMMONEST = 3
"""Concepts of the second mean: the paper's own is that of road, building and vegetation, the commonest of Cityscapes."""

Variant = tuple[str, int]
"""Which features are used (`measurements.FEATURES`), and how many are not."""


def measure(bench: Workbench, cell: Cell, cells: Sequence[Cell]) -> Measured:
    """All features, and for each number m of `--drop_features` without the top m, a random m alone, and the top m alone.

    Rows: `r2` of each concept, skipped where it cannot be said; `mean_r2` over those that are not; `mean_r2_commonest`
    over those among them that have the most pixels in the training draw (`COMMONEST`). A rare concept's R2 may be far below
    zero, and the mean of all with it.
    """
    tiling = bench.config.tiling[0]
    view = bench.view(tiling)
    (x, y), (x_val, y_val) = (samples(bench, view, tiling, split, cell, cells) for split in ("train", "val"))
    for split, y_split in (("training", y), ("held-out", y_val)):
        if len(y_split) < 2:
            reason = f"{len(y_split)} {split} image(s) with pixels that carry a concept"
            return Measured(
                [
                    bench.row(
                        PART.name, cell, tiling=tiling, shots=bench.shots, measure="mean_r2", count=0, skipped=reason
                    )
                ]
            )
    keeps = variants(bench, view, cell, cells)
    scale = len(x) * float(np.var(x, axis=0, dtype=np.float64).mean())
    alphas = tuple(scale * strength for strength in STRENGTHS) if scale > 0 else (1.0,)
    weights, biases = fit_ridge(x, y, alpha=alphas, keep=np.stack(list(keeps.values())).astype(np.float32))
    reasons = [_reason(y[:, k], y_val[:, k]) for k in range(y.shape[1])]
    rows = []
    for (features, dropped), w, b in zip(keeps, np.asarray(weights), np.asarray(biases), strict=True):
        of = functools.partial(
            bench.row,
            PART.name,
            cell,
            method="ridge",
            tiling=tiling,
            shots=bench.shots,
            features=features,
            dropped=dropped,
        )
        scores = r2(y_val, x_val @ w.T + b[None])
        rows += _rows(of, bench.dataset.concepts, scores, reasons, y.sum(axis=0), len(y_val))
    return Measured(rows)


def samples(
    bench: Workbench, view: View, tiling: str, split: Split, cell: Cell, cells: Sequence[Cell]
) -> tuple[Float[np.ndarray, "N D"], Float[np.ndarray, "N K"]]:
    """The central token of each image of a view, and the share of each concept in all of its pixels.

    Images of which no pixel carries a concept, and those that cannot be decoded, are left out. Every process reads its share
    of the images.
    """
    rows, columns = (side // bench.patch_size for side in view.size)
    central = rows // 2 * columns + columns // 2
    own = processes.share(len(view.splits[split]))
    tokens = np.empty((len(own), bench.backbone.spec.config.width), np.float32)
    decoded = np.ones(len(own), bool)
    for block in bench.blocks(view, split, cell, cells, images=own):
        tokens[block.images - own.start] = block.rows[:, central]
        decoded[block.images - own.start] = ~block.left_out
    tokens, decoded = processes.gathered(tokens), processes.gathered(decoded)
    pixels = concept_pixels(bench, tiling, split)
    used = pixels[:, 1:].any(axis=1) & decoded
    return tokens[used], pixels[used, 1:] / pixels[used].sum(axis=1, keepdims=True)


def concept_pixels(bench: Workbench, tiling: str, split: Split) -> Int[np.ndarray, "I K1"]:
    """Pixels of no concept and of each concept in each image of a view, at the size of the photograph.

    Unlike `Workbench.counts`, which counts every pixel of a photograph once, this has all that a tile shows. Every process
    counts its share of the photographs.
    """
    images, concepts = bench.drawn.splits[split], bench.dataset.concepts
    tiles = bench.drawn.tiles[split] if tiling == "tiles" and bench.tile else None

    def of_image(index: int) -> list[Int[np.ndarray, " K1"]]:
        annotation = images.annotation(index)
        if tiles is None:
            size = annotation.image_size or next((mask.shape for _, mask in annotation.masks), (1, 1))
            boxes = [(0, 0, *size)]
        else:
            size, boxes = tiles.sizes[index], tiles.boxes(index)
        slots = pixel_concepts(annotation, concepts, Transform(size, "none"))
        cut = (slots[top : top + height, left : left + width] for top, left, height, width in boxes)
        return [np.bincount(part.ravel(), minlength=len(concepts) + 1) for part in cut]

    # Threads, as in `label_counts.count_labels`.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        counts = [count for of_one in pool.map(of_image, processes.share(len(images))) for count in of_one]
    return processes.gathered(np.array(counts, np.int64).reshape(-1, 1 + len(concepts)))


def variants(bench: Workbench, view: View, cell: Cell, cells: Sequence[Cell]) -> dict[Variant, Bool[np.ndarray, " D"]]:
    """Which features each variant keeps; random ones are drawn by the seed of the run, once for each number of them."""
    width = bench.backbone.spec.config.width
    keeps = {("all", 0): np.ones(width, bool)}
    for m in filter(None, bench.drops):
        without_top = bench.keep(view, cell, cells, m)
        only_random = np.zeros(width, bool)
        only_random[np.random.default_rng([bench.config.seed, m]).choice(width, m, replace=False)] = True
        keeps |= {
            ("without top", m): without_top,
            ("only random", m): only_random,
            ("only top", m): ~without_top,
        }
    return keeps


def _reason(y: Float[np.ndarray, " N"], y_val: Float[np.ndarray, " M"]) -> str | None:
    """Why a concept's R2 cannot be said, from its shares in the training and in the held-out images."""
    for split, shares in (("training", y), ("held-out", y_val)):
        if not shares.any():
            return f"no {split} image shows it"
        if np.ptp(shares) == 0:
            return f"it has the same share of every {split} image"
    return None


def _rows(of, concepts, scores, reasons, amount, count: int) -> list[dict]:
    """The rows of one variant.

    Args:
        of: makes a row.
        concepts: the data set's.
        scores: R2 of each.
        reasons: why it is none.
        amount: of each concept in the training draw.
        count: held-out images.
    """
    rows, measured = [], []
    for k, (concept, score, reason) in enumerate(zip(concepts, scores, reasons, strict=True)):
        what = {"concept": concept.number, "name": concept.name, "category": concept.category}
        number = {"skipped": reason} if reason else {"value": float(score)}
        rows.append(of(measure="r2", count=count, **what, **number))
        if not reason:
            measured.append(k)
    commonest = sorted(measured, key=lambda k: -amount[k])[:COMMONEST]
    for name, chosen in (("mean_r2", measured), ("mean_r2_commonest", commonest)):
        number = {"value": float(np.mean(scores[chosen]))} if chosen else {"skipped": "no concept's R2 can be said"}
        rows.append(of(measure=name, count=len(chosen), **number))
    return rows


PART = Part("context", "masks", measure)
