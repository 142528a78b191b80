"""Every official layout ends in the same Flax tree, written whole or not at all."""

import hashlib
import json

import pytest
import torch
from flax.traverse_util import unflatten_dict
from safetensors.torch import save_file

from checkpoints_convert import convert
from tests.checkpoints_convert import official_files
from tests.checkpoints_convert.conversions import (
    DECODER,
    TINY,
    assert_trees_equal,
    expected_tree,
    restored,
)
from vitprobe_jax.backbones.config import BackboneSpec
from vitprobe_jax.backbones.families import FAMILIES
from vitprobe_jax.errors import InputError


@pytest.mark.parametrize("layout", ["flat", "teacher", "student"])
def test_dino_layouts(layout, tmp_path):
    file = tmp_path / "dino.pth"
    weights = official_files.write_dino(file, **TINY, layout=layout)
    spec = convert(file, tmp_path / "out", family="dino", num_heads=3)
    assert_trees_equal(restored(tmp_path / "out" / "params"), expected_tree(weights))
    assert BackboneSpec.from_json(json.loads((tmp_path / "out" / "backbone.json").read_text())) == spec
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"backbone.json", "params"}
    assert {path.name for path in tmp_path.iterdir()} == {"dino.pth", "out"}
    assert spec.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert (spec.name, spec.source, spec.family) == ("out", "dino.pth", "dino")
    assert spec.preprocess == FAMILIES["dino"].preprocess
    c = spec.config
    assert (c.width, c.depth, c.num_heads, c.patch_size, c.grid, c.mlp_dim) == (36, 2, 3, 4, (3, 3), 100)
    assert (c.layer_norm_eps, c.resample, c.class_token, spec.decoder) == (1e-6, "dino", True, None)


@pytest.mark.parametrize("decoder", [None, DECODER])
def test_mae(decoder, tmp_path):
    file = tmp_path / "mae.pth"
    weights = official_files.write_mae(file, **TINY, decoder=decoder)
    spec = convert(file, tmp_path / "out", family="mae", num_heads=3, decoder_heads=2, name="mine")
    assert_trees_equal(restored(tmp_path / "out" / "params"), expected_tree(weights))
    assert (spec.name, spec.config.resample) == ("mine", "bicubic")
    assert (tmp_path / "out" / "decoder").exists() == (decoder is not None)
    if decoder:
        assert_trees_equal(restored(tmp_path / "out" / "decoder"), expected_tree(weights, decoder=True))
        d = spec.decoder
        assert (d.width, d.depth, d.num_heads, d.mlp_dim) == (24, 1, 2, 56)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_other_dtypes_and_safetensors(dtype, suffix, unwritten, tmp_path):
    weights = {key: tensor.to(dtype) for key, tensor in official_files.plain_state_dict(**TINY).items()}
    file = tmp_path / f"weights{suffix}"
    prefixed = {f"module.{key}": tensor for key, tensor in weights.items()}
    save_file(prefixed, file) if suffix == ".safetensors" else torch.save(prefixed, file)
    convert(file, tmp_path / "out", family="dino", num_heads=3)
    assert_trees_equal(unflatten_dict(unwritten["params"]), expected_tree(weights))


@pytest.mark.slow
def test_full_size_files(tmp_path):
    for arch, width, heads, patch, grid in (("vits16", 384, 6, 16, 14), ("vitb8", 768, 12, 8, 28)):
        sizes = {"width": width, "depth": 12, "num_heads": heads, "patch_size": patch, "grid": grid}
        weights = official_files.write_dino(tmp_path / "dino.pth", **sizes, layout="teacher")
        convert(tmp_path / "dino.pth", tmp_path / arch, family="dino", arch=arch)
        assert_trees_equal(restored(tmp_path / arch / "params"), expected_tree(weights))
    decoder = {"width": 512, "depth": 8, "num_heads": 16}
    sizes = {"width": 768, "depth": 12, "num_heads": 12, "patch_size": 16, "grid": 14}
    weights = official_files.write_mae(tmp_path / "mae.pth", **sizes, decoder=decoder)
    spec = convert(tmp_path / "mae.pth", tmp_path / "mae", family="mae", arch="vitb16")
    assert_trees_equal(restored(tmp_path / "mae" / "decoder"), expected_tree(weights, decoder=True))
    assert (spec.decoder.depth, spec.decoder.num_heads, spec.decoder.mlp_dim) == (8, 16, 2048)


def test_an_output_that_is_not_empty_stays_as_it_was(tmp_path):
    official_files.write_dino(tmp_path / "file.pth", **TINY)
    (tmp_path / "out").mkdir()
    convert(tmp_path / "file.pth", tmp_path / "out", family="dino", num_heads=3)  # An empty folder is filled.
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    for output in (tmp_path / "out", tmp_path / "file.pth"):
        with pytest.raises(InputError, match="is not an empty folder"):
            convert(tmp_path / "file.pth", output, family="dino", num_heads=3)
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before
    with pytest.raises(InputError, match="cannot be"):
        convert(tmp_path / "file.pth", tmp_path / "file.pth" / "out", family="dino", num_heads=3)


def test_a_stopped_conversion_leaves_nothing(tmp_path, monkeypatch):
    official_files.write_dino(tmp_path / "file.pth", **TINY)

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(BackboneSpec, "to_json", stop)  # The last thing written; the parameters are there already.
    with pytest.raises(KeyboardInterrupt):
        convert(tmp_path / "file.pth", tmp_path / "out", family="dino", num_heads=3)
    assert [path.name for path in tmp_path.iterdir()] == ["file.pth"]
