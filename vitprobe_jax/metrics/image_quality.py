"""How close images come to reference images: MSE, PSNR, SSIM.

Images are floats [B, H, W, C], layout as in the whole project; nothing is clipped. `data_range` is the distance between the
smallest and the largest value that a pixel can take, 1 for images in [0, 1]. Every result is float32 [B], and equal to
what scikit-image gives for that image.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vitprobe_jax.errors import InputError

_SIGMA = 1.5
_RADIUS = 5
"""Wang et al.'s Gaussian window of 11 x 11 pixels; scikit-image, which ends the kernel at 3.5 deviations, comes to the
same."""
_K1, _K2 = 0.01, 0.03


@jax.jit
def mse(reference: Float[Array, "B H W C"], image: Float[Array, "B H W C"]) -> Float[Array, " B"]:
    """Mean squared error over the pixels and channels of each image."""
    difference = reference.astype(jnp.float32) - image.astype(jnp.float32)
    return jnp.mean(difference**2, axis=(1, 2, 3))


@functools.partial(jax.jit, static_argnames="data_range")
def psnr(
    reference: Float[Array, "B H W C"], image: Float[Array, "B H W C"], *, data_range: float
) -> Float[Array, " B"]:
    """Peak signal-to-noise ratio of each image in dB: 10 log10(data_range^2 / MSE).

    Infinite for an image equal to its reference, as in scikit-image; it is not capped, since any cap would be an invented
    number. Where a mean over images has to be finite, leave those out or take `10 log10` of their mean MSE.
    """
    return 10 * jnp.log10(data_range**2 / mse(reference, image))


@functools.partial(jax.jit, static_argnames="data_range")
def ssim(
    reference: Float[Array, "B H W C"], image: Float[Array, "B H W C"], *, data_range: float
) -> Float[Array, " B"]:
    """Mean structural similarity of each image, in [-1, 1], as Wang et al. define it.

    Gaussian window of deviation 1.5 over 11 x 11 pixels, population (not sample) covariances, K1 = 0.01, K2 = 0.03; mean
    over channels and over the pixels whose whole window lies in the image. That is scikit-image's
    `structural_similarity` with `gaussian_weights=True, sigma=1.5, use_sample_covariance=False, channel_axis=-1`.

    Raises:
        InputError: a side is shorter than the window.

    References:
        Wang et al., Image quality assessment: from error visibility to structural similarity, IEEE TIP 13 (2004).
    """
    _, height, width, _ = reference.shape
    side = 2 * _RADIUS + 1
    if min(height, width) < side:
        raise InputError(f"ssim: images of {height} x {width} pixels are smaller than its window; give {side} x {side}")
    x, y = reference.astype(jnp.float32), image.astype(jnp.float32)
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    variances = _window_mean(x * x) - mean_x**2 + _window_mean(y * y) - mean_y**2
    covariance = _window_mean(x * y) - mean_x * mean_y
    c1, c2 = (_K1 * data_range) ** 2, (_K2 * data_range) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return jnp.mean(luminance * (2 * covariance + c2) / (variances + c2), axis=(1, 2, 3))


def _window_mean(maps: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
    """Gaussian means of all windows that lie in the image.

    A window is a product of its axes, and each axis a banded matrix: as fast on a CPU as sums of shifted images, and
    compiled in a tenth of the time.
    """
    kernel = np.exp(-0.5 * (np.arange(-_RADIUS, _RADIUS + 1) / _SIGMA) ** 2)
    kernel /= kernel.sum()
    rows, columns = (
        sum(weight * np.eye(length - 2 * _RADIUS, length, i) for i, weight in enumerate(kernel)).astype(np.float32)
        for length in maps.shape[1:3]
    )
    return jnp.einsum("hy,wx,byxc->bhwc", rows, columns, maps, precision=jax.lax.Precision.HIGHEST)
