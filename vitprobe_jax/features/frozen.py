"""What a frozen backbone makes of images, left on the devices: tokens, and weights that its attention gives to patches."""

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
from vitprobe_jax.errors import InputError
from vitprobe_jax.features.attention_flow import entropy, renormalized
from vitprobe_jax.features.groups import in_groups, place
from vitprobe_jax.types import Intermediate

WEIGHTS = ("cls_attention", "lowest_entropy_cls", "central_patch", "other_cls_attention")
"""Weights of patches that need no training. The first two are of models with [CLS], the last is another model's first."""

Grid = tuple[int, int]


class ImageTokens(NamedTuple):
    """Some images as a frozen backbone sees them.

    Attributes:
        cls: the [CLS] token; the mean of the patches where the model has none.
        patches: in row-major order; without [CLS] and registers.
        weights: by name of `WEIGHTS`, those that were asked for, each a distribution over the patches in float32.
    """

    cls: Float[Array, "B D"]
    patches: Float[Array, "B P D"]
    weights: dict[str, Float[Array, "B P"]]


def frozen_tokens(
    backbone: Backbone,
    cell: tuple[int, Intermediate],
    images: UInt8[Array | np.ndarray, "B height width 3"],
    mesh: Mesh,
    *,
    weights: Sequence[str] = (),
    other: Backbone | None = None,
    dtype: str = "float32",
) -> ImageTokens:
    """The tokens of a cell, and weights from the attention of the same block, one jitted call; all stay on the devices.

    Equal to the last bit on 1, 2, 4 and 8 devices where B is a multiple of 8, see `groups.in_groups`.

    Args:
        backbone: the frozen model. With every call its parameters are copied to the devices of the mesh, unless they lie
            there already (`table.replicate`).
        cell: block, and a token [B, T, D] of it.
        images: RGB in 0..255; B is a multiple of the devices, over which the images are spread unless they are already.
        mesh: the devices.
        weights: names of `WEIGHTS`.
        other: the model of `other_cls_attention`, whose last block's attention is taken and brought to this one's grid.
        dtype: of both computations and of the tokens.

    Raises:
        InputError: weights that do not exist or that a model cannot give; images whose sides the other model's patches do
            not divide.
        ValueError: the images cannot be dealt to the devices.
    """
    weights = tuple(weights)
    _check_weights(weights, backbone.spec, None if other is None else other.spec, images.shape[1:3])
    other = other if "other_cls_attention" in weights else None
    step = _forward(backbone.spec, cell, weights, None if other is None else other.spec, dtype, mesh)
    return step(*place((backbone.params, None if other is None else other.params), images, mesh))


