"""MAE's decoder: visible tokens -> pixels of every patch (He et al., 2022, section 3)."""

import functools
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, UInt8

from vitprobe_jax.backbones.attention import Grid
from vitprobe_jax.backbones.capture import normalize
from vitprobe_jax.backbones.config import DecoderConfig, Preprocess, ViTConfig
from vitprobe_jax.backbones.vit import Block, ViT, make_norm

MAETarget = Literal["pixels", "normalised patches"]
"""What a decoder was trained to predict: pixels as the encoder sees them, normalised channel by channel (the official
`mae_visualize_*` files), or those of each patch less the patch's mean and divided by its deviation (section 4.1; the
official `mae_pretrain_*_full` files)."""


class MAEDecoder(nn.Module):
    """Reconstructs patches from the encoder's normalised output.

    Attributes:
        config: the decoder's sizes.
        num_patches: P of the native grid.
        patch_pixels: values a patch, patch_size * patch_size * 3.
        dtype: of the computation.
    """

    config: DecoderConfig
    num_patches: int
    patch_pixels: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, encoded: Float[Array, "B V E"], restore: Int[Array, "B P"]) -> Float[Array, "B P patch_pixels"]:
        """Predicts every patch, in (row, column, channel) order within the patch.

        Args:
            encoded: the encoder's output for [CLS] and the V - 1 visible patches, in any order.
            restore: for patch p, its place among (visible patches, then masked ones).

        Returns:
            Pixels in the units of training, see `MAETarget`.
        """
        c = self.config
        init = nn.initializers.normal(0.02)
        x_BxVxD = nn.Dense(c.width, dtype=self.dtype, name="embed")(encoded)
        mask_token = self.param("mask_token", init, (1, 1, c.width)).astype(self.dtype)
        pos_embed = self.param("pos_embed", init, (1, 1 + self.num_patches, c.width)).astype(self.dtype)
        masked = jnp.broadcast_to(mask_token, (len(encoded), self.num_patches + 1 - encoded.shape[1], c.width))
        patches = jnp.concatenate([x_BxVxD[:, 1:], masked], axis=1)
        patches = jnp.take_along_axis(patches, restore[..., None], axis=1)
        x_BxTxD = jnp.concatenate([x_BxVxD[:, :1], patches], axis=1) + pos_embed
        for i in range(c.depth):
            x_BxTxD = Block(c, self.dtype, name=f"blocks_{i}")(x_BxTxD)
        x_BxTxD = make_norm(c, self.dtype, name="norm")(x_BxTxD)
        return nn.Dense(self.patch_pixels, dtype=self.dtype, name="pred")(x_BxTxD)[:, 1:]


def make_decoder(config: ViTConfig, decoder: DecoderConfig) -> MAEDecoder:
    """The decoder module that belongs to an encoder."""
    return MAEDecoder(decoder, config.grid[0] * config.grid[1], config.patch_size**2 * 3)


def reconstruct(
    config: ViTConfig,
    decoder: DecoderConfig,
    params: Mapping,
    decoder_params: Mapping,
    images: Float[Array, "B height width 3"],
    order: Int[Array, "B P"],
    *,
    num_visible: int,
) -> Float[Array, "B P patch_pixels"]:
    """Encodes some patches of each image and predicts the pixels of all (section 3): MAE from end to end.

    Args:
        config: of the encoder.
        decoder: of the decoder.
        params: of the encoder.
        decoder_params: of the decoder, see `loading.load_decoder`.
        images: normalised images of the native size.
        order: the patches of each image in some order; the first `num_visible` are seen.
        num_visible: 1 to P; all for a reconstruction of the whole.

    Returns:
        Every patch in (row, column, channel) order, in the units of training (`MAETarget`).
    """
    encoded = encode_visible(config, params, images, order, num_visible=num_visible)
    return decode(config, decoder, decoder_params, encoded, order)


def encode_visible(
    config: ViTConfig,
    params: Mapping,
    images: Float[Array, "B height width 3"],
    order: Int[Array, "B P"],
    *,
    num_visible: int,
) -> Float[Array, "B V E"]:
    """The encoder's normalised output for its prefix and the visible patches, in their order: what the decoder is given.

    Args:
        config: of the encoder.
        params: of the encoder.
        images: normalised images.
        order: the patches of each image in some order; the first `num_visible` are seen.
        num_visible: 1 to P.
    """
    encoder, model = {"params": params}, ViT(config)
    tokens = model.apply(encoder, images, method=ViT.embed)
    prefix, patches = jnp.split(tokens, [config.num_prefix_tokens], axis=1)
    seen = jnp.take_along_axis(patches, order[:, :num_visible, None], axis=1)
    return model.apply(encoder, jnp.concatenate([prefix, seen], axis=1), method=ViT.encode)


