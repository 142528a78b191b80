"""Results folders -> what a report needs of them, read whole and checked."""

import dataclasses
import json
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from etils import epath

from vitprobe_jax.errors import InputError
from vitprobe_jax.metrics.measurements import MEASUREMENTS
from vitprobe_jax.metrics.results import SCHEMA, read_table
from vitprobe_jax.report.examples import Examples, read_examples


@dataclasses.dataclass(frozen=True)
class Results:
    """A results folder of any study as read.

    Attributes:
        label: what the page calls it; unique among the folders of a page.
        table: of the study's schema.
        config: every flag as resolved.
        run: `versions`, `devices`, `seed`, `stages` and `notes` of the run.
    """

    label: str
    table: pa.Table
    config: Mapping
    run: Mapping


@dataclasses.dataclass(frozen=True)
class Sweep(Results):
    """A results folder of the main study.

    Attributes:
        examples: images with masks, None where the sweep kept none.
    """

    examples: Examples | None = None


def read_sweeps(folders: Sequence[epath.PathLike]) -> list[Sweep]:
    """The sweeps in these folders, in their order.

    Raises:
        InputError: as `read_results`, or examples that are unreadable.
    """
    found = read_results(folders, SCHEMA)
    return [
        Sweep(own.label, own.table, own.config, own.run, read_examples(epath.Path(folder)))
        for folder, own in zip(folders, found, strict=True)
    ]


def read_results(folders: Sequence[epath.PathLike], schema: pa.Schema) -> list[Results]:
    """What is in the results folders of a study, in their order.

    Raises:
        InputError: no folder, one that is missing or named twice, or one whose results, `config.json` or `run.json` are
            missing or unreadable, or of another schema.
    """
    folders = [epath.Path(folder) for folder in folders]
    if not folders:
        raise InputError("no results folder is named; give the --out of a finished run")
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; give the --out of a finished run")
    resolved = [folder.resolve() for folder in folders]
    for folder, path in zip(folders, resolved, strict=True):
        if resolved.count(path) > 1:
            raise InputError(f"{folder}: is named twice; name each sweep once")
    return [
        Results(
            label,
            read_table(folder / "results.parquet", schema),
            _read_json(folder / "config.json", mend="run the sweep into another --out"),
            _read_run(folder / "run.json"),
        )
        for folder, label in zip(folders, _labels(resolved), strict=True)
    ]


def measured_study(folder: epath.PathLike, studies: Sequence[str]) -> str | None:
    """Which study's measurements are in a folder, told by their column `study`.

    Args:
        folder: of results.
        studies: that there are; measurements without a row are taken for the first one's.

    Returns:
        None where the results are no measurements or cannot be read.

    Raises:
        InputError: measurements of another study, or of several.
    """
    path = epath.Path(folder) / "results.parquet"
    try:
        with path.open("rb") as file:
            if not pq.read_schema(file).equals(MEASUREMENTS):
                return None
            file.seek(0)
            found = pc.unique(pq.read_table(file, columns=["study"])["study"]).to_pylist()
    except (pa.ArrowException, OSError):
        return None
    if len(found) > 1 or not set(found) <= set(studies):
        raise InputError(f"{path}: is of {', '.join(map(str, found))}; a page shows one of {', '.join(studies)}")
    return found[0] if found else studies[0]


def _labels(folders: Sequence[epath.Path]) -> list[str]:
    """The last parts of the paths, as many as tell them apart."""
    for count in range(1, max(len(folder.parts) for folder in folders) + 1):
        labels = ["/".join(folder.parts[-count:]) for folder in folders]
        if len(set(labels)) == len(labels):
            break
    return labels


def _read_run(path: epath.Path) -> dict:
    mend = "run the sweep again with --resume"
    run = _read_json(path, mend=mend)
    stages, notes = run.get("stages"), run.get("notes")
    well_formed = (
        run.keys() >= {"versions", "devices", "seed"}
        and isinstance(notes, list)
        and all(isinstance(note, str) for note in notes)
        and isinstance(stages, list)
        and all(isinstance(stage, dict) and _is_stage(stage) for stage in stages)
    )
    if not well_formed:
        raise InputError(f"{path}: lacks versions, devices, seed, stages or notes, or holds them damaged; {mend}")
    return run


def _is_stage(stage: dict) -> bool:
    kinds = {"stage": str, "seconds": (int, float), "count": (int, float), "unit": str}
    return all(isinstance(stage.get(name), kind) for name, kind in kinds.items())


def _read_json(path: epath.Path, *, mend: str) -> dict:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: missing; {mend}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}); {mend}") from error
    if not isinstance(record, dict):
        raise InputError(f"{path}: holds no record of names and values; {mend}")
    return record
