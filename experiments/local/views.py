"""Images as a part of the study wants them, and their rows: extracted once, kept as long as memory lasts.

Parts read rows block by block (`ViewRows.blocks`), so that no view has to fit the memory as a whole.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int

from experiments.backbones import at_gsd
from experiments.local.config import LocalConfig
from experiments.plan import Bounds, memory_bounds
from experiments.preparation import PreparedData, report_undecoded
from experiments.results_folder import ResultsFolder
from vitprobe_jax.backbones.loading import Backbone
from vitprobe_jax.data.dataset import Dataset, ImageSplit, ImageSubset
from vitprobe_jax.data.transforms import Transform
from vitprobe_jax.errors import InputError
from vitprobe_jax.features.extract import fitting_batch
from vitprobe_jax.features.store import Cell
from vitprobe_jax.features.streaming import RowSource
from vitprobe_jax.types import Rows, Split

BLOCK_SHARE = 8
"""A block takes this part of `--host_memory` at most."""
BLOCK_BYTES = 256 << 20
"""A block takes no more than this either: what is made of it takes several times as much."""
PART_SHARE = 4
"""Images that are extracted part by part take this part of `--host_memory` at a time; two parts may be there at once."""


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """Some images of a data set in some state and size.

    Attributes:
        splits: the images: drawn, cut into tiles, corrupted.
        described: what was done to them, in full: views of one data set with the same description have the same images.
        size: height and width that they are resized to.
        rows: which rows of them are wanted.
        gsd: metres a pixel at that size, for backbones whose positions know it; None for each backbone's own.
    """

    splits: Mapping[Split, ImageSplit]
    described: str
    size: tuple[int, int]
    rows: Rows = "segmentation"
    gsd: float | None = None

    @property
    def key(self) -> tuple:
        """What tells views of a data set apart."""
        return self.described, self.size, self.rows, tuple(sorted(self.splits)), self.gsd

    @property
    def transform(self) -> Transform:
        """How images and masks are brought to the size: whole, nothing is cropped."""
        return Transform(self.size, "none")


class Block(NamedTuple):
    """The rows of some consecutive images of a view.

    Attributes:
        images: their numbers in the split, ascending.
        rows: float32, zeros for images that could not be decoded.
        left_out: the images that could not be decoded.
    """

    images: Int[np.ndarray, " n"]
    rows: Float[np.ndarray, "n R D"]
    left_out: Bool[np.ndarray, " n"]


@dataclasses.dataclass(eq=False)
class ViewRows:
    """The rows of one backbone's views of one data set.

    What has been extracted stays in memory (or in `--cache_dir`) until others need the room, so that parts that want the
    same view share one pass over its images. A view that does not fit `--host_memory` can be read by `blocks` alone, and
    without `--cache_dir` is extracted anew whenever it is read.
    """

    config: LocalConfig
    dataset: Dataset
    backbone: Backbone
    folder: ResultsFolder
    mesh: Mesh
    local_mesh: Mesh
    _prepared: dict[tuple, PreparedData] = dataclasses.field(default_factory=dict, init=False)
    _held: dict[tuple, int] = dataclasses.field(default_factory=dict, init=False)
    _undecoded: dict[tuple, dict[int, str]] = dataclasses.field(default_factory=dict, init=False)

    @functools.cached_property
    def bounds(self) -> Bounds:
        """Of the memory that features may take."""
        return memory_bounds(self.config)

    @property
    def block_bytes(self) -> int:
        """The bound on a block's rows in float32."""
        return min(self.bounds.host // BLOCK_SHARE, BLOCK_BYTES)

    def get(self, view: View, split: Split, cell: Cell, cells: Sequence[Cell]) -> Float[np.ndarray, "I R D"]:
        """The rows of a cell, float32; of images that cannot be decoded zeros (`left_out`).

        Args:
            view: which images.
            split: one of its splits.
            cell: (block, token).
            cells: all that will be asked for; they are extracted together, as many as fit.

        Raises:
            InputError: bad images, a cache that cannot be written, rows of one cell that do not fit the memory.
        """
        source = self._source(self._fitting(view, split) or view, split, cell, cells)
        return np.asarray(source.read(np.arange(len(view.splits[split]))), np.float32)

    def blocks(
        self,
        view: View,
        split: Split,
        cell: Cell,
        cells: Sequence[Cell],
        *,
        images: range | None = None,
        ends: Int[np.ndarray, " n"] | None = None,
    ) -> Iterator[Block]:
        """The rows of a cell in blocks of bounded memory, the same bytes whichever way they are had.

        A view that is cached on disk or fits `--host_memory` is extracted once, before this returns, and then read block by
        block. Another one is extracted part by part as the blocks are read, and its rows are forgotten again.

        Args:
            view: which images.
            split: one of its splits.
            cell: (block, token).
            cells: all that will be asked for; those that fit are extracted together.
            images: consecutive images of the split; all unless given. Processes of one run may ask for different ones, but
                all have to ask.
            ends: ascending numbers of images before which a block may end, as where the tiles of another photograph begin;
                any unless given. A block is larger than its bound where these are too far apart.

        Raises:
            InputError: bad images, a cache that cannot be written, a single batch of images that does not fit the memory.
        """
        images = range(len(view.splits[split])) if images is None else images
        fitting = self._fitting(view, split)
        at_once = max(1, self.block_bytes // self._image_bytes(view, split))
        ranges = block_ranges(images, at_once, ends)
        if fitting is None:
            return self._by_parts(view, split, cell, images, ranges)
        return self._read(fitting, split, self._source(fitting, split, cell, cells), ranges)

    def left_out(self, view: View, split: Split) -> Int[np.ndarray, " n"]:
        """Images of a view that could not be decoded; of one that does not fit, those of the parts that have been read."""
        fitting = self._fitting(view, split)
        if fitting is None:
            return np.array(sorted(self._undecoded.get((view.key, split), ())), int)
        return np.array(sorted(self._data(fitting).store(self._backbone(view), split).errors()), int)

    def check(self, view: View) -> None:
        """Refuses a view that the backbone cannot take with an `InputError`, before anything is extracted."""
        self._data(view)

    def fits(self, view: View, split: Split) -> bool:
        """Whether the rows of a split are extracted once, rather than whenever they are read."""
        return self._fitting(view, split) is not None

    def _fitting(self, view: View, split: Split) -> View | None:
        """What is extracted as a whole: all splits of a view, or the one alone; None where that does not fit either."""
        if self.config.cache_dir is not None:
            return view
        needed = {name: shape.bytes for name, shape in self._data(view).shapes(self._backbone(view)).items()}
        if sum(needed.values()) <= self.bounds.host:
            return view
        alone = dataclasses.replace(view, splits={split: view.splits[split]})
        return alone if needed[split] <= self.bounds.host else None

    def _image_bytes(self, view: View, split: Split) -> int:
        """What the rows of an image take in float32."""
        shape = self._data(view).shapes(self._backbone(view))[split]
        return 4 * shape.num_rows * shape.width

    def _source(self, view: View, split: Split, cell: Cell, cells: Sequence[Cell]) -> RowSource:
        """The rows of a cell of a view, extracted with those of other cells where they are not there yet."""
        data, backbone = self._data(view), self._backbone(view)
        if (view.key, cell) not in self._held:
            plan = data.plan(backbone, list(cells))
            together = next(part for part in plan.passes if cell in part)
            needed = sum(shape.bytes for shape in plan.shapes.values())
            self._make_room(len(together) * needed)
            data.extract(backbone, plan, together)
            self._held |= {(view.key, other): needed for other in together}
        return data.store(backbone, split).source(cell)

    def _read(self, view: View, split: Split, source: RowSource, ranges: Sequence[range]) -> Iterator[Block]:
        left_out = self.left_out(view, split)
        for part in ranges:
            numbers = np.arange(part.start, part.stop)
            yield Block(numbers, np.asarray(source.read(numbers), np.float32), np.isin(numbers, left_out))

    def _by_parts(
        self, view: View, split: Split, cell: Cell, images: range, ranges: Sequence[range]
    ) -> Iterator[Block]:
        self.folder.note(
            f"{self.dataset.name}: the features of one token do not fit --host_memory, so its images went through the "
            "backbone again for every token and every part of the study; --cache_dir spares this"
        )
        chunks = self._extracted_parts(view, split, cell, images)
        for part, rows in zip(ranges, regrouped(chunks, ranges), strict=True):
            numbers = np.arange(part.start, part.stop)
            yield Block(numbers, rows, np.isin(numbers, list(self._undecoded[view.key, split])))
        if ranges and images == range(len(view.splits[split])):
            report_undecoded(self.folder, split, self._undecoded[view.key, split], len(images))

    def _extracted_parts(
        self, view: View, split: Split, cell: Cell, images: range
    ) -> Iterator[tuple[int, Float[np.ndarray, "n R D"]]]:
        """Consecutive parts of a split, each with its first image, extracted as they are asked for.

        Parts begin where a batch of the whole split begins, so that every image has its place in the same batch and its rows
        are the same to the last bit.
        """
        backbone, batch = self._backbone(view), fitting_batch(self.config.batch_size)
        image_bytes = self._data(view).shapes(backbone)[split].image_bytes
        at_once = max(1, self.bounds.host // PART_SHARE // (image_bytes * batch)) * batch
        undecoded = self._undecoded.setdefault((view.key, split), {})
        self._make_room(min(PART_SHARE // 2 * at_once * image_bytes, self.bounds.host))
        for first in range(images.start // batch * batch, images.stop, at_once):
            numbers = np.arange(first, min(first + at_once, len(view.splits[split])))
            described = f"{view.described}, images {first} to {numbers[-1]} of {split}"
            part = dataclasses.replace(
                view, splits={split: ImageSubset(view.splits[split], numbers)}, described=described
            )
            data = self._prepare(part)
            data.extract(backbone, data.plan(backbone, [cell]), [cell], report_errors=False)
            store = data.store(backbone, split)
            undecoded |= {first + image: message for image, message in store.errors().items()}
            yield first, store.source(cell).read(np.arange(len(numbers)))

    def _backbone(self, view: View) -> Backbone:
        return at_gsd(self.backbone, view.gsd)

    def _data(self, view: View) -> PreparedData:
        if view.key not in self._prepared:
            patch = self.backbone.spec.config.patch_size
            if any(side % patch for side in view.size):
                height, width = view.size
                raise InputError(
                    f"--image_size: {height}x{width} is no multiple of the patch size {patch} of {self.backbone.spec.name}; "
                    "give another, or another --whole_size"
                )
            self._prepared[view.key] = self._prepare(view)
        return self._prepared[view.key]

    def _prepare(self, view: View) -> PreparedData:
        text = f"{self.dataset.fingerprint}\0{view.described}"
        dataset = dataclasses.replace(
            self.dataset, splits=dict(view.splits), fingerprint=hashlib.sha256(text.encode()).hexdigest()
        )
        config = dataclasses.replace(self.config, image_size=view.size, crop="none", max_images=0)
        return PreparedData(config, view.rows, dataset, self.folder, self.mesh, self.local_mesh)

    def _make_room(self, needed: int) -> None:
        """Forgets what was extracted first, until there is room; what is on disk takes none."""
        if self.config.cache_dir is not None:
            return
        while self._held and sum(self._held.values()) + needed > self.bounds.host:
            key, cell = next(iter(self._held))
            del self._held[key, cell]
            self._prepared[key].release(at_gsd(self.backbone, key[-1]), cell)


def block_ranges(images: range, at_once: int, ends: Int[np.ndarray, " n"] | None = None) -> list[range]:
    """Consecutive images in blocks of `at_once` at most, cut before some of the images `ends` where these are given.

    Where two of `ends` are farther apart, so is a block's end.
    """
    ranges, start = [], images.start
    while start < images.stop:
        end = min(start + at_once, images.stop)
        if ends is not None and end < images.stop:
            later = ends[ends > start]
            fitting = later[later <= end]
            end = int(fitting[-1] if len(fitting) else min(later[0], images.stop) if len(later) else images.stop)
        ranges.append(range(start, end))
        start = end
    return ranges


def regrouped(
    chunks: Iterable[tuple[int, Float[np.ndarray, "n R D"]]], ranges: Iterable[range]
) -> Iterator[Float[np.ndarray, "m R D"]]:
    """The rows of consecutive ranges of images, float32, from consecutive chunks of them, each with its first image."""
    chunks = iter(chunks)
    first, rows = 0, np.zeros((0, 0, 0))
    for wanted in ranges:
        pieces, at = [], wanted.start
        while at < wanted.stop:
            if at >= first + len(rows):
                first, rows = next(chunks)
                continue
            end = min(wanted.stop, first + len(rows))
            pieces.append(np.asarray(rows[at - first : end - first], np.float32))
            at = end
        yield pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
