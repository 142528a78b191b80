"""Writes random weights in the layouts of DINO's and MAE's checkpoints, from a few sizes."""

from pathlib import Path

import torch

from tests.zoo import weights
from tests.zoo.specimen import Sizes, StateDict


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
) -> StateDict:
    """An encoder under the official plain keys; `positions` is `random` (DINO) or `sincos` (MAE)."""
    sizes = Sizes(width, depth, num_heads, patch_size, grid, mlp_dim or 4 * width)
    fixed = weights.sincos_positions(width, grid) if positions == "sincos" else None
    return weights.plain(sizes, seed, positions=fixed)


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
) -> StateDict:
    """MAE's decoder under the official keys."""
    assert width % num_heads == 0
    generator = weights.seeded(seed + 1)
    return {
        "mask_token": weights.token((1, 1, width), generator),
        "decoder_pos_embed": weights.sincos_positions(width, grid),
        **weights.linear("decoder_embed", (width, encoder_width), generator),
        **weights.blocks("decoder_blocks", depth, width, mlp_dim or 4 * width, generator),
        **weights.norm("decoder_norm", width, generator),
        **weights.linear("decoder_pred", (patch_size**2 * 3, width), generator),
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
) -> StateDict:
    """Writes a DINO file and returns its backbone under plain keys.

    Layouts: `flat`, the released backbone; `teacher`, a full training checkpoint, whose teacher these weights are;
    `student`, a full one without its teacher.
    """
    sizes = {"width": width, "depth": depth, "num_heads": num_heads, "patch_size": patch_size, "grid": grid}
    state = plain_state_dict(**sizes, mlp_dim=mlp_dim, seed=seed)
    if layout == "flat":
        torch.save(state, path)
        return state
    other = state if layout == "student" else plain_state_dict(**sizes, mlp_dim=mlp_dim, seed=seed + 1000)
    head = {"head.mlp.0.weight": torch.randn(8, width), "head.last_layer.weight_g": torch.ones(16, 1)}
    checkpoint = {
        "student": {f"module.{key}": value for key, value in {**weights.under("backbone", other), **head}.items()},
        "teacher": {**weights.under("backbone", state), **head},
        **weights.training_state(),
        "dino_loss": {"center": torch.zeros(1, 16)},
    }
    if layout == "student":
        del checkpoint["teacher"]
    torch.save(checkpoint, path)
    return state


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
) -> StateDict:
    """Writes a MAE file, full where `decoder` (width, depth, num_heads, mlp_dim) is given; returns its plain keys."""
    sizes = {"width": width, "depth": depth, "num_heads": num_heads, "patch_size": patch_size, "grid": grid}
    state = plain_state_dict(**sizes, mlp_dim=mlp_dim, positions="sincos", seed=seed)
    if decoder is not None:
        state |= plain_decoder(encoder_width=width, patch_size=patch_size, grid=grid, **decoder, seed=seed)
    torch.save({"model": state, **(weights.training_state() if decoder else {})}, path)
    return state
