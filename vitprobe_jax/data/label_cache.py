"""Label tables on disk: one safetensors file each, named by what determines it.

ROOT/labels/<first 16 hex digits of the fingerprint's sha256>.safetensors holds `slots` and `slot_category`; its header
the fingerprint, the concepts, and a sha256 of all that, so that no damaged or foreign file is ever taken for a table.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from absl import logging
from etils import epath
from safetensors import SafetensorError
from safetensors.numpy import load, save

from vitprobe_jax.atomic import write_whole
from vitprobe_jax.data.labels import LabelTable
from vitprobe_jax.errors import InputError
from vitprobe_jax.types import Concept

_ARRAYS = ("slots", "slot_category")
_ENTRY = "label_table"


def cached_labels(root: epath.Path, fingerprint: Mapping[str, Any], build: Callable[[], LabelTable]) -> LabelTable:
    """The label table that `fingerprint` names: read back where it was written before, else built and written.

    A file that is damaged, or of another fingerprint, is built again with a warning. Processes that build the same table
    at the same time each write it whole; the last one's file stays.

    Args:
        root: the `--cache_dir`, local or in a bucket; made where it is missing.
        fingerprint: everything that the table depends on, JSON-ready: the data set's fingerprint, which images and
            concepts, transform, patch size, task, patch label.
        build: makes the table.

    Returns:
        The table; its arrays may be read-only.

    Raises:
        InputError: the folder cannot be made (before anything is built), or the file not be written.
    """
    identity = json.dumps(fingerprint, sort_keys=True)
    path = root / "labels" / f"{hashlib.sha256(identity.encode()).hexdigest()[:16]}.safetensors"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"--cache_dir: {path.parent} cannot be made ({_reason(error)}); name another folder"
        ) from error
    table = _read(path, identity)
    if table is None:
        table = build()
        try:
            write_whole(path, _encode(table, identity))
        except OSError as error:
            raise InputError(
                f"--cache_dir: {path} cannot be written ({_reason(error)}); name another folder"
            ) from error
    return table


def _read(path: epath.Path, identity: str) -> LabelTable | None:
    """The table in the file; None where there is no file, and, with a warning, where it is no such table."""
    try:
        return _decode(path.read_bytes(), identity)
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = _reason(error) if isinstance(error, OSError) else error
        logging.warning("%s: is no label table of this run (%s); building it again", path, reason)
        return None


def _encode(table: LabelTable, identity: str) -> bytes:
    arrays = {name: np.ascontiguousarray(getattr(table, name)) for name in _ARRAYS}
    concepts = [dataclasses.asdict(concept) for concept in table.concepts]
    record = {"fingerprint": identity, "concepts": concepts, "categories": list(table.categories)}
    record["sha256"] = _checksum(arrays, record)
    # One entry: safetensors writes several in no fixed order, and the same table should be the same file.
    return save(arrays, metadata={_ENTRY: json.dumps(record)})


def _decode(content: bytes, identity: str) -> LabelTable:
    """Raises one of the errors that `_read` catches where the bytes are not those of `_encode`."""
    arrays = load(content)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    record = json.loads(header["__metadata__"][_ENTRY])
    checksum = record.pop("sha256")
    if record["fingerprint"] != identity:
        raise ValueError("it has another fingerprint")
    if checksum != _checksum(arrays, record):
        raise ValueError("its checksum is wrong")
    return LabelTable(
        concepts=tuple(Concept(**concept) for concept in record["concepts"]),
        categories=tuple(record["categories"]),
        **{name: arrays[name] for name in _ARRAYS},
    )


def _checksum(arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> str:
    """A sha256 of the arrays' names, layouts and bytes and of the rest of the record."""
    layout = [[name, array.dtype.name, array.shape] for name, array in sorted(arrays.items())]
    digest = hashlib.sha256(json.dumps([layout, record], sort_keys=True).encode())
    for _, array in sorted(arrays.items()):
        digest.update(array.reshape(-1).view(np.uint8))
    return digest.hexdigest()


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
