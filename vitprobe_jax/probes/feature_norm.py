"""Feature norms: per-feature shifts and scales from training rows, folded back into templates of raw tokens."""

import dataclasses
import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vitprobe_jax.features.streaming import finished
from vitprobe_jax.features.table import FeatureTable, fold_images, on_all_devices, replicate
from vitprobe_jax.types import FeatureNorm

CHANGES: dict[FeatureNorm, str] = {
    "none": "features as the backbone gives them",
    "center": "the training mean is subtracted: cosines are angles around the mean, and hyperplanes start from it",
    "standardize": "the training mean is subtracted and every feature divided by its deviation: features of small variance "
    "count as much as those of large variance, in cosines and in the steps of hyperplanes",
    "l2": "all features are divided by one number, the root mean square length of the training rows: hyperplanes take "
    "steps of another length, cosines stay as they are",
}
"""What each feature norm changes, for a reader of the results."""

BLOCK_BYTES = 1 << 23
"""Rows of a block in float32: few enough for exact sums, and for the cache of a CPU."""


@dataclasses.dataclass(frozen=True)
class Affine:
    """z -> (z - shift) / scale.

    Attributes:
        shift: subtracted, per feature.
        scale: divided by, per feature; positive.
    """

    shift: Float[Array | np.ndarray, " D"]
    scale: Float[Array | np.ndarray, " D"]

    def __call__(self, rows: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
        """Normalised rows, in float32."""
        lead = (1,) * (rows.ndim - 1)
        return (rows.astype(jnp.float32) - self.shift.reshape(*lead, -1)) / self.scale.reshape(*lead, -1)

    def fold(self, w: Float[Array, "K D"], b: Float[Array, " K"]) -> tuple[Float[Array, "K D"], Float[Array, " K"]]:
        """The hyperplane of raw rows that equals (w, b) on normalised ones: w/s and b + (w/s).m."""
        raw = w / self.scale[None, :]
        return raw, b + jnp.einsum("kd,d->k", raw, self.shift, precision=jax.lax.Precision.HIGHEST)


jax.tree_util.register_dataclass(Affine, ["shift", "scale"], [])


def fit_feature_norm(table: FeatureTable, *, kind: FeatureNorm) -> Affine:
    """The feature norm of a training split.

    The rows are gone through once, in blocks whose means and squared deviations are put together. Where the blocks are cut
    depends on the number of devices and on the bound of a streamed table; for that means differ by 1e-6 of themselves or of
    the deviation, whichever is larger, and deviations by 1e-5. The mean of `center` does not: it is the mean of the images'
    own means, summed so exactly that their order leaves no trace.

    Args:
        table: the split; all rows of its real images count.
        kind: `none`; `center`: the mean is subtracted; `standardize`: also divided by the deviation (constant features
            are left as they are); `l2`: divided by one number, the root mean square of the rows' L2 norms. A norm of each
            row on its own could not be folded into a hyperplane.

    Returns:
        The norm, on every device.

    Raises:
        InputError: streamed rows could not be read.
    """
    if kind == "none":
        width = table.rows.shape[-1]
        return Affine(*replicate((np.zeros(width, np.float32), np.ones(width, np.float32)), table.mesh))
    if kind == "center":
        return finished(table.rows, _fit_center(table))
    return finished(table.rows, _fit(table, kind=kind))


@functools.partial(jax.jit, static_argnames="kind")
def _fit(table: FeatureTable, *, kind: Literal["standardize", "l2"]) -> Affine:
    width = table.rows.shape[-1]

    def add_block(moments, rows, slots, real):
        weight = jnp.broadcast_to(real[:, None], rows.shape[:2]).reshape(-1, 1).astype(jnp.float32)
        z = rows.reshape(-1, width).astype(jnp.float32)
        count = jnp.sum(weight)
        # Sums around a row of the block: a constant feature has a deviation of exactly 0.
        pivot = z[jnp.argmax(weight[:, 0])]
        mean = pivot + jnp.sum(weight * (z - pivot[None]), axis=0) / jnp.maximum(count, 1)
        return _merge(moments, _Moments(count, mean, jnp.sum(weight * (z - mean[None]) ** 2, axis=0)))

    empty = _Moments(jnp.zeros(()), jnp.zeros(width), jnp.zeros(width))
    by_device = fold_images(add_block, empty, table, images_at_once=_images_at_once(table))
    count, center, squares = jax.lax.scan(lambda sums, own: (_merge(sums, own), None), empty, by_device)[0]
    variance = squares / jnp.maximum(count, 1)
    zeros, ones = jnp.zeros(width), jnp.ones(width)
    if kind == "l2":
        size = jnp.sqrt(jnp.sum(variance + center**2))
        norm = Affine(zeros, ones * jnp.where(size > 0, size, 1.0))
    else:
        deviation = jnp.sqrt(variance)
        norm = Affine(center, jnp.where(deviation > 0, deviation, 1.0))
    return on_all_devices(norm, table.mesh)


@jax.jit
def _fit_center(table: FeatureTable) -> Affine:
    width = table.rows.shape[-1]

    def add_block(sums, rows, slots, real):
        total, count = sums
        z_BxRxD = rows.astype(jnp.float32)
        first_BxD = z_BxRxD[:, 0]
        means_BxD = first_BxD + jnp.mean(z_BxRxD - first_BxD[:, None], axis=1)
        means_BxD = jnp.where(real[:, None], means_BxD, 0.0)
        return _add(total, _sum(means_BxD, jnp.zeros_like(means_BxD))), count + jnp.sum(real)

    zeros = jnp.zeros(width)
    empty = ((zeros, zeros), jnp.zeros((), jnp.int32))
    by_device, count = fold_images(add_block, empty, table, images_at_once=_images_at_once(table))
    high, low = _sum(*by_device)
    return on_all_devices(Affine((high + low) / jnp.maximum(jnp.sum(count), 1), jnp.ones(width)), table.mesh)


def _images_at_once(table: FeatureTable) -> int:
    _, num_rows, width = table.rows.shape
    return max(1, BLOCK_BYTES // (4 * num_rows * width))


_Exact = tuple[Float[Array, "*shape"], Float[Array, "*shape"]]
"""A number of twice the digits of float32, as the sum of two: the second is what the first has been rounded by."""


def _add(a: _Exact, b: _Exact) -> _Exact:
    """Their sum, with what its rounding leaves (Knuth's two-sum)."""
    high = a[0] + b[0]
    of_b = high - a[0]
    return high, (a[0] - (high - of_b)) + (b[0] - of_b) + (a[1] + b[1])


def _sum(high: Float[Array, "n D"], low: Float[Array, "n D"]) -> _Exact:
    """The sum of exact numbers, pair by pair."""
    while len(high) > 1:
        high, low = (jnp.pad(x, ((0, len(x) % 2), (0, 0))) for x in (high, low))
        high, low = _add((high[::2], low[::2]), (high[1::2], low[1::2]))
    return high[0], low[0]


class _Moments(NamedTuple):
    """Of some rows: their number, their mean, and the sum of the squares of their deviations from it."""

    count: Float[Array, ""]
    mean: Float[Array, " D"]
    squares: Float[Array, " D"]


def _merge(a: _Moments, b: _Moments) -> _Moments:
    """The moments of both together (Chan, Golub and LeVeque, 1979)."""
    count = a.count + b.count
    share = b.count / jnp.maximum(count, 1)
    step = b.mean - a.mean
    return _Moments(count, a.mean + step * share, a.squares + b.squares + step**2 * a.count * share)
