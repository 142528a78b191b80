"""timm's VisionTransformer and transformers' ViTModel under the plain keys, every intermediate taken.

The models are built at the size of the images, so the state has positions of that size: away from the native grid timm
and transformers follow rules of their own, and `at_grid` the official ones.
"""

import functools
from typing import Literal

import numpy as np
import torch
from torch import nn

# Must come before timm and transformers.
from experiments.benchmarks import torch_ops  # noqa: F401

# isort: split
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from transformers import ViTConfig, ViTModel

from tests.zoo.specimen import Sizes, StateDict, Traced
from tests.zoo.tracing import PositionRule, Trace, class_token, patch_grid, resample_positions
from tests.zoo.transformers_layers import filled, keep_layers, renamed

VIT_NAMES = {
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
"""Patterns of plain keys, and what transformers' ViTModel has instead."""


def at_grid(
    state: StateDict, sizes: Sizes, images: np.ndarray, rule: PositionRule, *, num_prefix: int = 1
) -> StateDict:
    """The state with `pos_embed` resampled to the grid of the images."""
    grid = patch_grid(images, sizes.patch_size)
    return state | {"pos_embed": resample_positions(state["pos_embed"], grid, rule, num_prefix=num_prefix)}


def trace_timm(
    state: StateDict,
    sizes: Sizes,
    images: np.ndarray,
    *,
    epsilon: float = 1e-6,
    pool: Literal["token", "avg"] = "token",
    distilled: bool = False,
) -> Traced:
    """Everything of timm's VisionTransformer; `avg` has `fc_norm` for the pooled patches instead of `norm`."""
    make = VisionTransformerDistilled if distilled else VisionTransformer
    model = filled(lambda: make(**timm_sizes(sizes, images, epsilon), global_pool=pool), state)
    traced = Trace()
    for i, block in enumerate(model.blocks):
        keep_timm_block(traced, i, block)
        for j, name in enumerate("qkv"):
            traced.keep((i, name), block.attn.qkv, lambda _, output, j=j: output.chunk(3, dim=-1)[j])
    if pool == "avg":
        traced.keep((sizes.depth - 1, "global"), model, lambda _, output: output)
        return traced.run(model, images, model.fc_norm)
    return class_token(traced.run(model, images, model.norm), sizes.depth)


def keep_timm_block(traced: Trace, i: int, block: nn.Module) -> None:
    """Keeps all that timm's blocks call alike: everything but q, k and v."""
    block.attn.fused_attn = False
    traced.keep((i, "attn"), block.attn.attn_drop, lambda _, output: output)
    traced.keep((i, "x1"), block.norm2, lambda inputs, _: inputs[0])
    traced.keep((i, "xn"), block.norm2, lambda _, output: output)
    traced.keep((i, "x2_raw"), block, lambda _, output: output)


def trace_vit_model(state: StateDict, sizes: Sizes, images: np.ndarray, *, epsilon: float = 1e-6) -> Traced:
    """The same of transformers' ViTModel; `pos_embed` may be [B, T, D], other positions for every image."""

    def make() -> ViTModel:
        config = ViTConfig(
            image_size=images.shape[1:3], patch_size=sizes.patch_size, **transformers_sizes(sizes, epsilon)
        )
        model = ViTModel(config, add_pooling_layer=False)
        model.embeddings.position_embeddings = nn.Parameter(torch.empty_like(state["pos_embed"], device="meta"))
        return model

    model = filled(make, renamed(state, VIT_NAMES))
    traced = Trace()
    keep_layers(traced, model.layers, second_norm="layernorm_after")
    return class_token(traced.run(model, images, model.layernorm), sizes.depth)


def timm_sizes(sizes: Sizes, images: np.ndarray, epsilon: float) -> dict:
    """Arguments that timm's ViTs share: at the size of the images, without classifier."""
    return {
        "img_size": images.shape[1:3],
        "patch_size": sizes.patch_size,
        "embed_dim": sizes.width,
        "depth": sizes.depth,
        "num_heads": sizes.num_heads,
        "mlp_ratio": sizes.mlp_dim / sizes.width,
        "norm_layer": functools.partial(nn.LayerNorm, eps=epsilon),
        "num_classes": 0,
    }


def transformers_sizes(sizes: Sizes, epsilon: float = 1e-6) -> dict:
    """Arguments that transformers' configs of ViTs share; attention is eager, which returns its maps."""
    return {
        "hidden_size": sizes.width,
        "num_hidden_layers": sizes.depth,
        "num_attention_heads": sizes.num_heads,
        "intermediate_size": sizes.mlp_dim,
        "layer_norm_eps": epsilon,
        "attn_implementation": "eager",
    }
