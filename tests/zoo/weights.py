"""Random weights under official keys.

Matrices are N(0, 1 / fan_in), so that activations are of order 1; biases, scales of norms and tokens are random too, so
that a parameter left out, or put in another's place, changes the output. Functions take the generator they draw from and
return new dicts, which are merged with `|`.
"""

import argparse
import math
from pathlib import Path

import torch

from tests.zoo.specimen import Sizes, StateDict


def seeded(seed: int) -> torch.Generator:
    """A generator of its own: torch's global one stays as it is."""
    return torch.Generator().manual_seed(seed)


def plain(sizes: Sizes, seed: int, *, positions: torch.Tensor | None = None) -> StateDict:
    """A whole encoder under the plain keys: DINO's, MAE's, timm's.

    `positions` [1, 1 + grid^2, D] are random unless given; every other tensor is the same either way. No tensor depends on
    the number of heads, which is checked all the same.
    """
    assert sizes.width % sizes.num_heads == 0
    generator = seeded(seed)
    drawn = token((1, 1 + sizes.grid**2, sizes.width), generator)
    return {
        "cls_token": token((1, 1, sizes.width), generator),
        "pos_embed": drawn if positions is None else positions,
        **patch_embedding(sizes, generator),
        **blocks("blocks", sizes.depth, sizes.width, sizes.mlp_dim, generator),
        **norm("norm", sizes.width, generator),
    }


def blocks(name: str, depth: int, width: int, mlp_dim: int, generator: torch.Generator) -> StateDict:
    """Transformer blocks under the plain keys: fused q, k and v, biases everywhere, an MLP of two maps."""
    weights: StateDict = {}
    for i in range(depth):
        weights |= norm(f"{name}.{i}.norm1", width, generator)
        weights |= linear(f"{name}.{i}.attn.qkv", (3 * width, width), generator)
        weights |= linear(f"{name}.{i}.attn.proj", (width, width), generator)
        weights |= norm(f"{name}.{i}.norm2", width, generator)
        weights |= linear(f"{name}.{i}.mlp.fc1", (mlp_dim, width), generator)
        weights |= linear(f"{name}.{i}.mlp.fc2", (width, mlp_dim), generator)
    return weights


def patch_embedding(sizes: Sizes, generator: torch.Generator, name: str = "patch_embed.proj") -> StateDict:
    """The convolution that embeds patches."""
    return linear(name, (sizes.width, 3, sizes.patch_size, sizes.patch_size), generator)


def linear(name: str, shape: tuple[int, ...], generator: torch.Generator, *, bias: bool = True) -> StateDict:
    """A linear map or convolution [outputs, inputs, ...]."""
    weights = {f"{name}.weight": torch.randn(shape, generator=generator) / math.sqrt(math.prod(shape[1:]))}
    return weights | (vector(f"{name}.bias", shape[0], generator) if bias else {})


def norm(name: str, width: int, generator: torch.Generator, *, bias: bool = True) -> StateDict:
    """A LayerNorm; without bias, an RMSNorm."""
    weights = scale(f"{name}.weight", width, generator)
    return weights | (vector(f"{name}.bias", width, generator) if bias else {})


def scale(key: str, width: int, generator: torch.Generator) -> StateDict:
    """Factors about 1: of a norm, or LayerScale's."""
    return {key: 1 + 0.2 * torch.randn(width, generator=generator)}


def vector(key: str, width: int, generator: torch.Generator) -> StateDict:
    """Terms about 0: a bias."""
    return {key: 0.2 * torch.randn(width, generator=generator)}


def token(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Learned tokens or positions."""
    return 0.5 * torch.randn(shape, generator=generator)


def sincos_positions(width: int, grid: int) -> torch.Tensor:
    """MAE's fixed embedding [1, 1 + grid^2, width]: [CLS] zero, then the sines and cosines of column and row."""
    frequency = 10000 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    row, column = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    waves = [f(axis.reshape(-1, 1) * frequency) for axis in (column, row) for f in (torch.sin, torch.cos)]
    return torch.cat([torch.zeros(1, width), torch.cat(waves, dim=1).float()])[None]


def under(prefix: str, weights: StateDict) -> StateDict:
    """The same tensors with `prefix.` before every key."""
    return {f"{prefix}.{key}": value for key, value in weights.items()}


def training_state() -> dict:
    """What a full checkpoint carries beside its weights, with objects that `torch.load(weights_only=True)` refuses."""
    parameter = torch.nn.Parameter(torch.ones(3))
    return {
        "optimizer": torch.optim.AdamW([parameter]).state_dict(),
        "epoch": 100,
        "args": argparse.Namespace(lr=1e-3, output_dir=Path("out"), device=torch.device("cpu"), dtype=torch.float16),
    }
