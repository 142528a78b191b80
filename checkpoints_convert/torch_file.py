"""Reads torch's zip format (`torch.save` since 1.6) without torch and without executing anything in it.

The archive holds one pickle, `NAME/data.pkl`, and one stored entry per storage, `NAME/data/KEY`. A tensor in the pickle
is a call of `torch._utils._rebuild_tensor_v2(storage, offset, size, stride, ...)`, a storage a persistent id. Every
entry carries a CRC-32, which is checked as it is read.
"""

import contextlib
import dataclasses
import functools
import math
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from checkpoints_convert.lazy import LazyTensor
from checkpoints_convert.pickle_data import Name, PickleError, read_pickle
from vitprobe_jax.errors import InputError

_STORAGES: dict[str, np.dtype] = {
    f"torch.{name}Storage": np.dtype(dtype)
    for name, dtype in {
        "Float": np.float32,
        "Half": np.float16,
        "BFloat16": ml_dtypes.bfloat16,
        "Double": np.float64,
        "Long": np.int64,
        "Int": np.int32,
        "Short": np.int16,
        "Char": np.int8,
        "Byte": np.uint8,
        "Bool": np.bool_,
        "ComplexFloat": np.complex64,
        "ComplexDouble": np.complex128,
    }.items()
}
_UNTYPED = "torch.storage.UntypedStorage"

_DTYPES: dict[str, np.dtype] = {
    f"torch.{name}": np.dtype(name)
    for name in (
        *("float16", "float32", "float64", "complex64", "complex128", "bool"),
        *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    )
} | {"torch.bfloat16": np.dtype(ml_dtypes.bfloat16)}

_PATHS = ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
# What training checkpoints hold beside weights, of Python, NumPy and torch: settings, paths, times, statistics. Classes of
# other packages are skipped wherever they are.
_SKIP = frozenset(
    {
        *(
            "argparse.Namespace",
            "types.SimpleNamespace",
            "torch.device",
            "torch.Generator",
            "numpy.dtype",
            "numpy.ndarray",
        ),
        *(f"{module}.{kind}" for module in ("pathlib", "pathlib._local") for kind in _PATHS),
        *(f"datetime.{kind}" for kind in ("datetime", "date", "time", "timedelta", "timezone")),
        *("uuid.UUID", "decimal.Decimal", "fractions.Fraction", "collections.deque", "functools.partial", "enum.Enum"),
        *(
            f"{module}.{kind}"
            for module in ("builtins", "__builtin__")
            for kind in ("object", "slice", "range", "getattr")
        ),
        *("copyreg._reconstructor", "copy_reg._reconstructor", "operator.getitem"),
        *(f"typing.{kind}" for kind in ("Any", "Dict", "List", "Optional", "Tuple", "Union")),
        *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
        *(f"numpy.{core}.numeric._frombuffer" for core in ("core", "_core")),
    }
)
# Names of these packages are read only where they are listed: all else of them acts instead of holding data.
_CLOSED = frozenset({*sys.stdlib_module_names, "__builtin__", "copy_reg", "torch", "numpy"}) - {"__main__"}
# The first bytes of the format before torch 1.6, a row of bare pickles: protocol 2, then a ten-byte magic number.
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_MAX_DIMENSIONS = 64
# A stride of 0 repeats a value, so a few bytes can claim any size. No weight has 2 ** 40 values.
_MAX_VALUES = 2**40


@contextlib.contextmanager
def open_torch_file(path: Path) -> Iterator[Any]:
    """What `torch.load` would give, with `LazyTensor` for tensors and `Skipped` for objects left unread.

    Tensors can be read while the context is open. Values keep their dtype; views, shared storages and zero-dimensional
    tensors come out as torch would give them.

    Raises:
        InputError: no torch zip file, a damaged one, or one whose pickle holds anything but data.
    """
    with contextlib.ExitStack() as stack:
        try:
            archive = stack.enter_context(zipfile.ZipFile(path))
        # zipfile raises NotImplementedError for archives of a later version of the format.
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise InputError(f"{path}: {_why_not_zip(path, error)}") from error
        yield _Reader(path, archive).contents()


def _why_not_zip(path: Path, error: Exception) -> str:
    try:
        with path.open("rb") as file:
            start = file.read(len(_LEGACY))
    except OSError:
        return f"cannot be read ({error})"
    if start == _LEGACY:
        return "torch's format before 1.6; load it in torch and write it again with torch.save"
    if start.startswith(b"PK"):
        return f"truncated or damaged torch file ({error}); download it again"
    return "not a torch file (no zip archive); give a file that torch.save wrote"


@dataclasses.dataclass(frozen=True)
class _Storage:
    """A stored entry of the archive, of `size` bytes, read as `dtype`."""

    entry: str
    dtype: np.dtype
    size: int


