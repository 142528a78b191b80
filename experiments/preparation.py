"""From flags to feature tables: the part of a run that all studies share."""

import dataclasses
import functools
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from absl import logging
from jax.sharding import Mesh
from tqdm import tqdm

from experiments.config import RunConfig
from experiments.results_folder import ResultsFolder
from vitprobe_jax.backbones.capture import check_layers
from vitprobe_jax.backbones.loading import Backbone, load_backbone
from vitprobe_jax.backbones.untrained import OBJECTIVE as UNTRAINED_OBJECTIVE
from vitprobe_jax.data.dataset import Dataset, ImageSplit, draw_subset
from vitprobe_jax.data.labels import LabelTable, build_labels
from vitprobe_jax.data.pipeline import image_batches
from vitprobe_jax.data.transforms import Transform
from vitprobe_jax.errors import InputError
from vitprobe_jax.features.cache import FeatureCache
from vitprobe_jax.features.extract import Cell, Features, extract
from vitprobe_jax.types import SPLITS, Split, Task

T = TypeVar("T")


def progress(items: Iterable[T], *, total: int, label: str, unit: str) -> Iterator[T]:
    """The items, with rate and time left on a terminal, quietly elsewhere."""
    yield from tqdm(items, total=total, desc=label, unit=unit, disable=not sys.stderr.isatty(), leave=False)


def load_backbones(config: RunConfig) -> list[Backbone]:
    """All backbones of a run, checked against its layers and image size before any work starts.

    Raises:
        InputError: one cannot be loaded, lacks a wanted block, does not fit the image size; two have one name.
    """
    backbones = [load_backbone(name) for name in config.backbones]
    names = [backbone.spec.name for backbone in backbones]
    if len(set(names)) < len(names):
        raise InputError(f"--backbones: two are called the same ({', '.join(names)}); convert one with another --name")
    for backbone in backbones:
        check_layers(config.blocks(backbone.spec.config.depth), backbone.spec.config)
        height, width = make_transform(config, "segmentation", backbone).size
        patch = backbone.spec.config.patch_size
        if height % patch or width % patch:
            raise InputError(
                f"--image_size: {height}x{width} is no multiple of the patch size {patch} of {backbone.spec.name}"
            )
    return backbones


def input_digests(dataset: Dataset, backbones: Sequence[Backbone]) -> dict[str, str]:
    """What a run's results depend on beside its flags, by what a user would call it."""
    weights = {f"the weights of {backbone.spec.name}": backbone.spec.params_sha256 for backbone in backbones}
    return {f"the content of {dataset.name}": dataset.fingerprint} | weights


def make_transform(config: RunConfig, task: Task, backbone: Backbone) -> Transform:
    """How images reach this backbone under the run's flags."""
    spec = backbone.spec
    native = (spec.config.grid[0] * spec.config.patch_size, spec.config.grid[1] * spec.config.patch_size)
    crop = config.crop
    if crop == "auto":
        crop = "none" if task == "segmentation" else "family"
    return Transform(config.image_size or native, crop, spec.preprocess.resize_ratio, spec.preprocess.interpolation)


@dataclasses.dataclass(frozen=True, eq=False)
class PreparedData:
    """A data set as one run sees it: its categories selected, its images drawn."""

    config: RunConfig
    task: Task
    dataset: Dataset
    folder: ResultsFolder

    @functools.cached_property
    def splits(self) -> dict[Split, ImageSplit]:
        """The images of each split, `--max_images` of them at most."""
        splits = self.dataset.splits
        return {name: draw_subset(splits[name], self.config.max_images, self.config.seed) for name in SPLITS}

    def labels(self, backbone: Backbone, split: Split) -> LabelTable:
        """What the rows of a split carry, on this backbone's grid; built once a grid."""
        patch_size = backbone.spec.config.patch_size
        return self._labels(make_transform(self.config, self.task, backbone), patch_size, split)

    # The record lives as long as the run, so a cache on the method holds nothing longer than it should.
    @functools.cache  # noqa: B019
    def _labels(self, transform: Transform, patch_size: int, split: Split) -> LabelTable:
        images = self.splits[split]
        with self.folder.stage(f"labels, {split}", "images", len(images)):
            return build_labels(
                images,
                self.dataset.concepts,
                transform=transform,
                patch_size=patch_size,
                task=self.task,
                patch_label=self.config.patch_label,
            )

    def features(self, backbone: Backbone, split: Split, cells: Sequence[Cell], mesh: Mesh) -> Features:
        """The rows of all cells, from the cache where it has them, else extracted in one pass over the images."""
        cache = self._cache(backbone)
        present = cache.present(split, cells) if cache else []
        missing = [cell for cell in cells if cell not in present]
        parts = [cache.load(split, present)] if present else []
        if missing:
            parts.append(self._extract(backbone, split, missing, mesh))
            if cache:
                cache.save(split, parts[-1])
        features = dataclasses.replace(parts[0], rows={cell: row for part in parts for cell, row in part.rows.items()})
        if features.errors:
            count = len(features.errors)
            logging.warning("%s: left out %d corrupt images; the first: %s", split, count, features.errors[0])
            self.folder.note(
                f"{split}: left out {count} images that cannot be decoded: {'; '.join(features.errors[:5])}"
            )
        return features

    def _extract(self, backbone: Backbone, split: Split, cells: Sequence[Cell], mesh: Mesh) -> Features:
        images, transform = self.splits[split], make_transform(self.config, self.task, backbone)
        batch_size = -(-self.config.batch_size // mesh.size) * mesh.size
        batches = image_batches(images, transform, batch_size=batch_size, num_workers=self.config.num_workers)
        label = f"{backbone.spec.name} {split}"
        batches = progress(batches, total=-(-len(images) // batch_size), label=label, unit="batch")
        with self.folder.stage(f"extract, {label}", "images", len(images)):
            return extract(
                backbone,
                images,
                batches,
                cells,
                task=self.task,
                skip_corrupt=self.dataset.skip_corrupt,
                dtype=self.config.dtype,
                mesh=mesh,
            )

    def _cache(self, backbone: Backbone) -> FeatureCache | None:
        if self.config.cache_dir is None:
            return None
        spec = backbone.spec
        return FeatureCache(
            self.config.cache_dir,
            {
                "weights": spec.params_sha256,
                "config": dataclasses.asdict(spec.config),
                "preprocess": dataclasses.asdict(spec.preprocess),
                "transform": dataclasses.asdict(make_transform(self.config, self.task, backbone)),
                "dataset": [self.dataset.name, self.dataset.fingerprint, self.config.max_images, self.config.seed],
                "task": self.task,
                "dtype": self.config.dtype,
            },
        )


def note_backbone(backbone: Backbone, task: Task, folder: ResultsFolder) -> None:
    """Writes down what a reader of the results must know of a backbone."""
    spec = backbone.spec
    if spec.objective == UNTRAINED_OBJECTIVE:
        folder.note(
            f"{spec.name} is an untrained control: random weights; its numbers say what architecture alone gives"
        )
    if task == "classification" and not spec.config.class_token:
        folder.note(f"{spec.name} has no [CLS]; the mean of its patch tokens stands for the image")
