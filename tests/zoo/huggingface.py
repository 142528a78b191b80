"""Tiny random models of transformers, written as the folders that Hugging Face's hub has of a family.

`FOLDERS` has one entry a model class that the hub has for a family of ours; `write` writes a folder of it in one of the
styles that are about, and returns the model, whose tokens (`HuggingFace.tokens`) are what a conversion must give.
"""

import dataclasses
import functools
import json
import math
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import torch
from safetensors.torch import load_file, save_file
from torch import nn

# Must come before transformers.
from experiments.benchmarks import torch_ops  # noqa: F401

# isort: split
import transformers as hf

Style = Literal["transformers 5", "transformers 4", "in memory"]
"""`transformers 5`: what its `save_pretrained` writes. `in memory`: the names that its models themselves have."""

STYLES: tuple[Style, ...] = get_args(Style)

NUM_HEADS = 3
DECODER_HEADS = 2
_SIZES = {
    "hidden_size": 36,
    "num_hidden_layers": 2,
    "num_attention_heads": NUM_HEADS,
    "image_size": 12,
    "patch_size": 4,
}
_MLP = {"intermediate_size": 100, "layer_norm_eps": 1e-6}
_DECODER = {
    "decoder_hidden_size": 24,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": DECODER_HEADS,
    "decoder_intermediate_size": 56,
}


