"""Heads as files: all that a training goes on from, in one safetensors file."""

import dataclasses
import hashlib
import json

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh
from safetensors import SafetensorError
from safetensors.numpy import load, save

from vitprobe_jax.atomic import write_whole
from vitprobe_jax.errors import InputError
from vitprobe_jax.features.table import replicate
from vitprobe_jax.probes.heads import HeadsConfig, HeadsState, init_heads

_ENTRY = "heads"


def save_heads(path: epath.PathLike, config: HeadsConfig, state: HeadsState) -> None:
    """Writes heads whole or not at all; equal heads are equal files.

    Arrays are named by where they stand: `params.abmilp_1.classifier.kernel`, `statistics.mean.variance`, `step`. The header
    holds the config and a checksum.
    """
    leaves = jax.tree_util.tree_leaves_with_path(state)
    arrays = {_name(place): np.asarray(leaf, order="C") for place, leaf in leaves}
    record = {"config": _describe(config), "sha256": _checksum(arrays)}
    write_whole(path, save(arrays, metadata={_ENTRY: json.dumps(record, sort_keys=True)}))


def load_heads(path: epath.PathLike, config: HeadsConfig, mesh: Mesh) -> HeadsState:
    """Reads what `save_heads` wrote, onto every device of the mesh.

    Raises:
        InputError: no such file, a damaged one, or one of heads with another config.
    """
    try:
        content = epath.Path(path).read_bytes()
        arrays = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        record = json.loads(header["__metadata__"][_ENTRY])
        if record["sha256"] != _checksum(arrays):
            raise ValueError("its checksum is wrong")
        given = dict(record["config"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path}: no readable file of heads ({reason}); delete it and train again") from error
    expected = _describe(config)
    changed = [name for name in expected if given.get(name) != expected[name]]
    if changed:
        raise InputError(
            f"{path}: the heads were trained with another {', '.join(changed)}; give what was given then, or another folder"
        )
    shapes = jax.eval_shape(lambda: init_heads(config, mesh))
    return replicate(jax.tree_util.tree_map_with_path(lambda place, _: arrays[_name(place)], shapes), mesh)


def _name(place: tuple) -> str:
    return jax.tree_util.keystr(place, simple=True, separator=".")


def _describe(config: HeadsConfig) -> dict:
    """The config as JSON gives it back."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def _checksum(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(json.dumps([name, array.dtype.name, array.shape]).encode())
        digest.update(array.reshape(-1).view(np.uint8))
    return digest.hexdigest()
