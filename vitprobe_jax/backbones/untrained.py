"""Bundled backbones with random weights: controls that show what the architecture alone gives.

Each is initialised as its family's official code does before training, from a fixed seed, so that a demo needs no file.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import path_aware_map
from jaxtyping import Array, Float, Key

from vitprobe_jax.backbones.config import BackboneSpec, Preprocess, ViTConfig, sized
from vitprobe_jax.backbones.families import FAMILIES
from vitprobe_jax.backbones.vit import param_shapes

OBJECTIVE = "untrained control"

# The bundled models see `shapes` at its native 128 px: no resize, no crop.
_PREPROCESS = Preprocess(resize_ratio=1.0)
_SIZES = {"patch_size": 8, "width": 96, "depth": 4, "mlp_dim": 384, "grid": (16, 16)}


def sincos_positions(width: int, grid: tuple[int, int]) -> Float[np.ndarray, "1 T {width}"]:
    """MAE's fixed position embedding: sines and cosines of column, then row; zeros for [CLS]. Computed in float64."""
    frequencies = 1.0 / 10000 ** (np.arange(width // 4) / (width // 4))
    rows, columns = np.meshgrid(np.arange(grid[0]), np.arange(grid[1]), indexing="ij")
    angles = [axis.reshape(-1, 1) * frequencies for axis in (columns, rows)]
    patches = np.concatenate([part for angle in angles for part in (np.sin(angle), np.cos(angle))], axis=1)
    return np.concatenate([np.zeros((1, width)), patches])[None].astype(np.float32)


# Where the official code leaves torch's own start of a layer: uniform up to 1 / sqrt(fan_in).
_torch_default = jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def init_dino(config: ViTConfig, key: Key[Array, ""]) -> Mapping:
    """DINO's: matrices and embeddings from a normal of deviation 0.02, the patch embedding as torch starts it."""
    return _init(config, key, matrix_init=jax.nn.initializers.normal(0.02), patch_init=_torch_default)


def init_mae(config: ViTConfig, key: Key[Array, ""]) -> Mapping:
    """MAE's: Xavier-uniform matrices, sine-cosine positions, [CLS] from a normal of deviation 0.02."""
    xavier = jax.nn.initializers.xavier_uniform()
    params = _init(config, key, matrix_init=xavier, patch_init=xavier)
    return {**params, "pos_embed": jnp.asarray(sincos_positions(config.width, config.grid))}


def _init(
    config: ViTConfig, key: Key[Array, ""], *, matrix_init: Callable[..., Array], patch_init: Callable[..., Array]
) -> Mapping:
    """Tokens and positions are normal of deviation 0.02; biases zero, but for the patch embedding's."""
    keys = iter(jax.random.split(key, 1000))

    def initialise(path: tuple[str, ...], leaf: jax.ShapeDtypeStruct) -> Array:
        if path == ("patch_embed", "bias"):
            return _torch_default(next(keys), (3 * config.patch_size**2, config.width))[0]
        if path[-1] == "kernel":
            init = patch_init if path[0] == "patch_embed" else matrix_init
            return init(next(keys), (np.prod(leaf.shape[:-1]), leaf.shape[-1])).reshape(leaf.shape)
        if path[-1] in ("cls_token", "pos_embed"):
            return 0.02 * jax.random.normal(next(keys), leaf.shape)
        return jnp.full(leaf.shape, float(path[-1] == "scale"))

    return path_aware_map(initialise, param_shapes(config))


def _spec(name: str, family: str, num_heads: int) -> BackboneSpec:
    return BackboneSpec(
        name=name,
        family=family,
        objective=OBJECTIVE,
        config=sized(FAMILIES[family].architectures[0], num_heads=num_heads, **_SIZES),
        preprocess=_PREPROCESS,
        source="random initialisation, seed 0",
    )


def _entry(
    spec: BackboneSpec, init: Callable[[ViTConfig, Key[Array, ""]], Mapping]
) -> tuple[BackboneSpec, Callable[[], Mapping]]:
    return spec, lambda: init(spec.config, jax.random.key(0))


UNTRAINED: dict[str, tuple[BackboneSpec, Callable[[], Mapping]]] = {
    "untrained_dino_tiny": _entry(_spec("untrained_dino_tiny", "dino", num_heads=3), init_dino),
    "untrained_mae_tiny": _entry(_spec("untrained_mae_tiny", "mae", num_heads=4), init_mae),
}