def distributions(
    attn: Float[Array, "B H T T"], config: ViTConfig, grid: Grid, wanted: Sequence[str] = WEIGHTS[:3]
) -> dict[str, Float[Array, "B P"]]:
    """The weights that a backbone's own attention gives to its patches, each row a distribution.

    - `cls_attention`: [CLS]'s attention, mean over heads.
    - `lowest_entropy_cls`: that of the head, chosen for each image, whose attention over the patches has the lowest entropy;
      of equal heads the first.
    - `central_patch`: the attention of the central patch, mean over heads; of an even number of rows or columns the patch
      before the middle.

    All are renormalised over the patches, so [CLS] and registers get nothing.

    Args:
        attn: maps of a block, rows over all tokens.
        config: says which tokens are patches; without [CLS] the first two are left out.
        grid: rows and columns of patches.
        wanted: which of the three.
    """
    prefix = config.num_prefix_tokens
    found = {}
    if config.class_token:
        of_heads_BxHxP = attn[:, :, 0, prefix:]
        if "cls_attention" in wanted:
            found["cls_attention"] = renormalized(jnp.mean(of_heads_BxHxP, axis=1))
        if "lowest_entropy_cls" in wanted:
            own_BxHxP = renormalized(of_heads_BxHxP)
            head_B = jnp.argmin(entropy(own_BxHxP), axis=1)
            chosen_Bx1xP = jnp.take_along_axis(own_BxHxP, head_B[:, None, None], axis=1)
            found["lowest_entropy_cls"] = chosen_Bx1xP[:, 0]
    if "central_patch" in wanted:
        row, column = ((side - 1) // 2 for side in grid)
        of_centre_BxHxP = attn[:, :, prefix + row * grid[1] + column, prefix:]
        found["central_patch"] = renormalized(jnp.mean(of_centre_BxHxP, axis=1))
    return found


def regrid(weights: Float[Array, "B P"], source: Grid, target: Grid) -> Float[Array, "B Q"]:
    """Distributions over one grid of an image as distributions over another.

    The weight of a patch lies evenly on its area, and a patch of the other grid takes what falls on its own: nothing is
    lost, whatever the grids; between equal grids nothing changes.
    """
    if source == target:
        return weights
    rows, columns = (jnp.asarray(_overlaps(n, m), jnp.float32) for n, m in zip(source, target, strict=True))
    maps = weights.reshape(-1, *source)
    # A matmul that an accelerator rounds to bfloat16 would leave weights that do not sum to 1.
    maps = jnp.einsum("oi,pj,bij->bop", rows, columns, maps, precision=jax.lax.Precision.HIGHEST)
    return maps.reshape(len(weights), -1)


def _overlaps(n_in: int, n_out: int) -> Float[np.ndarray, "{n_out} {n_in}"]:
    """Which share of each input interval of an axis lies on each output interval; columns sum to 1."""
    starts, ends = np.arange(n_in) / n_in, (np.arange(n_in) + 1) / n_in
    out_starts, out_ends = np.arange(n_out) / n_out, (np.arange(n_out) + 1) / n_out
    common = np.minimum(ends, out_ends[:, None]) - np.maximum(starts, out_starts[:, None])
    return np.maximum(common, 0.0) * n_in


@functools.lru_cache(maxsize=16)
def _forward(
    spec: BackboneSpec,
    cell: tuple[int, Intermediate],
    weights: tuple[str, ...],
    other: BackboneSpec | None,
    dtype: str,
    mesh: Mesh,
):
    own_weights = [name for name in weights if name != "other_cls_attention"]
    wanted = [cell, (cell[0], "attn")] if own_weights else [cell]

    def run(params, images):
        own_params, other_params = params
        c, grid = spec.config, _grid(spec, images.shape[1:3])
        taken = capture(c, own_params, normalize(images, spec.preprocess), wanted, dtype=jnp.dtype(dtype))
        tokens, found = taken[cell], {}
        if own_weights:
            found = distributions(taken[cell[0], "attn"], c, grid, own_weights)
        if other is not None:
            last = (other.config.depth - 1, "attn")
            pixels = normalize(images, other.preprocess)
            attn = capture(other.config, other_params, pixels, [last], dtype=jnp.dtype(dtype))[last]
            others_grid = _grid(other, images.shape[1:3])
            of_other = distributions(attn, other.config, others_grid, ["cls_attention"])["cls_attention"]
            found["other_cls_attention"] = regrid(of_other, others_grid, grid)
        patches = tokens[:, c.num_prefix_tokens :]
        cls = tokens[:, 0] if c.class_token else jnp.mean(patches, axis=1)
        return ImageTokens(cls, patches, {name: found[name] for name in weights})

    return jax.jit(in_groups(run, mesh))


def _grid(spec: BackboneSpec, size: tuple[int, int]) -> Grid:
    return size[0] // spec.config.patch_size, size[1] // spec.config.patch_size


def _check_weights(
    weights: tuple[str, ...], spec: BackboneSpec, other: BackboneSpec | None, size: tuple[int, int]
) -> None:
    unknown = [name for name in weights if name not in WEIGHTS]
    if unknown:
        raise InputError(f"no weights {', '.join(unknown)}; there are {', '.join(WEIGHTS)}")
    of_cls = [name for name in WEIGHTS[:2] if name in weights]
    if of_cls and not spec.config.class_token:
        raise InputError(f"{spec.name} has no [CLS] token, hence no {', '.join(of_cls)}; leave them out for it")
    if "other_cls_attention" not in weights:
        return
    if other is None:
        raise InputError("other_cls_attention: another backbone is needed; name one, or leave these weights out")
    if not other.config.class_token:
        raise InputError(f"other_cls_attention: {other.name} has no [CLS] token; name a backbone that has one")
    patch = other.config.patch_size
    if any(side % patch for side in size):
        raise InputError(
            f"other_cls_attention: patches of {patch} pixels of {other.name} do not divide images of {size[0]} x {size[1]}; "
            "give another size or another backbone"
        )
