"""Independent ViTs in torch, timm's and transformers', with every intermediate of every block taken by forward hooks.

All start from a state dict with the official ("plain") keys and name what they return as `vitprobe_jax.types` does.
Positions at other sizes are resampled here with torch's own `interpolate`, as the official code calls it: at those sizes
timm and transformers follow rules of their own.
"""

import functools
import re
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

# Must come before timm and transformers.
from experiments.benchmarks import torch_ops  # noqa: F401

# isort: split
from timm.models.vision_transformer import VisionTransformer
from transformers import ViTConfig as ViTModelConfig
from transformers import ViTMAEConfig, ViTMAEForPreTraining, ViTModel
from transformers.models.vit_mae.modeling_vit_mae import build_2d_sinusoidal_position_embedding

from vitprobe_jax.backbones.config import DecoderConfig, Resample, ViTConfig

StateDict = dict[str, torch.Tensor]
Traced = dict[tuple[int, str], np.ndarray]


def trace_timm(state: StateDict, config: ViTConfig, images: np.ndarray) -> Traced:
    """All intermediates of timm's VisionTransformer, keyed by (block, name); images [B, height, width, 3]."""
    state = _encoder_state(state, config, images)
    model = VisionTransformer(
        img_size=images.shape[1:3],
        patch_size=config.patch_size,
        embed_dim=config.width,
        depth=config.depth,
        num_heads=config.num_heads,
        mlp_ratio=config.mlp_dim / config.width,
        norm_layer=functools.partial(nn.LayerNorm, eps=config.layer_norm_eps),
        num_classes=0,
        global_pool="",
    )
    model.load_state_dict(state)
    traced = _Trace()
    for i, block in enumerate(model.blocks):
        block.attn.fused_attn = False
        for j, name in enumerate("qkv"):
            traced.keep((i, name), block.attn.qkv, lambda _, output, j=j: output.chunk(3, dim=-1)[j])
        traced.keep((i, "attn"), block.attn.attn_drop, lambda _, output: output)
        traced.keep((i, "x1"), block.norm2, lambda inputs, _: inputs[0])
        traced.keep((i, "xn"), block.norm2, lambda _, output: output)
        traced.keep((i, "x2_raw"), block, lambda _, output: output)
    return traced.run(model, images, model.norm)


def trace_transformers(state: StateDict, config: ViTConfig, images: np.ndarray) -> Traced:
    """The same of transformers' ViTModel."""
    state = _encoder_state(state, config, images)
    model = ViTModel(
        ViTModelConfig(image_size=images.shape[1:3], patch_size=config.patch_size, **_transformers_sizes(config)),
        add_pooling_layer=False,
    )
    model.load_state_dict(_transformers_keys(state))
    traced = _Trace()
    for i, layer in enumerate(model.layers):
        for name in "qkv":
            traced.keep((i, name), getattr(layer.attention, f"{name}_proj"), lambda _, output: output)
        traced.keep((i, "attn"), layer.attention, lambda _, output: output[1])
        traced.keep((i, "x1"), layer.layernorm_after, lambda inputs, _: inputs[0])
        traced.keep((i, "xn"), layer.layernorm_after, lambda _, output: output)
        traced.keep((i, "x2_raw"), layer, lambda _, output: output)
    return traced.run(model, images, model.layernorm)


ORACLES = {"timm": trace_timm, "transformers": trace_transformers}


def transformers_mae(
    state: StateDict, config: ViTConfig, decoder: DecoderConfig, *, mask_ratio: float
) -> ViTMAEForPreTraining:
    """transformers' MAE, encoder and decoder; `noise` given to it says which patches stay visible."""
    model = ViTMAEForPreTraining(
        ViTMAEConfig(
            image_size=config.grid[0] * config.patch_size,
            patch_size=config.patch_size,
            decoder_hidden_size=decoder.width,
            decoder_num_hidden_layers=decoder.depth,
            decoder_num_attention_heads=decoder.num_heads,
            decoder_intermediate_size=decoder.mlp_dim,
            mask_ratio=mask_ratio,
            **_transformers_sizes(config),
        )
    )
    encoder = {key: value for key, value in state.items() if not _is_decoder(key)}
    # transformers calls the decoder's blocks decoder_layers; otherwise the official names stay.
    blocks = {key.removeprefix("decoder_"): value for key, value in state.items() if key.startswith("decoder_blocks.")}
    blocks = {f"decoder_{key}": value for key, value in _transformers_keys(blocks).items()}
    others = {key: value for key, value in state.items() if _is_decoder(key) and not key.startswith("decoder_blocks.")}
    model.load_state_dict(
        {f"vit.{key}": value for key, value in _transformers_keys(encoder).items()}
        | {f"decoder.{key}": value for key, value in (blocks | others).items()}
    )
    return model.eval()


