"""From flags to feature tables: the part of a run that all studies share."""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh
from jaxtyping import Int

from experiments.backbones import make_transform
from experiments.config import RunConfig
from experiments.plan import BackbonePlan, Bounds, memory_bounds, plan_backbone
from experiments.processes import on_first, share
from experiments.progress import TRIAL_BATCHES, foretold, progress, stamped
from experiments.results_folder import ResultsFolder
from vitprobe_jax.backbones.loading import Backbone
from vitprobe_jax.data.dataset import Dataset, ImageSplit, draw_subset
from vitprobe_jax.data.label_cache import cached_labels
from vitprobe_jax.data.labels import LabelTable, build_labels
from vitprobe_jax.data.pipeline import Batch, image_batches
from vitprobe_jax.data.transforms import Transform
from vitprobe_jax.errors import InputError
from vitprobe_jax.features.cache import FeatureCache
from vitprobe_jax.features.extract import extract, fitting_batch, shard_images
from vitprobe_jax.features.lock import only_writer
from vitprobe_jax.features.picks import pick_patches
from vitprobe_jax.features.store import Cell, MemoryStore, RowShape, RowSink, RowStore
from vitprobe_jax.features.table import FeatureTable, place_table
from vitprobe_jax.types import Rows, Split


@dataclasses.dataclass(frozen=True, eq=False)
class PreparedData:
    """A data set as one run sees it: its categories selected, its images drawn.

    Attributes:
        config: of the run.
        task: which rows there are.
        dataset: with the concepts that are probed.
        folder: is told of stages and notes.
        mesh: devices of all processes, over which tables are spread.
        local_mesh: devices of this process, over which its images are spread.
    """

    config: RunConfig
    task: Rows
    dataset: Dataset
    folder: ResultsFolder
    mesh: Mesh
    local_mesh: Mesh
    _stores: dict[tuple[str, Split], RowStore] = dataclasses.field(default_factory=dict, init=False)

    @functools.cached_property
    def splits(self) -> dict[Split, ImageSplit]:
        """The images of each split, `--max_images` of them at most."""
        splits = self.dataset.splits.items()
        return {name: draw_subset(split, self.config.max_images, self.config.seed) for name, split in splits}

    def shapes(self, backbone: Backbone) -> dict[Split, RowShape]:
        """The shape of the rows of one cell over each split."""
        return {split: self._shape(backbone, split) for split in self.splits}

    def plan(self, backbone: Backbone, cells: Sequence[Cell]) -> BackbonePlan:
        """What has to be done to have the tables of these cells."""
        shapes = self.shapes(backbone)
        on_disk = self.config.cache_dir is not None
        plan = plan_backbone(backbone.spec.name, cells, shapes, self.bounds, on_disk=on_disk)
        wanted = len(cells) * sum(shape.num_shards for shape in shapes.values())
        if not (on_disk and wanted):
            return plan
        present = sum(self.store(backbone, split).present(cells) for split in self.splits)
        return dataclasses.replace(plan, cached=present / wanted)

    def labels(self, backbone: Backbone, split: Split) -> LabelTable:
        """What the rows of a split carry, on this backbone's grid; nothing for images that could not be decoded."""
        transform, patch_size = make_transform(self.config, self.task, backbone), backbone.spec.config.patch_size
        labels = self._picked(transform, patch_size, split)[0]
        left_out = list(self.store(backbone, split).errors())
        if not left_out:
            return labels
        slots = labels.slots.copy()
        slots[left_out] = 0
        return dataclasses.replace(labels, slots=slots)

    def whole_labels(self, backbone: Backbone, split: Split) -> LabelTable:
        """What all rows of a split carry, whatever `--patches_per_image` keeps, images that cannot be decoded included.

        Other than for `labels`, no process waits for another one.
        """
        grid = make_transform(self.config, self.task, backbone), backbone.spec.config.patch_size, split
        if self.config.patches_per_image or jax.process_count() > 1:
            return self._read_labels(*grid)
        return self._picked(*grid)[0]

    def extract(
        self, backbone: Backbone, plan: BackbonePlan, cells: Sequence[Cell], *, report_errors: bool = True
    ) -> None:
        """One pass over the images: afterwards the rows of all cells are in their store, those of all processes.

        Args:
            backbone: the frozen model.
            plan: of these cells.
            cells: (block, token) pairs.
            report_errors: note the images that cannot be decoded, and refuse a split that has no others. Without it the
                caller reports them (`report_undecoded`), as when the images are part of a split.

        Raises:
            InputError: bad images, a cache that cannot be written.
        """
        with contextlib.ExitStack() as stack:
            cache = self._cache(backbone)
            if cache:
                on_first(lambda: self._open_cache(cache, stack))
                on_first(lambda: [self.store(backbone, split).create(cells) for split in self.splits])
            for split in self.splits:
                store = self.store(backbone, split)
                shards = store.missing(cells, share(store.shape.num_shards))
                if shards:
                    self._run(backbone, split, store, cells, shards, plan)
                if cache:
                    on_first(lambda store=store: store.finish(cells))
                if report_errors:
                    report_undecoded(self.folder, split, store.errors(), store.shape.num_images)

    def table(
        self, backbone: Backbone, split: Split, cell: Cell, labels: LabelTable, plan: BackbonePlan
    ) -> FeatureTable:
        """The rows of a cell and their labels, on the devices or streamed to them."""
        store = self.store(backbone, split)
        return place_table(
            store.source(cell),
            labels,
            self.mesh,
            resident=split in plan.resident,
            device_bytes=self.bounds.device,
            left_out=list(store.errors()),
        )

    def release(self, backbone: Backbone, cell: Cell) -> None:
        """Forgets the rows of a cell, as far as they are in memory."""
        for split in self.splits:
            self.store(backbone, split).release(cell)

    def store(self, backbone: Backbone, split: Split) -> RowStore:
        """Where the rows of a split are kept."""
        name = (backbone.spec.name, split)
        if name not in self._stores:
            cache, shape = self._cache(backbone), self._shape(backbone, split)
            self._stores[name] = cache.store(split, shape) if cache else MemoryStore(shape)
        return self._stores[name]

    def visit(
        self,
        backbone: Backbone,
        images: ImageSplit,
        sink: RowSink,
        cells: Sequence[Cell],
        seen: Callable[[Batch], None],
    ) -> None:
        """Hands all patches' rows of some images to a sink, on the devices of this process alone.

        Args:
            backbone: the frozen model.
            images: any, as a split of their own.
            sink: takes them, as in `extract`.
            cells: (block, token) pairs.
            seen: is told of every batch of images before its rows are.

        Raises:
            InputError: bad images.
        """
        label = f"{backbone.spec.name} examples"

        def shown(batches):
            total = -(-len(images) // fitting_batch(self.config.batch_size))
            for batch in progress(batches, total=total, label=label, unit="batch"):
                seen(batch)
                yield batch

        self._forward(backbone, images, sink, cells, list(range(sink.shape.num_shards)), None, shown)

    def trial(self, backbone: Backbone, cells: Sequence[Cell]) -> float:
        """Images a second of an extraction, from its first batches; their rows are thrown away."""
        shape = self._shape(backbone, "train")
        batch_size = fitting_batch(self.config.batch_size)
        num_images = min(shape.num_images, TRIAL_BATCHES * batch_size)
        shape = dataclasses.replace(shape, num_images=num_images)
        times = []
        self._forward(
            backbone,
            self.splits["train"],
            MemoryStore(shape),
            cells,
            list(range(shape.num_shards)),
            self._picks(backbone, "train"),
            lambda batches: stamped(batches, times),
        )
        times.append(time.monotonic())
        # The first batch waits for compilation; the last one is fetched after the iteration has ended.
        spans = times[2:] if len(times) > 3 else times
        return (len(spans) - 1) * batch_size / max(spans[-1] - spans[0], 1e-9)

    @functools.cached_property
    def bounds(self) -> Bounds:
        """Of the memory that features may take."""
        return memory_bounds(self.config)

    def _shape(self, backbone: Backbone, split: Split) -> RowShape:
        height, width = make_transform(self.config, self.task, backbone).size
        num_rows = {"classification": 1, "pools": 2}.get(self.task)
        if num_rows is None:
            num_rows = height * width // backbone.spec.config.patch_size**2
            num_rows = min(num_rows, self.config.patches_per_image or num_rows)
        return RowShape(len(self.splits[split]), num_rows, backbone.spec.config.width, self.config.dtype)

    # The record lives as long as the run, so a cache on the method holds nothing longer than it should.
    @functools.cache  # noqa: B019
    def _picked(
        self, transform: Transform, patch_size: int, split: Split
    ) -> tuple[LabelTable, Int[np.ndarray, "I n"] | None]:
        """The labels of the rows that are kept, and which rows are; built once a grid."""
        with self.folder.stage(f"labels, {split}", "images", len(self.splits[split])):
            load = functools.partial(self._read_labels, transform, patch_size, split)
            # One process builds, the others read what it has built.
            labels = on_first(load) or load()
        if not self.config.patches_per_image or self.task == "classification":
            return labels, None
        self.folder.note(
            f"--patches_per_image={self.config.patches_per_image}: so many labelled patches of each image stand for all"
        )
        return pick_patches(labels, self.config.patches_per_image, seed=self.config.seed)

    def _read_labels(self, transform: Transform, patch_size: int, split: Split) -> LabelTable:
        """The labels of all rows, from the cache where there is one."""
        build = functools.partial(
            build_labels,
            self.splits[split],
            self.dataset.concepts,
            transform=transform,
            patch_size=patch_size,
            task=self.task,
            patch_label=self.config.patch_label,
        )
        if self.config.cache_dir is None or self.config.dry_run:
            return build()
        fingerprint = self._label_fingerprint(transform) | {"patch_size": patch_size, "split": split}
        return cached_labels(self.config.cache_dir, fingerprint, build)

    def _picks(self, backbone: Backbone, split: Split) -> Int[np.ndarray, "I n"] | None:
        if not self.config.patches_per_image:
            return None
        return self._picked(make_transform(self.config, self.task, backbone), backbone.spec.config.patch_size, split)[1]

    def _open_cache(self, cache: FeatureCache, stack: contextlib.ExitStack) -> None:
        """Makes the folder and keeps other runs from writing there until the stack is left."""
        reason = cache.why_new()
        cache.create()
        if reason:
            logging.warning("--cache_dir: no rows of this kind there; of the most similar ones %s", reason)
        stack.enter_context(only_writer(cache.folder))

    def _run(
        self,
        backbone: Backbone,
        split: Split,
        store: RowStore,
        cells: Sequence[Cell],
        shards: Sequence[int],
        plan: BackbonePlan,
    ) -> None:
        label = f"{backbone.spec.name} {split}"
        count = sum(len(store.shape.images_of(shard)) for shard in shards)
        batch_size = fitting_batch(self.config.batch_size)

        def shown(batches):
            batches = foretold(batches, label, plan.images)
            return progress(batches, total=-(-count // batch_size), label=label, unit="batch")

        with self.folder.stage(f"extract, {label}", "images", count):
            self._forward(backbone, self.splits[split], store, cells, shards, self._picks(backbone, split), shown)

    def _forward(self, backbone, images: ImageSplit, store, cells, shards, picks, shown) -> None:
        batches = image_batches(
            shard_images(images, store.shape, shards),
            make_transform(self.config, self.task, backbone),
            batch_size=fitting_batch(self.config.batch_size),
            num_workers=self.config.num_workers,
        )
        with contextlib.closing(batches):
            # Workers start while the forward pass is compiled.
            batches.start_prefetch()
            extract(
                backbone,
                images,
                shown(batches),
                store,
                cells,
                shards,
                task=self.task,
                skip_corrupt=self.dataset.skip_corrupt,
                mesh=self.local_mesh,
                picks=picks,
            )

    def _cache(self, backbone: Backbone) -> FeatureCache | None:
        if self.config.cache_dir is None:
            return None
        spec, config = backbone.spec, self.config
        transform = make_transform(config, self.task, backbone)
        fingerprint = {
            "weights": spec.params_sha256,
            "config": dataclasses.asdict(spec.config),
            "preprocess": dataclasses.asdict(spec.preprocess),
            "transform": dataclasses.asdict(transform),
            "dataset": self.dataset.fingerprint,
            "drawn": self._drawn,
            "task": self.task,
            "dtype": config.dtype,
        }
        if config.patches_per_image:
            # Which patches are kept hangs on what they carry.
            picked = self._label_fingerprint(transform) | {"per_image": config.patches_per_image, "seed": config.seed}
            fingerprint["patches"] = picked
        return FeatureCache(config.cache_dir, fingerprint)

    @property
    def _drawn(self) -> dict | None:
        """How the images were drawn, where not all are used."""
        return {"max_images": self.config.max_images, "seed": self.config.seed} if self.config.max_images else None

    def _label_fingerprint(self, transform: Transform) -> dict:
        return {
            "dataset": self.dataset.fingerprint,
            "drawn": self._drawn,
            "concepts": [f"{concept.category}/{concept.number}" for concept in self.dataset.concepts],
            "transform": dataclasses.asdict(transform),
            "task": self.task,
            "patch_label": self.config.patch_label,
        }


def report_undecoded(folder: ResultsFolder, split: Split, errors: Mapping[int, str], num_images: int) -> None:
    """Notes the images of a split that cannot be decoded.

    Args:
        folder: takes the note.
        split: its name.
        errors: what is wrong with each of these images, by number.
        num_images: images of the split.

    Raises:
        InputError: no image can be decoded.
    """
    messages = [errors[image] for image in sorted(errors)]
    if messages and len(messages) == num_images:
        raise InputError(f"--dataset: no image of {split} could be decoded; the first: {messages[0]}")
    if messages:
        logging.warning("%s: left out %d corrupt images; the first: %s", split, len(messages), messages[0])
        folder.note(f"{split}: left out {len(messages)} images that cannot be decoded: {'; '.join(messages[:5])}")
