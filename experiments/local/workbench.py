"""What every part of the study works with: one backbone on one data set, its images drawn, cut and labelled."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int

from experiments import processes
from experiments.local.config import LocalConfig
from experiments.local.views import Block, View, ViewRows
from experiments.measuring import measured_row
from vitprobe_jax.backbones.loading import Backbone
from vitprobe_jax.data.dataset import Dataset, FrameSplit, ImageSplit, ImageSubset, draw_indices, image_size
from vitprobe_jax.data.label_counts import LabelCounts, count_labels
from vitprobe_jax.data.labels import patch_votes
from vitprobe_jax.data.shots import Draw, draw_shots
from vitprobe_jax.data.tiles import TiledSplit
from vitprobe_jax.data.transformations import Transformation, TransformedSplit
from vitprobe_jax.errors import InputError
from vitprobe_jax.features.moments import GroupedMoments, Moments, highest_variance
from vitprobe_jax.features.store import Cell
from vitprobe_jax.types import Split

STUDY = "local"
ON_ALL_IMAGES = ("scale",)
"""Parts that take all images of a data set unless flags ask for a draw: Scale-MAE's k-NN does (its main_pretrain.py)."""


def draw_sizes(config: LocalConfig, dataset: Dataset, part: str) -> tuple[int, ...]:
    """The sizes of the training draw for a part of the study, images a group.

    Those of `--images_per_group`, or else the data set's own, and in `patches`, which has the figure over sizes, those that
    are compared, too; all images for `ON_ALL_IMAGES`.
    """
    if config.images_per_group:
        return config.images_per_group
    if part in ON_ALL_IMAGES:
        return (0,)
    own = dataset.draw
    return tuple(sorted({own.train, *own.compared})) if part == "patches" else (own.train,)


def held_out_size(config: LocalConfig, dataset: Dataset, part: str = "") -> int:
    """Images a group of the held-out draw for a part of the study: `--val_images_per_group`, or else the data set's own."""
    if config.val_images_per_group is not None:
        return config.val_images_per_group
    return 0 if part in ON_ALL_IMAGES else dataset.draw.val


