"""Extracted rows on disk, in a folder named by what determines them: a zarr3 array for every (split, block, token).

    CACHE/<fingerprint>/fingerprint.json          what the rows depend on
    CACHE/<fingerprint>/<split>/<block>_<token>/  rows/: the array, a file a shard; manifest.json: the commit mark, last
    CACHE/<fingerprint>/<split>/errors/           images that could not be decoded, a file a shard that has some

A shard's file is written whole or not at all, so it is there or missing; its chunks carry checksums, so damage is seen.
Which images could not be decoded is written before the shard that has zeros for them.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence

import ml_dtypes  # noqa: F401  (NumPy learns the name bfloat16)
import numpy as np
import tensorstore as ts
from absl import logging
from etils import epath
from jaxtyping import Float, Int

from vitprobe_jax.atomic import kvstore, write_whole
from vitprobe_jax.errors import InputError
from vitprobe_jax.features.store import Cell, RowShape
from vitprobe_jax.types import Split

CHUNK_BYTES = 1 << 20
"""What a checksum covers, and the least that is read: some images at least one."""
_MANIFEST = "manifest.json"


@dataclasses.dataclass(frozen=True)
class FeatureCache:
    """The cached rows of one backbone over one data set, prepared in one way.

    Attributes:
        root: the `--cache_dir`, local or in a bucket.
        fingerprint: everything the rows depend on beside split, block and token; JSON-ready. Another fingerprint is
            another folder, so that rows never mix.
    """

    root: epath.Path
    fingerprint: dict

    @property
    def folder(self) -> epath.Path:
        """Where the arrays stand; no part of its name says where the cache is, so a moved one still opens."""
        text = json.dumps(self.fingerprint, sort_keys=True)
        return self.root / hashlib.sha256(text.encode()).hexdigest()[:16]

    def create(self) -> None:
        """Makes the folder, or checks that it holds what its name says.

        Raises:
            InputError: the folder cannot be made, or another fingerprint stands in it; names the field that differs.
        """
        path = self.folder / "fingerprint.json"
        try:
            if path.exists():
                differing = _differing(_read_json(path), self.fingerprint)
                if differing:
                    raise InputError(
                        f"--cache_dir: {self.folder} holds rows of another run ({differing}); move that folder away"
                    )
                return
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps(self.fingerprint, indent=1, sort_keys=True).encode())
        except OSError as error:
            raise InputError(f"--cache_dir: {self.folder} cannot be made ({error.strerror or error})") from error

    def why_new(self) -> str | None:
        """Where nothing is cached for this fingerprint: in what the most similar one differs; None where there is none."""
        if self.folder.exists() or not self.root.exists():
            return None
        others = []
        for folder in sorted(self.root.iterdir()):
            try:
                others.append(_differing(_read_json(folder / "fingerprint.json"), self.fingerprint))
            except (OSError, InputError):
                continue
        # The fewest fields, told by how many are listed.
        return min(others, key=lambda text: text.count(";"), default=None)

    def store(self, split: Split, shape: RowShape) -> "CachedRows":
        """The rows of a split."""
        return CachedRows(self.folder / split, shape)


class CachedRows:
    """A `RowStore` on disk. Several processes may write different shards of it at the same time."""

    def __init__(self, folder: epath.Path, shape: RowShape):
        self.shape = shape
        self._folder = folder
        self._verified: dict[Cell, set[int]] = {}
        self._open: dict[Cell, ts.TensorStore] = {}

    def create(self, cells: Sequence[Cell]) -> None:
        """Makes the arrays that are not there; one process does it, before the others write.

        Raises:
            InputError: the disk refuses.
        """
        for cell in cells:
            store = self._opened(cell)
            if store is None:
                self._array_folder(cell).rmtree(missing_ok=True)
                self._cell_folder(cell).mkdir(parents=True, exist_ok=True)
                self._guard(lambda cell=cell: ts.open(self._spec(cell), create=True).result())

    def missing(self, cells: Sequence[Cell], shards: Iterable[int]) -> list[int]:
        """As in `RowStore`. What is present is read whole once, against its checksums; damage is told and removed."""
        shards, missing = list(shards), set()
        for cell in cells:
            present = self._present(cell)
            missing.update(shard for shard in shards if shard not in present)
            verified = self._verified.setdefault(cell, set())
            for shard in present.intersection(shards) - verified:
                reason = self._damage(cell, shard)
                if reason is None:
                    verified.add(shard)
                    continue
                logging.warning(
                    "--cache_dir: shard %d of %s is damaged (%s); its images are extracted again",
                    shard,
                    self._cell_folder(cell),
                    reason,
                )
                self._remove(cell, shard)
                missing.add(shard)
        return sorted(missing)

    def present(self, cells: Sequence[Cell]) -> int:
        """How many shards of the cells are there, unread."""
        return sum(len(self._present(cell)) for cell in cells)

    def write(self, shard: int, rows: Mapping[Cell, Float[np.ndarray, "i R D"]], errors: Mapping[int, str]) -> None:
        images = self.shape.images_of(shard)
        if errors:
            folder = self._folder / "errors"
            folder.mkdir(parents=True, exist_ok=True)
            text = json.dumps({str(image): message for image, message in sorted(errors.items())}, indent=1)
            self._guard(lambda: write_whole(folder / f"{shard}.json", text.encode()))
        for cell, block in rows.items():
            if shard in self._verified.get(cell, ()):
                continue
            target = self._opened(cell)[images.start : images.stop]
            self._guard(lambda target=target, block=block: target.write(block).result())
            self._verified.setdefault(cell, set()).add(shard)

    def finish(self, cells: Sequence[Cell]) -> None:
        """Sets the commit marks of cells of which no shard is missing; one process does it, after all have written.

        Raises:
            InputError: a shard is missing.
        """
        record = dataclasses.asdict(self.shape) | {"shard_images": self.shape.shard_images}
        record |= {"shards": self.shape.num_shards, "errors": {str(k): v for k, v in self.errors().items()}}
        content = json.dumps(record, indent=1).encode()
        for cell in cells:
            absent = set(range(self.shape.num_shards)) - self._present(cell)
            if absent:
                raise InputError(f"--cache_dir: {self._cell_folder(cell)} lacks shard {min(absent)}; run again")
            path = self._cell_folder(cell) / _MANIFEST
            if not path.exists() or path.read_bytes() != content:
                self._guard(lambda path=path: write_whole(path, content))

    def complete(self, cell: Cell) -> bool:
        """Whether the commit mark of a cell is set."""
        return (self._cell_folder(cell) / _MANIFEST).exists()

    def errors(self) -> dict[int, str]:
        folder = self._folder / "errors"
        records = [_read_json(path) for path in folder.glob("*.json")] if folder.exists() else []
        return {int(image): message for record in records for image, message in record.items()}

    def source(self, cell: Cell) -> "DiskRows":
        # What was never written would read as zeros.
        if not self.complete(cell):
            raise InputError(f"--cache_dir: {self._cell_folder(cell)} has no commit mark; run again to complete it")
        return DiskRows(self._opened(cell), str(self._cell_folder(cell)))

    def release(self, cell: Cell) -> None:
        self._open.pop(cell, None)

    def _cell_folder(self, cell: Cell) -> epath.Path:
        return self._folder / f"{cell[0]}_{cell[1]}"

    def _array_folder(self, cell: Cell) -> epath.Path:
        return self._cell_folder(cell) / "rows"

    def _opened(self, cell: Cell) -> ts.TensorStore | None:
        """The array of a cell; None where it is missing or is not what it should be."""
        if cell not in self._open:
            try:
                self._open[cell] = ts.open(self._spec(cell), open=True).result()
            except ValueError:
                return None
        return self._open[cell]

    def _present(self, cell: Cell) -> set[int]:
        """Shards that have a file."""
        store = self._opened(cell)
        if store is None:
            return set()
        keys = (key.decode().split("/") for key in store.kvstore.list().result())
        return {int(key[1]) for key in keys if key[0] == "c" and len(key) == 4 and key[3].isdecimal()}

    def _damage(self, cell: Cell, shard: int) -> str | None:
        images = self.shape.images_of(shard)
        try:
            self._opened(cell)[images.start : images.stop].read().result()
        except ValueError as error:
            return " ".join(str(error).split())
        return None

    def _remove(self, cell: Cell, shard: int) -> None:
        (self._cell_folder(cell) / _MANIFEST).unlink(missing_ok=True)
        self._opened(cell).kvstore.delete_range(ts.KvStore.KeyRange(f"c/{shard}/", f"c/{shard}0")).result()

    def _guard(self, write) -> None:
        """Runs a write; a full disk or a refused one ends in one line."""
        try:
            write()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())
            raise InputError(
                f"--cache_dir: {self._folder} cannot be written ({reason}); make room or name another folder, then run "
                "again: what was written is kept"
            ) from error

    def _spec(self, cell: Cell) -> dict:
        """Shards along images, and in them chunks of some `CHUNK_BYTES`, each with its checksum."""
        shape = self.shape
        chunk = 1 << (max(1, min(CHUNK_BYTES // shape.image_bytes, shape.shard_images)).bit_length() - 1)
        rest = [shape.num_rows, shape.width]
        inner = {"chunk_shape": [chunk, *rest], "codecs": [{"name": "bytes"}, {"name": "crc32c"}]}
        return {
            "driver": "zarr3",
            "kvstore": kvstore(self._array_folder(cell)),
            "metadata": {
                "shape": list(shape.full),
                "data_type": shape.dtype,
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [shape.shard_images, *rest]}},
                "codecs": [{"name": "sharding_indexed", "configuration": inner}],
            },
            # A shard of zeros is written as any other, so that what is missing was never written.
            "store_data_equal_to_fill_value": True,
        }


@dataclasses.dataclass(frozen=True)
class DiskRows:
    """A `RowSource` of a cell on disk.

    Attributes:
        array: [I, R, D].
        name: what messages call it.
    """

    array: ts.TensorStore
    name: str

    @property
    def shape(self) -> tuple[int, int, int]:
        return tuple(self.array.shape)

    @property
    def dtype(self) -> np.dtype:
        return self.array.dtype.numpy_dtype

    def read(self, images: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n R D"]:
        """The rows of some images, in any order.

        Raises:
            InputError: a chunk is damaged.
        """
        try:
            if len(images) and images[-1] - images[0] == len(images) - 1 and np.all(np.diff(images) == 1):
                return self.array[int(images[0]) : int(images[-1]) + 1].read().result()
            return self.array[images].read().result()
        except ValueError as error:
            reason = " ".join(str(error).split())
            raise InputError(f"--cache_dir: {self.name} is damaged ({reason}); --resume extracts it again") from error


def _read_json(path: epath.Path) -> dict:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"--cache_dir: {path} is damaged ({error}); delete its folder and run again") from error


def _differing(found: dict, wanted: dict) -> str:
    """The fields that differ, with both values."""
    found, wanted = (_flatten(json.loads(json.dumps(record))) for record in (found, wanted))
    return "; ".join(
        f"{name} is {found.get(name)!r} there, {wanted.get(name)!r} here"
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
    )


def _flatten(record: dict, prefix: str = "") -> dict:
    flat = {}
    for name, value in record.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
