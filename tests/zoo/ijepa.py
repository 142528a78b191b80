"""I-JEPA, either encoder of its checkpoint, against transformers' IJepaModel."""

import functools
from pathlib import Path
from typing import Literal

import numpy as np
import torch

# Must come before transformers.
from experiments.benchmarks import torch_ops  # noqa: F401

# isort: split
from transformers import IJepaConfig, IJepaModel

from tests.zoo import weights
from tests.zoo.specimen import Sizes, Specimen, StateDict, Traced
from tests.zoo.tracing import Trace
from tests.zoo.transformers_layers import filled, keep_layers, renamed
from tests.zoo.vit_models import VIT_NAMES, at_grid, transformers_sizes

Container = Literal["encoder", "target_encoder"]


def write(path: Path, sizes: Sizes, seed: int, *, container: Container) -> StateDict:
    """A training checkpoint: both encoders, each with weights of its own, and the predictor. Returns the one asked for."""
    state = encoder(sizes, seed)
    # Other weights all the same: drawing twice 0.6 B numbers is most of the time of the full-size test.
    mirrored = {key: value if key == "pos_embed" else value.flip(-1) for key, value in state.items()}
    encoders = {"encoder": mirrored, "target_encoder": mirrored} | {container: state}
    checkpoint = {
        "encoder": weights.under("module", encoders["encoder"]),
        "predictor": weights.under("module", predictor(sizes, seed)),
        "target_encoder": weights.under("module", encoders["target_encoder"]),
        "opt": weights.training_state()["optimizer"],
        "scaler": None,
        "epoch": 300,
        "loss": 0.1,
        "batch_size": 128,
        "world_size": 16,
        "lr": 1e-3,
    }
    torch.save(checkpoint, path)
    return state


def encoder(sizes: Sizes, seed: int) -> StateDict:
    """The plain keys without a [CLS] token and its position; positions are sines and cosines."""
    state = weights.plain(sizes, seed, positions=weights.sincos_positions(sizes.width, sizes.grid)[:, 1:])
    del state["cls_token"]
    return state


def predictor(sizes: Sizes, seed: int, width: int = 12) -> StateDict:
    """What predicts the target encoder's tokens in training: one narrow block here."""
    generator = weights.seeded(seed + 1)
    return {
        "mask_token": weights.token((1, 1, width), generator),
        "predictor_pos_embed": weights.sincos_positions(width, sizes.grid)[:, 1:],
        **weights.linear("predictor_embed", (width, sizes.width), generator),
        **weights.blocks("predictor_blocks", 1, width, 4 * width, generator),
        **weights.norm("predictor_norm", width, generator),
        **weights.linear("predictor_proj", (sizes.width, width), generator),
    }


def trace(state: StateDict, sizes: Sizes, images: np.ndarray) -> Traced:
    """All intermediates; there is no [CLS], and the mean of the last normed patches is the global representation."""
    config = IJepaConfig(image_size=images.shape[1:3], patch_size=sizes.patch_size, **transformers_sizes(sizes))
    state = at_grid(state, sizes, images, "bicubic", num_prefix=0)
    model = filled(functools.partial(IJepaModel, config), renamed(state, VIT_NAMES))
    traced = Trace()
    keep_layers(traced, model.layers, second_norm="layernorm_after")
    found = traced.run(model, images, model.layernorm)
    return found | {(sizes.depth - 1, "global"): found[sizes.depth - 1, "x2"].mean(axis=1)}


SPECIMENS = (
    Specimen(
        name="ijepa",
        family="ijepa",
        tiny=Sizes(width=28, depth=2, num_heads=7, patch_size=4, grid=5, mlp_dim=60),
        arch="vith14",
        full=Sizes(width=1280, depth=32, num_heads=16, patch_size=14, grid=16, mlp_dim=5120),
        file="IN1K-vit.h.14-300e.pth.tar",
        write=functools.partial(write, container="target_encoder"),
        trace=trace,
        oracle="transformers IJepaModel",
    ),
    Specimen(
        name="ijepa_encoder",
        family="ijepa",
        tiny=Sizes(width=40, depth=2, num_heads=4, patch_size=4, grid=4, mlp_dim=100),
        arch=None,
        full=None,
        file="IN1K-vit.h.14-300e.pth.tar",
        write=functools.partial(write, container="encoder"),
        trace=trace,
        oracle="transformers IJepaModel",
        options={"container": "encoder"},
    ),
)
