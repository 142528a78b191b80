"""What every part of the study works with: one backbone on one data set, its images drawn and labelled."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from experiments.aggregate.config import AggregateConfig
from experiments.aggregate.stream import Placed, Stream
from experiments.backbones import make_transform
from experiments.measuring import measured_row
from experiments.progress import progress
from experiments.results_folder import ResultsFolder
from vitprobe_jax.backbones.loading import Backbone
from vitprobe_jax.data.dataset import Dataset, ImageSplit, draw_subset
from vitprobe_jax.data.image_labels import image_classes, image_labels
from vitprobe_jax.data.imagenet_boxes import BoxFolder
from vitprobe_jax.data.subsets import draw_share, listed_subset
from vitprobe_jax.data.transforms import Transform
from vitprobe_jax.features.extract import fitting_batch
from vitprobe_jax.features.frozen import ImageTokens, frozen_tokens
from vitprobe_jax.features.store import Cell
from vitprobe_jax.probes.pooling import Pooling
from vitprobe_jax.types import Split

STUDY = "aggregation"
NO_CLS = "it has no [CLS]"
NO_IMAGE = "no held-out image can be decoded"


@dataclasses.dataclass(frozen=True, eq=False)
class Drawn:
    """A data set as the study sees it, the same for every backbone.

    Attributes:
        config: of the run.
        dataset: all of it.
        splits: the images that are used.
        boxes: of objects, where `--boxes` names some.
    """

    config: AggregateConfig
    dataset: Dataset
    splits: Mapping[Split, ImageSplit]
    boxes: BoxFolder | None

    @classmethod
    def of(cls, config: AggregateConfig, dataset: Dataset, boxes: BoxFolder | None) -> "Drawn":
        """The training images that the flags ask for; of each split `--max_images` at most.

        Raises:
            InputError: the data set has no held-out images, or a list of training images does not fit it.
        """
        dataset.require_splits("val")
        splits = dict(dataset.splits)
        if "train" in splits and config.train_list:
            splits["train"] = listed_subset(splits["train"], config.train_list)
        elif "train" in splits and config.train_share < 1:
            splits["train"] = draw_share(splits["train"], config.train_share, config.seed)
        splits = {name: draw_subset(split, config.max_images, config.seed) for name, split in splits.items()}
        return cls(config, dataset, splits, boxes)

    @property
    def has_labels(self) -> bool:
        """Whether heads can be trained: there are training images, and images have one class each or several labels."""
        return "train" in self.splits and (self.dataset.multilabel or self.dataset.categories == ("class",))

    def targets(self, split: Split) -> np.ndarray:
        """Of every image its class [I] int32, -1 for none, or which labels it carries [I, K] float32.

        Raises:
            InputError: annotations that cannot be read, or an image of several classes where each is to have one.
        """
        if split not in self._targets:
            images, concepts = self.splits[split], self.dataset.concepts
            if self.dataset.multilabel:
                self._targets[split] = image_labels(images, concepts).astype(np.float32)
            else:
                self._targets[split] = image_classes(images, concepts)
        return self._targets[split]

    def labelled(self, split: Split) -> Int[np.ndarray, " n"]:
        """The images that a classifier is trained on, or tested: of sets of classes those that have one."""
        targets = self.targets(split)
        return np.arange(len(targets)) if self.dataset.multilabel else np.flatnonzero(targets >= 0)

    @functools.cached_property
    def _targets(self) -> dict[Split, np.ndarray]:
        return {}


@dataclasses.dataclass(frozen=True, eq=False)
class Workbench:
    """One backbone on one data set.

    Attributes:
        drawn: the data set's images.
        backbone: the frozen model.
        other: the backbone whose [CLS] attention part untrained aggregates by, too; None where there is none.
        folder: is told of notes, keeps checkpoints and heads.
        mesh: devices of all processes.
        trained: what parts share, the heads of each cell (`heads.Heads.of`).
    """

    drawn: Drawn
    backbone: Backbone
    other: Backbone | None
    folder: ResultsFolder
    mesh: Mesh
    trained: dict[Cell, Any] = dataclasses.field(default_factory=dict, init=False)

    @property
    def config(self) -> AggregateConfig:
        """Of the run."""
        return self.drawn.config

    @property
    def dataset(self) -> Dataset:
        """The data set."""
        return self.drawn.dataset

    @property
    def num_images(self) -> int:
        """Of all splits."""
        return sum(len(split) for split in self.drawn.splits.values())

    @property
    def stream(self) -> Stream:
        """How images reach the devices."""
        return Stream(self.mesh, self.config.num_workers, self.dataset.skip_corrupt)

    @property
    def eval_transform(self) -> Transform:
        """How the family prepares an image at evaluation, under the run's flags."""
        return make_transform(self.config, "classification", self.backbone)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        patch = self.backbone.spec.config.patch_size
        return tuple(side // patch for side in self.eval_transform.size)

    def held_out(
        self, label: str, *, transform: Transform | None = None, order: Int[np.ndarray, " n"] | None = None
    ) -> Iterator[Placed]:
        """Held-out images in batches, with progress on a terminal.

        Args:
            label: of the progress.
            transform: how they are prepared; as at evaluation unless given.
            order: which; all unless given.
        """
        split, left_out = self.drawn.splits["val"], 0
        order = np.arange(len(split)) if order is None else order
        batch = self.stream.fitting(fitting_batch(self.config.batch_size))
        batches = self.stream.batches(split, transform or self.eval_transform, batch, order)
        shown = f"{label}, {self.backbone.spec.name} on {self.dataset.name}"
        for placed in progress(batches, total=-(-len(order) // batch), label=shown, unit="batch"):
            left_out += int(np.sum((placed.indices >= 0) & ~placed.valid))
            yield placed
        self.note_left_out("held-out", left_out)

    def note_left_out(self, what: str, count: int) -> None:
        """Tells of images that could not be decoded."""
        if count:
            self.folder.note(f"{self.dataset.name}: {count} {what} images cannot be decoded and are left out")

    def tokens(self, images: Any, cell: Cell, weights: Sequence[str] = ()) -> ImageTokens:
        """What the frozen backbone makes of images on the devices."""
        return frozen_tokens(
            self.backbone,
            cell,
            images,
            self.mesh,
            weights=tuple(weights),
            other=self.other,
            dtype=self.config.dtype,
        )

    def unfit(self, pooling: Pooling) -> str | None:
        """Why this backbone has no such representation; None where it has."""
        config = self.backbone.spec.config
        if not config.class_token and (
            pooling.kind == "cls" or pooling.weights in ("cls_attention", "lowest_entropy_cls")
        ):
            return NO_CLS
        if pooling.kind == "attentive" and config.width % pooling.heads:
            return f"{pooling.heads} heads do not divide its width {config.width}"
        if pooling.weights == "other_cls_attention":
            if self.other is None:
                return "no other backbone is named (--other_backbone), and none of family dino is in this run"
            if self.other.spec.params_sha256 == self.backbone.spec.params_sha256:
                return "it is the other backbone itself"
        return None

    def row(self, part: str, cell: Cell | None, **columns: Any) -> dict:
        """A row of the results, with what it is of."""
        return measured_row(STUDY, self, part, cell, **columns)
