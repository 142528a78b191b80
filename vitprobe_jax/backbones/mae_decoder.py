"""MAE's decoder: visible tokens -> pixels of every patch (He et al., 2022, section 3)."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from vitprobe_jax.backbones.config import DecoderConfig
from vitprobe_jax.backbones.vit import Block, make_norm


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
