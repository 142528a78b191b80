"""Extracted rows on disk: one zarr3 array a (split, block, token), under a folder named by what determines them."""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import ml_dtypes  # noqa: F401  (NumPy learns the name bfloat16)
import numpy as np
import tensorstore as ts

from vitprobe_jax.errors import InputError
from vitprobe_jax.features.extract import Cell, Features
from vitprobe_jax.types import Split

_COMMIT = "commit.json"


@dataclasses.dataclass(frozen=True)
class FeatureCache:
    """The cached rows of one backbone over one data set, prepared in one way.

    Attributes:
        root: the `--cache_dir`.
        fingerprint: everything the rows depend on, JSON-ready; another fingerprint is another folder, so that rows never
            mix.
    """

    root: Path
    fingerprint: dict

    @property
    def folder(self) -> Path:
        """Where the arrays stand."""
        text = json.dumps(self.fingerprint, sort_keys=True)
        return self.root / hashlib.sha256(text.encode()).hexdigest()[:16]

    def present(self, split: Split, cells: Sequence[Cell]) -> list[Cell]:
        """Those of the cells whose rows were written whole."""
        return [cell for cell in cells if (self._path(split, cell) / _COMMIT).exists()]

    def load(self, split: Split, cells: Sequence[Cell]) -> Features:
        """The rows of cells that are present, one at least.

        Raises:
            InputError: an array is damaged.
        """
        record = self._record(split, cells[0])
        rows = {cell: self._read(self._path(split, cell)) for cell in cells}
        return Features(rows, np.array(record["kept"], int), tuple(record["errors"]))

    def save(self, split: Split, features: Features) -> None:
        """Writes every array, each with its commit mark last; a half-written one is never taken for whole."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "fingerprint.json").write_text(json.dumps(self.fingerprint, indent=1, sort_keys=True))
        for cell, rows in features.rows.items():
            path = self._path(split, cell)
            shutil.rmtree(path, ignore_errors=True)
            store = ts.open(_layout(path, rows.shape), dtype=rows.dtype, shape=rows.shape, create=True).result()
            store.write(rows).result()
            record = {"kept": features.kept.tolist(), "errors": list(features.errors)}
            (path / _COMMIT).write_text(json.dumps(record))

    def _path(self, split: Split, cell: Cell) -> Path:
        return self.folder / split / f"{cell[0]}_{cell[1]}"

    def _record(self, split: Split, cell: Cell) -> dict:
        path = self._path(split, cell) / _COMMIT
        try:
            return json.loads(path.read_text())
        except ValueError as error:
            raise InputError(f"--cache_dir: {path} is damaged; delete its folder and run again") from error

    def _read(self, path: Path) -> np.ndarray:
        try:
            return ts.open({"driver": "zarr3", "kvstore": _kvstore(path)}, open=True).result().read().result()
        except ValueError as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"--cache_dir: {path} is damaged ({reason}); delete it and run again") from error


def _kvstore(path: Path) -> dict:
    return {"driver": "file", "path": str(path.resolve()) + "/"}


def _layout(path: Path, shape: tuple[int, ...]) -> dict:
    """Shards of some 64 MB and chunks of some 1 MB along images, each chunk with its checksum."""
    per_image = 4 * int(np.prod(shape[1:]))
    chunk = max(1, min(shape[0], (1 << 20) // per_image))
    shard = chunk * max(1, min(-(-shape[0] // chunk), (1 << 26) // (per_image * chunk)))
    codec = {"chunk_shape": [chunk, *shape[1:]], "codecs": [{"name": "bytes"}, {"name": "crc32c"}]}
    return {
        "driver": "zarr3",
        "kvstore": _kvstore(path),
        "metadata": {
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [shard, *shape[1:]]}},
            "codecs": [{"name": "sharding_indexed", "configuration": codec}],
        },
    }
