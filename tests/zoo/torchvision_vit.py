"""torchvision's ViT, by its own implementation; the newer names of its MLP and the older."""

import dataclasses
import functools
from pathlib import Path

import numpy as np
import torch
from torch import nn

from experiments.benchmarks.torch_ops import torchvision
from tests.zoo import weights
from tests.zoo.specimen import Sizes, Specimen, StateDict, Traced
from tests.zoo.tracing import Trace, class_token, patch_grid, resample_positions

NEWER_MLP = ("0", "3")
OLDER_MLP = ("linear_1", "linear_2")
"""What the two maps of an MLP are called."""


def write(path: Path, sizes: Sizes, seed: int, *, mlp_names: tuple[str, str]) -> StateDict:
    """Flat, with the classifier."""
    generator = weights.seeded(seed)
    state = {
        "class_token": weights.token((1, 1, sizes.width), generator),
        **weights.patch_embedding(sizes, generator, "conv_proj"),
        "encoder.pos_embedding": weights.token((1, 1 + sizes.grid**2, sizes.width), generator),
        **weights.norm("encoder.ln", sizes.width, generator),
    }
    for i in range(sizes.depth):
        state |= weights.under(f"encoder.layers.encoder_layer_{i}", _block(sizes, generator, mlp_names))
    torch.save(state | weights.linear("heads.head", (10, sizes.width), generator), path)
    return state


def _block(sizes: Sizes, generator: torch.Generator, mlp_names: tuple[str, str]) -> StateDict:
    width = sizes.width
    fused = weights.linear("in_proj", (3 * width, width), generator)
    return {
        **weights.norm("ln_1", width, generator),
        "self_attention.in_proj_weight": fused["in_proj.weight"],
        "self_attention.in_proj_bias": fused["in_proj.bias"],
        **weights.linear("self_attention.out_proj", (width, width), generator),
        **weights.norm("ln_2", width, generator),
        **weights.linear(f"mlp.{mlp_names[0]}", (sizes.mlp_dim, width), generator),
        **weights.linear(f"mlp.{mlp_names[1]}", (width, sizes.mlp_dim), generator),
    }


class _AnySize(torchvision.models.VisionTransformer):
    """torchvision's model for images that are not square too."""

    def _process_input(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv_proj(x).flatten(2).transpose(1, 2)


def trace(state: StateDict, sizes: Sizes, images: np.ndarray) -> Traced:
    """torchvision's VisionTransformer; the positions at other grids as its `interpolate_embeddings` makes them."""
    model = _AnySize(
        image_size=sizes.grid * sizes.patch_size,
        patch_size=sizes.patch_size,
        num_layers=sizes.depth,
        num_heads=sizes.num_heads,
        hidden_dim=sizes.width,
        mlp_dim=sizes.mlp_dim,
    )
    model.heads = nn.Identity()
    grid = patch_grid(images, sizes.patch_size)
    positions = resample_positions(state["encoder.pos_embedding"], grid, "bicubic_aligned")
    model.encoder.pos_embedding = nn.Parameter(positions)
    model.load_state_dict(state | {"encoder.pos_embedding": positions})
    traced = Trace()
    for i, block in enumerate(model.encoder.layers):
        _keep_attention(traced, i, block.self_attention)
        traced.keep((i, "x1"), block.ln_2, lambda inputs, _: inputs[0])
        traced.keep((i, "xn"), block.ln_2, lambda _, output: output)
        traced.keep((i, "x2_raw"), block, lambda _, output: output)
    return class_token(traced.run(model, images, model.encoder.ln), sizes.depth)


def _keep_attention(traced: Trace, i: int, attention: nn.MultiheadAttention) -> None:
    """Keeps what the module does not return as the model calls it: its maps a head, and its projections."""

    def maps(inputs: tuple[torch.Tensor, ...], _) -> torch.Tensor:
        # `forward`, not a call: hooks would run for ever.
        return attention.forward(*inputs, need_weights=True, average_attn_weights=False)[1]

    def projection(inputs: tuple[torch.Tensor, ...], _, *, part: int) -> torch.Tensor:
        fused = nn.functional.linear(inputs[0], attention.in_proj_weight, attention.in_proj_bias)
        return fused.chunk(3, dim=-1)[part]

    traced.keep((i, "attn"), attention, maps)
    for part, name in enumerate("qkv"):
        traced.keep((i, name), attention, functools.partial(projection, part=part))


_TORCHVISION = Specimen(
    name="torchvision",
    family="torchvision",
    tiny=Sizes(width=40, depth=2, num_heads=5, patch_size=4, grid=5, mlp_dim=72),
    arch="vitb16",
    full=Sizes(width=768, depth=12, num_heads=12, patch_size=16, grid=14, mlp_dim=3072),
    file="vit_b_16-c867db91.pth",
    write=functools.partial(write, mlp_names=NEWER_MLP),
    trace=trace,
    oracle="torchvision VisionTransformer",
)

SPECIMENS = (
    _TORCHVISION,
    dataclasses.replace(
        _TORCHVISION,
        name="torchvision_older",
        arch=None,
        full=None,
        write=functools.partial(write, mlp_names=OLDER_MLP),
    ),
)