def last_hidden_state(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """What a bare encoder returns: its tokens after the last norm."""
    return model(images).last_hidden_state


def inside(path: str) -> Callable[[nn.Module, torch.Tensor], torch.Tensor]:
    """The same of the encoder at `path` inside a model with a head."""
    return lambda model, images: last_hidden_state(operator.attrgetter(path)(model), images)


def inside_then(path: str, norm: str) -> Callable[[nn.Module, torch.Tensor], torch.Tensor]:
    """The same of an encoder without a last norm, and then the norm at `norm` on every token."""
    return lambda model, images: operator.attrgetter(norm)(model)(inside(path)(model, images))


def mae_tokens(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """The encoder's weights in a ViTModel: MAE's own forward pass shuffles the patches."""
    encoder = getattr(model, "vit", model)
    vit = hf.ViTModel(hf.ViTConfig(**_SIZES, **_MLP), add_pooling_layer=False)
    vit.load_state_dict(encoder.state_dict())
    return last_hidden_state(vit.eval(), images)


@dataclasses.dataclass(frozen=True)
class HuggingFace:
    """One model class, as a family of ours.

    Attributes:
        family: key of the library's table of families.
        make: the model with transformers' own start; 3 x 3 patches of 4 pixels, two blocks of `NUM_HEADS` heads.
        tokens: from the model and images [B, 3, 12, 12] the `x2` of its last block [B, T, 36].
    """

    family: str
    make: Callable[[], nn.Module]
    tokens: Callable[[nn.Module, torch.Tensor], torch.Tensor] = last_hidden_state


def write(folder: Path, kind: HuggingFace, style: Style, seed: int = 0, **options) -> nn.Module:
    """Writes the folder (`config.json` and weights) with random weights of the seed; returns the model.

    `options` go to `save_pretrained`: `max_shard_size="40KB"` makes several shards, in its own style only.
    """
    model = randomized(kind.make(), seed)
    model.save_pretrained(folder, **options)
    file = folder / "model.safetensors"
    if style == "in memory":
        save_file(model.state_dict(), file)
    elif style == "transformers 4":
        save_file(_transformers_4(load_file(file)), file)
        config = json.loads((folder / "config.json").read_text())
        # Version 4 called it so.
        config["torch_dtype"] = config.pop("dtype")
        (folder / "config.json").write_text(json.dumps(config))
    return model


def randomized(model: nn.Module, seed: int = 0) -> nn.Module:
    """Draws every parameter anew: transformers starts with zero biases and unit scales, which hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("weight") and parameter.ndim > 1:
                parameter.copy_(noise / math.sqrt(parameter[0].numel()))
            elif "lambda" in name or ("norm" in name and name.endswith("weight")):
                parameter.copy_(1 + 0.2 * noise)
            else:
                parameter.copy_(0.2 * noise)
    return model.eval()


def _transformers_4(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    # transformers 5 writes the keys of version 4, but its rule for the encoder's blocks catches MAE's decoder as well.
    weights = {key.replace("decoder_encoder.layer", "decoder_layers"): tensor for key, tensor in weights.items()}
    # Beside every table BEiT's first files hold which of its rows a pair of tokens takes.
    tables = [key.removesuffix("_bias_table") for key in weights if key.endswith("relative_position_bias_table")]
    return weights | {f"{table}_index": torch.zeros(10, 10, dtype=torch.int64) for table in tables}


def _vit(cls: type, **options) -> Callable[[], nn.Module]:
    return lambda: cls(hf.ViTConfig(**_SIZES, **_MLP), **options)


def _mae(cls: type) -> Callable[[], nn.Module]:
    return lambda: cls(hf.ViTMAEConfig(**_SIZES, **_MLP, **_DECODER))


def _dinov2(cls: type, config: type, *, swiglu: bool = False) -> Callable[[], nn.Module]:
    # Either way 72 hidden units: of a SwiGLU's three times the width, two thirds.
    return lambda: cls(config(**_SIZES, mlp_ratio=3 if swiglu else 2, use_swiglu_ffn=swiglu))


def _beit(cls: type, *, shared: bool, mean_pooling: bool) -> Callable[[], nn.Module]:
    config = functools.partial(
        hf.BeitConfig,
        **_SIZES,
        **_MLP,
        vocab_size=50,
        use_mask_token=shared,
        use_shared_relative_position_bias=shared,
        use_relative_position_bias=not shared,
        use_mean_pooling=mean_pooling,
    )
    return lambda: cls(config())


def _plain(cls: type, config: type) -> Callable[[], nn.Module]:
    return lambda: cls(config(**_SIZES, **_MLP))


_REGISTERS = hf.Dinov2WithRegistersConfig

FOLDERS = {
    "ViTModel": HuggingFace("dino", _vit(hf.ViTModel)),
    "ViTModel, mask token": HuggingFace("ibot", _vit(hf.ViTModel, use_mask_token=True)),
    "ViTForImageClassification": HuggingFace("augreg", _vit(hf.ViTForImageClassification), inside("vit")),
    "ViTForImageClassification, DeiT": HuggingFace("deit", _vit(hf.ViTForImageClassification), inside("vit")),
    "ViTMSNModel": HuggingFace("msn", lambda: hf.ViTMSNModel(hf.ViTMSNConfig(**_SIZES, **_MLP))),
    "ViTMAEModel": HuggingFace("mae", _mae(hf.ViTMAEModel), mae_tokens),
    "ViTMAEForPreTraining": HuggingFace("mae", _mae(hf.ViTMAEForPreTraining), mae_tokens),
    "Dinov2Model": HuggingFace("dinov2", _dinov2(hf.Dinov2Model, hf.Dinov2Config)),
    "Dinov2Model, SwiGLU": HuggingFace("dinov2", _dinov2(hf.Dinov2Model, hf.Dinov2Config, swiglu=True)),
    "Dinov2ForImageClassification": HuggingFace(
        "dinov2", _dinov2(hf.Dinov2ForImageClassification, hf.Dinov2Config), inside("dinov2")
    ),
    "Dinov2WithRegistersModel": HuggingFace("dinov2", _dinov2(hf.Dinov2WithRegistersModel, _REGISTERS)),
    "Dinov2WithRegistersModel, SwiGLU": HuggingFace(
        "dinov2", _dinov2(hf.Dinov2WithRegistersModel, _REGISTERS, swiglu=True)
    ),
    "Dinov2WithRegistersForImageClassification": HuggingFace(
        "dinov2", _dinov2(hf.Dinov2WithRegistersForImageClassification, _REGISTERS), inside("dinov2_with_registers")
    ),
    "DINOv3ViTModel": HuggingFace(
        "dinov3",
        lambda: hf.DINOv3ViTModel(
            hf.DINOv3ViTConfig(**_SIZES, intermediate_size=100, layer_norm_eps=1e-5, num_register_tokens=4)
        ),
    ),
    "BeitModel": HuggingFace("beitv2", _beit(hf.BeitModel, shared=True, mean_pooling=False)),
    "BeitForMaskedImageModeling": HuggingFace(
        "beitv2",
        _beit(hf.BeitForMaskedImageModeling, shared=True, mean_pooling=True),
        inside_then("beit", "layernorm"),
    ),
    "BeitForImageClassification": HuggingFace(
        "beitv2_finetuned",
        _beit(hf.BeitForImageClassification, shared=False, mean_pooling=True),
        inside_then("beit", "beit.pooler.layernorm"),
    ),
    "IJepaModel": HuggingFace("ijepa", _plain(hf.IJepaModel, hf.IJepaConfig)),
    "IJepaForImageClassification": HuggingFace(
        "ijepa", _plain(hf.IJepaForImageClassification, hf.IJepaConfig), inside("ijepa")
    ),
    "DeiTModel": HuggingFace("deit_distilled", _plain(hf.DeiTModel, hf.DeiTConfig)),
    "DeiTForImageClassificationWithTeacher": HuggingFace(
        "deit_distilled", _plain(hf.DeiTForImageClassificationWithTeacher, hf.DeiTConfig), inside("deit")
    ),
}
"""By name, which is the class and what is special of the model."""
