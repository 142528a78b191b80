"""One Vision Transformer for every family: pre-norm blocks over patch tokens, every intermediate reachable by name.

Shapes: images [B, height, width, 3], tokens [B, T, D]; T counts the prefix tokens first, then patches in row-major order.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from vitprobe_jax.backbones import position
from vitprobe_jax.backbones.attention import NOWHERE, Attention, Grid, Places, relative_bias, relative_table_shape
from vitprobe_jax.backbones.config import BlockTraits, DecoderConfig, ViTConfig

Dtype = Any


class MLP(nn.Module):
    """Two layers with the exact (erf) GELU between them, or SwiGLU: the first half of `w12` is the gate."""

    config: ViTConfig | DecoderConfig
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x_BxTxD: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        c, width = self.config, x_BxTxD.shape[-1]

        def linear(features: int, name: str) -> nn.Dense:
            return nn.Dense(features, use_bias=c.bias, dtype=self.dtype, name=name)

        if c.mlp == "gelu":
            return linear(width, "fc2")(nn.gelu(linear(c.mlp_dim, "fc1")(x_BxTxD), approximate=False))
        gate, value = jnp.split(linear(2 * c.mlp_dim, "w12")(x_BxTxD), 2, axis=-1)
        return linear(width, "w3")(nn.silu(gate) * value)


def make_norm(traits: BlockTraits, dtype: Dtype, *, affine: bool = True, name: str | None = None) -> nn.Module:
    """The family's norm over features; without parameters where not `affine`."""
    if traits.norm == "rms_norm":
        return nn.RMSNorm(traits.layer_norm_eps, dtype, use_scale=affine, name=name)
    # The one-pass variance of Flax's default loses 3e-4 on tokens with a large mean.
    return nn.LayerNorm(
        traits.layer_norm_eps, dtype, use_bias=affine, use_scale=affine, use_fast_variance=False, name=name
    )


