"""Hugging Face folders of every model type, as transformers 4 and 5 write them, give the outputs of transformers itself."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax.traverse_util import unflatten_dict
from safetensors.torch import load_file, save_file

from checkpoints_convert import convert
from tests.checkpoints_convert.conversions import failure
from tests.zoo import huggingface as hf
from vitprobe_jax.backbones.vit import ViT

# Those whose type is of one family; plain ViTs may be of several, and BEiT of two.
RECOGNISED = ("Dinov2WithRegistersModel", "DINOv3ViTModel", "IJepaModel", "DeiTModel")


# Compiled with little effort, which is most of the time of these tests.
tokens = jax.jit(
    lambda config, params, images: ViT(config).apply({"params": params}, images),
    static_argnums=0,
    compiler_options={"xla_backend_optimization_level": 0},
)


def options(kind: str) -> dict:
    return {"family": hf.FOLDERS[kind].family, "num_heads": hf.NUM_HEADS, "decoder_heads": hf.DECODER_HEADS}


@pytest.mark.parametrize("kind", hf.FOLDERS)
def test_every_model_in_every_style(kind, unwritten, tmp_path):
    trees = {}
    for style in hf.STYLES:
        folder = tmp_path / style
        model = hf.write(folder, hf.FOLDERS[kind], style)
        spec = convert(folder, tmp_path / f"{style} out", name="model", **options(kind))
        trees[style] = {name: dict(tree) for name, tree in unwritten.items()}
        assert spec.source == style
    first = trees[hf.STYLES[0]]
    assert ("decoder" in first) == (spec.decoder is not None) == (kind == "ViTMAEForPreTraining")
    for tree in trees.values():
        jax.tree.map(np.testing.assert_array_equal, tree, first)
    images = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        theirs = hf.FOLDERS[kind].tokens(model, images).numpy()
    params = jax.tree.map(jnp.asarray, unflatten_dict(first["params"]))
    ours = tokens(spec.config, params, jnp.asarray(images.permute(0, 2, 3, 1).numpy()))
    assert theirs.std() > 0.5
    # Values of order 1, and float32 on both sides.
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of each kind asked for."""
    return lambda kind, **more: written(tmp_path_factory.mktemp("hf") / "model", kind, **more)


def written(folder, kind, **more):
    hf.write(folder, hf.FOLDERS[kind], "transformers 5", **more)
    return folder


@pytest.mark.parametrize("files", ["shards", "bin", "sharded bin"])
def test_every_kind_of_weight_file(files, folders, unwritten, tmp_path):
    kind = "ViTMAEForPreTraining"
    folder = folders(kind, **({} if files == "bin" else {"max_shard_size": "40KB"}))
    safetensors = sorted(folder.glob("*.safetensors"))
    assert (len(safetensors) > 3) == (folder / "model.safetensors.index.json").exists() == (files != "bin")
    if "bin" in files:
        for path in safetensors:
            torch.save(
                load_file(path), folder / path.name.replace("model", "pytorch_model").replace("safetensors", "bin")
            )
            path.unlink()
    if files == "sharded bin":
        index = folder / "model.safetensors.index.json"
        text = index.read_text().replace('"model-', '"pytorch_model-').replace(".safetensors", ".bin")
        (folder / "pytorch_model.bin.index.json").write_text(text)
        index.unlink()
    convert(folder, tmp_path / "out", **options(kind))
    ours = {name: dict(tree) for name, tree in unwritten.items()}
    convert(folders(kind), tmp_path / "whole", **options(kind))
    jax.tree.map(np.testing.assert_array_equal, ours, unwritten)


def test_the_decoder_of_mae(unwritten, tmp_path):
    model = hf.write(tmp_path / "hf", hf.FOLDERS["ViTMAEForPreTraining"], "transformers 5")
    spec = convert(tmp_path / "hf", tmp_path / "out", **options("ViTMAEForPreTraining"))
    assert (spec.decoder.width, spec.decoder.depth, spec.decoder.num_heads, spec.decoder.mlp_dim) == (24, 2, 2, 56)
    theirs, layer = model.decoder.state_dict(), "decoder_layers.1.attention."
    qkv = torch.cat([theirs[f"{layer}{part}_proj.weight"] for part in "qkv"])
    expected = {
        "blocks_1 attn qkv kernel": qkv.T,
        "blocks_0 mlp fc2 bias": theirs["decoder_layers.0.mlp.fc2.bias"],
        "pred kernel": theirs["decoder_pred.weight"].T,
        "embed bias": theirs["decoder_embed.bias"],
        "mask_token": theirs["mask_token"],
        "pos_embed": theirs["decoder_pos_embed"],
    }
    for path, value in expected.items():
        np.testing.assert_array_equal(unwritten["decoder"][tuple(path.split())], value)


