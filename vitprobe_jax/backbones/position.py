"""Learned position grids at other sizes, by the official rules.

torch's bicubic `interpolate` (A = -0.75, clamped edges, no antialiasing) is separable, so each axis is one small matrix,
computed on the host in float64. `jax.image.resize` uses A = -0.5 and differs by 0.26 on order-1 input.
"""

import numpy as np
from jaxtyping import Float

from vitprobe_jax.backbones.config import Resample


def cubic_matrix(n_in: int, n_out: int, *, scale: float | None = None) -> Float[np.ndarray, "{n_out} {n_in}"]:
    """The matrix that resamples one axis as torch's `interpolate(mode="bicubic", align_corners=False)` does.

    Args:
        n_in: samples of the input.
        n_out: samples of the output.
        scale: the scale factor that torch was told; `n_out / n_in` unless given.

    Returns:
        float64 weights; every row sums to 1.
    """
    scale = n_out / n_in if scale is None else scale
    source = (np.arange(n_out) + 0.5) / scale - 0.5
    first = np.floor(source).astype(int) - 1
    matrix = np.zeros((n_out, n_in))
    for tap in range(4):
        weight = _cubic(np.abs(source - (first + tap)))
        np.add.at(matrix, (np.arange(n_out), np.clip(first + tap, 0, n_in - 1)), weight)
    return matrix


def _cubic(distance: np.ndarray, a: float = -0.75) -> np.ndarray:
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


def grid_matrices(
    native: tuple[int, int], grid: tuple[int, int], rule: Resample
) -> tuple[Float[np.ndarray, "h_out h_in"], Float[np.ndarray, "w_out w_in"]]:
    """One resampling matrix per axis, from the native patch grid to `grid` (both rows, columns).

    `dino`: the scale is (n + 0.1) / N, N the native side, as the official code passes it to guard against rounding;
    `bicubic`: the plain scale, as MAE's fine-tuning code does. Both leave a native grid as it is.
    """
    if grid == native:
        return np.eye(native[0]), np.eye(native[1])
    offset = {"dino": 0.1, "bicubic": 0.0}[rule]
    rows, columns = (cubic_matrix(n, m, scale=(m + offset) / n) for n, m in zip(native, grid, strict=True))
    return rows, columns
