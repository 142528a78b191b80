"""The annotated objects of video frames and their features, by ROIAlign over the patches, frames block by block."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from experiments import processes
from experiments.local.views import Block
from experiments.local.workbench import Workbench
from vitprobe_jax.data.dataset import image_size
from vitprobe_jax.data.tiles import TileBox, patch_of_pixels
from vitprobe_jax.errors import InputError
from vitprobe_jax.features.roi_align import roi_align_patches
from vitprobe_jax.features.store import Cell

SAMPLES = 4
"""Along each side of a box: enough that most patches of an object count, which often covers more than two a side."""
CALL_BYTES = 64 << 20
"""Patches of the frames whose objects are pooled in one call."""
LEAST_BOXES = 32
"""Boxes of a call are padded to this number or a power of two above."""


@dataclasses.dataclass(frozen=True, eq=False)
class Objects:
    """The annotated objects of all drawn frames, frame after frame.

    Attributes:
        frames: sequence and number of each frame.
        sizes: height and width of each frame.
        starts: first object of each frame, and N at the end.
        boxes: left, top, right, bottom, each in shares of the frame's width or height, clipped to it.
        tracks: of the objects.
        categories: label numbers of the objects.
    """

    frames: Sequence[tuple[str, int]]
    sizes: Sequence[tuple[int, int]]
    starts: Int[np.ndarray, " S"]
    boxes: Float[np.ndarray, "N 4"]
    tracks: Int[np.ndarray, " N"]
    categories: Int[np.ndarray, " N"]

    def of(self, frame: int) -> slice:
        """The objects of a frame."""
        return slice(int(self.starts[frame]), int(self.starts[frame + 1]))


class _Call(NamedTuple):
    """Frames of one size whose objects are pooled together, with the place of their first image in the block."""

    frames: list[int]
    first: int


def read_objects(bench: Workbench) -> Objects:
    """The objects of the drawn frames."""
    split, frames = bench.drawn.splits["val"], bench.dataset.splits["val"]
    # Of frames the first ones are drawn, so their numbers are those of the data set's own.
    numbers = [frames.frame(i) for i in range(len(split))]
    sizes = [image_size(split, i) for i in range(len(split))]
    counts, edges, objects = [], [np.zeros((0, 4), np.float32)], [np.zeros((0, 2), int)]
    for i, (height, width) in enumerate(sizes):
        boxes = split.annotation(i).boxes
        counts.append(len(boxes))
        if boxes:
            corners = np.array([(box.left, box.top, box.right, box.bottom) for box in boxes])
            edges.append(np.clip(corners / [[width, height, width, height]], 0, 1).astype(np.float32))
            objects.append(np.array([(box.track, box.number) for box in boxes], int))
    starts, of_all = np.cumsum([0, *counts]), np.concatenate(objects)
    return Objects(numbers, sizes, starts, np.concatenate(edges), of_all[:, 0], of_all[:, 1])


def object_features(
    bench: Workbench, objects: Objects, tiling: str, cell: Cell, cells: Sequence[Cell]
) -> tuple[Float[np.ndarray, "N D"], Bool[np.ndarray, " F"]]:
    """The mean feature of every object, and which frames could be decoded; every process pools its share of the frames.

    Raises:
        InputError: the features of all objects do not fit `--host_memory`.
    """
    view, owner = bench.view(tiling), bench.owner(tiling, "val")
    width, num_objects = bench.backbone.spec.config.width, len(objects.boxes)
    needed, allowed = 4 * width * num_objects, bench.rows.bounds.host
    if needed > allowed:
        raise InputError(
            f"--host_memory: the features of {num_objects} objects of {bench.dataset.name} take {(needed >> 20) + 1} MiB, "
            f"more than the {allowed >> 20} MiB that are allowed; give more memory, or fewer frames by --max_images"
        )
    first = np.searchsorted(owner, np.arange(len(objects.sizes) + 1))
    own = processes.share(len(objects.sizes))
    offset = int(objects.starts[own.start])
    features = np.zeros((int(objects.starts[own.stop]) - offset, width), np.float32)
    seen = np.ones(len(own), bool)
    blocks = bench.blocks(
        view, "val", cell, cells, images=range(int(first[own.start]), int(first[own.stop])), ends=first[own.start :]
    )
    pool = _Pooling(bench, objects, tiling, first)
    for block in blocks:
        seen[owner[block.images[block.left_out]] - own.start] = False
        for of_objects, pooled in pool.block(block):
            features[of_objects - offset] = pooled
    return processes.gathered(features), processes.gathered(seen)


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


class _Pooling:
    """Pools the objects of blocks of whole frames, some frames of one size in each call.

    Frames and boxes of a call are padded to few shapes, so that few programs are compiled. A feature depends on its own
    frame and box alone, so it is the same to the last bit in any block and any process.
    """

    def __init__(self, bench: Workbench, objects: Objects, tiling: str, first: Int[np.ndarray, " S"]):
        self._objects, self._first, self._block_bytes = objects, first, bench.rows.block_bytes
        self._cut = bench.drawn.tiles["val"] if tiling == "tiles" and bench.tile else None
        self._grid = tuple(side // bench.patch_size for side in bench.view(tiling).size)
        self._patches: dict[tuple[int, int], Int[np.ndarray, "h w"]] = {}

    def block(self, block: Block) -> Iterator[tuple[Int[np.ndarray, " n"], Float[np.ndarray, "n D"]]]:
        """Numbers of objects and their features."""
        for call in self._calls(block):
            numbers = np.concatenate(
                [np.arange(self._objects.of(f).start, self._objects.of(f).stop) for f in call.frames]
            )
            if not len(numbers):
                continue
            size = self._objects.sizes[call.frames[0]]
            images = int(self._first[call.frames[0] + 1] - self._first[call.frames[0]])
            tokens = block.rows[call.first : call.first + images * len(call.frames)]
            yield (
                numbers,
                self._pool(tokens.reshape(len(call.frames), -1, tokens.shape[-1]), size, call.frames, numbers),
            )

    def _calls(self, block: Block) -> Iterator[_Call]:
        """Consecutive frames of one size, as many as a call takes."""
        frames = np.searchsorted(self._first, block.images[[0, -1]], side="right") - 1
        call: list[int] = []
        for frame in range(frames[0], frames[1] + 1):
            size = self._objects.sizes[frame]
            if call and (
                size != self._objects.sizes[call[0]] or len(call) == self._at_once(size, block.rows.shape[-1])
            ):
                yield _Call(call, int(self._first[call[0]] - block.images[0]))
                call = []
            call.append(frame)
        yield _Call(call, int(self._first[call[0]] - block.images[0]))

    def _at_once(self, size: tuple[int, int], width: int) -> int:
        return max(1, min(CALL_BYTES, self._block_bytes) // (4 * width * self._patches_of(size).size))

    def _patches_of(self, size: tuple[int, int]) -> Int[np.ndarray, "h w"]:
        """`frame_patches` of frames of a size, which all have the same tiles."""
        if size not in self._patches:
            frame = self._objects.sizes.index(size)
            tiles = [TileBox(0, 0, *size)] if self._cut is None else self._cut.boxes(frame)
            self._patches[size] = frame_patches(tiles, self._grid, size)
        return self._patches[size]

    def _pool(self, tokens, size: tuple[int, int], frames: Sequence[int], numbers) -> Float[np.ndarray, "n D"]:
        patches = self._patches_of(size)
        missing = self._at_once(size, tokens.shape[-1]) - len(frames)
        tokens = np.pad(tokens, ((0, missing), (0, 0), (0, 0))) if missing else tokens
        counts = np.diff(self._objects.starts)[frames]
        length = max(LEAST_BOXES, 1 << (len(numbers) - 1).bit_length())
        boxes, frame = np.zeros((length, 4), np.float32), np.zeros(length, np.int32)
        boxes[: len(numbers)] = self._objects.boxes[numbers] * np.array(patches.shape[::-1] * 2, np.float32)[None]
        frame[: len(numbers)] = np.repeat(np.arange(len(frames)), counts)
        return np.asarray(roi_align_patches(tokens, patches, boxes, frame, sampling_ratio=SAMPLES))[: len(numbers)]
