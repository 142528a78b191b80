"""The zip reader gives what `torch.load` gives, and nothing in a file runs."""

import argparse
import collections
import datetime
import enum
import io
import os
import pathlib
import pickle
import sys
import tempfile
import types
import typing
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoints_convert.lazy import LazyTensor
from checkpoints_convert.pickle_data import Skipped
from checkpoints_convert.torch_file import open_torch_file
from vitprobe_jax.errors import InputError

DTYPES = [
    *(torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.bool, torch.complex64),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16),
]


def saved(value, **options) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def load(content: bytes):
    """What the reader gives, every tensor read."""
    with tempfile.NamedTemporaryFile(suffix=".pth") as file:
        file.write(content)
        file.flush()
        with open_torch_file(Path(file.name)) as contents:
            return read(contents)


def read(value):
    if isinstance(value, LazyTensor):
        array = np.array(value.read())
        assert (array.shape, array.dtype) == (value.shape, value.dtype)
        return array
    if isinstance(value, dict):
        return {key: read(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(read, value))
    return value


def assert_same(ours, theirs):
    """Equal to the last bit, with the same containers and dtypes."""
    if isinstance(theirs, torch.Tensor):
        assert str(theirs.dtype) == f"torch.{ours.dtype}"
        assert ours.shape == theirs.shape
        as_bytes = (
            theirs.detach().clone(memory_format=torch.contiguous_format).reshape(-1).view(torch.uint8).numpy().tobytes()
        )
        assert ours.tobytes() == as_bytes
    elif isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        for key in theirs:
            assert_same(ours[key], theirs[key])
    elif isinstance(theirs, list | tuple):
        assert type(ours) is type(theirs)
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            assert_same(a, b)
    else:
        assert ours == theirs
        assert type(ours) is type(theirs)


@st.composite
def tensors(draw):
    """A tensor of any usual dtype; often a view: sliced, transposed, expanded, of an offset in a larger storage."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    values = torch.randn(shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 99)))) * 50
    tensor = values.to(dtype)
    for axis, size in enumerate(shape):
        if size > 1 and draw(st.booleans()):
            tensor = tensor.narrow(axis, 1, size - 1)
    tensor = tensor.permute(draw(st.permutations(range(len(shape)))))
    return tensor.unsqueeze(0).expand(3, *tensor.shape) if draw(st.booleans()) else tensor


scalars = (
    st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.floats(allow_nan=False) | st.text() | st.binary()
)
nested = st.recursive(
    scalars | tensors(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(nested, st.sampled_from([2, 3, 4, 5]))
def test_equals_torch_load(value, protocol):
    content = saved(value, pickle_protocol=protocol)
    assert_same(load(content), torch.load(io.BytesIO(content), weights_only=False))


def test_shared_storage_parameters_and_state_dict_metadata():
    base = torch.arange(24.0)
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    value = {
        "views": [base.view(4, 6).t(), base[3:7], base[5], base],
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "module": module.state_dict(),
        "optimizer": torch.optim.AdamW(module.parameters()).state_dict(),
        "sets": (1, "a"),
    }
    content = saved(value)
    assert_same(load(content), torch.load(io.BytesIO(content), weights_only=False))
    names = zipfile.ZipFile(io.BytesIO(content)).namelist()
    assert sum("/data/" in name for name in names) == 2 + len(module.state_dict())  # The views share one storage.


class CfgNode(dict):
    """Pickled as yacs' is: a dict subclass with attributes of its own, in a module that is not installed here."""


CfgNode.__module__, CfgNode.__qualname__ = "yacs.config", "CfgNode"


def test_settings_of_a_run_are_skipped_unread(monkeypatch):
    monkeypatch.setitem(sys.modules, "yacs", argparse.Namespace(config=None))
    monkeypatch.setitem(sys.modules, "yacs.config", argparse.Namespace(CfgNode=CfgNode))
    config = CfgNode(MODEL=CfgNode(DEPTH=12))
    config.__dict__["__immutable__"] = True
    value = {
        "args": argparse.Namespace(lr=0.1, out=pathlib.PurePosixPath("a/b"), device=torch.device("cuda", 0)),
        "config": config,
        "best": np.float64(71.5),
        "history": np.arange(6).reshape(2, 3),
        "dtype": torch.float16,
        "size": torch.Size([2, 3]),
        "default": collections.defaultdict(list, {"a": [1]}),
        "set": {1, "b"},
    }
    for protocol in (2, 4, 5):
        ours = load(saved(value, pickle_protocol=protocol))
        assert ours["args"] == Skipped("argparse.Namespace")
        assert ours["config"] == Skipped("yacs.config.CfgNode")
        assert isinstance(ours["best"], Skipped)
        assert isinstance(ours["history"], Skipped)
        assert ours["dtype"].dotted == "torch.float16"
        assert (ours["size"], ours["default"], ours["set"]) == ((2, 3), {"a": [1]}, {1, "b"})


def archive(pickled: bytes, *, compression=zipfile.ZIP_STORED, **entries: bytes) -> bytes:
    """A zip as torch writes it, around any pickle; entries are storages by key."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        file.writestr("archive/data.pkl", pickled)
        file.writestr("archive/byteorder", "little")
        for key, content in entries.items():
            file.writestr(f"archive/data/{key[1:]}", content)
    return buffer.getvalue()


class Call:
    """Pickles as a call of any function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def storage_id(kind: bytes = b"ctorch\nFloatStorage\n") -> bytes:
    """A persistent id for the storage `0` of four values, left on the stack."""
    return b"(X\x07\x00\x00\x00storage" + kind + b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"


def tensor_pickle(offset: bytes = b"K\x00", size: bytes = b"K\x04\x85", stride: bytes = b"K\x01\x85") -> bytes:
    return (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n("
        + storage_id()
        + offset
        + size
        + stride
        + b"\x89ccollections\nOrderedDict\n)RtR."
    )


MARKER = "marker_of_execution"

MALICIOUS = {
    "os.system": pickle.dumps(Call(os.system, f"touch {MARKER}"), 2),
    "os.system, protocol 4": pickle.dumps({"model": Call(os.system, f"touch {MARKER}")}, 4),
    "inside a Namespace": pickle.dumps(argparse.Namespace(x=[Call(os.system, f"touch {MARKER}")]), 2),
    "builtins.eval": pickle.dumps(Call(eval, f"open('{MARKER}', 'w')"), 2),
    "builtins.getattr": pickle.dumps(Call(getattr, "text", "upper"), 2),
    "in a persistent id": b"\x80\x02" + storage_id(b"cos\nsystem\n") + b".",
    "a persistent id of text": b"\x80\x02X\x01\x00\x00\x00xQ.",
    "a text persistent id": b"Parchive\n.",
    "an extension code": b"\x80\x02\x82\x01.",
    "INST": b"(S'touch " + MARKER.encode() + b"'\nios\nsystem\n.",
    "OBJ": b"\x80\x02(cos\nsystem\nX\x01\x00\x00\x00xo.",
    "BUILD of a dict": b"\x80\x02}}X\x0c\x00\x00\x00__setstate__K\x01sb.",
    "a call of a value": b"\x80\x02K\x01)R.",
    "a call of a dtype": b"\x80\x02ctorch\nfloat16\n)R.",
    "a tensor without a storage": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x00))\x89}tR.",
    "a name inside a known module": b"\x80\x02ctorch\nload\n.",
    "torch.hub": b"\x80\x02ctorch.hub\nload\n.",
    "a path out of a module": b"\x80\x04\x8c\x05torch\x8c\x0a_utils.sys\x93.",
    "a nested key": b"\x80\x02}" + b")" + b"\x85" * 120_000 + b"K\x01s.",
    "a huge memo": b"\x80\x02Nr\xff\xff\xff\x7f0j\x00\x00\x00\x00.",
    "a huge length": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
    "no end": b"\x80\x02}",
    "empty": b"",
    "two values left": b"\x80\x02K\x01K\x02.",
    "no mark": b"\x80\x02K\x01t.",
}