@dataclasses.dataclass(frozen=True, eq=False)
class Drawn:
    """A data set with the images that the study draws of it, the same for every backbone.

    Attributes:
        config: of the run.
        dataset: all of it.
        draws: of each split, nested few-shot draws of training images and the held-out draw.
        splits: the images of the largest draw, in the order of the data set.
        sizes: of the training draw, images a group; ascending, with 0, which is all, at the end.
        val_size: of the held-out draw.
    """

    config: LocalConfig
    dataset: Dataset
    draws: Mapping[Split, Draw]
    splits: Mapping[Split, ImageSplit]
    sizes: tuple[int, ...]
    val_size: int

    @classmethod
    def of(cls, config: LocalConfig, dataset: Dataset, sizes: tuple[int, ...], val_size: int | None = None) -> "Drawn":
        """Draws by the run's seed. Of frames the first ones are taken, since they belong together.

        Args:
            config: of the run.
            dataset: to draw from.
            sizes: of the training draw, see `draw_sizes`.
            val_size: of the held-out draw, see `held_out_size`, which gives that of most parts unless it is given.
        """
        val_size = held_out_size(config, dataset) if val_size is None else val_size
        counts = {"train": sizes, "val": (val_size,)}
        draws, splits = {}, {}
        for name, split in dataset.splits.items():
            if isinstance(split, FrameSplit):
                chosen = np.arange(min(len(split), config.max_images or len(split)))
            else:
                draw = draw_shots(split, counts[name], config.seed, in_turn=dataset.draw.in_turn)
                left = draw_indices(len(draw.images), config.max_images, config.seed)
                draws[name] = dataclasses.replace(draw, images=draw.images[left], rank=draw.rank[left])
                chosen = draws[name].images
            splits[name] = ImageSubset(split, chosen)
        return cls(config, dataset, draws, splits, sizes, val_size)

    @functools.cached_property
    def first_size(self) -> tuple[int, int]:
        """Height and width of the first image that can be read.

        Raises:
            InputError: the last one's, if none can.
        """
        split = next(iter(self.splits.values()))
        for index in range(len(split)):
            try:
                return image_size(split, index)
            except InputError:
                if not self.dataset.skip_corrupt or index == len(split) - 1:
                    raise
        raise InputError(f"--dataset: {self.dataset.name} has no images; give one that has some")

    @property
    def tile(self) -> int:
        """Side of a tile in pixels of the images: `--tile`, or the data set's own; 0 where they are tiles already."""
        return self.dataset.tile and (self.config.tile or self.dataset.tile)

    @functools.cached_property
    def tiles(self) -> dict[Split, TiledSplit]:
        """The drawn images cut into tiles."""
        return {name: TiledSplit(split, self.tile) for name, split in self.splits.items()}

    def counts(self, tiling: str, split: Split, size: tuple[int, int], patch_size: int) -> LabelCounts:
        """What the patches carry, of the images or of their tiles; every process counts its share of them."""
        key = (tiling, split, size, patch_size)
        if key not in self._counted:
            images = (self.tiles if tiling == "tiles" else self.splits)[split]
            own = ImageSubset(images, np.array(processes.share(len(images)), int))
            transform = View({}, "", size).transform
            counted = count_labels(own, self.dataset.concepts, transform=transform, patch_size=patch_size)
            self._counted[key] = LabelCounts(processes.gathered(counted.counts), counted.concepts)
        return self._counted[key]

    def concepts(
        self, tiling: str, split: Split, size: tuple[int, int], patch_size: int, transformation: Transformation
    ) -> Int[np.ndarray, "I P"]:
        """The concept of each patch of the transformed images or tiles, as `LabelCounts.majority`.

        Pixels that show what is outside the image or tile do not vote; a patch of such pixels alone has no concept. Every
        process counts its share of the images.
        """
        if not transformation.moves:
            return self.counts(tiling, split, size, patch_size).majority()
        key = (tiling, split, size, patch_size, transformation)
        if key not in self._moved:
            images = (self.tiles if tiling == "tiles" else self.splits)[split]
            moved = TransformedSplit(images, transformation, size, self.config.seed)
            own = ImageSubset(moved, np.array(processes.share(len(images)), int))
            transform = View({}, "", size).transform
            counted = count_labels(own, self.dataset.concepts, transform=transform, patch_size=patch_size)
            outside = patch_votes(moved.outside.astype(int), patch_size=patch_size, num_codes=2)[:, 1]
            counted.counts[..., 0] -= outside.astype(counted.counts.dtype)
            self._moved[key] = processes.gathered(counted.majority())
        return self._moved[key]

    @functools.cached_property
    def _counted(self) -> dict[tuple, LabelCounts]:
        return {}

    @functools.cached_property
    def _moved(self) -> dict[tuple, Int[np.ndarray, "I P"]]:
        return {}


