"""Writes a backbone's folder, parameter by parameter: a model larger than memory can be converted."""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict, unflatten_dict
from orbax.checkpoint import type_handlers

from vitprobe_jax.backbones.config import BackboneSpec
from vitprobe_jax.errors import InputError

TOGETHER = 32 * 2**20
"""Bytes of parameters that are written at once: one at a time, each would end in a file of its own."""


@dataclasses.dataclass(frozen=True)
class StreamedArray:
    """A parameter that is read when it is written.

    Attributes:
        path: its place in the tree.
        shape: of what `read` gives.
        dtype: of what `read` gives.
        read: gives the values.
    """

    path: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))


def streamed(tree: Mapping) -> dict:
    """A tree of arrays as `StreamedArray`s, in float32, as every folder holds them."""

    def leaf(path: tuple[str, ...], value: Any) -> StreamedArray:
        return StreamedArray(path, value.shape, np.dtype(np.float32), lambda: np.asarray(value, np.float32))

    return unflatten_dict({path: leaf(path, value) for path, value in flatten_dict(tree).items()})


def save_backbone(
    folder: Path,
    spec: BackboneSpec,
    params: Mapping,
    decoder: Mapping,
    *,
    extra: Mapping[str, str] | None = None,
    check: Callable[[], None] = lambda: None,
) -> BackboneSpec:
    """Writes the folder that `load_backbone` reads: `backbone.json`, `params/`, and `decoder/` where there is one.

    It is written beside its place and renamed: the folder is never there in part. Parameters are read and written a few
    at a time (`TOGETHER`), however many there are.

    Args:
        folder: must not exist, or be empty.
        spec: its digests are filled in here.
        params: of the encoder, a tree of `StreamedArray`.
        decoder: of MAE's decoder, likewise; empty where there is none.
        extra: further text files by name.
        check: raises where what was read is of no use; called when all is written, before the folder appears.

    Returns:
        The record as written.

    Raises:
        InputError: the folder cannot be written; what `read` of a parameter raises.
    """
    folder = folder.resolve()
    partial = folder.parent / f".{folder.name}.partial-{os.getpid()}"
    try:
        partial.mkdir(parents=True)
        digests = {
            name: _write(partial / name, tree) for name, tree in (("params", params), ("decoder", decoder)) if tree
        }
        check()
        spec = dataclasses.replace(spec, params_sha256=digests["params"], decoder_sha256=digests.get("decoder", ""))
        texts = {"backbone.json": json.dumps(spec.to_json(), indent=2) + "\n"} | dict(extra or {})
        for name, text in texts.items():
            (partial / name).write_text(text)
        partial.rename(folder)
    except OSError as error:
        raise InputError(f"--output: {folder} cannot be written ({error}); name another folder") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return spec


def _write(path: Path, tree: Mapping) -> str:
    """An Orbax checkpoint of the tree; gives its `params_digest`."""
    handler = _StreamedHandler()
    registry = type_handlers.create_type_handler_registry(
        (StreamedArray, handler), (jax.Array, type_handlers.ArrayHandler())
    )
    # In a run of several processes this one writes alone; Orbax would wait for the others.
    this = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=this, active_processes={this}, barrier_sync_key_prefix="alone"
    )
    with ocp.Checkpointer(
        ocp.PyTreeCheckpointHandler(type_handler_registry=registry, multiprocessing_options=alone),
        multiprocessing_options=alone,
    ) as checkpointer:
        checkpointer.save(path, tree)
    return handler.digest.hexdigest()


class _StreamedHandler(type_handlers.NumpyHandler):
    """Orbax's handler of NumPy arrays, which it would all hold at once, and copy: it gets a few at a time."""

    def __init__(self):
        super().__init__(deepcopy_host_arrays=False)
        self.digest = hashlib.sha256()

    async def serialize(
        self,
        values: Sequence[StreamedArray],
        infos: Sequence[type_handlers.ParamInfo],
        args: Sequence[ocp.SaveArgs] | None = None,
    ) -> list:
        args = args or [ocp.SaveArgs()] * len(values)
        entries = sorted(zip(values, infos, args, strict=True), key=lambda entry: entry[0].path)
        arrays: list[np.ndarray] = []
        # In the order of `params_digest`, that of JAX's trees.
        for number, (value, _, _) in enumerate(entries):
            arrays.append(value.read())
            add_to_digest(self.digest, value.path, arrays[-1])
            if sum(array.nbytes for array in arrays) >= TOGETHER or number + 1 == len(entries):
                _, some_infos, some_args = zip(*entries[number + 1 - len(arrays) : number + 1], strict=True)
                await self._background_serialize(arrays, some_infos, some_args)
                arrays.clear()
        return []


def params_digest(params: Mapping) -> str:
    """SHA-256 over the names and bytes of all parameters: what is loaded is what was converted, to the last bit."""
    digest = hashlib.sha256()
    for path, leaf in sorted(flatten_dict(params).items()):
        add_to_digest(digest, path, leaf)
    return digest.hexdigest()


def add_to_digest(digest: Any, path: tuple[str, ...], leaf: Any) -> None:
    """Takes a parameter into a digest."""
    digest.update("".join(f"['{part}']" for part in path).encode())
    digest.update(np.ascontiguousarray(leaf).data)
