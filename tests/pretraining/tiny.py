"""Objectives small enough to compile in seconds, and pictures for them."""

import numpy as np

from vitprobe_jax.backbones.config import DecoderConfig, Preprocess, ViTConfig
from vitprobe_jax.pretraining.dino import DINO
from vitprobe_jax.pretraining.mae import MAE
from vitprobe_jax.pretraining.training import Schedule

CONFIG = ViTConfig(patch_size=8, width=16, depth=1, num_heads=2, mlp_dim=32, grid=(4, 4))
PREPROCESS = Preprocess(resize_ratio=1.0)


def make_mae() -> MAE:
    return MAE(CONFIG, DecoderConfig(width=16, depth=1, num_heads=2, mlp_dim=32), PREPROCESS)


def make_dino(**changed) -> DINO:
    head = {"hidden": 16, "bottleneck": 8, "prototypes": 24}
    return DINO(CONFIG, PREPROCESS, **({"global_size": 24, "local_size": 16, "num_local": 2} | head | changed))


def make_schedule(**changed) -> Schedule:
    fields = {"steps": 20, "warmup": 2, "learning_rate": 1e-2, "final_rate": 1e-4}
    decay = {"weight_decay": 0.1, "final_weight_decay": 0.1, "clip": 0.0}
    return Schedule(**(fields | decay | changed))


def pictures(count: int, side: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)
