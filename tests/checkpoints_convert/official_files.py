"""Writes random weights in the layouts of official checkpoints, with torch, from a few sizes.

Matrices are N(0, 1 / fan_in), so that activations are of order 1; biases, LayerNorm scales and tokens are random too, so
that a parameter left out, or put in another's place, changes the output.
"""

import argparse
import math
from pathlib import Path

import torch

Weights = dict[str, torch.Tensor]


def plain_state_dict(
    *,
    width: int,
    depth: int,
    num_heads: int,
    patch_size: int,
    grid: int,
    mlp_dim: int | None = None,
    positions: str = "random",
    seed: int = 0,
) -> Weights:
    """An encoder under the official plain keys; `positions` is `random` (DINO) or `sincos` (MAE).

    No tensor depends on `num_heads`, which is checked and otherwise unused.
    """
    assert width % num_heads == 0
    generator = torch.Generator().manual_seed(seed)
    pos_embed = 0.5 * torch.randn(1, 1 + grid**2, width, generator=generator)
    return {
        "cls_token": 0.5 * torch.randn(1, 1, width, generator=generator),
        "pos_embed": sincos_positions(width, grid) if positions == "sincos" else pos_embed,
        **_map("patch_embed.proj", (width, 3, patch_size, patch_size), generator),
        **_blocks("blocks", width, depth, mlp_dim or 4 * width, generator),
        **_norm("norm", width, generator),
    }


def plain_decoder(
    *,
    encoder_width: int,
    patch_size: int,
    grid: int,
    width: int,
    depth: int,
    num_heads: int,
    mlp_dim: int | None = None,
    seed: int = 0,
) -> Weights:
    """MAE's decoder under the official keys."""
    assert width % num_heads == 0
    generator = torch.Generator().manual_seed(seed + 1)
    return {
        "mask_token": 0.5 * torch.randn(1, 1, width, generator=generator),
        "decoder_pos_embed": sincos_positions(width, grid),
        **_map("decoder_embed", (width, encoder_width), generator),
        **_blocks("decoder_blocks", width, depth, mlp_dim or 4 * width, generator),
        **_norm("decoder_norm", width, generator),
        **_map("decoder_pred", (patch_size**2 * 3, width), generator),
    }


def write_dino(
    path: Path,
    *,
    width: int,
    depth: int,
    num_heads: int,
    patch_size: int,
    grid: int,
    mlp_dim: int | None = None,
    layout: str = "flat",
    seed: int = 0,
) -> Weights:
    """Writes a DINO file and returns its backbone under plain keys.

    Layouts: `flat`, the released backbone; `teacher`, a full training checkpoint, whose teacher these weights are;
    `student`, a full one without its teacher.
    """
    sizes = {"width": width, "depth": depth, "num_heads": num_heads, "patch_size": patch_size, "grid": grid}
    weights = plain_state_dict(**sizes, mlp_dim=mlp_dim, seed=seed)
    if layout == "flat":
        torch.save(weights, path)
        return weights
    other = weights if layout == "student" else plain_state_dict(**sizes, mlp_dim=mlp_dim, seed=seed + 1000)
    head = {"head.mlp.0.weight": torch.randn(8, width), "head.last_layer.weight_g": torch.ones(16, 1)}
    checkpoint = {
        "student": {f"module.{key}": value for key, value in {**_under("backbone", other), **head}.items()},
        "teacher": {**_under("backbone", weights), **head},
        **_training_state(),
        "dino_loss": {"center": torch.zeros(1, 16)},
    }
    if layout == "student":
        del checkpoint["teacher"]
    torch.save(checkpoint, path)
    return weights


def write_mae(
    path: Path,
    *,
    width: int,
    depth: int,
    num_heads: int,
    patch_size: int,
    grid: int,
    mlp_dim: int | None = None,
    decoder: dict | None = None,
    seed: int = 0,
) -> Weights:
    """Writes a MAE file, full where `decoder` (width, depth, num_heads, mlp_dim) is given; returns its plain keys."""
    sizes = {"width": width, "depth": depth, "num_heads": num_heads, "patch_size": patch_size, "grid": grid}
    weights = plain_state_dict(**sizes, mlp_dim=mlp_dim, positions="sincos", seed=seed)
    if decoder is not None:
        weights |= plain_decoder(encoder_width=width, patch_size=patch_size, grid=grid, **decoder, seed=seed)
    torch.save({"model": weights, **(_training_state() if decoder else {})}, path)
    return weights


def write_huggingface(folder: Path, model: "torch.nn.Module", **options) -> None:
    """Writes a transformers model as its own `save_pretrained` does; `max_shard_size="40KB"` makes several shards."""
    model.save_pretrained(folder, **options)


def randomize(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Draws every parameter anew: transformers starts with zero biases and unit LayerNorms, which hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim in (2, 4):
                parameter.copy_(noise / math.sqrt(parameter[0].numel()))
            elif "norm" in name and name.endswith("weight"):
                parameter.copy_(1 + 0.2 * noise)
            else:
                parameter.copy_(0.2 * noise)
    return model.eval()


def sincos_positions(width: int, grid: int) -> torch.Tensor:
    """MAE's fixed embedding [1, 1 + grid^2, width]: [CLS] zero, then the sines and cosines of column and row."""
    frequency = 10000 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    row, column = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    waves = [f(axis.reshape(-1, 1) * frequency) for axis in (column, row) for f in (torch.sin, torch.cos)]
    return torch.cat([torch.zeros(1, width), torch.cat(waves, dim=1).float()])[None]


def _under(prefix: str, weights: Weights) -> Weights:
    return {f"{prefix}.{key}": value for key, value in weights.items()}


def _training_state() -> dict:
    parameter = torch.nn.Parameter(torch.ones(3))
    return {
        "optimizer": torch.optim.AdamW([parameter]).state_dict(),
        "epoch": 100,
        "args": argparse.Namespace(lr=1e-3, output_dir=Path("out"), device=torch.device("cpu"), dtype=torch.float16),
    }


def _map(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Weights:
    return {
        f"{name}.weight": torch.randn(shape, generator=generator) / math.sqrt(math.prod(shape[1:])),
        f"{name}.bias": 0.2 * torch.randn(shape[0], generator=generator),
    }


def _norm(name: str, width: int, generator: torch.Generator) -> Weights:
    return {
        f"{name}.weight": 1 + 0.2 * torch.randn(width, generator=generator),
        f"{name}.bias": 0.2 * torch.randn(width, generator=generator),
    }


def _blocks(name: str, width: int, depth: int, mlp_dim: int, generator: torch.Generator) -> Weights:
    weights: Weights = {}
    for i in range(depth):
        weights |= _norm(f"{name}.{i}.norm1", width, generator)
        weights |= _map(f"{name}.{i}.attn.qkv", (3 * width, width), generator)
        weights |= _map(f"{name}.{i}.attn.proj", (width, width), generator)
        weights |= _norm(f"{name}.{i}.norm2", width, generator)
        weights |= _map(f"{name}.{i}.mlp.fc1", (mlp_dim, width), generator)
        weights |= _map(f"{name}.{i}.mlp.fc2", (width, mlp_dim), generator)
    return weights
