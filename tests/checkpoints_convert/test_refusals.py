"""Whatever is not a whole checkpoint of the family ends in one line, and leaves no output."""

import argparse
import re

import pytest
import torch
from safetensors.torch import save_file

from tests.checkpoints_convert import official_files
from tests.checkpoints_convert.conversions import DECODER, TINY, failure


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_all_missing_extra_and_mis_shaped_keys_stand_in_one_error(suffix, tmp_path):
    weights = official_files.plain_state_dict(**TINY)
    del weights["cls_token"], weights["blocks.1.attn.qkv.bias"], weights["norm.weight"]
    weights["blocks.0.mlp.fc1.weight"] = torch.ones(100, 35)
    weights["blocks.1.norm1.weight"] = torch.ones(2, 18)
    weights["blocks.1.norm2.bias"] = torch.ones(36, dtype=torch.int64)
    weights["blocks.0.attn.rel_pos"] = torch.ones(2)
    weights["gamma"] = torch.ones(2)
    file = tmp_path / f"broken{suffix}"
    save_file(weights, file) if suffix == ".safetensors" else torch.save(weights, file)
    message = failure(file, tmp_path / "out")
    assert "missing: cls_token, blocks.1.attn.qkv.bias, norm.weight;" in message
    extra = re.search(r"extra: ([^;]*);", message)[1]
    assert sorted(extra.split(", ")) == ["blocks.0.attn.rel_pos", "gamma"]
    assert "blocks.0.mlp.fc1.weight (100, 35) instead of (100, 36)" in message
    assert "blocks.1.norm1.weight (2, 18) instead of (36)" in message
    assert "blocks.1.norm2.bias of int64" in message
    assert message.count("instead of") == 3


def test_a_long_list_folds_block_numbers_and_stays_complete(tmp_path):
    weights = official_files.plain_state_dict(**{**TINY, "depth": 12})
    kept = {key: value for key, value in weights.items() if not re.match(r"blocks\.([3-9]|11)\.(attn|mlp)", key)}
    torch.save(kept, tmp_path / "file.pth")
    message = failure(tmp_path / "file.pth", tmp_path / "out")
    for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
        for parameter in ("weight", "bias"):
            assert f"blocks.{{3-9,11}}.{part}.{parameter}" in message


