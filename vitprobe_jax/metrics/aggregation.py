"""How far apart different weights of the same patches are."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

FLOOR = float(np.finfo(np.float32).tiny)
"""Below this, weights count as this much: the smallest number that float32 holds in full, e^-87."""
_BLOCK = 2**22  # weights of a kind at once, in float64: 32 MiB


def kl_matrix(weights: Mapping[str, Float[np.ndarray, "N P"]]) -> Float[np.ndarray, "K K"]:
    """The mean over images of KL(row || column) = sum_p row log(row / column), of every pair; natural logarithm.

    Where the column has no weight and the row has some, the divergence would be infinite; the logarithm is that of `FLOOR`
    instead, so such a patch adds at most 87 times its weight in the row. Weights are brought to a sum of 1 in float64 first,
    so the rounding of float32 makes no divergence negative.

    Args:
        weights: by name, of the same images and patches; a row of weights is not negative, and not 0 altogether.

    Returns:
        float64, in the order of the names; the diagonal is 0, nothing is negative.

    Raises:
        ValueError: there are no images, shapes differ, or a row is no distribution.
    """
    kinds = list(weights.values())
    if not kinds or len({kind.shape for kind in kinds}) > 1 or not kinds[0].size:
        raise ValueError("divergences are between weights of the same patches, of one image at least")
    num_images, num_patches = kinds[0].shape
    size = max(1, _BLOCK // num_patches)
    products = np.zeros((len(kinds), len(kinds)))
    for start in range(0, num_images, size):
        p_KxW = np.stack([_distributions(kind[start : start + size]).ravel() for kind in kinds])
        products += p_KxW @ np.log(np.maximum(p_KxW, FLOOR)).T
    # The sum of p log p is on the diagonal, and of p log q everywhere else; 0 log 0 is 0 by the floor.
    return np.maximum(products.diagonal()[:, None] - products, 0.0) / num_images


def _distributions(weights: Float[np.ndarray, "n P"]) -> Float[np.ndarray, "n P"]:
    weights = weights.astype(np.float64)
    total = weights.sum(axis=1, keepdims=True)
    if not ((weights >= 0).all() and (total > 0).all() and np.isfinite(total).all()):
        raise ValueError("weights of an image must be finite, none negative and some positive")
    return weights / total
