"""The coordinates in which hyperplanes are fitted: standardised features, and a preconditioner for their regressions.

A logistic regression on raw tokens depends on units twice: a penalty on the weights weighs features by their scale, and
gradient steps crawl along directions of small variance. Standardised features settle the first. The second is a matter of
conditioning: features of a token are correlated, so the loss is curved thousands of times more along some directions than
along others. Near an empty template its Hessian is a multiple of the features' correlation; L-BFGS therefore works on
v, with weights w = P v and P P' = (CURVATURE * correlation + penalty)^-1. P changes the way to the minimum, not the minimum.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vitprobe_jax.features.streaming import StreamedRows, take_images, take_rows

CURVATURE = 0.1
"""p (1 - p) of a row as the preconditioner assumes it: 1/4 at an empty template, less at rows that a template knows."""
SMALLEST_RIDGE = 1e-4
"""Least eigenvalue that the preconditioner counts on: below it, float32 correlations are rounding."""
BLOCK_BYTES = 1 << 18
"""Rows of a block in float32 while moments are summed: so few that a window of streamed rows mostly holds a block. Moments
then do not depend on where the rows are."""
SAMPLE_ROWS = 8192
"""Rows whose correlation is computed, or 8 D where that is more; a preconditioner needs no more digits than they give."""
MOST_SAMPLE_ROWS = 1 << 15
"""See `spread_out`."""


class Coordinates(NamedTuple):
    """Standardised features x = (z - shift) * inverse of raw rows z, and the preconditioner of regressions on them.

    Attributes:
        shift: mean of every feature over the training rows.
        inverse: one over the deviation of every feature; 0 where a feature is left out or constant, so that x is 0 there.
        deviation: deviation of every feature over the training rows.
        basis: P, upper triangular: weights of x are `basis @ v`.
    """

    shift: Float[Array, " D"]
    inverse: Float[Array, " D"]
    deviation: Float[Array, " D"]
    basis: Float[Array, "D D"]

    def __call__(self, rows: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
        """Standardised rows, in float32."""
        lead = (1,) * (rows.ndim - 1)
        return (rows.astype(jnp.float32) - self.shift.reshape(*lead, -1)) * self.inverse.reshape(*lead, -1)


def fit_coordinates(
    rows: Float[Array, "I R D"] | StreamedRows, real: Bool[Array, " I"], keep: Bool[Array, " D"], *, penalty: float
) -> Coordinates:
    """The coordinates of a training split, within a program in which this device has all rows.

    Padding does not change them: not by a bit, on any number of devices.

    Args:
        rows: all rows of the table.
        real: images that count.
        keep: features that take part; all others are 0 in every standardised row.
        penalty: weight of |w|^2 / 2 in the regressions' loss.
    """
    pivot, mean, variance = _moments(rows, real)
    # A feature that varies by no more than its own rounding says nothing, and has no scale.
    varies = variance > (jnp.finfo(jnp.float32).eps * (pivot + mean)) ** 2
    deviation = jnp.sqrt(variance)
    inverse = jnp.where(varies & keep, 1 / jnp.where(varies, deviation, 1.0), 0.0)
    coordinates = Coordinates(pivot + mean, inverse, deviation, jnp.zeros((len(keep), len(keep))))
    return coordinates._replace(basis=_basis(coordinates, rows, real, penalty))


def _moments(rows, real):
    """A row, the mean of all real rows less that row, and their variance.

    Sums around one of the rows keep their digits where means are a million times as large as deviations.
    """
    num_images, num_rows, width = rows.shape
    order = _real_first(real)
    pivot = take_images(rows, order[:1])[0, 0].astype(jnp.float32)
    count = jnp.sum(real)
    size = min(num_images, max(1, BLOCK_BYTES // (4 * num_rows * width)))
    if isinstance(rows, StreamedRows):
        size = min(size, rows.images_together)

    def add_block(i, moments):
        n, mean, squares = moments
        place = i * size + jnp.arange(size)
        weight = jnp.repeat(place < count, num_rows)[:, None].astype(jnp.float32)
        z = take_images(rows, order[jnp.minimum(place, num_images - 1)]).reshape(-1, width)
        z = (z.astype(jnp.float32) - pivot[None]) * weight
        block_n = jnp.sum(weight)
        block_mean = jnp.sum(z, axis=0) / block_n
        block_squares = jnp.sum((z - block_mean[None]) ** 2 * weight, axis=0)
        # Both put together (Chan, Golub and LeVeque, 1979).
        total, step = n + block_n, block_mean - mean
        share = block_n / total
        return total, mean + step * share, squares + block_squares + step**2 * n * share

    empty = (jnp.zeros(()), jnp.zeros(width), jnp.zeros(width))
    n, mean, squares = jax.lax.fori_loop(0, -(-count // size), add_block, empty)
    return pivot, mean, squares / jnp.maximum(n, 1)


def _basis(coordinates: Coordinates, rows, real, penalty: float) -> Float[Array, "D D"]:
    """P: the inverse of a Cholesky factor."""
    _, num_rows, width = rows.shape
    size = min(max(SAMPLE_ROWS, 8 * width), MOST_SAMPLE_ROWS) // _PIECE * _PIECE
    order, count = _real_first(real), jnp.sum(real)
    place = spread_out(jnp.arange(size), jnp.asarray(size), count * num_rows).reshape(-1, _PIECE)

    def add_piece(total, place):
        x = coordinates(take_rows(rows, order[place // num_rows] * num_rows + place % num_rows))
        return total + jnp.einsum("nd,ne->de", x, x, precision=jax.lax.Precision.HIGHEST), None

    total = jax.lax.scan(add_piece, jnp.zeros((width, width)), place)[0]
    ridge = max(penalty, SMALLEST_RIDGE) * jnp.eye(width)
    lower = jnp.linalg.cholesky(CURVATURE / size * total + ridge)
    return jax.scipy.linalg.solve_triangular(lower, jnp.eye(width), lower=True, trans=1)


_PIECE = 512
"""Rows of a product at a time, the same on every device."""


def _real_first(real: Bool[Array, " I"]) -> Int[Array, " I"]:
    """The numbers of the images, the real ones first, in order."""
    return jnp.argsort(~real, stable=True)


def spread_out(i: Int[Array, "..."], m: Int[Array, "..."], n: Int[Array, "..."]) -> Int[Array, "..."]:
    """Place i of m places spread evenly over 0..n-1: floor(i n / m) without its overflow, for m up to 2^15."""
    return i * (n // m) + i * (n % m) // m
