"""Feature norms: per-feature shifts and scales from training rows, folded back into templates of raw tokens."""

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from vitprobe_jax.features.moments import Moments, images_at_once, merge, table_mean
from vitprobe_jax.features.streaming import finished
from vitprobe_jax.features.table import FeatureTable, fold_images, on_all_devices, replicate
from vitprobe_jax.types import FeatureNorm

CHANGES: dict[FeatureNorm, str] = {
    "none": "features as the backbone gives them",
    "center": "the training mean is subtracted: cosines are angles around the mean, and hyperplanes of --solver=paper start "
    "from it; those of --solver=lbfgs do not depend on it",
    "standardize": "the training mean is subtracted and every feature divided by its deviation: features of small variance "
    "count as much as those of large variance, in cosines and in the steps of --solver=paper; hyperplanes of "
    "--solver=lbfgs do not depend on it",
    "l2": "all features are divided by one number, the root mean square length of the training rows: hyperplanes of "
    "--solver=paper take steps of another length; those of --solver=lbfgs and cosines stay as they are",
}
"""What each feature norm changes, for a reader of the results. The default solver of hyperplanes standardises features
itself."""


@dataclasses.dataclass(frozen=True)
class Affine:
    """z -> (z - shift) / scale.

    Attributes:
        shift: subtracted, per feature.
        scale: divided by, per feature; positive. Where it is infinite the feature is left out: it becomes 0 in every row,
            and `fold` gives it no weight.
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


def fit_feature_norm(table: FeatureTable, *, kind: FeatureNorm, keep: Bool[np.ndarray, " D"] | None = None) -> Affine:
    """The feature norm of a training split.

    The rows are gone through once, in blocks whose means and squared deviations are put together. Where the blocks are cut
    depends on the number of devices and on the bound of a streamed table; for that means differ by 1e-6 of themselves or of
    the deviation, whichever is larger, and deviations by 1e-5. The mean of `center` does not (`moments.table_mean`).

    Args:
        table: the split; all rows of its real images count.
        kind: `none`; `center`: the mean is subtracted; `standardize`: also divided by the deviation (constant features
            are left as they are); `l2`: divided by one number, the root mean square of the rows' L2 norms. A norm of each
            row on its own could not be folded into a hyperplane.
        keep: features that are kept, all unless given. The others are left out by an infinite scale, and do not count for
            the norms of `l2`: all is as if they were 0 in every row.

    Returns:
        The norm, on every device.

    Raises:
        InputError: streamed rows could not be read.
    """
    width = table.rows.shape[-1]
    if kind == "none":
        shift, scale = np.zeros(width, np.float32), np.ones(width, np.float32)
    elif kind == "center":
        shift, scale = np.asarray(table_mean(table)), np.ones(width, np.float32)
    else:
        kept = replicate(np.ones(width, bool) if keep is None else keep, table.mesh)
        shift, scale = map(np.asarray, finished(table.rows, _fit(table, kept, kind=kind)))
    if keep is not None:
        shift, scale = np.where(keep, shift, 0), np.where(keep, scale, np.inf)
    return Affine(*replicate((shift, scale), table.mesh))


@functools.partial(jax.jit, static_argnames="kind")
def _fit(table: FeatureTable, keep: Bool[Array, " D"], *, kind: Literal["standardize", "l2"]):
    """Shift and scale of the features that are kept."""
    width = table.rows.shape[-1]

    def add_block(moments, rows, slots, real):
        weight = jnp.broadcast_to(real[:, None], rows.shape[:2]).reshape(-1, 1).astype(jnp.float32)
        z = rows.reshape(-1, width).astype(jnp.float32)
        count = jnp.sum(weight)
        # Sums around a row of the block: a constant feature has a deviation of exactly 0.
        pivot = z[jnp.argmax(weight[:, 0])]
        mean = pivot + jnp.sum(weight * (z - pivot[None]), axis=0) / jnp.maximum(count, 1)
        return merge(moments, Moments(count, mean, jnp.sum(weight * (z - mean[None]) ** 2, axis=0)))

    empty = Moments(jnp.zeros(()), jnp.zeros(width), jnp.zeros(width))
    by_device = fold_images(add_block, empty, table, images_at_once=images_at_once(table))
    moments = jax.lax.scan(lambda sums, own: (merge(sums, own), None), empty, by_device)[0]
    zeros, ones = jnp.zeros(width), jnp.ones(width)
    if kind == "l2":
        size = jnp.sqrt(jnp.sum(jnp.where(keep, moments.variance + moments.mean**2, 0.0)))
        norm = zeros, ones * jnp.where(size > 0, size, 1.0)
    else:
        deviation = jnp.sqrt(moments.variance)
        norm = moments.mean, jnp.where(deviation > 0, deviation, 1.0)
    return on_all_devices(norm, table.mesh)
