"""A file of any family that came to harm, or is taken for another family's, ends in one line and leaves no output."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from checkpoints_convert.matching import match
from tests.checkpoints_convert.conversions import failure
from tests.checkpoints_convert.official import ALIKE, FIRSTS, Official, lazy, write
from tests.zoo import SPECIMENS
from vitprobe_jax.backbones.families import FAMILIES

# Near by their keys, but not the same: what fits is taken, as --family says. Others are given as DINO.
WRONG = {
    **{"dino": "dinov2", "ibot": "dino", "dinov2": "dino", "dinov3": "dinov2", "mocov3": "mae", "mae": "ijepa"},
    **{"simmim": "beitv2", "beit": "simmim", "beitv2": "beit", "maskfeat": "mae", "ijepa": "mae", "capi": "dinov3"},
    **{"scalemae": "mae", "mae_finetuned": "mae", "simmim_finetuned": "simmim", "beit_finetuned": "beit"},
    **{"beitv2_finetuned": "beitv2"},
    **{"torchvision": "augreg", "deit": "dino", "deit_distilled": "deit", "augreg": "deit_distilled"},
}


@pytest.fixture(params=FIRSTS)
def file(request, official, unwritten) -> Official:
    """The file of the first specimen of every family; conversions of it write nothing."""
    return official(request.param)


def test_a_flipped_bit(file, tmp_path):
    path = file.flipped()
    message = failure(path, tmp_path / "out", **file.options)
    if path.suffix == ".safetensors":  # They have no checksum: one in the header is told by the keys.
        assert f"missing: {file.key}; extra: " in message
    else:
        assert message.startswith(f"{path}: entry ")
        assert "is damaged (Bad CRC-32" in message
        assert message.endswith(f"download the file again (the tensor is {file.key})")


def test_a_file_that_ends_early(file, tmp_path):
    size = file.path.stat().st_size
    for length in (0, 1, 100, size // 3, size // 2, size - 30, size - 1):
        path = file.cut(length)
        message = failure(path, tmp_path / "out", **file.options)
        assert message.startswith(f"{path}: ")
        short = {0: "an empty file", 1: "not a torch file"}.get(length, "truncated or damaged")
        assert short in message or "truncated or damaged" in message


def test_a_renamed_key(file, tmp_path):
    path = file.damaged({file.key: None, f"{file.key}s": file.tensors[file.key]})
    message = failure(path, tmp_path / "out", **file.options)
    name = file.specimen.family
    assert message == (
        f"{path}: no {name} checkpoint: missing: {file.key}; extra: {file.key}s; "
        "give the official file, downloaded whole"
    )
    # Nothing else is like it, so that it is recognised all the same.
    message = failure(path, tmp_path / "out", **file.options | {"family": "auto"})
    assert message.startswith(f"{path}: of no known family; nearest to ")
    assert f"missing: {file.key}; extra: {file.key}s; " in message


def test_a_tensor_of_another_shape(file, tmp_path):
    tensor = file.tensors[file.key]
    path = file.damaged({file.key: tensor[:, 1:].contiguous()})
    wrong, right = ((tensor.shape[0], tensor.shape[1] - less) for less in (1, 0))
    assert f"mis-shaped: {file.key} {wrong} instead of {right}; give" in failure(path, tmp_path / "out", **file.options)


def test_a_value_that_is_not_finite(file, tmp_path):
    tensor = file.tensors[file.key].clone()
    tensor[1, 2] = -np.inf
    path = file.damaged({file.key: tensor})
    assert failure(path, tmp_path / "out", **file.options) == (
        f"{path}: not finite in float32: {file.key}; give the official file"
    )


def test_another_family(file, tmp_path):
    family = file.specimen.family
    wrong = WRONG.get(family, "dino")
    message = failure(file.path, tmp_path / "out", **file.options | {"family": wrong, "container": None})
    families = ALIKE.get(family, [family])
    assert message == (
        f"{file.path}: a checkpoint of {' or '.join(families)}, not of {wrong}; "
        f"give {' or '.join(f'--family={family}' for family in families)}"
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """By specimen, the file, and its container's tensors as readers give them."""
    files = {name: write(name, tmp_path_factory.mktemp(name)) for name in SPECIMENS}
    return {name: (file, lazy(file.tensors)) for name, file in files.items()}


