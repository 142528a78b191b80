"""Any intermediate of any block, through Flax's `capture_intermediates` and `sow`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, UInt8

from vitprobe_jax.backbones.config import Preprocess, ViTConfig
from vitprobe_jax.backbones.vit import Block, ViT
from vitprobe_jax.errors import InputError
from vitprobe_jax.types import INTERMEDIATES, Intermediate

IMAGES_AT_ONCE = {"cpu": 4}
"""Images that go through the blocks together, by platform; all elsewhere. On a CPU the activations of few stay in its
cache: with 32 images at once, ViT-S/16 ran at 15.2 images/s instead of 18.9, ViT-B/16 at 4.0 instead of 5.2."""


def normalize(
    images: UInt8[Array, "B height width 3"] | Float[Array, "B height width 3"], preprocess: Preprocess
) -> Float[Array, "B height width 3"]:
    """Pixels in 0..255 as the family's network expects them, in float32."""
    mean = jnp.asarray(preprocess.mean, jnp.float32).reshape(1, 1, 1, 3)
    std = jnp.asarray(preprocess.std, jnp.float32).reshape(1, 1, 1, 3)
    return (images.astype(jnp.float32) / 255.0 - mean) / std


def check_layers(layers: Sequence[int], config: ViTConfig) -> None:
    """Refuses block numbers outside 0..L-1 with an `InputError`."""
    wrong = [layer for layer in layers if not 0 <= layer < config.depth]
    if wrong:
        raise InputError(
            f"--layers: no block {', '.join(map(str, wrong))} in a model with blocks 0..{config.depth - 1}"
        )


def capture(
    config: ViTConfig,
    params: Mapping,
    images: Float[Array, "B height width 3"],
    wanted: Sequence[tuple[int, str]],
    *,
    dtype: Any = jnp.float32,
    gsd: Float[Array, " B"] | None = None,
) -> dict[tuple[int, Intermediate], Float[Array, "B ..."]]:
    """The wanted intermediates, keyed by (block, name).

    Call it inside a jitted function: what is not asked for, later blocks included, is then never computed, and
    attention maps exist only when `attn` is wanted.

    Args:
        config: of the ViT.
        params: its parameters.
        images: normalised images; height and width are multiples of the patch size.
        wanted: (block, name) pairs; names as in `types.Intermediate`.
        dtype: of the computation and of what is returned (`attn` is float32 always).
        gsd: metres a pixel of each image, for models whose positions know it; `config.gsd` unless given.

    Returns:
        Tokens [B, T, D], [CLS] and registers first: `q`, `k`, `v` are what the projection gives, its bias included, before
        any rotation and before scaling, heads concatenated. `q_rotated` and `k_rotated` are what RoPE makes of them, the
        inputs of the dot product; without RoPE they are `q` and `k`. `x2` is the final norm of `x2_raw`, at inner blocks
        too. Attention maps `attn` are [B, H, T, T], each row a distribution: the softmax of scaled products of
        `q_rotated` and `k_rotated`, plus the relative bias where the model has one.

    Raises:
        InputError: a block or a name that does not exist.
    """
    unknown = {name for _, name in wanted} - set(INTERMEDIATES)
    if unknown:
        raise InputError(f"no intermediate {', '.join(sorted(unknown))}; there are {', '.join(INTERMEDIATES)}")
    check_layers([layer for layer, _ in wanted], config)
    model = ViT(config, dtype=dtype, keep_maps=any(name == "attn" for _, name in wanted))
    _, state = model.apply({"params": params}, images, gsd, capture_intermediates=_is_kept, mutable=["intermediates"])

    def take(layer: int, name: Intermediate) -> Float[Array, "B ..."]:
        block = state["intermediates"][f"blocks_{layer}"]
        if name in ("q_rotated", "k_rotated"):
            if config.rope != "none":
                return block["attn"][name][0]
            name = name[0]
        if name in ("q", "k", "v"):
            return jnp.split(block["attn"]["qkv"]["__call__"][0], 3, axis=-1)["qkv".index(name)]
        if name == "attn":
            return block["attn"]["attn"][0]
        if name == "x1":
            return block["x1"][0]
        if name == "xn":
            return block["norm2"]["__call__"][0]
        x2_raw = block["__call__"][0]
        return x2_raw if name == "x2_raw" else model.apply({"params": params}, x2_raw, method=ViT.final_norm)

    return {(layer, name): take(layer, name) for layer, name in wanted}


def capture_pixels(
    config: ViTConfig,
    preprocess: Preprocess,
    params: Mapping,
    images: UInt8[Array, "B height width 3"],
    wanted: Sequence[tuple[int, str]],
    *,
    dtype: Any = jnp.float32,
    gsd: Float[Array, " B"] | None = None,
) -> dict[tuple[int, Intermediate], Float[Array, "B ..."]]:
    """`capture` of RGB images in 0..255, a few at a time where that is faster (`IMAGES_AT_ONCE`).

    Args:
        config: as in `capture`.
        preprocess: of the family.
        params: as in `capture`.
        images: pixels.
        wanted: as in `capture`.
        dtype: as in `capture`.
        gsd: as in `capture`.
    """

    def run(part):
        pixels, gsd = part
        return capture(config, params, normalize(pixels, preprocess), wanted, dtype=dtype, gsd=gsd)

    return _in_turns(run, (images, gsd))


def global_representation(
    config: ViTConfig,
    preprocess: Preprocess,
    params: Mapping,
    images: UInt8[Array, "B height width 3"],
    *,
    dtype: Any = jnp.float32,
    gsd: Float[Array, " B"] | None = None,
) -> Float[Array, "B D"]:
    """What the family takes for the whole image, by `config.pool` (see `ViT.pool`).

    Args:
        config: as in `capture`.
        preprocess: of the family.
        params: as in `capture`.
        images: RGB in 0..255.
        dtype: as in `capture`.
        gsd: as in `capture`.
    """
    model, last = ViT(config, dtype=dtype), (config.depth - 1, "x2_raw")
    grid = images.shape[1] // config.patch_size, images.shape[2] // config.patch_size

    def run(part):
        pixels, gsd = part
        tokens = capture(config, params, normalize(pixels, preprocess), [last], dtype=dtype, gsd=gsd)
        return model.apply({"params": params}, tokens[last], grid, method=ViT.pool)

    return _in_turns(run, (images, gsd))


def _in_turns(run: Callable, batch: tuple) -> Any:
    """`run` of a batch, a few images at a time where that is faster."""
    images = len(batch[0])
    at_once = IMAGES_AT_ONCE.get(jax.default_backend())
    turns = images // at_once if at_once else 0
    if turns < 2:
        return run(batch)
    first = jax.tree.map(lambda leaf: leaf[: turns * at_once].reshape(turns, at_once, *leaf.shape[1:]), batch)
    done = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), jax.lax.map(run, first))
    if images == turns * at_once:
        return done
    rest = run(jax.tree.map(lambda leaf: leaf[turns * at_once :], batch))
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), done, rest)


def _is_kept(module: nn.Module, method: str) -> bool:
    return method == "__call__" and (isinstance(module, Block) or module.name in ("qkv", "norm2"))
