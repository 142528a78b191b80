"""Feature norms: per-feature shifts and scales from training rows, folded back into templates of raw tokens."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vitprobe_jax.features.table import FeatureTable
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


@functools.partial(jax.jit, static_argnames="kind")
def fit_feature_norm(table: FeatureTable, *, kind: FeatureNorm) -> Affine:
    """The feature norm of a training split.

    Args:
        table: the split; all rows of its real images count.
        kind: `none`; `center`: the mean is subtracted; `standardize`: also divided by the deviation (constant features
            are left as they are); `l2`: divided by one number, the root mean square of the rows' L2 norms. A norm of each
            row on its own could not be folded into a hyperplane.
    """
    width = table.rows.shape[-1]
    zeros, ones = jnp.zeros(width), jnp.ones(width)
    if kind == "none":
        return Affine(zeros, ones)
    real = table.real[:, None, None]
    count = jnp.sum(table.real) * table.rows.shape[1]

    def mean(values):
        return jnp.sum(jnp.where(real, values, 0.0), axis=(0, 1)) / count

    rows = table.rows.astype(jnp.float32)
    if kind == "l2":
        size = jnp.sqrt(jnp.sum(mean(rows**2)))
        return Affine(zeros, ones * jnp.where(size > 0, size, 1.0))
    center = mean(rows)
    if kind == "center":
        return Affine(center, ones)
    deviation = jnp.sqrt(mean((rows - center.reshape(1, 1, -1)) ** 2))
    return Affine(center, jnp.where(deviation > 0, deviation, 1.0))