def test_truncated_files_are_refused_at_any_length(tmp_path):
    official_files.write_dino(tmp_path / "whole.pth", **TINY)
    save_file(official_files.plain_state_dict(**TINY), tmp_path / "whole.safetensors")
    for suffix in (".pth", ".safetensors"):
        content = (tmp_path / f"whole{suffix}").read_bytes()
        for length in [0, 1, 8, 30, *range(100, len(content), len(content) // 12), len(content) - 1]:
            file = tmp_path / f"part{suffix}"
            file.write_bytes(content[:length])
            assert str(file) in failure(file, tmp_path / "out")


def test_a_damaged_weight_is_refused(tmp_path):
    """Its bytes are not what was written: only the checksum can tell."""
    file = tmp_path / "file.pth"
    weights = official_files.write_dino(file, **TINY)
    content = file.read_bytes()
    pattern = weights["blocks.1.mlp.fc1.weight"].numpy().tobytes()[:64]
    assert content.count(pattern) == 1
    file.write_bytes(content.replace(pattern, bytes(64)))
    assert "is damaged" in failure(file, tmp_path / "out")


def test_what_holds_no_vit_says_what_it_holds(tmp_path):
    linear, listed, out = tmp_path / "linear.pth", tmp_path / "list.pth", tmp_path / "out"
    torch.save(torch.nn.Linear(2, 2).state_dict(), linear)
    assert failure(linear, out) == (
        f"{linear}: no weights of dino in it (it holds weight, bias); give an official checkpoint of the family"
    )
    assert failure(linear, out, family="auto") == (
        f"{linear}: no weights of any family in it (it holds weight, bias); see --list for what is read"
    )
    torch.save({}, linear)
    assert "(it holds nothing)" in failure(linear, out)
    torch.save({str(i): i for i in range(9)}, linear)
    assert "(it holds 0, 1, 2, 3, 4, ...)" in failure(linear, out)
    torch.save([torch.ones(2)], listed)
    assert "holds a list, not a dict" in failure(listed, out)


def test_another_arch_says_which_sizes_differ(tmp_path):
    official_files.write_dino(tmp_path / "s8.pth", width=384, depth=12, num_heads=6, patch_size=8, grid=2, mlp_dim=4)
    message = failure(tmp_path / "s8.pth", tmp_path / "out", arch="vits16", num_heads=None)
    assert "patch_size 8 instead of 16" in message
    assert "give --arch=vits8" in message
    message = failure(tmp_path / "s8.pth", tmp_path / "out", arch="vitb8", num_heads=None)
    assert "width 384 instead of 768" in message


def test_weights_that_are_not_finite_are_refused(tmp_path):
    weights = official_files.plain_state_dict(**TINY)
    weights["norm.bias"][3] = torch.nan
    weights["blocks.1.mlp.fc2.weight"] = weights["blocks.1.mlp.fc2.weight"].double() * 1e300
    torch.save(weights, tmp_path / "file.pth")
    message = failure(tmp_path / "file.pth", tmp_path / "out")
    assert "not finite in float32: blocks.1.mlp.fc2.weight, norm.bias;" in message


def test_a_grid_that_is_no_square_is_refused(tmp_path):
    weights = official_files.plain_state_dict(**TINY)
    torch.save({**weights, "pos_embed": weights["pos_embed"][:, :9]}, tmp_path / "file.pth")
    assert "mis-shaped: pos_embed with 9 rows instead of 1 + a square;" in failure(
        tmp_path / "file.pth", tmp_path / "out"
    )


def test_arguments_are_checked(tmp_path):
    file, out = tmp_path / "file.pth", tmp_path / "out"
    official_files.write_mae(file, **TINY, decoder=DECODER)
    dino = tmp_path / "dino.pth"
    official_files.write_dino(dino, **TINY)
    assert "--family: 'dinov9' is none of auto, dino, ibot, " in failure(file, out, family="dinov9")
    assert "--arch: 'vits32' is none of vits16" in failure(dino, out, arch="vits32")
    assert "--arch: give one of vitb16" in failure(file, out, family="mae", num_heads=None)
    assert "--decoder_heads: the file holds a decoder" in failure(file, out, family="mae")
    assert "does not divide the width 36" in failure(file, out, family="mae", num_heads=5, decoder_heads=2)
    assert "--name" in failure(file, out, name="a/b")
    assert "does not exist" in failure(tmp_path / "nothing.pth", out)
    (tmp_path / "weights.h5").write_bytes(b"x")
    assert "weights.h5 is none of .pth" in failure(tmp_path / "weights.h5", out)


def test_settings_that_hold_code_are_refused_by_name(tmp_path):
    weights = official_files.plain_state_dict(**TINY)
    torch.save({"model": weights, "args": argparse.Namespace(model=torch.nn.Linear(1, 1))}, tmp_path / "file.pth")
    message = failure(tmp_path / "file.pth", tmp_path / "out", family="mae")
    assert "torch.nn.modules.linear.Linear" in message


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".bin"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "an empty file; download it again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n", "a Git LFS pointer, not the file"),
        (b"\n<!DOCTYPE html>\n<html><head>", "a web page, not a checkpoint"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "a web page, not a checkpoint"),
        (
            "Entrée refusée : jeton invalide\n".encode() * 40,
            "text ('Entrée refusée : jeton invalide' ...), not a checkpoint",
        ),
        (b'{"error": "gated"}', 'text (\'{"error": "gated"}\' ...), not a checkpoint'),
    ],
)
def test_what_people_download_instead_is_named(content, said, suffix, tmp_path):
    path = tmp_path / f"file{suffix}"
    path.write_bytes(content)
    for family in ("auto", "dino"):
        assert failure(path, tmp_path / "out", family=family).startswith(f"{path}: {said}")


def test_an_object_in_the_place_of_weights_is_named(tmp_path):
    torch.save(argparse.Namespace(epoch=1), tmp_path / "file.pth")
    assert "holds an object of class argparse.Namespace, not a dict of weights" in failure(
        tmp_path / "file.pth", tmp_path / "out"
    )
