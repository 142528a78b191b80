"""Ridge regression in closed form: many targets and penalties from one decomposition for each choice of features.

It is solved in float64 on the host. The features of some backbones differ in scale by orders of magnitude, and the penalty
is on their own weights, so they cannot be brought to one scale first: in float32, rounding the loudest would drown the
faintest. There are a few thousand rows at most, one an image.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float

from vitprobe_jax.errors import InputError


class RidgeWeights(NamedTuple):
    """Linear maps of rows with all features: row z is mapped to `w @ z + b`. In float64.

    Attributes:
        w: 0 where a feature is left out.
        b: intercepts.
    """

    w: Float[np.ndarray, "V K D"]
    b: Float[np.ndarray, "V K"]


def fit_ridge(
    x: Float[Array | np.ndarray, "N D"],
    y: Float[Array | np.ndarray, "N K"],
    *,
    alpha: float | Sequence[float],
    keep: Float[Array | np.ndarray, "V D"] | Bool[Array | np.ndarray, "V D"] | None = None,
) -> RidgeWeights:
    """Minimises |y - X w - b|^2 + alpha |w|^2 for each target and each choice of features; b is free.

    With X = U S V' of the centred rows, w = V (S / (S^2 + alpha)) U'y, and row i has the leverage
    h_i = 1 / N + sum_j U_ij^2 S_j^2 / (S_j^2 + alpha): fitted without it, its residual r_i would be r_i / (1 - h_i).

    Args:
        x: rows.
        y: targets.
        alpha: the penalty; of several, each target takes the one with the smallest mean square of left-out residuals for
            itself, of equals the first.
        keep: which features each of V variants uses, as 0 and 1; one variant with all unless given.

    Raises:
        InputError: fewer than two rows, or a penalty that is not positive.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    alphas = np.atleast_1d(np.asarray(alpha, np.float64))
    if len(x) < 2:
        raise InputError(f"ridge regression: {len(x)} row(s), at least 2 are needed; give more images")
    if not len(alphas) or not (alphas > 0).all():
        raise InputError(f"ridge regression: alpha={alpha} is not positive")
    masks = np.ones((1, x.shape[1]), bool) if keep is None else np.asarray(keep) > 0
    x_mean, y_mean = x.mean(axis=0), y.mean(axis=0)
    w = np.zeros((len(masks), y.shape[1], x.shape[1]))
    for own_w, mask in zip(w, masks, strict=True):
        own_w[:, mask] = _fit((x - x_mean[None])[:, mask], y - y_mean[None], alphas)
    return RidgeWeights(w, y_mean[None] - w @ x_mean)


def _fit(
    x: Float[np.ndarray, "N d"], y: Float[np.ndarray, "N K"], alphas: Float[np.ndarray, " A"]
) -> Float[np.ndarray, "K d"]:
    """The weights of centred rows and targets."""
    # The rows themselves are decomposed, not their products, whose rounding would hide what is 1e-8 as large as the rest.
    left_Nxr, s_r, right_rxd = np.linalg.svd(x, full_matrices=False)
    covered_rxK = left_Nxr.T @ y
    solutions_AxrxK, errors_AxK = [], []
    for alpha in alphas:
        shrunk_r = s_r**2 / (s_r**2 + alpha)
        leverage_N = 1 / len(x) + left_Nxr**2 @ shrunk_r
        left_out_NxK = (y - left_Nxr @ (shrunk_r[:, None] * covered_rxK)) / (1 - leverage_N)[:, None]
        solutions_AxrxK.append((s_r / (s_r**2 + alpha))[:, None] * covered_rxK)
        errors_AxK.append(np.mean(left_out_NxK**2, axis=0))
    best_K = np.argmin(errors_AxK, axis=0)
    return np.stack(solutions_AxrxK)[best_K, :, np.arange(y.shape[1])] @ right_rxd
