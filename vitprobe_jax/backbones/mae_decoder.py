"""MAE's decoder: visible tokens -> pixels of every patch (He et al., 2022, section 3)."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from vitprobe_jax.backbones.config import DecoderConfig, ViTConfig
from vitprobe_jax.backbones.vit import Block, ViT, make_norm


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
            Pixels in the units of training: per-patch normalised for the official checkpoints.
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
        Every patch in (row, column, channel) order, in the units of training: for the official checkpoints, less the
        patch's own mean and divided by its deviation.
    """
    encoder, model = {"params": params}, ViT(config)
    tokens = model.apply(encoder, images, method=ViT.embed)
    prefix, patches = jnp.split(tokens, [config.num_prefix_tokens], axis=1)
    seen = jnp.take_along_axis(patches, order[:, :num_visible, None], axis=1)
    encoded = model.apply(encoder, jnp.concatenate([prefix, seen], axis=1), method=ViT.encode)
    restore = jnp.argsort(order, axis=1)
    return make_decoder(config, decoder).apply({"params": decoder_params}, encoded, restore)
