"""The study as a whole: every part on every data set that has what it needs, for every backbone, cell by cell."""

import functools
from collections.abc import Mapping, Sequence

from etils import epath

from experiments import processes
from experiments.backbones import input_digests, load_backbones, note_backbone
from experiments.local.config import LocalConfig
from experiments.local.parts import PARTS
from experiments.local.parts.variance import overlap_rows
from experiments.local.views import ViewRows
from experiments.local.workbench import Drawn, Workbench, draw_sizes, held_out_size
from experiments.measuring import Part, check_names, idle_parts, measure_part
from experiments.results_folder import ResultsFolder
from vitprobe_jax.backbones.loading import Backbone
from vitprobe_jax.data import open_dataset
from vitprobe_jax.data.dataset import Dataset, FrameSplit
from vitprobe_jax.errors import InputError
from vitprobe_jax.features.store import Cell
from vitprobe_jax.metrics.measurements import MEASUREMENTS, make_measurements
from vitprobe_jax.report.local.page import write_local_report
from vitprobe_jax.types import Split

_OFFERED_BY = {
    "masks": "to --dataset one of cityscapes:DIR, ade20k:DIR, fair1m:DIR, broden:DIR or shapes:N",
    "tracks": "to --dataset one of mot16:DIR, mot17:DIR, mot20:DIR or bdd100k:DIR",
    "classes": "to --dataset one of ucmerced:DIR, resisc45:DIR or imagefolder:DIR",
    "images": "to --dataset any of photographs",
}


def run_local(config: LocalConfig) -> epath.Path | None:
    """Runs the study, or with `--dry_run` says what it would do.

    Returns:
        The path of the report; None from a dry run, and in all but the first of several processes.

    Raises:
        InputError: bad input of any kind; what was finished before stays in the results folder.
    """
    mesh, local_mesh = processes.make_meshes(config.mesh)
    backbones = load_backbones(config)
    _check_drops(config, backbones)
    datasets = [open_dataset(spec, seed=config.seed).select(()) for spec in config.datasets]
    work = {dataset.name: _suited(config, dataset) for dataset in datasets}
    check_names(datasets)
    idle = idle_parts({name: PARTS[name] for name in config.parts}, work, _OFFERED_BY)
    folder = ResultsFolder(config.out, config.seed)
    if not config.dry_run:
        digests = functools.reduce(dict.__or__, (input_digests(dataset, backbones) for dataset in datasets))
        folder = processes.on_first(lambda: ResultsFolder.open(config, digests)) or folder
    for text in idle:
        folder.warn(text)
    paths = []
    for dataset in datasets:
        sizes = {
            part.name: (draw_sizes(config, dataset, part.name), held_out_size(config, dataset, part.name))
            for part in work[dataset.name]
        }
        draws = {own: Drawn.of(config, dataset, *own) for own in sorted(set(sizes.values()))}
        for text in dict.fromkeys(text for drawn in draws.values() for text in notes_on(drawn)):
            folder.warn(text)
        for backbone in backbones:
            note_backbone(backbone, "segmentation", folder)
            rows = ViewRows(config, dataset, backbone, folder, mesh, local_mesh)
            benches = {own: Workbench(drawn, backbone, rows, mesh) for own, drawn in draws.items()}
            for part in work[dataset.name]:
                paths += measure_part(part.on(dataset), benches[sizes[part.name]], folder, beside=_skipped_variants)
    if config.dry_run:
        return None

    def finish() -> epath.Path:
        path = folder.cell("all", "overlap")
        rows = overlap_rows(folder.finish(paths, MEASUREMENTS))
        folder.add_rows(path, make_measurements(rows))
        folder.finish([*paths, path], MEASUREMENTS)
        return write_local_report(config.out)

    return processes.on_first(finish)


def _offers(dataset: Dataset) -> set[str]:
    """What parts can measure on a data set."""
    if any(isinstance(split, FrameSplit) for split in dataset.splits.values()):
        return {"tracks"}
    return {"images", "classes" if dataset.categories == ("class",) else "masks"}


def _suited(config: LocalConfig, dataset: Dataset) -> list[Part]:
    return [PARTS[name] for name in config.parts if PARTS[name].needs in _offers(dataset)]


def _check_drops(config: LocalConfig, backbones: Sequence[Backbone]) -> None:
    widths = {backbone.spec.name: backbone.spec.config.width for backbone in backbones}
    for m in config.drop_features:
        if m >= max(widths.values()):
            shown = ", ".join(f"{name} has {width}" for name, width in widths.items())
            raise InputError(f"--drop_features: {m} features cannot be left out: {shown}; give fewer")


def notes_on(drawn: Drawn) -> list[str]:
    """A sentence for each split with groups that have fewer images than are asked for."""
    return [few_images(drawn.dataset.name, split, draw.lacking) for split, draw in drawn.draws.items() if draw.lacking]


def few_images(dataset: str, split: Split, lacking: Mapping[str, int]) -> str:
    """The sentence about groups of images that a draw takes whole.

    Args:
        dataset: its name.
        split: that was drawn from.
        lacking: how many images each of these groups has.
    """
    few = [f"{name} has {count}" for name, count in lacking.items() if count]
    others = len(few) - 5
    more = [f"{others} other{'s have' if others > 1 else ' has'} some"] if others > 0 else []
    empty = len(lacking) - len(few)
    none = [f"{empty} {'have' if empty > 1 else 'has'} none"] if empty else []
    shown = "; ".join([*few[:5], *more, *none])
    flag = "images_per_group" if split == "train" else "val_images_per_group"
    return f"{dataset}, {split}: fewer images than --{flag} asks for: {shown}; all of them are used"


def _skipped_variants(part: Part, bench: Workbench, cell: Cell) -> list[dict]:
    width = bench.backbone.spec.config.width
    return [
        bench.row(
            part.name,
            cell,
            dropped=m,
            measure="all",
            count=0,
            skipped=f"it has {width} features: {m} cannot be left out",
        )
        for m in bench.config.drop_features
        if m not in bench.drops
    ]
