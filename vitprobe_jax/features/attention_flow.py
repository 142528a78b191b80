"""How attention moves information: four numbers of every image, block and head, and never a map outside the devices.

Entropies and shares follow "Beyond [cls]" (2025), equations 5 and 6: weights are renormalised over the patches, so what goes
to [CLS] and to registers is in none of the patch sums. Entropies have the natural logarithm: 0 where all weight is on one
patch, log P where P patches are weighted alike.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, UInt8

from vitprobe_jax.backbones.capture import capture, normalize
from vitprobe_jax.backbones.config import BackboneSpec, ViTConfig
from vitprobe_jax.backbones.loading import Backbone
from vitprobe_jax.features.groups import in_groups, place

TINY = float(np.finfo(np.float32).tiny)


class AttentionFlow(NamedTuple):
    """Of every image, and of every block and head of it; float32.

    Attributes:
        cls_to_cls: attention of [CLS] to itself, a share of all its attention; None for models without [CLS].
        cls_entropy: entropy of [CLS]'s attention, renormalised over the patches; None for models without [CLS].
        patch_to_itself: attention of a patch to itself relative to that to all patches; mean over the patches.
        patch_entropy: entropy of a patch's attention, renormalised over the patches; mean over the patches.
    """

    cls_to_cls: Float[Array, "*B H"] | None
    cls_entropy: Float[Array, "*B H"] | None
    patch_to_itself: Float[Array, "*B H"]
    patch_entropy: Float[Array, "*B H"]


def renormalized(weights: Float[Array, "*batch P"]) -> Float[Array, "*batch P"]:
    """Divided by their sum; uniform where all are 0, as float32 makes of attention that goes to no patch at all."""
    total = jnp.sum(weights, axis=-1, keepdims=True)
    return jnp.where(total > TINY, weights / jnp.maximum(total, TINY), 1 / weights.shape[-1])


def entropy(p: Float[Array | np.ndarray, "*batch P"]) -> Float[Array, "*batch"]:
    """-sum p log p of distributions, natural logarithm, 0 log 0 = 0: from 0 to log P."""
    return -jnp.sum(_times_log(p), axis=-1)


def flow_of_block(attn: Float[Array, "B H T T"], config: ViTConfig) -> AttentionFlow:
    """The flow of one block from its attention maps, of shape [B, H] each.

    Args:
        attn: rows are distributions over all tokens: [CLS] where there is one, registers, patches.
        config: says which tokens are which. Registers take part in nothing, as queries nor as keys.
    """
    prefix, num_tokens = config.num_prefix_tokens, attn.shape[-1]
    is_patch_T = (jnp.arange(num_tokens) >= prefix).astype(jnp.float32)

    def sums(rows_BxHxTxT):
        # On a CPU this product takes a third of the time of a sum over a part of each row (one image, ViT-S/16).
        sums_BxHxT = jnp.einsum("bhts,s->bht", rows_BxHxTxT, is_patch_T, precision=jax.lax.Precision.HIGHEST)
        return sums_BxHxT[:, :, prefix:]

    total = sums(attn)
    some, alike = total > TINY, 1 / (num_tokens - prefix)
    divisor = jnp.maximum(total, TINY)
    # With weights a and their sum s, the entropy of a / s is log s - (sum of a log a) / s: no map is divided first.
    entropies = jnp.where(some, jnp.log(divisor) - sums(_times_log(attn)) / divisor, -np.log(alike))
    kept = jnp.diagonal(attn, axis1=-2, axis2=-1)[:, :, prefix:]
    shares = jnp.where(some, kept / divisor, alike)
    cls_to_cls = attn[:, :, 0, 0] if config.class_token else None
    cls_entropy = entropy(renormalized(attn[:, :, 0, prefix:])) if config.class_token else None
    return AttentionFlow(cls_to_cls, cls_entropy, jnp.mean(shares, axis=-1), jnp.mean(entropies, axis=-1))


def flow_of_blocks(maps: Sequence[Float[Array, "B H T T"]], config: ViTConfig) -> AttentionFlow:
    """The flow of several blocks, of shape [B, L, H] each."""
    flows = [flow_of_block(attn, config) for attn in maps]
    return jax.tree.map(lambda *blocks: jnp.stack(blocks, axis=1), *flows)


def attention_flow(
    backbone: Backbone, images: UInt8[Array | np.ndarray, "B height width 3"], mesh: Mesh, *, dtype: str = "float32"
) -> AttentionFlow:
    """The flow of all blocks, of shape [B, L, H] each, in one jitted call; its numbers stay on the devices until fetched.

    Maps exist for a group of images and are summed up before the next group comes. Equal to the last bit on 1, 2, 4 and 8
    devices where B is a multiple of 8, see `groups.in_groups`.

    Args:
        backbone: the frozen model. With every call its parameters are copied to the devices of the mesh, unless they lie
            there already (`table.replicate`).
        images: RGB in 0..255; B is a multiple of the devices, over which the images are spread unless they are already.
        mesh: the devices.
        dtype: of the forward; maps and their numbers are float32 always.

    Raises:
        ValueError: the images cannot be dealt to the devices.
    """
    return _forward(backbone.spec, dtype, mesh)(*place(backbone.params, images, mesh))


@functools.lru_cache(maxsize=16)
def _forward(spec: BackboneSpec, dtype: str, mesh: Mesh):
    wanted = [(layer, "attn") for layer in range(spec.config.depth)]

    def run(params, images):
        pixels = normalize(images, spec.preprocess)
        maps = capture(spec.config, params, pixels, wanted, dtype=jnp.dtype(dtype))
        return flow_of_blocks([maps[cell] for cell in wanted], spec.config)

    return jax.jit(in_groups(run, mesh))


def _times_log(a: Float[Array | np.ndarray, "*shape"]) -> Float[Array, "*shape"]:
    return a * jnp.log(jnp.maximum(a, TINY))