# Beside what the models use, official files hold these, and the specimens return them.
_IDLE = ("mask_token", "local_cls_norm.", "decoder.blocks.1.")
# Alone these tell a size or whether there are registers; elsewhere it is the majority that does, and two blocks have none.
_TELLING = ("_bias_table", "rope_embed.periods", "rope.freqs", "mlp.w3.weight", "patch_embed.proj.weight")
_HARMS = {
    "missing": lambda key, tensor: {},
    "renamed": lambda key, tensor: {f"other.{key}": tensor},
    "extra": lambda key, tensor: {key: tensor, f"{key}.stray": tensor},
    "axis": lambda key, tensor: {key: tensor[None]},
    "longer": lambda key, tensor: {key: torch.cat([tensor] * 3, dim=-1)},
    "integers": lambda key, tensor: {key: tensor.to(torch.int32)},
}


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_single_harm_to_any_tensor_is_named(whole, data):
    file, tensors = whole[data.draw(st.sampled_from(list(SPECIMENS)))]
    name = file.specimen.family
    used = [k for k in file.state if not k.startswith(_IDLE) or name == "mae" or (name, k) == ("capi", "mask_token")]
    key, harm = file.full(data.draw(st.sampled_from(used))), data.draw(st.sampled_from(list(_HARMS)))
    assume(harm != "longer" or not key.endswith(_TELLING))
    assume(key != "register_tokens")  # Without it, it is a DINOv2 without registers: see below.
    changed = {k: v for k, v in tensors.items() if k != key} | lazy(_HARMS[harm](key, file.tensors[key]))
    found = match({file.container: changed} if file.container else changed, FAMILIES[name])
    text = "; ".join(found.problems)
    if harm == "renamed":
        assert text == f"missing: {key}; extra: other.{key}"
    elif harm in ("missing", "extra"):
        assert text == f"{harm}: {key}{'.stray' * (harm == 'extra')}"
    else:
        assert text.startswith(f"mis-shaped: {key} ")
        assert text.count(" instead of ") == found.num_problems == 1


@pytest.mark.parametrize(("name", "arch"), [("dinov2", "vits14_reg4"), ("dinov2_reg4", "vits14")])
def test_registers_that_the_arch_does_not_have_or_lacks(name, arch, official, unwritten, tmp_path, monkeypatch):
    """Without its registers the file of a DINOv2 with them is that of one without: --arch tells which was meant."""
    file = official(name)
    sizes = {field: getattr(file.sizes, field) for field in ("width", "depth", "num_heads", "patch_size")}
    archs = {arch: dataclasses.replace(record, **sizes) for arch, record in FAMILIES["dinov2"].archs.items()}
    monkeypatch.setitem(FAMILIES, "dinov2", dataclasses.replace(FAMILIES["dinov2"], archs=archs))
    has = "without" if "reg4" in arch else "with"
    message = failure(file.path, tmp_path / "out", family="dinov2", arch=arch, num_heads=None)
    assert message.startswith(f"{file.path}: no dinov2 {arch} checkpoint: {has} register_tokens; give --arch=vits14")


@pytest.mark.parametrize("name", ["simmim", "beitv2_finetuned"])
@pytest.mark.parametrize(
    ("cut", "said"),
    [
        (lambda table: table[:-1], " with 83 rows instead of 3 + an odd square"),
        (lambda table: table[:, 1:], " with 5 columns, heads that do not divide the width 36"),
    ],
)
def test_relative_tables_of_no_grid_or_heads(name, cut, said, official, tmp_path):
    file = official(name)
    tables = {key: cut(value).contiguous() for key, value in file.tensors.items() if key.endswith("bias_table")}
    message = failure(file.damaged(tables), tmp_path / "out", **file.options)
    assert f"mis-shaped: {next(iter(tables))}{said}; give" in message
