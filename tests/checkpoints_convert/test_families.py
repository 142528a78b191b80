"""The official file of every specimen: recognised, read whole, and brought to the parameters of its model."""

import hashlib

import numpy as np
import pytest
import torch

from checkpoints_convert import convert
from tests.checkpoints_convert.conversions import leaves
from tests.checkpoints_convert.official import ALIKE, FIRSTS
from tests.zoo import SPECIMENS
from vitprobe_jax.backbones.config import BackboneSpec
from vitprobe_jax.backbones.families import FAMILIES
from vitprobe_jax.backbones.vit import param_shapes
from vitprobe_jax.errors import InputError

DROPPED = {
    "mae_finetuned": "head (2 tensors)",
    "maskfeat": "mask_token (1 tensor), pred_head.projections.*.weight (1 tensor), pred_head.projections.*.bias (1 tensor), "
    "hogs (3 tensors)",
    "simmim": "rel_pos_bias.relative_position_index (1 tensor), mask_token (1 tensor), decoder (2 tensors)",
    "scalemae": "pos_embed (1 tensor), mask_token (1 tensor), mask_token_decoder (1 tensor), decoder_pos_embed (1 tensor), "
    "decoder_embed (2 tensors), decoder_blocks (12 tensors), decoder_norm (2 tensors), fpn (2 tensors), "
    "fcn_high (2 tensors), fcn_low (2 tensors)",
    "ibot": "masked_embed (1 tensor)",
    "deit_distilled": "head (2 tensors), head_dist (2 tensors)",
    "dino": "nothing",
}


def test_every_family_has_a_specimen():
    assert {SPECIMENS[name].family for name in FIRSTS} == FAMILIES.keys()


@pytest.mark.parametrize("name", SPECIMENS)
def test_a_file_becomes_the_parameters_of_its_model(name, official, unwritten, tmp_path):
    file, lines = official(name), []
    options = file.options | ({} if name in ALIKE else {"family": "auto"})
    spec = convert(file.path, tmp_path / "out", log=lines.append, **options)
    shapes = {path: leaf.shape for path, leaf in leaves(param_shapes(spec.config))}
    assert {path: value.shape for path, value in unwritten["params"].items()} == shapes
    assert {value.dtype for tree in unwritten.values() for value in tree.values()} == {np.dtype(np.float32)}
    # Values come as they are: zeros stand for biases that the file has none of.
    values = np.concatenate([value.ravel() for tree in unwritten.values() for value in tree.values()])
    stored = np.concatenate([tensor.numpy().ravel() for tensor in file.state.values()])
    assert np.isin(values[values != 0], stored).all()
    assert ("decoder" in unwritten) == (spec.decoder is not None) == (name == "mae_decoder")

    sizes, config = file.sizes, spec.config
    assert (config.width, config.depth, config.num_heads) == (sizes.width, sizes.depth, sizes.num_heads)
    assert (config.patch_size, config.mlp_dim) == (sizes.patch_size, sizes.mlp_dim)
    assert config.layer_norm_eps == file.specimen.epsilon
    if config.positions == "learned" or config.relative_bias != "none":
        assert config.grid == (sizes.grid, sizes.grid)
    record = FAMILIES[file.specimen.family]
    assert (spec.family, spec.objective, spec.preprocess) == (record.name, record.objective, record.preprocess)
    assert (spec.name, spec.source) == ("out", file.path.name)
    assert spec.sha256 == hashlib.sha256(file.path.read_bytes()).hexdigest()
    assert BackboneSpec.from_json(spec.to_json()) == spec
    assert lines[0].startswith(f"wrote {tmp_path / 'out'}: out, {record.name}, 2 blocks of width {sizes.width}, ")


@pytest.mark.parametrize("name", DROPPED)
def test_what_is_dropped_is_listed(name, official, unwritten, tmp_path):
    file, lines = official(name), []
    convert(file.path, tmp_path / "out", log=lines.append, **file.options)
    assert lines[-1].startswith(f"dropped: {DROPPED[name]}; not read: ")


def test_what_is_not_read_is_listed(official, unwritten, tmp_path):
    file, lines = official("ijepa"), []
    convert(file.path, tmp_path / "out", log=lines.append, **file.options)
    beside = "encoder, predictor, opt, scaler, epoch, loss, batch_size, world_size, lr"
    assert lines[-1] == f"dropped: nothing; not read: {beside}"


@pytest.mark.parametrize("name", ALIKE)
def test_families_that_call_all_tensors_alike_are_named(name, official, tmp_path):
    file = official(name)
    with pytest.raises(InputError) as caught:
        convert(file.path, tmp_path / "out", **file.options | {"family": "auto"})
    families = ALIKE[name]
    assert str(caught.value).startswith(f"{file.path}: {' and '.join(families)} call all tensors alike")
    assert f"give {' or '.join(f'--family={family}' for family in families)}" in str(caught.value)


def test_masked_biases_are_zero_whatever_they_hold(official, unwritten, tmp_path):
    """DINOv3's official file has a NaN there."""
    file = official("dinov3")
    changes = {key: value.clone() for key, value in file.tensors.items() if key.endswith("qkv.bias")}
    for value in changes.values():
        value[file.sizes.width : 2 * file.sizes.width] = torch.nan
    convert(file.damaged(changes), tmp_path / "out", **file.options)
    bias = unwritten["params"]["blocks_1", "attn", "qkv", "bias"]
    queries, keys, values = np.split(bias, 3)
    assert not keys.any()
    np.testing.assert_array_equal(
        np.concatenate([queries, values]),
        file.state["blocks.1.attn.qkv.bias"][changes["blocks.1.attn.qkv.bias"].isfinite()],
    )