@pytest.mark.parametrize("kind", RECOGNISED)
def test_folders_are_recognised(kind, folders, unwritten, tmp_path):
    assert (
        convert(folders(kind), tmp_path / "out", **options(kind) | {"family": "auto"}).family == options(kind)["family"]
    )


@pytest.mark.parametrize(
    ("kind", "families"),
    [
        ("ViTModel", "dino and ibot and deit and augreg"),
        ("ViTModel, mask token", "dino and ibot and deit and augreg"),
        ("BeitModel", "beit and beitv2"),
        ("BeitForImageClassification", "beit_finetuned and beitv2_finetuned"),
    ],
)
def test_a_folder_may_be_of_several_families(kind, families, folders, tmp_path):
    folder = folders(kind)
    assert failure(folder, tmp_path / "out", family="auto").startswith(f"{folder}: {families} call all tensors alike")


def test_errors_speak_the_files_own_keys(folders, tmp_path):
    folder, key = folders("ViTForImageClassification"), "vit.encoder.layer.1.attention.attention.key.bias"
    weights = load_file(folder / "model.safetensors")
    del weights[key]
    save_file(weights, folder / "model.safetensors")
    message = failure(folder, tmp_path / "out", **options("ViTForImageClassification"))
    assert message == f"{folder}: no augreg checkpoint: missing: {key}; give the official file, downloaded whole"


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("ViTModel", "model_type", "beit"),
        ("ViTModel", "num_attention_heads", 4),
        ("ViTModel", "hidden_act", "gelu_new"),
        ("ViTMAEForPreTraining", "decoder_num_attention_heads", 3),
        ("DINOv3ViTModel", "rope_theta", 10000.0),
        ("DeiTModel", "model_type", "vit"),
    ],
)
def test_a_contradicting_config_json_is_refused(kind, field, value, folders, tmp_path):
    folder = folders(kind)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    message = failure(folder, tmp_path / "out", **options(kind))
    assert message.startswith(f"{path}: {field} is {value!r}, where {hf.FOLDERS[kind].family} has ")


@pytest.mark.parametrize(
    ("kind", "family", "said"),
    [
        ("ViTMAEModel", "dino", "config.json: model_type is 'vit_mae', where dino has 'vit'"),
        ("IJepaModel", "dino", "a checkpoint of ijepa, not of dino; give --family=ijepa"),
        ("BeitForImageClassification", "beitv2", "a checkpoint of beit_finetuned or beitv2_finetuned, not of beitv2"),
        ("Dinov2Model", "dinov3", "a checkpoint of dinov2, not of dinov3"),
    ],
)
def test_another_family_is_refused(kind, family, said, folders, tmp_path):
    assert said in failure(folders(kind), tmp_path / "out", **options(kind) | {"family": family})


def test_half_downloaded_folders_are_refused(folders, tmp_path):
    folder, output = folders("ViTModel", max_shard_size="40KB"), tmp_path / "out"
    shard = sorted(folder.glob("model-*.safetensors"))[0]
    content = shard.read_bytes()
    for length in (1, len(content) // 2, len(content) - 1):
        shard.write_bytes(content[:length])
        assert failure(folder, output).startswith(f"{shard}: truncated or damaged")
    shard.rename(f"{shard}.part")
    assert failure(folder, output) == (
        f"{shard}: missing, but model.safetensors.index.json lists it; download the whole folder"
    )
    save_file({"other": torch.ones(1)}, shard)
    assert "which the index promises" in failure(folder, output)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../outside.safetensors"}}))
    assert "is no file name" in failure(folder, output)
    index.write_text(index.read_text()[:-3])
    assert f"{index}: cannot be read" in failure(folder, output)
    index.unlink()
    assert "holds none of model.safetensors" in failure(folder, output)