@pytest.mark.parametrize("name", MALICIOUS)
def test_malicious_pickles_run_nothing_and_end_in_one_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        load(archive(MALICIOUS[name], _0=bytes(16)))
    assert not Path(MARKER).exists()
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    assert "nothing was run" in message or "damaged" in message


def test_the_attack_would_work_on_pickle(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickle.loads(MALICIOUS["os.system"])
    assert Path(MARKER).exists()


@pytest.mark.parametrize(
    ("name", "shown"), [("os.system", "posix.system"), ("builtins.eval", "eval"), ("torch.hub", "torch.hub.load")]
)
def test_a_refusal_says_which_name(name, shown):
    with pytest.raises(InputError, match=shown):
        load(archive(MALICIOUS[name]))


def test_a_hand_made_tensor_reads():
    values = np.arange(4, dtype=np.float32)
    np.testing.assert_array_equal(load(archive(tensor_pickle(), _0=values.tobytes())), values)


@pytest.mark.parametrize(
    "view",
    [
        {"size": b"K\x05\x85"},
        {"offset": b"K\x01"},
        {"offset": b"J\xff\xff\xff\xff"},
        {"stride": b"K\x02\x85"},
        {"stride": b"J\xff\xff\xff\xff\x85"},
        {"size": b"J\xff\xff\xff\xff\x85"},
        {"size": b"K\x02K\x02\x86"},
        {"size": b"\x8a\x08\x00\x00\x00\x00\x00\x00\x00\x40\x85", "stride": b"K\x00\x85"},
        {"size": b"X\x01\x00\x00\x004\x85"},
        {"size": b"K\x04"},
        {"size": b"\x88\x85"},
    ],
)
def test_views_outside_their_storage_are_refused(view):
    with pytest.raises(InputError, match="damaged"):
        load(archive(tensor_pickle(**view), _0=bytes(16)))


@pytest.mark.parametrize("entries", [{}, {"_0": bytes(12)}, {"_0": bytes(20)}, {"_1": bytes(16)}])
def test_a_storage_of_another_length_is_refused(entries):
    with pytest.raises(InputError, match="storage"):
        load(archive(tensor_pickle(), **entries))


def test_compressed_entries_are_refused():
    with pytest.raises(InputError, match="compressed"):
        load(archive(tensor_pickle(), compression=zipfile.ZIP_DEFLATED, _0=bytes(16)))


def test_big_endian_files_are_refused():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("a/data.pkl", b"\x80\x02N.")
        file.writestr("a/byteorder", "big")
    with pytest.raises(InputError, match="big-endian"):
        load(buffer.getvalue())


def test_the_format_before_1_6_has_its_own_line():
    with pytest.raises(InputError, match=r"before 1\.6.*torch\.save"):
        load(saved({"a": torch.ones(2)}, _use_new_zipfile_serialization=False))


@pytest.mark.parametrize("content", [b"", b"PK", b"version https://git-lfs.github.com/spec/v1\n", b"\x80\x02N."])
def test_what_is_no_torch_file_is_refused(content):
    with pytest.raises(InputError, match="torch file"):
        load(content)


def test_a_zip_of_something_else_is_refused():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("readme.txt", "no weights")
    with pytest.raises(InputError, match=r"not one of torch\.save"):
        load(buffer.getvalue())


SMALL = saved({"model": {"a": torch.arange(6.0), "b": torch.ones(2, 2)}, "epoch": 3})


def test_every_truncation_is_refused():
    for length in range(0, len(SMALL), 7):
        with pytest.raises(InputError):
            load(SMALL[:length])


@settings(max_examples=400, deadline=None)
@given(st.integers(0, len(SMALL) - 1), st.integers(1, 255))
def test_a_flipped_byte_is_refused_or_changes_nothing(position, flip):
    damaged = bytearray(SMALL)
    damaged[position] ^= flip
    try:
        ours = load(bytes(damaged))
    except InputError:
        return
    # Padding, time stamps and the like are in no checksum, and carry nothing.
    assert_same(ours, torch.load(io.BytesIO(SMALL)))


class Settings(dict):
    """Pickled like omegaconf's: a class of a package that is not installed here, with state of its own."""


class Mode(enum.Enum):
    """A setting of a training script."""

    FAST = 1


def test_objects_without_tensors_are_skipped_wherever_their_class_is(monkeypatch):
    """None of these can be imported where the file is read."""
    for kind, module in ((Settings, "omegaconf"), (Mode, "my_training")):
        monkeypatch.setattr(kind, "__module__", module)
        monkeypatch.setitem(sys.modules, module, argparse.Namespace(**{kind.__name__: kind}))
    config = Settings(depth=12)
    config.__dict__["_metadata"] = {"ref_type": typing.Any, "element_type": str}
    value = {
        "config": config,
        "mode": Mode.FAST,
        "when": datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
        "took": datetime.timedelta(1),
        "space": types.SimpleNamespace(lr=0.1),
        "path": pathlib.Path("a"),
        "windows": pathlib.PureWindowsPath("b"),
        "counts": collections.Counter("aab"),
        "weight": torch.ones(2),
    }
    for protocol in (2, 4, 5):
        ours = load(saved(value, pickle_protocol=protocol))
        kinds = {key: item.kind for key, item in ours.items() if isinstance(item, Skipped)}
        assert kinds["config"] == "omegaconf.Settings"
        assert kinds.keys() == {"config", "mode", "when", "took", "space", "path", "windows"}
        assert ours["counts"] == {"a": 2, "b": 1}
        np.testing.assert_array_equal(ours["weight"], np.ones(2, np.float32))


def test_paths_of_newer_pythons_are_skipped():
    """3.13 keeps its classes in pathlib._local."""
    ours = load(archive(b"\x80\x02}X\x04\x00\x00\x00pathcpathlib._local\nPosixPath\nX\x01\x00\x00\x00a\x85Rs."))
    assert ours == {"path": Skipped("pathlib._local.PosixPath")}


@pytest.mark.parametrize("where", ["arguments", "state", "items", "deep"])
def test_an_object_that_holds_tensors_is_refused(where, monkeypatch):
    """It may be the model itself, which nothing here can build."""
    monkeypatch.setattr(Settings, "__module__", "my_training")
    monkeypatch.setitem(sys.modules, "my_training", argparse.Namespace(Settings=Settings))
    value = Settings(weight=torch.ones(2)) if where == "items" else Settings()
    if where == "state":
        value.weight = torch.ones(2)
    elif where == "deep":
        value.layers = [{"weight": (torch.ones(2),)}]
    elif where == "arguments":
        value = types.SimpleNamespace(inner=argparse.Namespace(weight=torch.ones(2)))
    for protocol in (2, 4):
        with pytest.raises(InputError, match=r"refused: tensors inside a .*; nothing was run"):
            load(saved({"args": value}, pickle_protocol=protocol))


def test_conjugate_and_negative_views_are_resolved():
    """torch writes the values as they are stored, and in the tensor's metadata what is still to be done to them."""
    values = torch.randn(3, 2, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    views = {"conj": values.conj(), "neg": values.conj().imag, "both": torch._neg_view(values).conj(), "plain": values}
    assert views["conj"].is_conj()
    assert views["neg"].is_neg()
    for key, view in views.items():
        np.testing.assert_array_equal(load(saved(view)), view.resolve_conj().resolve_neg().numpy(), err_msg=key)


def test_other_metadata_is_refused():
    metadata = b"}X\x04\x00\x00\x00taxi\x88s"
    content = tensor_pickle().replace(b"tR.", metadata + b"tR.")
    with pytest.raises(InputError, match="metadata other than conjugate and negative views"):
        load(archive(content, _0=bytes(16)))


def test_a_parameter_saved_with_its_state_is_its_tensor():
    parameter = torch.nn.Parameter(torch.arange(3.0))
    parameter.no_weight_decay = True
    content = saved({"bias": parameter})
    assert b"_rebuild_parameter_with_state" in content
    np.testing.assert_array_equal(load(content)["bias"], np.arange(3, dtype=np.float32))


def test_a_negative_view_of_whole_numbers_is_refused():
    metadata = b"}X\x03\x00\x00\x00neg\x88s"
    content = tensor_pickle().replace(b"FloatStorage", b"IntStorage").replace(b"tR.", metadata + b"tR.")
    with pytest.raises(InputError, match="negative view of int32"):
        load(archive(content, _0=bytes(16)))