def decode(
    config: ViTConfig,
    decoder: DecoderConfig,
    decoder_params: Mapping,
    encoded: Float[Array, "B V E"],
    order: Int[Array, "B P"],
) -> Float[Array, "B P patch_pixels"]:
    """The pixels of every patch from the encoder's output, or from what was made of it.

    Args:
        config: of the encoder.
        decoder: of the decoder.
        decoder_params: of the decoder.
        encoded: as `encode_visible` gives it.
        order: that of `encode_visible`.

    Returns:
        As `reconstruct`.
    """
    restore = jnp.argsort(order, axis=1)
    return make_decoder(config, decoder).apply({"params": decoder_params}, encoded, restore)


def patchify(images: Float[Array, "B height width c"], patch_size: int) -> Float[Array, "B P pixels"]:
    """The pixels of every patch in (row, column, channel) order, patches row-major."""
    b, height, width, channels = images.shape
    grid = images.reshape(b, height // patch_size, patch_size, width // patch_size, patch_size, channels)
    return jnp.transpose(grid, (0, 1, 3, 2, 4, 5)).reshape(b, -1, patch_size**2 * channels)


def unpatchify(patches: Float[Array, "B P pixels"], patch_size: int, grid: Grid) -> Float[Array, "B height width c"]:
    """The images whose `patchify` this is, of so many rows and columns of patches."""
    b, (rows, columns) = len(patches), grid
    pixels = patches.reshape(b, rows, columns, patch_size, patch_size, -1)
    return jnp.transpose(pixels, (0, 1, 3, 2, 4, 5)).reshape(b, rows * patch_size, columns * patch_size, -1)


def patch_statistics(
    patches: Float[Array, "B P pixels"],
) -> tuple[Float[Array, "B P 1"], Float[Array, "B P 1"]]:
    """Mean and deviation of the pixels of every patch, all channels together, as the target of training has them.

    The deviation is the square root of the unbiased variance plus 1e-6.
    """
    mean = jnp.mean(patches, axis=-1, keepdims=True)
    return mean, jnp.sqrt(jnp.var(patches, axis=-1, keepdims=True, ddof=1) + 1e-6)


def find_target(
    predicted: Float[Array, "B P pixels"],
    images: UInt8[Array, "B height width 3"],
    masked: Bool[Array, "B P"],
    preprocess: Preprocess,
    patch_size: int,
) -> MAETarget:
    """What a decoder was trained to predict, by its predictions, since no converted folder says it.

    It is the target of whose variance they explain more. Predictions of pixels have the levels of their patches, which
    differ most of all; those of normalised patches have none. Masked patches only, as in training: of the others a decoder
    may say anything. Small models (3 blocks of width 64) were told apart after 20 steps of training on either target.

    Args:
        predicted: as `reconstruct` gives it.
        images: RGB in 0..255, photographs or the like.
        masked: which patches were not seen.
        preprocess: of the family.
        patch_size: side of a patch.
    """
    explained = _explained(predicted, images, masked, preprocess, patch_size)
    return max(explained, key=lambda target: float(explained[target]))


@functools.partial(jax.jit, static_argnums=(3, 4))
def _explained(predicted, images, masked, preprocess: Preprocess, patch_size: int) -> dict[str, Float[Array, ""]]:
    """The share of each target's variance over masked patches that predictions explain."""
    patches = patchify(images / 255.0, patch_size)
    mean, deviation = patch_statistics(patches)
    targets = {
        "pixels": patchify(normalize(images, preprocess), patch_size),
        "normalised patches": (patches - mean) / deviation,
    }

    def share(target):
        where = jnp.broadcast_to(masked[:, :, None], target.shape)
        spread = jnp.var(target, where=where)
        return 1 - jnp.mean((predicted - target) ** 2, where=where) / jnp.maximum(spread, 1e-12)

    return {name: share(target) for name, target in targets.items()}


def to_images(
    predicted: Float[Array, "B P pixels"],
    images: UInt8[Array, "B height width 3"],
    target: MAETarget,
    preprocess: Preprocess,
    patch_size: int,
) -> Float[Array, "B height width 3"]:
    """Predictions as RGB in [0, 1], cut off at both ends.

    A decoder of normalised patches says nothing of a patch's level and contrast: mean and deviation of each patch are
    taken from the image itself, there being no others.

    Args:
        predicted: as `reconstruct` gives it.
        images: what was to be reconstructed, RGB in 0..255.
        target: of the decoder's training.
        preprocess: of the family.
        patch_size: side of a patch.
    """
    grid = images.shape[1] // patch_size, images.shape[2] // patch_size
    if target == "normalised patches":
        mean, deviation = patch_statistics(patchify(images / 255.0, patch_size))
        return jnp.clip(unpatchify(predicted * deviation + mean, patch_size, grid), 0, 1)
    mean, std = (jnp.asarray(values, jnp.float32).reshape(1, 1, 1, 3) for values in (preprocess.mean, preprocess.std))
    return jnp.clip(unpatchify(predicted, patch_size, grid) * std + mean, 0, 1)
