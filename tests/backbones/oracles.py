"""Independent ViTs in torch for DINO's and MAE's keys, from the library's own configs; MAE's with its decoder."""

from collections.abc import Callable

import numpy as np
import torch

# Must come before transformers.
from experiments.benchmarks import torch_ops  # noqa: F401

# isort: split
from transformers import ViTMAEConfig, ViTMAEForPreTraining
from transformers.models.vit_mae.modeling_vit_mae import build_2d_sinusoidal_position_embedding

from tests.zoo.specimen import Sizes, StateDict, Traced
from tests.zoo.tracing import resample_positions
from tests.zoo.tracing import to_torch as to_torch
from tests.zoo.transformers_layers import renamed
from tests.zoo.vit_models import VIT_NAMES, at_grid, trace_timm, trace_vit_model, transformers_sizes
from vitprobe_jax.backbones.config import DecoderConfig, Resample, ViTConfig


def _of_config(trace: Callable[..., Traced]) -> Callable[[StateDict, ViTConfig, np.ndarray], Traced]:
    """All intermediates, keyed by (block, name), of images [B, height, width, 3] in the model that the config describes."""

    def traced(state: StateDict, config: ViTConfig, images: np.ndarray) -> Traced:
        sizes = _sizes(config)
        encoder = {key: value for key, value in state.items() if not _is_decoder(key)}
        encoder = at_grid(encoder, sizes, images, config.resample)
        found = trace(encoder, sizes, images, epsilon=config.layer_norm_eps)
        return {key: value for key, value in found.items() if key[1] != "global"}

    return traced


ORACLES = {"timm": _of_config(trace_timm), "transformers": _of_config(trace_vit_model)}


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
            **transformers_sizes(_sizes(config), config.layer_norm_eps),
        )
    )
    encoder = {key: value for key, value in state.items() if not _is_decoder(key)}
    # transformers calls the decoder's blocks decoder_layers; otherwise the official names stay.
    blocks = {key.removeprefix("decoder_"): value for key, value in state.items() if key.startswith("decoder_blocks.")}
    blocks = {f"decoder_{key}": value for key, value in renamed(blocks, VIT_NAMES).items()}
    others = {key: value for key, value in state.items() if _is_decoder(key) and not key.startswith("decoder_blocks.")}
    model.load_state_dict(
        {f"vit.{key}": value for key, value in renamed(encoder, VIT_NAMES).items()}
        | {f"decoder.{key}": value for key, value in (blocks | others).items()}
    )
    return model.eval()


def official_positions(
    pos_embed: torch.Tensor, native: tuple[int, int], grid: tuple[int, int], rule: Resample
) -> torch.Tensor:
    """[1, 1 + patches, D] at another grid; `native` is square."""
    assert pos_embed.shape[1] == 1 + native[0] * native[1]
    return resample_positions(pos_embed, grid, rule)


def transformers_sincos(width: int, grid: tuple[int, int]) -> np.ndarray:
    """MAE's fixed positions [T, width] as transformers starts from them."""
    positions = build_2d_sinusoidal_position_embedding(*grid, width, cls_token=True).numpy()
    # It builds the row's half first; the official checkpoints, and its own model, have the column's first.
    return np.concatenate([positions[:, width // 2 :], positions[:, : width // 2]], axis=1)


def _is_decoder(key: str) -> bool:
    return key.startswith("decoder_") or key == "mask_token"


def _sizes(config: ViTConfig) -> Sizes:
    side = config.grid[0]
    return Sizes(config.width, config.depth, config.num_heads, config.patch_size, side, config.mlp_dim)
