"""The results folder of a run: what was asked, which cells are finished, what is written at the end."""

import dataclasses
import json
import os
import platform
import time
from collections.abc import Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import jax
import pyarrow as pa

from experiments.config import NOT_IN_RESULTS, RunConfig
from vitprobe_jax.errors import InputError
from vitprobe_jax.metrics.results import SCHEMA, read_table, write_table

PACKAGES = ("vitprobe_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "pillow")


@dataclasses.dataclass
class ResultsFolder:
    """A results folder that is open for writing.

    Attributes:
        path: the folder, `--out`.
        stages: what was done, how long it took, at which rate.
        notes: what a reader must know of the results.
    """

    path: Path
    stages: list[dict] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    @classmethod
    def open(cls, config: RunConfig, inputs: dict[str, str]) -> "ResultsFolder":
        """Makes the folder, or enters one that holds a run of the same configuration on the same inputs.

        Args:
            config: every flag as resolved.
            inputs: digests of what the flags point to, by what they are of: a folder may change under its name.

        Raises:
            InputError: the folder holds something else, another configuration, or a run that was not asked to resume.
        """
        folder, path = cls(config.out), config.out / "config.json"
        wanted = json.loads(json.dumps(config.resolved() | {"inputs": inputs}))
        if path.exists():
            _check_same(path, wanted, config.resume)
        elif config.out.is_dir() and any(config.out.iterdir()):
            raise InputError(f"--out: {config.out} is not empty and holds no sweep; name another folder")
        try:
            (config.out / "cells").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"--out: {config.out} cannot be made ({error.strerror})") from error
        write_json(path, wanted)
        return folder

    def cell(self, backbone: str, layer: int, token: str, rule: str) -> Path:
        """Where the finished rows of one cell stand."""
        return self.path / "cells" / backbone / f"{layer}_{token}_{rule}.parquet"

    def templates(self, backbone: str) -> Path:
        """Where the templates of a backbone stand."""
        return self.path / "templates" / backbone

    @contextmanager
    def stage(self, name: str, unit: str, count: int):
        """Times a stage over `count` units."""
        start = time.monotonic()
        yield
        self.stages.append({"stage": name, "seconds": time.monotonic() - start, "count": count, "unit": unit})

    def note(self, text: str) -> None:
        """Adds a note once."""
        if text not in self.notes:
            self.notes.append(text)

    def finish(self, cells: Sequence[Path], seed: int) -> None:
        """Joins the finished cells into `results.parquet` and writes `run.json`."""
        table = pa.concat_tables([read_table(path) for path in cells]) if cells else SCHEMA.empty_table()
        write_table(table, self.path / "results.parquet")
        device = jax.devices()[0]
        run = {
            "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
            "devices": {"count": jax.device_count(), "platform": device.platform, "kind": device.device_kind},
            "seed": seed,
            "stages": self.stages,
            "notes": self.notes,
        }
        write_json(self.path / "run.json", run)


def write_json(path: Path, record: dict) -> None:
    """Writes whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(record, indent=1) + "\n")
    os.replace(partial, path)


def _check_same(path: Path, wanted: dict, resume: bool) -> None:
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
