"""Objects of video frames are looked for some frames later, by ROIAlign over the patches (Figs 7, 9 and 12)."""

import dataclasses
import functools
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from experiments.local.classify import features_without
from experiments.local.workbench import Workbench
from experiments.measuring import Measured, Part
from vitprobe_jax.data.dataset import image_size
from vitprobe_jax.data.tiles import TileBox, patch_of_pixels
from vitprobe_jax.features.roi_align import roi_align
from vitprobe_jax.features.store import Cell
from vitprobe_jax.metrics.tracking import frame_pairs, nearest_objects, tracking_shares

SAMPLES = 4
"""Along each side of a box: enough that most patches of an object count, which often covers more than two a side."""


@dataclasses.dataclass(frozen=True, eq=False)
class Objects:
    """The annotated objects of all drawn frames, padded to the fullest one.

    Attributes:
        frames: sequence and number of each frame.
        sizes: height and width of each frame.
        present: which places hold an object.
        boxes: left, top, right, bottom, each in shares of the frame's width or height, clipped to it.
        tracks: of the objects.
        categories: label numbers of the objects.
    """

    frames: Sequence[tuple[str, int]]
    sizes: Sequence[tuple[int, int]]
    present: Bool[np.ndarray, "F M"]
    boxes: Float[np.ndarray, "F M 4"]
    tracks: Int[np.ndarray, "F M"]
    categories: Int[np.ndarray, "F M"]


def measure(bench: Workbench, cell: Cell, cells: Sequence[Cell]) -> Measured:
    """Every tiling, variant and gap. Every object of a frame is asked for whose later frame is there and holds objects."""
    objects = read_objects(bench)
    rows = []
    for tiling in bench.config.tiling:
        view = bench.view(tiling)
        features, seen = object_features(bench, objects, tiling, cell, cells)
        present = objects.present & seen[:, None]
        pairs = {gap: frame_pairs(objects.frames, gap) for gap in bench.config.gaps}
        pairs = {gap: both[present[both].any(-1).all(-1)] for gap, both in pairs.items()}
        together, ends = np.concatenate(list(pairs.values())), np.cumsum([len(both) for both in pairs.values()])
        for dropped in bench.drops:
            columns = {
                "method": "1-nn",
                "tiling": tiling,
                **features_without(dropped),
                "setting": "gap",
            }
            keep = bench.keep(view, cell, cells, dropped)
            found = nearest_objects(features * keep[None, None], present, together, metric=bench.config.metric)
            found = np.split(np.asarray(found), ends[:-1])
            for (gap, both), places in zip(pairs.items(), found, strict=True):
                rows += _rows(bench, cell, objects, present, both, places, columns | {"level": float(gap)})
    return Measured(rows)


def read_objects(bench: Workbench) -> Objects:
    """The objects of the drawn frames."""
    split, frames = bench.drawn.splits["val"], bench.dataset.splits["val"]
    # Of frames the first ones are drawn, so their numbers are those of the data set's own.
    numbers = [frames.frame(i) for i in range(len(split))]
    sizes = [image_size(split, i) for i in range(len(split))]
    boxes = [split.annotation(i).boxes for i in range(len(split))]
    shape = len(boxes), max([1, *map(len, boxes)])
    present = np.zeros(shape, bool)
    edges, tracks, categories = np.zeros((*shape, 4), np.float32), np.zeros(shape, int), np.zeros(shape, int)
    for i, ((height, width), of_frame) in enumerate(zip(sizes, boxes, strict=True)):
        for j, box in enumerate(of_frame):
            shares = box.left / width, box.top / height, box.right / width, box.bottom / height
            present[i, j], edges[i, j] = True, np.clip(shares, 0, 1)
            tracks[i, j], categories[i, j] = box.track, box.number
    return Objects(numbers, sizes, present, edges, tracks, categories)


def object_features(
    bench: Workbench, objects: Objects, tiling: str, cell: Cell, cells: Sequence[Cell]
) -> tuple[Float[np.ndarray, "F M D"], Bool[np.ndarray, " F"]]:
    """The mean feature of every object, and which frames could be decoded."""
    view = bench.view(tiling)
    rows = bench.take(view, "val", cell, cells)
    owner = bench.owner(tiling, "val")
    cut = tiling == "tiles" and bench.tile
    grid = tuple(side // bench.patch_size for side in view.size)
    seen = np.ones(len(objects.sizes), bool)
    seen[owner[bench.rows.left_out(view, "val")]] = False

    @functools.cache
    def patches(size: tuple[int, int], boxes: tuple[TileBox, ...]) -> Int[np.ndarray, "h w"]:
        return frame_patches(boxes, grid, size)

    first = np.searchsorted(owner, np.arange(len(objects.sizes) + 1))
    features = np.zeros((*objects.present.shape, rows.shape[-1]), np.float32)
    for i, (size, boxes) in enumerate(zip(objects.sizes, objects.boxes, strict=True)):
        if not objects.present[i].any():
            continue
        tiles = bench.drawn.tiles["val"].boxes(i) if cut else [TileBox(0, 0, *size)]
        of_frame = patches(size, tuple(tiles))
        tokens = rows[first[i] : first[i + 1]].reshape(-1, rows.shape[-1])[of_frame]
        in_patches = boxes * np.array(of_frame.shape[::-1] * 2, np.float32)[None]
        features[i] = roi_align(
            jnp.asarray(tokens)[None],
            jnp.asarray(in_patches),
            jnp.zeros(len(boxes), jnp.int32),
            sampling_ratio=SAMPLES,
        )
    return features, seen


def frame_patches(boxes: Sequence[TileBox], grid: tuple[int, int], size: tuple[int, int]) -> Int[np.ndarray, "h w"]:
    """The patches of a frame's tiles as one grid over the frame, as nearly as large as theirs.

    Each cell of the grid is the patch that shows the pixel in its centre; only where the last tiles were moved back does
    that differ from laying tiles side by side, by half a patch at most.

    Args:
        boxes: the tiles, all of one size, covering the frame.
        grid: rows and columns of patches of a tile.
        size: height and width of the frame in pixels.

    Returns:
        Number of the tile x patches of a tile + patch.
    """
    patch = patch_of_pixels(boxes, grid, size)
    sides = (boxes[0].height, boxes[0].width)
    counts = [max(1, round(length * n / side)) for length, n, side in zip(size, grid, sides, strict=True)]
    rows, columns = ((2 * np.arange(n) + 1) * length // (2 * n) for n, length in zip(counts, size, strict=True))
    return patch[rows][:, columns]


def _rows(
    bench: Workbench,
    cell: Cell,
    objects: Objects,
    present: Bool[np.ndarray, "F M"],
    pairs: Int[np.ndarray, "n 2"],
    found: Int[np.ndarray, "n M"],
    columns: dict,
) -> list[dict]:
    """Rows of one gap."""
    if not len(pairs):
        reason = "no two frames so far apart hold objects"
        return [bench.row(PART.name, cell, measure="same_instance", count=0, skipped=reason, **columns)]
    shares = tracking_shares(found, pairs, present, objects.tracks, objects.categories)
    return [
        bench.row(PART.name, cell, measure=name, value=getattr(shares, name), count=shares.count, **columns)
        for name in ("same_instance", "same_category", "upper_bound")
    ]


PART = Part("tracking", "tracks", measure, splits=("val",))
