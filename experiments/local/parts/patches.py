"""Patch classification by neighbours and linear probes, over sizes of the training draw (Figs 1 and 13, Tables 2 and 5)."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from PIL import Image

from experiments.local.classify import PatchClassifier, Predictions, TrainingPatches, classify_view, measured_rows
from experiments.local.workbench import Workbench
from experiments.measuring import Measured, Part
from vitprobe_jax.data.label_counts import pixel_concepts
from vitprobe_jax.data.tiles import patch_of_pixels
from vitprobe_jax.data.transforms import Transform
from vitprobe_jax.features.store import Cell

PICTURE_SIDE = 480
"""Of a picture's longer side, in pixels."""


def measure(bench: Workbench, cell: Cell, cells: Sequence[Cell]) -> Measured:
    """Every method, variant, tiling and size of the training draw.

    Pictures, of the first tiling and the data set's own draw, or else the largest one: `image` [n, H, W, 3] uint8, `truth`
    [n, H, W] and a map for each `METHOD without M`, concepts from 1 on, 0 for none.
    """
    rows, pictures, config = [], {}, bench.config
    # The sizes beside the data set's own draw are there for the curve alone.
    own = bench.dataset.draw.train
    pictured = own if own in bench.drawn.sizes else bench.shots
    for tiling in config.tiling:
        view = bench.view(tiling)
        train = TrainingPatches.of(bench, view, tiling, cell, cells)
        keeps = {m: bench.keep(view, cell, cells, m) for m in bench.drops}
        by_draw = {s: PatchClassifier.of(bench, train, keeps, config.methods, shots=s) for s in bench.drawn.sizes}
        classifiers = {shots: classifier for shots, classifier in by_draw.items() if classifier is not None}
        told = classify_view(bench, classifiers, view, cell, cells)
        counts = bench.counts(tiling, "val").counts
        for shots in by_draw:
            columns = {"tiling": tiling, "shots": shots}
            if shots not in classifiers:
                reason = "no training patch carries a concept"
                rows.append(bench.row(PART.name, cell, measure="miou", count=0, skipped=reason, **columns))
                continue
            of_pixels = counts.reshape(-1, counts.shape[-1])
            rows += measured_rows(bench, PART.name, cell, told[shots], of_pixels, by_concept=True, **columns)
            if (tiling, shots) == (config.tiling[0], pictured):
                pictures = draw(bench, tiling, told[shots])
    return Measured(rows, pictures)


def draw(bench: Workbench, tiling: str, told: Predictions) -> dict[str, np.ndarray]:
    """The first held-out images with what each of their pixels is taken for, brought to the size of the first of them."""
    images, owner = bench.drawn.splits["val"], bench.owner(tiling, "val")
    per_image = bench.size(tiling)[0] * bench.size(tiling)[1] // bench.patch_size**2
    shown: dict[str, list[np.ndarray]] = {}
    size = None
    for index in range(min(bench.config.examples, len(images))):
        image = images.image(index)
        size = size or _fitted(image.height, image.width)
        patch = _patches_of(bench, tiling, index, (image.height, image.width))
        first = int(np.argmax(owner == index)) * per_image
        maps = {
            f"{method} without {dropped}": classes[first + patch] + 1 for (method, dropped), classes in told.items()
        }
        truth = pixel_concepts(
            images.annotation(index), bench.dataset.concepts, Transform((image.height, image.width), "none")
        )
        shown.setdefault("image", []).append(np.asarray(image.resize(size[::-1], Image.Resampling.BICUBIC)))
        for name, labels in ({"truth": truth} | maps).items():
            shown.setdefault(name, []).append(_nearest(labels, size).astype(np.uint16))
    return {name: np.stack(maps) for name, maps in shown.items()}


def _patches_of(bench: Workbench, tiling: str, index: int, image_size: tuple[int, int]) -> Int[np.ndarray, "H W"]:
    """For every pixel of a drawn image the patch that shows it, counted from the image's first one."""
    grid = tuple(side // bench.patch_size for side in bench.size(tiling))
    cut = tiling == "tiles" and bench.tile
    boxes = bench.drawn.tiles["val"].boxes(index) if cut else [(0, 0, *image_size)]
    return patch_of_pixels(boxes, grid, image_size)


def _fitted(height: int, width: int) -> tuple[int, int]:
    ratio = min(1.0, PICTURE_SIDE / max(height, width))
    return max(1, round(height * ratio)), max(1, round(width * ratio))


def _nearest(labels: Int[np.ndarray, "h w"], size: tuple[int, int]) -> Int[np.ndarray, "H W"]:
    return Transform(size, "none").mask(labels, labels.shape)


PART = Part("patches", "masks", measure)
