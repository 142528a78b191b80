"""DINOv2, with registers and without, with either MLP, against transformers' two models of it."""

import functools
from pathlib import Path

import numpy as np
import torch
from torch import nn

# Must come before transformers.
from experiments.benchmarks import torch_ops  # noqa: F401

# isort: split
from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from tests.zoo import weights
from tests.zoo.specimen import Sizes, Specimen, StateDict, Traced
from tests.zoo.tracing import Trace, class_token
from tests.zoo.transformers_layers import filled, keep_layers, renamed
from tests.zoo.vit_models import at_grid

NAMES = {
    r"^(cls_token|mask_token|register_tokens)$": r"embeddings.\1",
    r"^pos_embed$": "embeddings.position_embeddings",
    r"^patch_embed\.proj\.": "embeddings.patch_embeddings.projection.",
    r"^norm\.": "layernorm.",
    r"^blocks\.": "encoder.layer.",
    r"\.ls([12])\.gamma$": r".layer_scale\1.lambda1",
    r"\.attn\.proj\.": ".attention.o_proj.",
    r"\.attn\.([qkv])\.": r".attention.\1_proj.",
    r"\.mlp\.(gate|up)\.": r".mlp.\1_proj.",
    r"\.mlp\.w3\.": ".mlp.down_proj.",
}


def write(path: Path, sizes: Sizes, seed: int, *, registers: int, swiglu: bool) -> StateDict:
    """A released backbone: flat. With `swiglu`, `mlp_dim` is the width of the gate."""
    generator = weights.seeded(seed + 1)
    state = weights.plain(sizes, seed) | {"mask_token": weights.token((1, sizes.width), generator)}
    if registers:
        state["register_tokens"] = weights.token((1, registers, sizes.width), generator)
    for i in range(sizes.depth):
        for scale in ("ls1", "ls2"):
            state |= weights.scale(f"blocks.{i}.{scale}.gamma", sizes.width, generator)
        if swiglu:
            state = {key: value for key, value in state.items() if not key.startswith(f"blocks.{i}.mlp.")}
            state |= weights.linear(f"blocks.{i}.mlp.w12", (2 * sizes.mlp_dim, sizes.width), generator)
            state |= weights.linear(f"blocks.{i}.mlp.w3", (sizes.width, sizes.mlp_dim), generator)
    torch.save(state, path)
    return state


def trace(state: StateDict, sizes: Sizes, images: np.ndarray) -> Traced:
    """All intermediates; the positions come resampled by the official rule, which is not transformers' own."""
    rule = "bicubic_antialias" if "register_tokens" in state else "dino"
    state = at_grid(state, sizes, images, rule)
    model = filled(functools.partial(build, state, sizes, images.shape[1:3]), renamed(state, NAMES))
    # At a grid that is not square the model would resample positions that are at that grid already.
    model.embeddings.interpolate_pos_encoding = lambda *_: model.embeddings.position_embeddings
    traced = Trace()
    keep_layers(traced, model.encoder.layer, second_norm="norm2")
    return class_token(traced.run(model, images, model.layernorm), sizes.depth)


def build(state: StateDict, sizes: Sizes, image_size: tuple[int, int]) -> nn.Module:
    """The transformers model that the official tensors fit, not yet filled."""
    swiglu = "blocks.0.mlp.w3.weight" in state
    options = {
        "image_size": image_size,
        "patch_size": sizes.patch_size,
        "hidden_size": sizes.width,
        "num_hidden_layers": sizes.depth,
        "num_attention_heads": sizes.num_heads,
        # Of a SwiGLU transformers keeps two thirds of this, in whole eights.
        "mlp_ratio": round(sizes.mlp_dim / sizes.width * (1.5 if swiglu else 1)),
        "use_swiglu_ffn": swiglu,
        "attn_implementation": "eager",
    }
    if "register_tokens" not in state:
        return Dinov2Model(Dinov2Config(**options))
    registers = state["register_tokens"].shape[1]
    return Dinov2WithRegistersModel(Dinov2WithRegistersConfig(num_register_tokens=registers, **options))


SPECIMENS = (
    Specimen(
        name="dinov2",
        family="dinov2",
        tiny=Sizes(width=30, depth=2, num_heads=5, patch_size=4, grid=5, mlp_dim=90),
        arch="vits14",
        full=Sizes(width=384, depth=12, num_heads=6, patch_size=14, grid=37, mlp_dim=1536),
        file="dinov2_vits14_pretrain.pth",
        write=functools.partial(write, registers=0, swiglu=False),
        trace=trace,
        oracle="transformers Dinov2Model",
    ),
    Specimen(
        name="dinov2_reg4",
        family="dinov2",
        tiny=Sizes(width=36, depth=2, num_heads=3, patch_size=4, grid=4, mlp_dim=72),
        arch="vits14_reg4",
        full=Sizes(width=384, depth=12, num_heads=6, patch_size=14, grid=37, mlp_dim=1536),
        file="dinov2_vits14_reg4_pretrain.pth",
        write=functools.partial(write, registers=4, swiglu=False),
        trace=trace,
        oracle="transformers Dinov2WithRegistersModel",
    ),
    Specimen(
        name="dinov2_reg4_g",
        family="dinov2",
        tiny=Sizes(width=24, depth=2, num_heads=2, patch_size=4, grid=5, mlp_dim=48),
        arch="vitg14_reg4",
        # 1.1 B parameters: the memory of converting them has a test of its own.
        full=None,
        file="dinov2_vitg14_reg4_pretrain.pth",
        write=functools.partial(write, registers=4, swiglu=True),
        trace=trace,
        oracle="transformers Dinov2WithRegistersModel",
    ),
)