class Block(nn.Module):
    """A pre-norm Transformer block; sows `x1`, the residual stream after attention is added."""

    config: ViTConfig | DecoderConfig
    dtype: Dtype = jnp.float32
    keep_maps: bool = False

    @nn.compact
    def __call__(
        self,
        x_BxTxD: Float[Array, "B T D"],
        places: Places = NOWHERE,
        context_BxSxD: Float[Array, "B S D"] | None = None,
        context_places: Places = NOWHERE,
    ) -> Float[Array, "B T D"]:
        attention = Attention(self.config, self.dtype, self.keep_maps, name="attn")
        normed = make_norm(self.config, self.dtype, name="norm1")(x_BxTxD)
        x_BxTxD = x_BxTxD + self._scaled("ls1", attention(normed, places, context_BxSxD, context_places))
        self.sow("intermediates", "x1", x_BxTxD)
        normed = make_norm(self.config, self.dtype, name="norm2")(x_BxTxD)
        return x_BxTxD + self._scaled("ls2", MLP(self.config, self.dtype, name="mlp")(normed))

    def _scaled(self, name: str, x_BxTxD: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        if not self.config.layer_scale:
            return x_BxTxD
        scale = self.param(name, nn.initializers.ones, x_BxTxD.shape[-1:])
        return x_BxTxD * scale.astype(self.dtype)[None, None]


class ViT(nn.Module):
    """The encoder.

    Attributes:
        config: sizes and rules of the architecture.
        dtype: of the computation; parameters stay float32.
        keep_maps: sow the attention maps of every block as `attn`.
    """

    config: ViTConfig
    dtype: Dtype = jnp.float32
    keep_maps: bool = False

    def setup(self):
        c = self.config
        self.patch_embed = nn.Conv(
            c.width, (c.patch_size, c.patch_size), (c.patch_size, c.patch_size), "VALID", dtype=self.dtype
        )
        init = nn.initializers.normal(0.02)
        if c.class_token:
            self.cls_token = self.param("cls_token", init, (1, 1, c.width))
        if c.num_registers:
            self.registers = self.param("registers", init, (1, c.num_registers, c.width))
        if c.positions == "learned":
            tokens = c.num_prefix_positions + c.grid[0] * c.grid[1]
            self.pos_embed = self.param("pos_embed", init, (1, tokens, c.width))
        if c.relative_bias == "shared":
            self.rel_pos_bias = self.param("rel_pos_bias", nn.initializers.zeros, relative_table_shape(c))
        if c.rope == "axial":
            periods = position.axial_periods(c.width // c.num_heads, c.rope_base)
            self.rope_periods = self.param("rope_periods", lambda _: jnp.asarray(periods))
        self.blocks = [Block(c, self.dtype, self.keep_maps) for _ in range(c.depth)]
        self.norm = make_norm(c, self.dtype, affine=c.final_norm_affine)
        if c.pool == "predictor":
            self.predictor_token = self.param("predictor_token", init, (1, c.width))
            self.predictor = Block(c, self.dtype)

    def __call__(
        self, images: Float[Array, "B height width 3"], gsd: Float[Array, " B"] | None = None
    ) -> Float[Array, "B T D"]:
        """Normalised output tokens of normalised images, at any size the patch size divides.

        Args:
            images: normalised.
            gsd: metres a pixel of each image, for `positions="gsd"`; `config.gsd` for all unless given.
        """
        return self.encode(self.embed(images, gsd), self.grid_of(images))

    def grid_of(self, images: Float[Array, "B height width 3"]) -> Grid:
        """Rows and columns of patches."""
        return images.shape[1] // self.config.patch_size, images.shape[2] // self.config.patch_size

    def encode(self, x_BxTxD: Float[Array, "B T D"], grid: Grid | None = None) -> Float[Array, "B T D"]:
        """Blocks and final norm over embedded tokens: those of `embed`, or some of them, as MAE encodes visible patches.

        Args:
            x_BxTxD: tokens.
            grid: of the image; needed, with all its tokens, where attention knows places (relative bias, RoPE).
        """
        places = self._places(grid)
        for block in self.blocks:
            x_BxTxD = block(x_BxTxD, places)
        return self.norm(x_BxTxD)

    def embed(
        self, images: Float[Array, "B height width 3"], gsd: Float[Array, " B"] | None = None
    ) -> Float[Array, "B T D"]:
        """Tokens before the first block: prefix and patches, positions added."""
        c = self.config
        x_BxTxD = self.patch_embed(images.astype(self.dtype)).reshape(len(images), -1, c.width)
        prefix = [self.cls_token] if c.class_token else []
        prefix += [self.registers] if c.num_registers else []
        prefix = [jnp.broadcast_to(part.astype(self.dtype), (len(images), *part.shape[1:])) for part in prefix]
        x_BxTxD = jnp.concatenate([*prefix, x_BxTxD], axis=1)
        if c.positions == "none":
            return x_BxTxD
        return x_BxTxD + self._positions(self.grid_of(images), len(images), gsd).astype(self.dtype)

    def final_norm(self, x_BxTxD: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """The model's last norm, for the output of an inner block."""
        return self.norm(x_BxTxD)

    def pool(self, x2_raw_BxTxD: Float[Array, "B T D"], grid: Grid) -> Float[Array, "B D"]:
        """The family's global representation, from the output of the last block.

        By `config.pool`: `class`, the normalised [CLS] token; `patches`, the mean of the normalised patches (I-JEPA,
        section 5); `patches_then_norm`, the norm of their mean (fine-tuned MAE, SimMIM and BEiT); `predictor`, the mean
        of what the first block of CAPI's predictor makes of a mask token at every patch, as its evaluation does.
        """
        c = self.config
        patches = x2_raw_BxTxD[:, c.num_prefix_tokens :]
        if c.pool == "class":
            return self.norm(x2_raw_BxTxD)[:, 0]
        if c.pool == "patches":
            return jnp.mean(self.norm(patches), axis=1)
        if c.pool == "patches_then_norm":
            return self.norm(jnp.mean(patches, axis=1, keepdims=True))[:, 0]
        places = self._places(grid)
        of_patches = places._replace(coordinates=places.coordinates[c.num_prefix_tokens :])
        queries = jnp.broadcast_to(self.predictor_token.astype(self.dtype)[None], patches.shape)
        predicted = self.predictor(queries, of_patches, self.norm(x2_raw_BxTxD), places)
        return jnp.mean(self.norm(predicted), axis=1)

    def forward_and_pool(self, images: Float[Array, "B height width 3"]) -> Float[Array, "B D"]:
        """Goes through every parameter there is: what initialises or describes them calls this."""
        grid, x_BxTxD = self.grid_of(images), self.embed(images)
        for block in self.blocks:
            x_BxTxD = block(x_BxTxD, self._places(grid))
        return self.pool(x_BxTxD, grid)

    def _places(self, grid: Grid | None) -> Places:
        c = self.config
        if c.rope == "none" and c.relative_bias == "none":
            return NOWHERE
        if grid is None:
            raise ValueError("attention of this model knows places: give the grid")
        coordinates = frequencies = bias = None
        if c.rope == "axial":
            frequencies = position.axial_frequencies(self.rope_periods)
        if c.rope != "none":
            coordinates = jnp.asarray(position.rope_coordinates(c.rope, grid, c.num_prefix_tokens))
        if c.relative_bias == "shared":
            bias = relative_bias(self.rel_pos_bias, c.grid, grid)
        return Places(coordinates, frequencies, bias, c.grid, grid)

    def _positions(self, grid: Grid, images: int, gsd: Float[Array, " B"] | None) -> Float[Array, "B T D"]:
        """What is added to the tokens, zeros for prefix tokens that have no position; B is 1 where all images share it."""
        c = self.config
        if c.positions == "gsd":
            gsd = jnp.full(images, c.gsd, jnp.float32) if gsd is None else gsd.astype(jnp.float32)
            prefix = jnp.zeros((images, 0, c.width))
            patches = position.gsd_positions(c.width, grid, gsd)
        else:
            prefix, patches = jnp.split(self.pos_embed, [c.num_prefix_positions], axis=1)
            if grid != c.grid:
                matrices = position.grid_matrices(c.grid, grid, c.resample)
                rows, columns = (jnp.asarray(matrix, jnp.float32) for matrix in matrices)
                patches = patches.reshape(*c.grid, c.width)
                patches = jnp.einsum("oi,pj,ijd->opd", rows, columns, patches, precision=jax.lax.Precision.HIGHEST)
                patches = patches.reshape(1, -1, c.width)
        unplaced = jnp.zeros((len(patches), c.num_prefix_tokens - prefix.shape[1], c.width))
        return jnp.concatenate([prefix, unplaced, patches], axis=1)


@functools.cache
def param_shapes(config: ViTConfig) -> Mapping:
    """Every parameter of the encoder, as `jax.ShapeDtypeStruct`."""
    images = jnp.zeros((1, *config.native_size, 3))
    return jax.eval_shape(lambda: ViT(config).init(jax.random.key(0), images, method=ViT.forward_and_pool))["params"]
