"""What studies of many parts share: a part measures cell after cell, and what is finished is kept."""

import dataclasses
import functools
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from etils import epath

from experiments import processes
from experiments.config import RunConfig
from experiments.progress import progress
from experiments.results_folder import ResultsFolder
from vitprobe_jax.atomic import write_whole
from vitprobe_jax.backbones.loading import Backbone
from vitprobe_jax.data.dataset import Dataset
from vitprobe_jax.errors import InputError
from vitprobe_jax.features.store import Cell
from vitprobe_jax.metrics.measurements import make_measurements
from vitprobe_jax.report.measured.pictures import picture_stem
from vitprobe_jax.types import SPLITS, Split, Token


@runtime_checkable
class Bench(Protocol):
    """What a part is given: one backbone on one data set under the flags of a run."""

    @property
    def config(self) -> RunConfig:
        """Of the run."""
        ...

    @property
    def dataset(self) -> Dataset:
        """The data set."""
        ...

    @property
    def backbone(self) -> Backbone:
        """The frozen model."""
        ...

    @property
    def num_images(self) -> int:
        """Of all splits."""
        ...

    def row(self, part: str, cell: Cell | None, **columns: Any) -> dict:
        """A row of the results, see `measured_row`."""
        ...


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a part came to for one cell.

    Attributes:
        rows: of the results table (`measured_row`), skipped ones included.
        pictures: arrays that the report draws pictures of, by name; see the part.
    """

    rows: Sequence[dict]
    pictures: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of a study.

    Attributes:
        name: as `--parts` calls it.
        needs: what a data set must offer, in the study's words.
        measure: `measure(bench, cell, cells)`: all of the part for one cell; `cells` are all that it will be asked for.
        all_layers: whether the cells are those of all blocks, whatever `--layers` says.
        once: the token at whose last block it is measured once a backbone, whatever `--tokens` and `--layers` say.
        splits: those that it cannot do without.
    """

    name: str
    needs: str
    measure: Callable[[Any, Cell, Sequence[Cell]], Measured]
    all_layers: bool = False
    once: Token | None = None
    splits: Sequence[Split] = SPLITS

    def on(self, dataset: Dataset) -> "Part":
        """The part; where the data set lacks a split that it needs, one whose cells are skipped for that reason."""
        lacking = [split for split in self.splits if split not in dataset.splits]
        if not lacking:
            return self

        def skip(bench: Bench, cell: Cell, cells: Sequence[Cell]) -> Measured:
            """A row that stands for everything."""
            return Measured([bench.row(self.name, cell, measure="all", count=0, skipped=reason)])

        images = {"train": "training", "val": "held-out"}
        reason = f"the data set has no {' and no '.join(images[split] for split in lacking)} images"
        return dataclasses.replace(self, measure=skip)

    def cells(self, bench: Bench) -> list[Cell]:
        """The cells that it is measured for."""
        depth = bench.backbone.spec.config.depth
        if self.once is not None:
            return [(depth - 1, self.once)]
        layers = range(depth) if self.all_layers else bench.config.blocks(depth)
        return [(layer, token) for layer in layers for token in bench.config.tokens]


def measured_row(study: str, bench: Bench, part: str, cell: Cell | None, **columns: Any) -> dict:
    """A row of the results, with what it is of."""
    spec = bench.backbone.spec
    layer, token = cell or (None, None)
    return {
        "study": study,
        "dataset": bench.dataset.name,
        "backbone": spec.name,
        "family": spec.family,
        "objective": spec.objective,
        "layer": layer,
        "token": token,
        "part": part,
    } | columns


def measure_part(
    part: Part,
    bench: Bench,
    folder: ResultsFolder,
    *,
    beside: Callable[[Part, Any, Cell], Sequence[dict]] = lambda *_: (),
) -> list[epath.Path]:
    """Measures what is not finished of a part, or with `--dry_run` says how much that is.

    Args:
        part: what.
        bench: on what.
        folder: takes the rows and pictures of every cell as soon as it is finished.
        beside: further rows of a cell.

    Returns:
        The paths of all its cells' rows.
    """
    backbone = bench.backbone.spec.name
    cells = part.cells(bench)
    stems = [picture_stem(bench.dataset.name, part.name, *cell) for cell in cells]
    paths = [folder.cell(backbone, stem) for stem in stems]
    there = processes.from_first(np.array([processes.is_first() and path.exists() for path in paths]))
    todo = [cell for cell, finished in zip(cells, there, strict=True) if not finished]
    label = f"{part.name}, {backbone} on {bench.dataset.name}"
    if processes.is_first():
        print(f"{label}: {len(todo)} of {len(cells)} token(s) to do", flush=True)
    if bench.config.dry_run:
        return paths
    for cell in progress(todo, total=len(todo), label=label, unit="token"):
        with folder.stage(label, "images", bench.num_images):
            measured = part.measure(bench, cell, todo)
        if processes.is_first():
            rows = make_measurements([*measured.rows, *beside(part, bench, cell)])
            path = paths[cells.index(cell)]
            place = folder.path / "pictures" / backbone / f"{path.stem}.npz"
            write = functools.partial(_write_pictures, place, measured.pictures)
            folder.add_rows(path, rows, {place: write} if measured.pictures else None)
    return paths


def check_names(datasets: Sequence[Dataset]) -> None:
    """Refuses data sets that results could not tell apart with an `InputError`."""
    names = [dataset.name for dataset in datasets]
    twins = sorted({name for name in names if names.count(name) > 1})
    if twins:
        raise InputError(
            f"--dataset: two are called {twins[0]}; results tell data sets by the last name of their folder"
        )


def idle_parts(
    parts: Mapping[str, Part], work: Mapping[str, Sequence[Part]], offered_by: Mapping[str, str]
) -> list[str]:
    """What readers are told of parts that find nothing to measure on.

    Args:
        parts: those that are asked for, by name.
        work: the parts that each data set serves, by its name.
        offered_by: what to add for each need of a part.

    Raises:
        InputError: no part finds anything.
    """
    busy = {part.name for served in work.values() for part in served}
    told = [
        f"--parts: {name} finds nothing to measure on in {', '.join(work)}; add {offered_by[part.needs]}"
        for name, part in parts.items()
        if name not in busy
    ]
    if not busy:
        raise InputError(told[0])
    return told


def _write_pictures(path: epath.Path, arrays: Mapping[str, np.ndarray]) -> None:
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    write_whole(path, content.getvalue())
