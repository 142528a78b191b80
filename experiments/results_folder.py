"""The results folder of a run: what was asked, which cells are finished, what is written at the end."""

import dataclasses
import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata

import jax
import pyarrow as pa
from absl import logging
from etils import epath

from experiments.config import NOT_IN_RESULTS, LaunchConfig, RunConfig
from vitprobe_jax.atomic import write_whole
from vitprobe_jax.errors import InputError
from vitprobe_jax.metrics.results import SCHEMA, read_table, write_table
from vitprobe_jax.probes.templates import Templates, save_templates, template_path

PACKAGES = ("vitprobe_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "pillow")


@dataclasses.dataclass
class ResultsFolder:
    """A results folder that is open for writing; in a run of several processes the first one writes.

    Attributes:
        path: the folder, `--out`.
        seed: of the run.
        stages: what was done, how long it took, at which rate; those of a stopped run that is resumed come first.
        notes: what a reader must know of the results.
        backbones: what each backbone of the run was converted from, the name of a file.
    """

    path: epath.Path
    seed: int
    stages: list[dict] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    backbones: dict[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def open(cls, config: RunConfig, inputs: dict[str, str]) -> "ResultsFolder":
        """Makes the folder, or enters one that holds a run of the same configuration on the same inputs.

        Args:
            config: every flag as resolved.
            inputs: digests of what the flags point to, by what they are of: a folder may change under its name.

        Raises:
            InputError: the folder holds something else, another configuration, or a run that was not asked to resume.
        """
        folder = cls(config.out, config.seed)
        if enter_folder(config, inputs):
            folder._recall()
        try:
            (config.out / "cells").mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(f"--out: {config.out} cannot be written ({error.strerror or error})") from error
        return folder

    def cell(self, backbone: str, *names: str | int) -> epath.Path:
        """Where the finished rows of one cell stand: of a block, token and rule, or whatever a study finishes at a time."""
        return self.path / "cells" / backbone / f"{'_'.join(map(str, names))}.parquet"

    def sweep_cell(self, backbone: str, layer: int, token: str, rule: str, seed: int) -> epath.Path:
        """The file of the finished rows of one block, token and rule under one seed; the run's own seed is not named."""
        names = (layer, token, rule) if seed == self.seed else (layer, token, rule, f"seed{seed}")
        return self.cell(backbone, *names)

    def add_cell(self, templates: Templates, rows: pa.Table, seed: int) -> None:
        """Writes the templates of a cell, then its rows; the rows file marks the cell as finished under this seed.

        Only templates of the run's own seed are kept: a file per seed would multiply what is by far the largest part of a
        results folder, and readers of templates would have to choose.

        Raises:
            InputError: the disk refuses; finished cells stay.
        """
        place = (templates.layer, templates.token, templates.rule)
        fitted = template_path(self.path / "templates" / templates.backbone, *place)
        kept = {fitted: lambda: save_templates(fitted, templates)} if seed == self.seed else {}
        self.add_rows(self.sweep_cell(templates.backbone, *place, seed), rows, kept)

    def add_rows(
        self, path: epath.Path, rows: pa.Table, beside: Mapping[epath.Path, Callable[[], object]] | None = None
    ) -> None:
        """Writes the rows of a cell, and before them what else it came to: files by the function that writes each.

        Raises:
            InputError: the disk refuses; finished cells stay.
        """
        beside = beside or {}
        try:
            for folder in {path.parent: 0} | {other.parent: 0 for other in beside}:
                folder.mkdir(parents=True, exist_ok=True)
            for write in beside.values():
                write()
            write_table(rows, path)
            self.write_run()
        except OSError as error:
            raise InputError(
                f"--out: {self.path} cannot be written ({error.strerror or error}); make room, then go on with --resume"
            ) from error

    @contextmanager
    def stage(self, name: str, unit: str, count: int) -> Iterator[None]:
        """Times a stage over `count` units."""
        start = time.monotonic()
        yield
        self.stages.append({"stage": name, "seconds": time.monotonic() - start, "count": count, "unit": unit})

    def note(self, text: str) -> None:
        """Adds a note once."""
        if text not in self.notes:
            self.notes.append(text)

    def warn(self, text: str) -> None:
        """Adds a note, and tells who watches the run."""
        logging.warning("%s", text)
        self.note(text)

    def finish(self, cells: Sequence[epath.Path], schema: pa.Schema = SCHEMA) -> pa.Table:
        """Joins the finished cells into `results.parquet`, completes `run.json`, and returns the table."""
        tables = [read_table(path, schema) for path in cells] or [schema.empty_table()]
        table = pa.concat_tables(tables).combine_chunks()
        write_table(table, self.path / "results.parquet")
        self.write_run()
        return table

    def write_run(self) -> None:
        """Writes `run.json` with the stages and notes so far."""
        device = jax.devices()[0]
        run = {
            "versions": package_versions(),
            "devices": {"count": jax.device_count(), "platform": device.platform, "kind": device.device_kind},
            "processes": jax.process_count(),
            "seed": self.seed,
            "backbones": self.backbones,
            "stages": self.stages,
            "notes": self.notes,
        }
        write_whole(self.path / "run.json", _json(run))

    def _recall(self) -> None:
        """Takes up the stages and notes of the run that is resumed."""
        path = self.path / "run.json"
        if path.exists():
            try:
                run = json.loads(path.read_text())
                self.stages, self.notes = list(run["stages"]), list(run["notes"])
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(f"{path}: is damaged ({error}); delete it, then go on with --resume") from error


def enter_folder(config: LaunchConfig, inputs: dict[str, str]) -> bool:
    """Makes the folder `--out` with its `config.json`, or enters one that a run of the same configuration was begun in.

    Args:
        config: every flag as resolved.
        inputs: digests of what the flags point to, by what they are of: a folder may change under its name.

    Returns:
        Whether there is a run to go on with.

    Raises:
        InputError: the folder holds something else, another configuration, or a run that was not asked to resume.
    """
    path = config.out / "config.json"
    wanted = json.loads(json.dumps(config.resolved() | {"inputs": inputs}))
    try:
        begun = path.exists()
        if begun:
            _check_same(path, wanted, config.resume)
        elif config.out.exists() and any(config.out.iterdir()):
            raise InputError(f"--out: {config.out} is not empty and holds no run; name another folder")
        config.out.mkdir(parents=True, exist_ok=True)
        write_whole(path, _json(wanted))
    except OSError as error:
        raise InputError(f"--out: {config.out} cannot be written ({error.strerror or error})") from error
    return begun


def package_versions() -> dict[str, str]:
    """Of Python and of all that a result may hang on."""
    return {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}


def _json(record: dict) -> bytes:
    return (json.dumps(record, indent=1) + "\n").encode()


def _check_same(path: epath.Path, wanted: dict, resume: bool) -> None:
    try:
        found = json.loads(path.read_text())
        differing = [
            f"--{name} was {found.get(name)!r}, is {wanted.get(name)!r}"
            for name in sorted(found.keys() | wanted.keys())
            if name not in (*NOT_IN_RESULTS, "inputs") and found.get(name) != wanted.get(name)
        ]
        inputs = found.get("inputs", {})
        differing += [f"{name} changed" for name, digest in wanted["inputs"].items() if inputs.get(name) != digest]
    except (ValueError, AttributeError) as error:
        raise InputError(f"{path}: not a readable configuration ({error}); name another --out") from error
    if differing:
        raise InputError(
            f"--out: {path.parent} holds a run of another configuration ({'; '.join(differing)}); name another"
        )
    if not resume:
        raise InputError(
            f"--out: {path.parent} holds a run of this configuration; add --resume, or name another folder"
        )


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed as a package"
