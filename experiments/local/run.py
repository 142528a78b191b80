"""The study as a whole: every part on every data set that has what it needs, for every backbone, cell by cell."""

import functools
import io
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from absl import logging
from etils import epath

from experiments import processes
from experiments.backbones import input_digests, load_backbones, note_backbone
from experiments.local.config import LocalConfig
from experiments.local.parts import PARTS, Need, Part
from experiments.local.parts.variance import overlap_rows
from experiments.local.views import ViewRows
from experiments.local.workbench import Drawn, Workbench
from experiments.progress import progress
from experiments.results_folder import ResultsFolder
from vitprobe_jax.atomic import write_whole
from vitprobe_jax.backbones.loading import Backbone
from vitprobe_jax.data import open_dataset
from vitprobe_jax.data.dataset import Dataset, FrameSplit
from vitprobe_jax.errors import InputError
from vitprobe_jax.features.store import Cell
from vitprobe_jax.metrics.measurements import MEASUREMENTS, make_measurements
from vitprobe_jax.report.local.page import write_local_report
from vitprobe_jax.report.local.pictures import picture_stem

_OFFERED_BY = {
    "masks": "cityscapes:DIR, ade20k:DIR, fair1m:DIR, broden:DIR or shapes:N",
    "tracks": "mot17:DIR or bdd100k:DIR",
    "classes": "imagefolder:DIR",
    "images": "any of photographs",
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
    _check_names(datasets)
    idle = _idle_parts(config, datasets, work)
    folder = ResultsFolder(config.out, config.seed)
    if not config.dry_run:
        digests = functools.reduce(dict.__or__, (input_digests(dataset, backbones) for dataset in datasets))
        folder = processes.on_first(lambda: ResultsFolder.open(config, digests)) or folder
    for text in idle:
        logging.warning("%s", text)
        folder.note(text)
    paths = []
    for dataset in datasets:
        drawn = Drawn.of(config, dataset)
        _note_draw(drawn, folder)
        for backbone in backbones:
            note_backbone(backbone, "segmentation", folder)
            rows = ViewRows(config, dataset, backbone, folder, mesh, local_mesh)
            bench = Workbench(drawn, backbone, rows, mesh)
            for part in work[dataset.name]:
                paths += _measure(part, bench, folder)
    if config.dry_run:
        return None

    def finish() -> epath.Path:
        path = folder.cell("all", "overlap")
        rows = overlap_rows(folder.finish(paths, MEASUREMENTS))
        folder.add_rows(path, make_measurements(rows))
        folder.finish([*paths, path], MEASUREMENTS)
        return write_local_report(config.out)

    return processes.on_first(finish)


def _offers(dataset: Dataset) -> set[Need]:
    """What parts can measure on a data set."""
    if any(isinstance(split, FrameSplit) for split in dataset.splits.values()):
        return {"tracks"}
    return {"images", "classes" if dataset.categories == ("class",) else "masks"}


def _suited(config: LocalConfig, dataset: Dataset) -> list[Part]:
    return [PARTS[name] for name in config.parts if PARTS[name].needs in _offers(dataset)]


def _check_names(datasets: Sequence[Dataset]) -> None:
    names = [dataset.name for dataset in datasets]
    twins = sorted({name for name in names if names.count(name) > 1})
    if twins:
        raise InputError(
            f"--dataset: two are called {twins[0]}; results tell data sets by the last name of their folder"
        )


def _idle_parts(config: LocalConfig, datasets: Sequence[Dataset], work: dict[str, list[Part]]) -> list[str]:
    """What a reader is told of parts that find nothing to measure on; if all do, it is an error."""
    names = ", ".join(dataset.name for dataset in datasets)
    busy = {part.name for parts in work.values() for part in parts}
    told = [
        f"--parts: {name} finds nothing to measure on in {names}; add to --dataset one of {_OFFERED_BY[PARTS[name].needs]}"
        for name in config.parts
        if name not in busy
    ]
    if not busy:
        raise InputError(told[0])
    return told


def _check_drops(config: LocalConfig, backbones: Sequence[Backbone]) -> None:
    widths = {backbone.spec.name: backbone.spec.config.width for backbone in backbones}
    for m in config.drop_features:
        if m >= max(widths.values()):
            shown = ", ".join(f"{name} has {width}" for name, width in widths.items())
            raise InputError(f"--drop_features: {m} features cannot be left out: {shown}; give fewer")


def _note_draw(drawn: Drawn, folder: ResultsFolder) -> None:
    """Tells of groups that have fewer images than are asked for."""
    for split, draw in drawn.draws.items():
        if draw.lacking:
            few = [f"{name} has {count}" for name, count in draw.lacking.items() if count]
            more = [f"{len(few) - 5} others have some"] if len(few) > 5 else []
            none = [f"{len(draw.lacking) - len(few)} have none"] if len(few) < len(draw.lacking) else []
            shown = "; ".join([*few[:5], *more, *none])
            flag = "images_per_group" if split == "train" else "val_images_per_group"
            text = f"{drawn.dataset.name}, {split}: fewer images than --{flag} asks for: {shown}{more}; all of them are used"
            logging.warning("%s", text)
            folder.note(text)


def _measure(part: Part, bench: Workbench, folder: ResultsFolder) -> list[epath.Path]:
    """Measures what is not finished of a part; the paths of all its cells' rows."""
    backbone = bench.backbone.spec.name
    cells = part.cells(bench)
    paths = [folder.cell(backbone, picture_stem(bench.dataset.name, part.name, *cell)) for cell in cells]
    there = processes.from_first(np.array([processes.is_first() and path.exists() for path in paths]))
    todo = [cell for cell, finished in zip(cells, there, strict=True) if not finished]
    label = f"{part.name}, {backbone} on {bench.dataset.name}"
    if processes.is_first():
        print(f"{label}: {len(todo)} of {len(cells)} token(s) to do", flush=True)
    if bench.config.dry_run:
        return paths
    for cell in progress(todo, total=len(todo), label=label, unit="token"):
        with folder.stage(label, "images", sum(len(split) for split in bench.drawn.splits.values())):
            measured = part.measure(bench, cell, todo)
        if processes.is_first():
            rows = make_measurements([*measured.rows, *_skipped_variants(part, bench, cell)])
            _add(
                folder,
                folder.cell(backbone, picture_stem(bench.dataset.name, part.name, *cell)),
                rows,
                measured.pictures,
            )
    return paths


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


def _add(folder: ResultsFolder, path: epath.Path, rows: pa.Table, pictures: dict[str, np.ndarray]) -> None:
    """Writes a cell's rows, and before them its pictures' arrays."""
    place = folder.path / "pictures" / path.parent.name / f"{path.stem}.npz"

    def write() -> None:
        content = io.BytesIO()
        np.savez_compressed(content, **pictures)
        write_whole(place, content.getvalue())

    folder.add_rows(path, rows, {place: write} if pictures else None)
