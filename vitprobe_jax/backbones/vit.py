"""One Vision Transformer for every family: pre-LN blocks over patch tokens, every intermediate reachable by name.

Shapes: images [B, height, width, 3], tokens [B, T, D]; T counts the prefix tokens first, then patches in row-major order.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from vitprobe_jax.backbones.config import ViTConfig
from vitprobe_jax.backbones.position import grid_matrices

Dtype = Any


class Attention(nn.Module):
    """Multi-head self-attention.

    The output of `qkv` holds query, key and value side by side, heads concatenated, before scaling. Attention maps are
    sown as `attn` when `keep_maps` is set; otherwise they need not exist.
    """

    num_heads: int
    dtype: Dtype = jnp.float32
    keep_maps: bool = False

    @nn.compact
    def __call__(self, x_BxTxD: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        width = x_BxTxD.shape[-1]
        qkv = nn.Dense(3 * width, dtype=self.dtype, name="qkv")(x_BxTxD)
        heads = qkv.reshape(*qkv.shape[:2], 3, self.num_heads, width // self.num_heads)
        if self.dtype == jnp.bfloat16 and not self.keep_maps:
            mixed_BxTxHxC = fused_attention(*jnp.moveaxis(heads, 2, 0))
            return nn.Dense(width, dtype=self.dtype, name="proj")(mixed_BxTxHxC.reshape(x_BxTxD.shape))
        # Heads go before tokens: plain batched matmuls, 6 to 16% faster on a CPU than sums over interleaved heads.
        q_BxHxTxC, k_BxHxTxC, v_BxHxTxC = jnp.transpose(heads, (2, 0, 3, 1, 4))
        logits_BxHxTxT = jnp.einsum("bhqc,bhkc->bhqk", q_BxHxTxC * q_BxHxTxC.shape[-1] ** -0.5, k_BxHxTxC)
        # The softmax stays in float32 under bfloat16 too (as in the fused operator): its sums run over hundreds of tokens.
        attn_BxHxTxT = nn.softmax(logits_BxHxTxT.astype(jnp.float32), axis=-1)
        if self.keep_maps:
            self.sow("intermediates", "attn", attn_BxHxTxT)
        mixed_BxHxTxC = jnp.einsum("bhqk,bhkc->bhqc", attn_BxHxTxT.astype(self.dtype), v_BxHxTxC)
        mixed_BxTxD = jnp.swapaxes(mixed_BxHxTxC, 1, 2).reshape(x_BxTxD.shape)
        return nn.Dense(width, dtype=self.dtype, name="proj")(mixed_BxTxD)


def fused_attention(
    q_BxTxHxC: Float[Array, "B T H C"], k_BxTxHxC: Float[Array, "B T H C"], v_BxTxHxC: Float[Array, "B T H C"]
) -> Float[Array, "B T H C"]:
    """Attention by JAX's own operator: cuDNN's flash kernel on a GPU, which never writes the maps; XLA's elsewhere.

    For bfloat16, which the kernel needs; float32 has a way of its own in `Attention`, the most exact one.
    """
    kernel = "cudnn" if jax.default_backend() == "gpu" else "xla"
    return jax.nn.dot_product_attention(q_BxTxHxC, k_BxTxHxC, v_BxTxHxC, implementation=kernel)


class MLP(nn.Module):
    """Two layers with the exact (erf) GELU between them."""

    hidden: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x_BxTxD: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        hidden = nn.gelu(nn.Dense(self.hidden, dtype=self.dtype, name="fc1")(x_BxTxD), approximate=False)
        return nn.Dense(x_BxTxD.shape[-1], dtype=self.dtype, name="fc2")(hidden)


# The one-pass variance of Flax's default loses 3e-4 on tokens with a large mean.
LayerNorm = functools.partial(nn.LayerNorm, use_fast_variance=False)


class Block(nn.Module):
    """A pre-LN Transformer block; sows `x1`, the residual stream after attention is added."""

    num_heads: int
    mlp_dim: int
    layer_norm_eps: float
    dtype: Dtype = jnp.float32
    keep_maps: bool = False

    @nn.compact
    def __call__(self, x_BxTxD: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        attention = Attention(self.num_heads, self.dtype, self.keep_maps, name="attn")
        x_BxTxD = x_BxTxD + attention(LayerNorm(self.layer_norm_eps, self.dtype, name="norm1")(x_BxTxD))
        self.sow("intermediates", "x1", x_BxTxD)
        mlp = MLP(self.mlp_dim, self.dtype, name="mlp")
        return x_BxTxD + mlp(LayerNorm(self.layer_norm_eps, self.dtype, name="norm2")(x_BxTxD))


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
        tokens = c.num_prefix_tokens + c.grid[0] * c.grid[1]
        self.pos_embed = self.param("pos_embed", init, (1, tokens, c.width))
        self.blocks = [
            Block(c.num_heads, c.mlp_dim, c.layer_norm_eps, self.dtype, self.keep_maps) for _ in range(c.depth)
        ]
        self.norm = LayerNorm(c.layer_norm_eps, self.dtype)

    def __call__(self, images: Float[Array, "B height width 3"]) -> Float[Array, "B T D"]:
        """Normalised output tokens of normalised images, at any size the patch size divides."""
        return self.encode(self.embed(images))

    def encode(self, x_BxTxD: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Blocks and final norm over embedded tokens: those of `embed`, or some of them, as MAE encodes visible patches."""
        for block in self.blocks:
            x_BxTxD = block(x_BxTxD)
        return self.norm(x_BxTxD)

    def embed(self, images: Float[Array, "B height width 3"]) -> Float[Array, "B T D"]:
        """Tokens before the first block: prefix and patches, positions added."""
        c = self.config
        x_BxGxWxD = self.patch_embed(images.astype(self.dtype))
        grid = x_BxGxWxD.shape[1:3]
        x_BxTxD = x_BxGxWxD.reshape(len(images), -1, c.width)
        if c.class_token:
            prefix = jnp.broadcast_to(self.cls_token.astype(self.dtype), (len(images), 1, c.width))
            x_BxTxD = jnp.concatenate([prefix, x_BxTxD], axis=1)
        return x_BxTxD + self._positions(grid).astype(self.dtype)

    def final_norm(self, x_BxTxD: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """The model's last LayerNorm, for the output of an inner block."""
        return self.norm(x_BxTxD)

    def _positions(self, grid: tuple[int, int]) -> Float[Array, "1 T D"]:
        c = self.config
        if grid == c.grid:
            return self.pos_embed
        prefix, patches = jnp.split(self.pos_embed, [c.num_prefix_tokens], axis=1)
        rows, columns = (jnp.asarray(m, jnp.float32) for m in grid_matrices(c.grid, grid, c.resample))
        patches = patches.reshape(*c.grid, c.width)
        resampled = jnp.einsum("oi,pj,ijd->opd", rows, columns, patches, precision=jax.lax.Precision.HIGHEST)
        return jnp.concatenate([prefix, resampled.reshape(1, -1, c.width)], axis=1)
