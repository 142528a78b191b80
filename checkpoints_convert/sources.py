"""Where checkpoints come from: torch files, safetensors files, Hugging Face folders, all seen alike."""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  Makes "bfloat16" a dtype that safetensors can ask NumPy for.
import numpy as np
from safetensors import SafetensorError, safe_open

from checkpoints_convert.lazy import LazyTensor
from checkpoints_convert.not_weights import not_weights
from checkpoints_convert.pickle_data import Skipped
from checkpoints_convert.torch_file import open_torch_file
from vitprobe_jax.errors import InputError

_TORCH_SUFFIXES = (".pth", ".pt", ".tar", ".pyth", ".bin")
# In the order in which transformers looks for them.
_FOLDER_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_DTYPES = {
    **{"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool"},
    **{f"{kind}{bits}": f"{word}{bits}" for kind, word in (("I", "int"), ("U", "uint")) for bits in (8, 16, 32, 64)},
}


@dataclasses.dataclass(frozen=True)
class Source:
    """An open checkpoint.

    Attributes:
        path: what the user gave, a file or a folder.
        contents: the file's top level: tensors by key, or containers of them, and whatever else it holds.
        weights: the files that hold the tensors.
        config: of a folder of Hugging Face or timm, its `config.json`; else empty.
        preprocessor: of a Hugging Face folder, its `preprocessor_config.json`; empty where there is none.
    """

    path: Path
    contents: Mapping[Any, Any]
    weights: tuple[Path, ...]
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    preprocessor: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def sha256(self) -> str:
        """Of the file; of the largest weight file where there are several, the first by name among equals."""
        largest = min(self.weights, key=lambda path: (-path.stat().st_size, path.name))
        with largest.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def open_source(path: Path) -> Iterator[Source]:
    """Opens a checkpoint; its tensors can be read while the context is open.

    Raises:
        InputError: missing, of no known kind, damaged, or with more in it than data.
    """
    with contextlib.ExitStack() as stack:
        if path.is_dir():
            weights = _folder_weights(path)
            config = _read_json(path / "config.json")
            processor = path / "preprocessor_config.json"
            preprocessor = _read_json(processor) if processor.exists() else {}
            contents: dict[Any, Any] = {}
            for file, keys in weights.items():
                shard = _open_weights(file, stack)
                absent = [key for key in keys if key not in shard]
                if absent:
                    raise InputError(f"{file}: lacks {', '.join(absent)}, which the index promises; download it again")
                contents.update(shard)
            yield Source(path, contents, tuple(weights), config, preprocessor)
        elif path.is_file():
            yield Source(path, _open_weights(path, stack), (path,))
        else:
            raise InputError(f"--input: {path} does not exist; give a checkpoint file or a Hugging Face folder")


def _folder_weights(folder: Path) -> dict[Path, list[str]]:
    """The weight files of a folder, with the keys that an index promises in each."""
    name = next((name for name in _FOLDER_FILES if (folder / name).is_file()), None)
    if name is None:
        raise InputError(f"{folder}: holds none of {', '.join(_FOLDER_FILES)}; download the whole Hugging Face folder")
    if not name.endswith(".index.json"):
        return {folder / name: []}
    shards: dict[Path, list[str]] = {}
    weight_map = _read_json(folder / name).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{folder / name}: has no weight_map; download it again")
    for key, shard in weight_map.items():
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise InputError(f"{folder / name}: {shard!r} is no file name; download it again")
        shards.setdefault(folder / shard, []).append(key)
    for path in shards:
        if not path.is_file():
            raise InputError(f"{path}: missing, but {name} lists it; download the whole folder")
    return shards


def _open_weights(path: Path, stack: contextlib.ExitStack) -> Mapping[Any, Any]:
    if path.suffix not in (*_TORCH_SUFFIXES, ".safetensors"):
        kinds = ", ".join((*_TORCH_SUFFIXES, ".safetensors"))
        raise InputError(f"--input: {path.name} is none of {kinds}, nor a Hugging Face folder")
    _refuse_other_files(path)
    if path.suffix == ".safetensors":
        return _open_safetensors(path, stack)
    contents = stack.enter_context(open_torch_file(path))
    if not isinstance(contents, dict):
        what = (
            f"an object of class {contents.kind}" if isinstance(contents, Skipped) else f"a {type(contents).__name__}"
        )
        raise InputError(f"{path}: holds {what}, not a dict of weights; save the state_dict")
    return contents


def _refuse_other_files(path: Path) -> None:
    try:
        said = not_weights(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error}); check the file") from error
    if said is not None:
        raise InputError(f"{path}: {said}")


def _open_safetensors(path: Path, stack: contextlib.ExitStack) -> dict[str, LazyTensor]:
    try:
        file = stack.enter_context(safe_open(path, framework="np"))
        tensors = {}
        for key in file.keys():  # noqa: SIM118  (no dict: it cannot be iterated)
            entry = file.get_slice(key)
            if entry.get_dtype() not in _DTYPES:
                raise InputError(f"{path}: {key} is {entry.get_dtype()}; give unquantised weights")
            dtype = np.dtype(_DTYPES[entry.get_dtype()])
            tensors[key] = LazyTensor(tuple(entry.get_shape()), dtype, lambda key=key: file.get_tensor(key))
        return tensors
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: truncated or damaged ({error}); download it again") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); download the whole Hugging Face folder") from error
    if not isinstance(data, dict):
        raise InputError(f"{path}: holds no JSON object; download it again")
    return data
