"""Hugging Face folders of transformers 4 and 5 give the outputs of transformers itself."""

import json

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from checkpoints_convert import convert
from experiments.benchmarks import torch_ops  # noqa: F401  Before transformers.
from tests.checkpoints_convert import official_files
from tests.checkpoints_convert.conversions import assert_same_tokens, failure, restored


def huggingface_models():
    sizes = {"hidden_size": 36, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 100}
    options = {**sizes, "image_size": 12, "patch_size": 4, "layer_norm_eps": 1e-6}
    vit = transformers.ViTConfig(**options)
    mae = transformers.ViTMAEConfig(
        **options,
        decoder_hidden_size=24,
        decoder_num_hidden_layers=2,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=56,
    )
    return {
        "ViTModel": lambda: transformers.ViTModel(vit),
        "ViTForImageClassification": lambda: transformers.ViTForImageClassification(vit),
        "ViTMAEModel": lambda: transformers.ViTMAEModel(mae),
        "ViTMAEForPreTraining": lambda: transformers.ViTMAEForPreTraining(mae),
    }


def as_written_by_transformers_4(key: str) -> str:
    """transformers 5 writes the keys of version 4, except for this rename."""
    return key.replace("decoder_encoder.layer", "decoder_layers")


KINDS = ["ViTModel", "ViTForImageClassification", "ViTMAEModel", "ViTMAEForPreTraining"]


@pytest.mark.parametrize(
    ("kind", "files"),
    [
        *((kind, files) for kind in KINDS for files in ("saved", "in memory")),
        *(("ViTMAEForPreTraining", files) for files in ("sharded", "transformers 4", "bin")),
    ],
)
def test_huggingface_folders(kind, files, tmp_path):
    model = official_files.randomize(huggingface_models()[kind]())
    folder = tmp_path / "hf"
    official_files.write_huggingface(folder, model, **({"max_shard_size": "40KB"} if files == "sharded" else {}))
    assert (folder / "model.safetensors.index.json").exists() == (files == "sharded")
    if files == "in memory":
        save_file(model.state_dict(), folder / "model.safetensors")
    elif files in ("transformers 4", "bin"):
        weights = load_file(folder / "model.safetensors")
        weights = {as_written_by_transformers_4(key): tensor for key, tensor in weights.items()}
        (folder / "model.safetensors").unlink()
        if files == "bin":
            torch.save(weights, folder / "pytorch_model.bin")
        else:
            save_file(weights, folder / "model.safetensors")

    family = "mae" if "MAE" in kind else "dino"
    spec = convert(folder, tmp_path / "out", family=family, num_heads=3, decoder_heads=2)
    params = restored(tmp_path / "out" / "params")
    # The weights of a plain ViTModel: MAE's own forward pass shuffles the patches.
    oracle = model if kind == "ViTModel" else transplanted(getattr(model, "vit", model))
    assert_same_tokens(spec, params, lambda images: oracle(images).last_hidden_state)
    assert (spec.decoder is not None) == (kind == "ViTMAEForPreTraining")
    if spec.decoder:
        decoder, theirs = restored(tmp_path / "out" / "decoder"), model.decoder.state_dict()
        layer = "decoder_layers.1.attention."
        qkv = torch.cat([theirs[f"{layer}{part}_proj.weight"] for part in "qkv"])
        np.testing.assert_array_equal(decoder["blocks_1"]["attn"]["qkv"]["kernel"], qkv.T)
        np.testing.assert_array_equal(
            decoder["blocks_0"]["mlp"]["fc2"]["bias"], theirs["decoder_layers.0.mlp.fc2.bias"]
        )
        np.testing.assert_array_equal(decoder["pred"]["kernel"], theirs["decoder_pred.weight"].T)
        np.testing.assert_array_equal(decoder["embed"]["bias"], theirs["decoder_embed.bias"])
        np.testing.assert_array_equal(decoder["mask_token"], theirs["mask_token"])
        np.testing.assert_array_equal(decoder["pos_embed"], theirs["decoder_pos_embed"])


def transplanted(encoder):
    vit = huggingface_models()["ViTModel"]()
    left_out = vit.load_state_dict(encoder.state_dict(), strict=False)
    assert not left_out.unexpected_keys
    assert all(key.startswith("pooler.") for key in left_out.missing_keys)
    return vit.eval()


def test_huggingface_errors_speak_the_files_own_keys(tmp_path):
    model = huggingface_models()["ViTForImageClassification"]()
    weights = model.state_dict()
    official_files.write_huggingface(tmp_path / "hf", model)
    del weights["vit.layers.1.attention.k_proj.bias"]
    save_file(weights, tmp_path / "hf" / "model.safetensors")
    message = failure(tmp_path / "hf", tmp_path / "out")
    assert "missing: vit.layers.1.attention.k_proj.bias;" in message


@pytest.mark.parametrize(
    ("field", "value"), [("model_type", "beit"), ("num_attention_heads", 4), ("hidden_act", "gelu_new")]
)
def test_a_contradicting_config_json_is_refused(field, value, tmp_path):
    official_files.write_huggingface(tmp_path / "hf", huggingface_models()["ViTModel"]())
    path = tmp_path / "hf" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    message = failure(tmp_path / "hf", tmp_path / "out")
    assert f"config.json: {field} is {value!r}" in message


def test_half_downloaded_folders_are_refused(tmp_path):
    folder = tmp_path / "hf"
    model = huggingface_models()["ViTModel"]()
    official_files.write_huggingface(folder, model, max_shard_size="40KB")
    shard = sorted(folder.glob("model-*.safetensors"))[0]
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    assert f"{shard}: truncated" in failure(folder, tmp_path / "out")
    shard.unlink()
    assert f"{shard}: missing" in failure(folder, tmp_path / "out")
    save_file({"other": torch.ones(1)}, shard)
    assert "which the index promises" in failure(folder, tmp_path / "out")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../outside.safetensors"}}))
    assert "is no file name" in failure(folder, tmp_path / "out")
    index.write_text(index.read_text()[:-3])
    assert f"{index}: cannot be read" in failure(folder, tmp_path / "out")
    index.unlink()
    assert "holds none of model.safetensors" in failure(folder, tmp_path / "out")