def official_positions(
    pos_embed: torch.Tensor, native: tuple[int, int], grid: tuple[int, int], rule: Resample
) -> torch.Tensor:
    """[1, 1 + patches, D] at another grid: DINO's `interpolate_pos_encoding`, MAE's `interpolate_pos_embed`."""
    if grid == native:
        return pos_embed
    patches = pos_embed[:, 1:].reshape(1, *native, -1).permute(0, 3, 1, 2)
    if rule == "dino":
        target = {"scale_factor": tuple((n + 0.1) / n_in for n, n_in in zip(grid, native, strict=True))}
    else:
        target = {"size": grid}
    patches = nn.functional.interpolate(patches, mode="bicubic", align_corners=False, antialias=False, **target)
    return torch.cat([pos_embed[:, :1], patches.flatten(2).transpose(1, 2)], dim=1)


def transformers_sincos(width: int, grid: tuple[int, int]) -> np.ndarray:
    """MAE's fixed positions [T, width] as transformers starts from them."""
    positions = build_2d_sinusoidal_position_embedding(*grid, width, cls_token=True).numpy()
    # It builds the row's half first; the official checkpoints, and its own model, have the column's first.
    return np.concatenate([positions[:, width // 2 :], positions[:, : width // 2]], axis=1)


def to_torch(images: np.ndarray) -> torch.Tensor:
    """[B, height, width, 3] as torch's [B, 3, height, width]."""
    return torch.from_numpy(np.array(images, np.float32).transpose(0, 3, 1, 2))


class _Trace:
    def __init__(self):
        self._kept, self._handles = {}, []

    def keep(self, key: tuple[int, str], module: nn.Module, pick: Callable) -> None:
        def hook(_, inputs, output):
            self._kept[key] = pick(inputs, output)

        self._handles.append(module.register_forward_hook(hook))

    def run(self, model: nn.Module, images: np.ndarray, final_norm: nn.Module) -> Traced:
        with torch.no_grad():
            model.eval()(to_torch(images))
            for layer, name in list(self._kept):
                if name == "x2_raw":
                    self._kept[layer, "x2"] = final_norm(self._kept[layer, name])
        for handle in self._handles:
            handle.remove()
        return {key: value.numpy() for key, value in self._kept.items()}


def _is_decoder(key: str) -> bool:
    return key.startswith("decoder_") or key == "mask_token"


def _encoder_state(state: StateDict, config: ViTConfig, images: np.ndarray) -> StateDict:
    grid = images.shape[1] // config.patch_size, images.shape[2] // config.patch_size
    state = {key: value for key, value in state.items() if not _is_decoder(key)}
    return state | {"pos_embed": official_positions(state["pos_embed"], config.grid, grid, config.resample)}


def _transformers_sizes(config: ViTConfig) -> dict:
    return {
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.mlp_dim,
        "layer_norm_eps": config.layer_norm_eps,
        "attn_implementation": "eager",
    }


_TRANSFORMERS_NAMES = {
    r"^cls_token": "embeddings.cls_token",
    r"^pos_embed": "embeddings.position_embeddings",
    r"^patch_embed\.proj": "embeddings.patch_embeddings.projection",
    r"^norm\.": "layernorm.",
    r"^blocks\.": "layers.",
    r"\.norm1\.": ".layernorm_before.",
    r"\.norm2\.": ".layernorm_after.",
    r"\.attn\.proj\.": ".attention.o_proj.",
    r"\.attn\.([qkv])\.": r".attention.\1_proj.",
}


def _transformers_keys(state: StateDict) -> StateDict:
    split = {}
    for key, value in state.items():
        if ".qkv." in key:
            split |= {key.replace("qkv", name): part for name, part in zip("qkv", value.chunk(3), strict=True)}
        else:
            split[key] = value
    return {_transformers_key(key): value for key, value in split.items()}


def _transformers_key(key: str) -> str:
    for pattern, name in _TRANSFORMERS_NAMES.items():
        key = re.sub(pattern, name, key)
    return key
