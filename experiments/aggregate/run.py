"""The study as a whole: every part on every data set that has what it needs, for every backbone, cell by cell."""

import dataclasses
import functools
from collections.abc import Sequence

from etils import epath
from jax.sharding import Mesh

from experiments import processes
from experiments.aggregate.config import AggregateConfig
from experiments.aggregate.parts import PARTS
from experiments.aggregate.training import training_plan
from experiments.aggregate.workbench import Drawn, Workbench
from experiments.backbones import input_digests, load_backbones, note_backbone
from experiments.measuring import check_names, idle_parts, measure_part
from experiments.results_folder import ResultsFolder
from vitprobe_jax.backbones.loading import Backbone, load_backbone
from vitprobe_jax.data import open_dataset
from vitprobe_jax.data.dataset import Dataset
from vitprobe_jax.data.imagenet_boxes import open_boxes
from vitprobe_jax.errors import InputError
from vitprobe_jax.features.table import replicate
from vitprobe_jax.metrics.measurements import MEASUREMENTS
from vitprobe_jax.report.aggregation.page import write_aggregation_report

_OFFERED_BY = {
    "images": "to --dataset any of photographs",
    "labels": "to --dataset one of classes or labels: imagefolder:DIR, imagenet200:DIR, cub200:DIR, cars:DIR, pets:DIR, "
    "food101:DIR, tfds:NAME, coco:DIR or nuswide:DIR",
    "boxes": "--boxes=DIR with ImageNet's box XML of held-out images, each called as its image",
}


def run_aggregate(config: AggregateConfig) -> epath.Path | None:
    """Runs the study, or with `--dry_run` says what it would do.

    Returns:
        The path of the report; None from a dry run, and in all but the first of several processes.

    Raises:
        InputError: bad input of any kind; what was finished before stays in the results folder.
    """
    mesh, _ = processes.make_meshes(config.mesh)
    backbones = load_backbones(config)
    other = _other_backbone(config, backbones)
    other = None if other is None else _placed(other, mesh)
    boxes = open_boxes(config.boxes) if config.boxes else None
    datasets = [open_dataset(spec, seed=config.seed).select(()) for spec in config.datasets]
    drawn = {dataset.name: Drawn.of(config, dataset, boxes) for dataset in datasets}
    work = {
        name: [PARTS[part] for part in config.parts if PARTS[part].needs in _offers(of)] for name, of in drawn.items()
    }
    check_names(datasets)
    idle = idle_parts({name: PARTS[name] for name in config.parts}, work, _OFFERED_BY)
    folder = ResultsFolder(config.out, config.seed)
    if not config.dry_run:
        digests = functools.reduce(dict.__or__, (_digests(dataset, backbones, other, boxes) for dataset in datasets))
        folder = processes.on_first(lambda: ResultsFolder.open(config, digests)) or folder
    for text in idle:
        folder.warn(text)
    if other and "untrained" in config.parts:
        folder.note(f"other_cls_attention is that of {other.spec.name}")
    paths = []
    for dataset in datasets:
        for backbone in backbones:
            note_backbone(backbone, "segmentation", folder)
            bench = Workbench(drawn[dataset.name], _placed(backbone, mesh), other, folder, mesh)
            for part in work[dataset.name]:
                paths += measure_part(part, bench, folder)
            if config.dry_run and bench.drawn.has_labels and config.poolings:
                print(training_plan(bench), flush=True)
    if config.dry_run:
        return None

    def finish() -> epath.Path:
        folder.finish(paths, MEASUREMENTS)
        # Those of trainings are gone; their folders are not.
        (config.out / "checkpoints").rmtree(missing_ok=True)
        return write_aggregation_report(config.out)

    return processes.on_first(finish)


def _other_backbone(config: AggregateConfig, backbones: Sequence[Backbone]) -> Backbone | None:
    """Whose [CLS] attention others are aggregated by: the one that is named, else the run's first of family dino."""
    if config.other_backbone:
        other = load_backbone(config.other_backbone, flag="other_backbone")
        if not other.spec.config.class_token:
            raise InputError(f"--other_backbone: {other.spec.name} has no [CLS] token; name one that has")
    else:
        other = next((backbone for backbone in backbones if backbone.spec.family == "dino"), None)
    for backbone in backbones if other else ():
        size = config.image_size or backbone.spec.image_size
        if any(side % other.spec.config.patch_size for side in size):
            raise InputError(
                f"--other_backbone: patches of {other.spec.config.patch_size} pixels of {other.spec.name} do not divide "
                f"{size[0]}x{size[1]}, the size for {backbone.spec.name}; give --image_size, or another backbone"
            )
    return other


def _placed(backbone: Backbone, mesh: Mesh) -> Backbone:
    """With its parameters on every device: batch after batch asks for them."""
    return dataclasses.replace(backbone, params=replicate(backbone.params, mesh))


def _offers(drawn: Drawn) -> set[str]:
    """What parts can measure on a data set."""
    offered = {"images"}
    if drawn.has_labels:
        offered.add("labels")
    held_out = drawn.splits["val"]
    if drawn.boxes is not None and any(drawn.boxes.has(held_out.name(i)) for i in range(len(held_out))):
        offered.add("boxes")
    return offered


def _digests(dataset: Dataset, backbones: Sequence[Backbone], other: Backbone | None, boxes) -> dict[str, str]:
    """What the results depend on beside the flags."""
    digests = input_digests(dataset, [*backbones, other] if other else backbones)
    return digests | ({"the boxes": boxes.fingerprint} if boxes else {})