class _Reader:
    """An open archive: finds entries, checks them, turns persistent ids into storages."""

    def __init__(self, path: Path, archive: zipfile.ZipFile):
        self.path, self.archive = path, archive
        self.entries = {info.filename: info for info in archive.infolist()}
        # Tensors that share a storage follow each other in most files: keeping the last one saves reading it again.
        self.read_storage = functools.lru_cache(maxsize=1)(self.read_entry)

    def contents(self) -> Any:
        pickles = [name for name in self.entries if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1 or len(self.entries) != len(self.archive.infolist()):
            raise InputError(f"{self.path}: a zip archive, but not one of torch.save; give the checkpoint file itself")
        self.root = pickles[0].removesuffix("/data.pkl")
        byteorder = f"{self.root}/byteorder"
        if byteorder in self.entries and self.read_entry(byteorder) != b"little":
            raise InputError(
                f"{self.path}: written in big-endian byte order; write it again on a little-endian machine"
            )
        try:
            return read_pickle(
                self.read_entry(pickles[0]),
                build={
                    "torch._utils._rebuild_tensor_v2": self.tensor,
                    "torch._utils._rebuild_tensor_v3": self.tensor_v3,
                    "torch._utils._rebuild_parameter": lambda tensor, requires_grad, hooks: tensor,
                    "torch._utils._rebuild_parameter_with_state": lambda tensor, requires_grad, hooks, state: tensor,
                    "torch.Size": tuple,
                },
                tokens=_STORAGES.keys() | _DTYPES.keys() | {_UNTYPED},
                skip=_skips,
                tensors=LazyTensor | _Storage,
                persistent=self.storage,
            )
        except PickleError as error:
            raise InputError(f"{self.path}: {error}; give an official weights file") from error

    def read_entry(self, name: str) -> bytes:
        info = self.entries[name]
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & 1:
            raise InputError(f"{self.path}: entry {name} is compressed or encrypted, which torch.save never writes")
        try:
            data = self.archive.read(info)  # Checks the CRC.
        # A damaged archive raises BadZipFile, EOFError, OSError, ValueError, struct.error and more.
        except Exception as error:
            raise InputError(f"{self.path}: entry {name} is damaged ({error}); download the file again") from error
        if len(data) != info.file_size:
            raise InputError(f"{self.path}: entry {name} is truncated; download the file again")
        return data

    def storage(self, identity: Any) -> _Storage:
        """The storage that a persistent id names, its length checked against the entry's."""
        kind, storage_type, key, _location, count = identity
        if kind != "storage" or not isinstance(storage_type, Name) or not isinstance(key, str):
            raise PickleError("refused: a persistent id that is no storage; nothing was run")
        dtype = np.dtype(np.uint8) if storage_type.dotted == _UNTYPED else _STORAGES[storage_type.dotted]
        entry = f"{self.root}/data/{key}"
        if entry not in self.entries:
            raise PickleError(f"damaged: the storage {entry[:80]!r} is missing from the archive")
        size = self.entries[entry].file_size
        if _natural(count) * dtype.itemsize != size:
            raise PickleError(f"damaged: the storage {entry} has {size} bytes, not {count} values of {dtype}")
        return _Storage(entry, dtype, size)

    def tensor(self, storage: Any, offset: Any, size: Any, stride: Any, _grad, _hooks, metadata=None) -> LazyTensor:
        """A strided view of a storage; offset and strides count values, and must stay within it.

        Its metadata says whether the values are to be conjugated or negated, which torch puts off until they are used.
        """
        conjugated, negated = _view_bits(metadata)
        if negated and isinstance(storage, _Storage) and storage.dtype.kind in "biu":
            raise PickleError(f"damaged: a negative view of {storage.dtype}")
        if not isinstance(storage, _Storage):
            raise PickleError("refused: a tensor without a storage; nothing was run")
        entry, dtype = storage.entry, storage.dtype
        offset, size, stride = _natural(offset), tuple(map(_natural, size)), tuple(map(_natural, stride))
        if len(size) != len(stride) or len(size) > _MAX_DIMENSIONS:
            raise PickleError(f"damaged: a tensor of {len(size)} dimensions with {len(stride)} strides")
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if 0 not in size and (last >= storage.size // dtype.itemsize or math.prod(size) >= _MAX_VALUES):
            raise PickleError(f"damaged: a tensor of shape {size}, strides {stride} does not fit its storage {entry}")

        def read() -> np.ndarray:
            if 0 in size:
                return np.empty(size, dtype)
            values = np.frombuffer(self.read_storage(entry), dtype)[offset:]
            steps = [n * dtype.itemsize for n in stride]
            values = np.lib.stride_tricks.as_strided(values, size, steps, writeable=False)
            values = values.conj() if conjugated else values
            return -values if negated else values

        return LazyTensor(size, dtype, read)

    def tensor_v3(self, storage, offset, size, stride, grad, hooks, dtype, metadata=None) -> LazyTensor:
        """As `tensor`, for the dtypes that have no storage class of their own."""
        storage = dataclasses.replace(storage, dtype=_DTYPES[dtype.dotted])
        return self.tensor(storage, offset, size, stride, grad, hooks, metadata)


def _skips(dotted: str) -> bool:
    """Whether what a name makes is left unread: a listed one, or one of a package beside Python's own, torch and NumPy."""
    return dotted in _SKIP or dotted.split(".")[0] not in _CLOSED


def _view_bits(metadata: Any) -> tuple[bool, bool]:
    """Whether a tensor is a conjugate view, and a negative one (torch.Tensor.is_conj, is_neg)."""
    bits = {} if metadata is None else metadata
    if not isinstance(bits, dict) or not all(key in ("conj", "neg") and type(on) is bool for key, on in bits.items()):
        raise PickleError("refused: a tensor with metadata other than conjugate and negative views; nothing was run")
    return bits.get("conj", False), bits.get("neg", False)


def _natural(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise PickleError(f"damaged: a {type(value).__name__} where a count is due")
    return value
