"""Patch classification of corrupted images by what clean ones have taught (Figs 4 and 10, appendix A.6)."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from experiments.local.classify import PatchClassifier, TrainingPatches, classify_view, measured_rows
from experiments.local.config import FIGURE_METHODS
from experiments.local.workbench import Workbench
from experiments.measuring import Measured, Part
from vitprobe_jax.data.corruptions import (
    CORRUPTIONS,
    NUM_BANDS,
    CorruptedSplit,
    Corruption,
    band_mask,
    band_noise,
    corrupt,
)
from vitprobe_jax.features.store import Cell

PICTURE_SIDE = 224
"""Largest side in pixels of what is pictured: a part of the image, since a smaller copy would not show high frequencies."""


def measure(bench: Workbench, cell: Cell, cells: Sequence[Cell]) -> Measured:
    """The mIoU of each kind and level, and its drop relative to clean images; first tiling, largest training draw.

    The whole photograph is corrupted at its own size, then cut or resized: levels are in its pixels. The frequency bands
    stand as levels 0 (lowest) to 3. Pictures: see `band_pictures`.
    """
    config = bench.config
    columns = {"tiling": config.tiling[0], "shots": bench.shots}
    view = bench.view(columns["tiling"])
    train = TrainingPatches.of(bench, view, columns["tiling"], cell, cells)
    keeps = {m: bench.keep(view, cell, cells, m) for m in bench.drops}
    methods = tuple(method for method in config.methods if method in FIGURE_METHODS)
    classifier = PatchClassifier.of(bench, train, keeps, methods, shots=bench.shots)
    if classifier is None or not methods:
        reason = "no training patch carries a concept" if methods else f"it measures {', '.join(FIGURE_METHODS)} alone"
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
    return Measured(rows, band_pictures(bench) if "frequency" in config.corruptions else {})


def band_pictures(bench: Workbench) -> dict[str, np.ndarray]:
    """Figure 10: noise in each band, its mask, and an image with the noise; {} without `--examples` or an image.

    Of the first held-out image that can be decoded, the square in its middle, of at most `PICTURE_SIDE` pixels: `image`
    [1, S, S, 3] uint8, and for each band `noise B`, added to mid grey (128), and `corrupted B`. The noise is that of the
    measurement, drawn for the whole image. `mask B` [1, S, S] uint8 is 1 for the frequencies of the band in an image of
    S x S pixels, (0, 0) in the middle: both axes go from -1/2 to 1/2 cycle a pixel.
    """
    split, seed = bench.drawn.splits["val"], bench.config.seed
    tiling = bench.config.tiling[0]
    left_out = bench.owner(tiling, "val")[bench.rows.left_out(bench.view(tiling), "val")]
    decoded = np.setdiff1d(np.arange(len(split)), left_out)
    if not (bench.config.examples and len(decoded)):
        return {}
    index = int(decoded[0])
    image = np.asarray(split.image(index))
    size = image.shape[:2]
    pictures = {"image": _middle(image)}
    side = len(pictures["image"])
    for band in range(NUM_BANDS):
        noise = 128 + band_noise(size, band, seed=(seed, index))
        pictures[f"noise {band}"] = _middle(np.clip(np.rint(noise), 0, 255).astype(np.uint8))
        pictures[f"mask {band}"] = np.fft.fftshift(band_mask((side, side), band)).astype(np.uint8)
        corrupted = corrupt(image, Corruption("frequency", float(band)), seed=(seed, index))
        pictures[f"corrupted {band}"] = _middle(corrupted)
    return {name: picture[None] for name, picture in pictures.items()}


def _middle(image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "S S 3"]:
    """The square in the middle, of at most `PICTURE_SIDE` pixels a side."""
    side = min(PICTURE_SIDE, *image.shape[:2])
    top, left = ((length - side) // 2 for length in image.shape[:2])
    return image[top : top + side, left : left + side]


def _drop(clean: dict, corrupted: dict) -> dict:
    """The row of how much is lost, as a share of what the clean images give."""
    row = corrupted | {"measure": "relative_drop"}
    if clean["value"] == 0:
        return row | {"value": None, "skipped": "nothing is right in the clean images either"}
    return row | {"value": 1 - corrupted["value"] / clean["value"]}


PART = Part("corruptions", "masks", measure)
