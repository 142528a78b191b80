"""Attention, and what it may know of where its tokens stand: a relative bias, a rotation of queries and keys."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from vitprobe_jax.backbones import position
from vitprobe_jax.backbones.config import DecoderConfig, ViTConfig

Dtype = Any
Grid = tuple[int, int]


class Places(NamedTuple):
    """What attention is told of where its tokens stand; all None where positions are added to the tokens.

    Attributes:
        coordinates: (row, column) of every token, for RoPE.
        frequencies: angle a unit of row and of column of each value of a head, for RoPE that all blocks share.
        bias: of the logits, for a relative bias that all blocks share.
        native: grid of the blocks' own relative tables.
        grid: of the image.
    """

    coordinates: Float[Array, "T 2"] | None = None
    frequencies: Float[Array, "2 C"] | None = None
    bias: Float[Array, "H T T"] | None = None
    native: Grid | None = None
    grid: Grid | None = None


NOWHERE = Places()


class Attention(nn.Module):
    """Multi-head attention of tokens to themselves, or to those of a context.

    The output of `qkv` holds query, key and value side by side, heads concatenated, before rotation and scaling. With RoPE
    the rotated ones are sown as `q_rotated` and `k_rotated`. Attention maps, relative bias included, are sown as `attn` when
    `keep_maps` is set; otherwise they need not exist.
    """

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
        c, width = self.config, x_BxTxD.shape[-1]
        heads = (c.num_heads, width // c.num_heads)
        if context_BxSxD is None:
            qkv = self._map(3 * width, "qkv")(x_BxTxD)
            q, k, v = jnp.moveaxis(qkv.reshape(*qkv.shape[:2], 3, *heads), 2, 0)
            context_places = places
        else:
            q = self._map(width, "q")(x_BxTxD).reshape(*x_BxTxD.shape[:2], *heads)
            kv = self._map(2 * width, "kv")(context_BxSxD)
            k, v = jnp.moveaxis(kv.reshape(*kv.shape[:2], 2, *heads), 2, 0)
        if c.rope != "none":
            frequencies = places.frequencies
            if c.rope == "stored":
                frequencies = self.param("rope_frequencies", nn.initializers.ones, (2, heads[1]))
            q = _rotate(q, places.coordinates, frequencies)
            k = _rotate(k, context_places.coordinates, frequencies)
            self.sow("intermediates", "q_rotated", q.reshape(x_BxTxD.shape))
            self.sow("intermediates", "k_rotated", k.reshape(*k.shape[:2], width))
        bias_HxTxS = places.bias
        if c.relative_bias == "per_block":
            table = self.param("rel_pos_bias", nn.initializers.zeros, relative_table_shape(c))
            bias_HxTxS = relative_bias(table, places.native, places.grid)
        if self.dtype == jnp.bfloat16 and not self.keep_maps:
            mixed_BxTxHxC = fused_attention(q, k, v, bias_HxTxS)
            return self._map(width, "proj")(mixed_BxTxHxC.reshape(x_BxTxD.shape))
        # Heads go before tokens: plain batched matmuls, 6 to 16% faster on a CPU than sums over interleaved heads.
        q_BxHxTxC, k_BxHxSxC, v_BxHxSxC = (jnp.swapaxes(part, 1, 2) for part in (q, k, v))
        logits_BxHxTxS = jnp.einsum("bhqc,bhkc->bhqk", q_BxHxTxC * heads[1] ** -0.5, k_BxHxSxC)
        # The softmax stays in float32 under bfloat16 too (as in the fused operator): its sums run over hundreds of tokens.
        logits_BxHxTxS = logits_BxHxTxS.astype(jnp.float32)
        if bias_HxTxS is not None:
            logits_BxHxTxS = logits_BxHxTxS + bias_HxTxS[None]
        attn_BxHxTxS = nn.softmax(logits_BxHxTxS, axis=-1)
        if self.keep_maps:
            self.sow("intermediates", "attn", attn_BxHxTxS)
        mixed_BxHxTxC = jnp.einsum("bhqk,bhkc->bhqc", attn_BxHxTxS.astype(self.dtype), v_BxHxSxC)
        mixed_BxTxD = jnp.swapaxes(mixed_BxHxTxC, 1, 2).reshape(x_BxTxD.shape)
        return self._map(width, "proj")(mixed_BxTxD)

    def _map(self, features: int, name: str) -> nn.Dense:
        return nn.Dense(features, use_bias=self.config.bias, dtype=self.dtype, name=name)


def _rotate(
    x_BxTxHxC: Float[Array, "B T H C"], coordinates_Tx2: Float[Array, "T 2"], frequencies_2xC: Float[Array, "2 C"]
) -> Float[Array, "B T H C"]:
    """RoPE: value i of a head is turned with value i + C / 2, by the angle of its place; in float32, as trained."""
    # Two products and a sum, not a matmul: an accelerator would round its inputs.
    angle_TxC = coordinates_Tx2[:, :1] * frequencies_2xC[:1] + coordinates_Tx2[:, 1:] * frequencies_2xC[1:]
    cos, sin = jnp.cos(angle_TxC)[None, :, None], jnp.sin(angle_TxC)[None, :, None]
    x = x_BxTxHxC.astype(jnp.float32)
    first, second = jnp.split(x, 2, axis=-1)
    return (x * cos + jnp.concatenate([-second, first], axis=-1) * sin).astype(x_BxTxHxC.dtype)


def relative_table_shape(config: ViTConfig) -> tuple[int, int]:
    """Rows (an offset each, and three for [CLS]) and heads of a relative table at the native grid."""
    return (2 * config.grid[0] - 1) * (2 * config.grid[1] - 1) + 3, config.num_heads


def relative_bias(table: Float[Array, "rows H"], native: Grid, grid: Grid) -> Float[Array, "H T T"]:
    """The bias of every query's and key's logit, from a table of the native grid."""
    heads = table.shape[1]
    if grid != native:
        rows, columns = (
            jnp.asarray(position.relative_matrix(n, m), jnp.float32) for n, m in zip(native, grid, strict=True)
        )
        offsets = table[:-3].reshape(2 * native[0] - 1, 2 * native[1] - 1, heads)
        offsets = jnp.einsum("oi,pj,ijh->oph", rows, columns, offsets, precision=jax.lax.Precision.HIGHEST)
        table = jnp.concatenate([offsets.reshape(-1, heads), table[-3:]])
    return jnp.moveaxis(table[position.relative_index(grid)], -1, 0).astype(jnp.float32)


def fused_attention(
    q_BxTxHxC: Float[Array, "B T H C"],
    k_BxSxHxC: Float[Array, "B S H C"],
    v_BxSxHxC: Float[Array, "B S H C"],
    bias_HxTxS: Float[Array, "H T S"] | None = None,
) -> Float[Array, "B T H C"]:
    """Attention by JAX's own operator: cuDNN's flash kernel on a GPU, which never writes the maps; XLA's elsewhere.

    For bfloat16, which the kernel needs; float32 has a way of its own in `Attention`, the most exact one.
    """
    kernel = "cudnn" if jax.default_backend() == "gpu" else "xla"
    bias = None if bias_HxTxS is None else bias_HxTxS[None].astype(q_BxTxHxC.dtype)
    return jax.nn.dot_product_attention(q_BxTxHxC, k_BxSxHxC, v_BxSxHxC, bias, implementation=kernel)