@dataclasses.dataclass(frozen=True, eq=False)
class Workbench:
    """One backbone on one data set.

    Attributes:
        drawn: the data set's images.
        backbone: the frozen model.
        rows: what is extracted.
        mesh: devices of all processes; those of this one are `rows.local_mesh`.
    """

    drawn: Drawn
    backbone: Backbone
    rows: ViewRows
    mesh: Mesh

    @property
    def config(self) -> LocalConfig:
        """Of the run."""
        return self.drawn.config

    @property
    def dataset(self) -> Dataset:
        """The data set."""
        return self.drawn.dataset

    @property
    def patch_size(self) -> int:
        """Of the backbone."""
        return self.backbone.spec.config.patch_size

    @property
    def drops(self) -> tuple[int, ...]:
        """The variants that this backbone has features for; at least one feature is left."""
        return tuple(m for m in self.config.drop_features if m < self.backbone.spec.config.width)

    @property
    def fitted_on(self) -> Split:
        """The split that statistics of features are of: `train`, where the data set has one."""
        return "train" if "train" in self.drawn.splits else "val"

    @property
    def shots(self) -> int:
        """Images a group of the largest training draw, that of the parts that need only one; 0 for all."""
        return self.drawn.sizes[-1]

    def size(self, tiling: str) -> tuple[int, int]:
        """Height and width that tiles or whole images are resized to."""
        if tiling == "tiles":
            return self.config.image_size or self.backbone.spec.image_size
        if self.config.whole_size is not None:
            return self.config.whole_size
        return tuple(max(side // self.patch_size, 1) * self.patch_size for side in self.drawn.first_size)

    def view(self, tiling: str, changed: Mapping[Split, ImageSplit] | None = None, described: str = "") -> View:
        """The drawn images, cut into tiles or whole.

        Args:
            tiling: of `TILINGS`. A data set of tiles (`Dataset.tile` is 0) is not cut again.
            changed: images that stand for the drawn ones, of some splits, as corrupted ones do: the same number, in the
                same order, of the same sizes.
            described: how these were changed, in full.
        """
        config = self.config
        parts = {"drawn": [config.seed, self.drawn.sizes, self.drawn.val_size, config.max_images]}
        splits = changed or self.drawn.splits
        if tiling == "tiles" and self.tile:
            tiles = self.drawn.tiles
            splits = {name: tiles[name].over(split) for name, split in changed.items()} if changed else tiles
            parts["tile"] = self.tile
        return View(splits, f"{parts} {described}".strip(), self.size(tiling))

    @property
    def tile(self) -> int:
        """Side of a tile in pixels of the images; 0 where they are not cut."""
        return self.drawn.tile

    def counts(self, tiling: str, split: Split) -> LabelCounts:
        """What the patches of the drawn images carry."""
        cut = "tiles" if tiling == "tiles" and self.tile else "whole"
        return self.drawn.counts(cut, split, self.size(tiling), self.patch_size)

    def concepts(self, tiling: str, split: Split, transformation: Transformation) -> Int[np.ndarray, "I P"]:
        """The concept of each patch of the transformed drawn images, see `Drawn.concepts`."""
        cut = "tiles" if tiling == "tiles" and self.tile else "whole"
        return self.drawn.concepts(cut, split, self.size(tiling), self.patch_size, transformation)

    def owner(self, tiling: str, split: Split) -> Int[np.ndarray, " I"]:
        """The drawn image that each image of a view belongs to: itself, or that of which it is a tile."""
        images = self.drawn.splits[split]
        if tiling == "tiles" and self.tile:
            return self.drawn.tiles[split].owner
        return np.arange(len(images))

    def rank(self, tiling: str) -> Int[np.ndarray, " I"]:
        """Of each training image of a view: the draw of n images a group are those below n."""
        return self.drawn.draws["train"].rank[self.owner(tiling, "train")]

    def take(self, view: View, split: Split, cell: Cell, cells: Sequence[Cell]) -> Float[np.ndarray, "I R D"]:
        """The rows of a view, see `ViewRows.get`, as `--feature_norm` changes them."""
        rows = self.rows.get(view, split, cell, cells)
        norm = self.norm(cell, cells)
        return rows if norm is None else norm(rows)

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
        """The rows of a view in blocks, see `ViewRows.blocks`, as `--feature_norm` changes them.

        Where a view is extracted anew whenever it is read, the first reading of all its images leaves their moments behind,
        so that `keep` needs no other one.
        """
        blocks = self.rows.blocks(view, split, cell, cells, images=images, ends=ends)
        everything = images is None or images == range(len(view.splits[split]))
        wanted = split == self.fitted_on and any(self.drops) and (view.key, cell) not in self._known_moments
        if everything and wanted and not self.rows.fits(view, split):
            blocks = self._with_moments(blocks, (view.key, cell))
        norm = self.norm(cell, cells)
        return blocks if norm is None else (block._replace(rows=norm(block.rows)) for block in blocks)

    def norm(self, cell: Cell, cells: Sequence[Cell]) -> Callable[[np.ndarray], np.ndarray] | None:
        """What `--feature_norm` does to rows of a cell; None where it does nothing.

        Its statistics are those of all patches of the training draw, fed as the first of `--tiling` says, for every view:
        corrupted images, other tilings and pooled rows are normalised as clean patches are. A constant feature is not
        scaled.
        """
        if self.config.feature_norm == "none":
            return None
        moments = self._moments(self.view(self.config.tiling[0]), cell, cells)
        mean = moments.mean.astype(np.float32)
        # What varies by no more than float32's rounding of its mean is constant.
        varies = moments.variance > (np.finfo(np.float32).eps * moments.mean) ** 2
        deviation = np.sqrt(np.where(varies, moments.variance, 1.0)).astype(np.float32)
        if self.config.feature_norm == "center":
            deviation = np.ones_like(deviation)
        return lambda rows: (rows - mean) / deviation

    def check_room(self, count: int, what: str) -> None:
        """Makes sure that rows which are needed at once fit `--host_memory`, with a copy of them.

        Args:
            count: of rows.
            what: they are, in words.

        Raises:
            InputError: they do not.
        """
        # Twice: a variant of them is a copy, while it is on its way to the devices.
        needed, allowed = 2 * 4 * self.backbone.spec.config.width * count, self.rows.bounds.host
        if needed > allowed:
            raise InputError(
                f"--host_memory: {count} {what} of {self.dataset.name} and a copy of them take {(needed >> 20) + 1} MiB, "
                f"more than the {allowed >> 20} MiB that are allowed; give fewer --images_per_group or "
                "--val_images_per_group, or more memory"
            )

    def keep(self, view: View, cell: Cell, cells: Sequence[Cell], dropped: int) -> Bool[np.ndarray, " D"]:
        """Which features a variant keeps: all but those of highest variance over the patches of the training draw."""
        if not dropped:
            return np.ones(self.backbone.spec.config.width, bool)
        return highest_variance(self.variance(view, cell, cells), dropped)

    def variance(self, view: View, cell: Cell, cells: Sequence[Cell]) -> Float[np.ndarray, " D"]:
        """Of each feature over all patches of the training draw, before any `--feature_norm`."""
        return self._moments(view, cell, cells).variance

    def _moments(self, view: View, cell: Cell, cells: Sequence[Cell]) -> Moments:
        """Of each feature over all patches of the training draw.

        In float64, by groups of images that are dealt over the processes: neither blocks nor processes change a bit of it.
        """
        key = (view.key, cell)
        if key not in self._known_moments:
            size, num_images = GroupedMoments.GROUP, len(view.splits[self.fitted_on])
            own = processes.share(-(-num_images // size))
            images = range(own.start * size, min(own.stop * size, num_images))
            moments = GroupedMoments(self.backbone.spec.config.width)
            for block in self.rows.blocks(view, self.fitted_on, cell, cells, images=images):
                moments.add(*block)
            self._known_moments[key] = GroupedMoments.merged(processes.gathered(moments.groups))
        return self._known_moments[key]

    def _with_moments(self, blocks: Iterator[Block], key: tuple) -> Iterator[Block]:
        moments = GroupedMoments(self.backbone.spec.config.width)
        for block in blocks:
            moments.add(*block)
            yield block
        self._known_moments[key] = GroupedMoments.merged(moments.groups)

    @functools.cached_property
    def _known_moments(self) -> dict[tuple, Moments]:
        return {}

    @property
    def num_images(self) -> int:
        """Of the drawn splits."""
        return sum(len(split) for split in self.drawn.splits.values())

    def row(self, part: str, cell: Cell | None, **columns: Any) -> dict:
        """A row of the results, with what it is of."""
        return measured_row(STUDY, self, part, cell, **columns)
