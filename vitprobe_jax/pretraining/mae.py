"""Masked autoencoding (He et al., 2022, section 3): a quarter of the patches is encoded, the others' pixels predicted."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, UInt8

from vitprobe_jax.backbones.capture import normalize
from vitprobe_jax.backbones.config import DecoderConfig, Preprocess, ViTConfig
from vitprobe_jax.backbones.mae_decoder import make_decoder, patch_statistics, patchify, reconstruct
from vitprobe_jax.backbones.untrained import init_mae, sincos_positions
from vitprobe_jax.pretraining.views import random_flip, random_resized_crop


@dataclasses.dataclass(frozen=True)
class MAE:
    """The objective; `training.Objective` says what its methods are for.

    Crops cover 20 to 100% of an image's area. Positions are the fixed sines and cosines, in the decoder too.

    Attributes:
        config: of the encoder.
        decoder: the light decoder.
        preprocess: how pixels are normalised before the encoder.
        mask_ratio: share of the patches that is masked.
    """

    config: ViTConfig
    decoder: DecoderConfig
    preprocess: Preprocess
    mask_ratio: float = 0.75

    betas = (0.9, 0.95)
    fixed = ("pos_embed",)

    def init(self, key: Key[Array, ""]) -> Mapping:
        of_encoder, of_decoder = jax.random.split(key)
        module = make_decoder(self.config, self.decoder)
        encoded = jnp.zeros((1, 1 + module.num_patches, self.config.width))
        decoder = module.init(of_decoder, encoded, jnp.zeros((1, module.num_patches), jnp.int32))["params"]
        positions = jnp.asarray(sincos_positions(self.decoder.width, self.config.grid))
        return {"encoder": init_mae(self.config, of_encoder), "decoder": {**decoder, "pos_embed": positions}}

    def init_memory(self, params: Mapping) -> Mapping:
        del params
        return {}

    def loss(
        self,
        params: Mapping,
        memory: Mapping,
        keys: Key[Array, " B"],
        images: UInt8[Array, "B height width 3"],
        step: Int[Array, ""],
        *,
        steps: int,
    ) -> tuple[Float[Array, ""], Mapping]:
        """Mean squared error over the masked patches, whose pixels are normalised patch by patch (section 4.1)."""
        del memory, step, steps
        crops, noise = jax.vmap(self._view)(keys, images)
        order = jnp.argsort(noise, axis=1)
        predicted = reconstruct(
            self.config,
            self.decoder,
            params["encoder"],
            params["decoder"],
            normalize(255 * crops, self.preprocess),
            order,
            num_visible=self._num_visible,
        )
        error = jnp.mean((predicted - normalized_patches(crops, self.config.patch_size)) ** 2, axis=-1)
        masked = jnp.argsort(order, axis=1) >= self._num_visible
        loss = jnp.sum(error * masked) / jnp.sum(masked)
        return loss, {"shown": {}, "kept": {}}

    def remember(self, memory: Mapping, params: Mapping, kept: Mapping, step: Int[Array, ""], *, steps: int) -> Mapping:
        del params, kept, step, steps
        return memory

    def encoder(self, params: Mapping, memory: Mapping) -> Mapping:
        del memory
        return params["encoder"]

    @property
    def _num_visible(self) -> int:
        return round(self.config.grid[0] * self.config.grid[1] * (1 - self.mask_ratio))

    def _view(self, key: Key[Array, ""], image: UInt8[Array, "height width 3"]):
        """A crop, and the noise whose order says which of its patches are seen."""
        of_crop, of_flip, of_mask = jax.random.split(key, 3)
        crop = random_resized_crop(
            of_crop, image / 255.0, size=self.config.grid[0] * self.config.patch_size, area=(0.2, 1.0)
        )
        return random_flip(of_flip, crop), jax.random.uniform(of_mask, (self.config.grid[0] * self.config.grid[1],))


def normalized_patches(images: Float[Array, "B height width 3"], patch_size: int) -> Float[Array, "B P pixels"]:
    """Every patch less its mean, divided by its deviation; pixels in (row, column, channel) order."""
    patches = patchify(images, patch_size)
    mean, deviation = patch_statistics(patches)
    return (patches - mean) / deviation
