"""Converted folders of any family with random weights, without an official file: for tests of what comes after."""

from pathlib import Path

from tests.backbones.random_vit import random_params, tiny
from vitprobe_jax.backbones.config import BackboneSpec
from vitprobe_jax.backbones.families import FAMILIES
from vitprobe_jax.backbones.saving import save_backbone, streamed

SIZES = {"patch_size": 8, "width": 24, "depth": 2, "num_heads": 2, "mlp_dim": 48, "grid": (4, 4)}


def save_random(folder: Path, family: str, **sizes: int) -> Path:
    """Writes a backbone of the family's first architecture, named as it, of `SIZES` or others; returns its folder."""
    record = FAMILIES[family]
    config = tiny(family, **SIZES | sizes)
    spec = BackboneSpec(
        name=family, family=family, objective=record.objective, config=config, preprocess=record.preprocess
    )
    save_backbone(folder / family, spec, streamed(random_params(config)), {})
    return folder / family
