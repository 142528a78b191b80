"""Tiny ViTs of any architecture with random weights, without a file."""

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import path_aware_map

from vitprobe_jax.backbones.config import Architecture, ViTConfig, sized
from vitprobe_jax.backbones.families import FAMILIES
from vitprobe_jax.backbones.vit import param_shapes

ARCHITECTURES: dict[str, Architecture] = {
    f"{family.name}_{i}" if i else family.name: architecture
    for family in FAMILIES.values()
    for i, architecture in enumerate(family.architectures)
}
"""Every architecture of every family; a family's further ones are numbered."""

DISTINCT = {architecture: name for name, architecture in reversed(ARCHITECTURES.items())}.values()
"""One name for each of those that differ."""


def tiny(name: str, **sizes) -> ViTConfig:
    """A config of the architecture: two blocks, heads of 12 values, patches of 4 pixels, a grid of 3 x 3."""
    defaults = {"patch_size": 4, "width": 36, "depth": 2, "num_heads": 3, "mlp_dim": 40, "grid": (3, 3)}
    return sized(ARCHITECTURES[name], **defaults | sizes)


def random_params(config: ViTConfig, seed: int = 1) -> dict:
    """Random weights of order-1 activations; biases, norms, tables and tokens too, so that none can be forgotten."""
    rng = np.random.default_rng(seed)

    def fill(path: tuple[str, ...], leaf) -> jnp.ndarray:
        name = path[-1]
        deviation = {"kernel": np.prod(leaf.shape[:-1]) ** -0.5, "bias": 0.2, "scale": 0.2, "ls1": 0.2, "ls2": 0.2}
        values = rng.normal(scale=deviation.get(name, 1.0), size=leaf.shape)
        if name == "rope_periods":
            values = np.exp(values)
        return jnp.asarray(values + (name in ("scale", "ls1", "ls2")), jnp.float32)

    return path_aware_map(fill, param_shapes(config))


def random_images(config: ViTConfig, grid: tuple[int, int], *, batch: int = 2, seed: int = 0) -> jnp.ndarray:
    """Normalised images [batch, height, width, 3] of a patch grid."""
    shape = (batch, *(side * config.patch_size for side in grid), 3)
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)
