import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from skimage import metrics as skimage_metrics

from vitprobe_jax.errors import InputError
from vitprobe_jax.metrics.image_quality import mse, psnr, ssim


@pytest.fixture(scope="module")
def images(shared_data):
    """Photographs in [0, 1], and the same blotted, noisy, darkened, brightened to nearly white, and unlike."""
    files = sorted((shared_data / "camvid_broden").rglob("*.jpg"))[:2]
    first, second = (np.asarray(Image.open(file).convert("RGB").resize((72, 56)), np.float64) / 255 for file in files)
    rng = np.random.default_rng(0)
    blotted = first.copy()
    blotted[16:32, 16:48] = 0.5
    pairs = [
        (first, blotted),
        (first, np.clip(first + 0.1 * rng.standard_normal(first.shape), 0, 1)),
        (second, 0.5 * second),
        (0.97 + 0.03 * second, 0.97 + 0.03 * first),
        (first, second),
    ]
    return (np.stack(column).astype(np.float32) for column in zip(*pairs, strict=True))


@pytest.fixture(scope="module")
def pair(images):
    return tuple(images)


def test_mse_is_scikit_images(pair):
    expected = [skimage_metrics.mean_squared_error(x, y) for x, y in zip(*pair, strict=True)]
    np.testing.assert_allclose(mse(*map(jnp.asarray, pair)), expected, rtol=1e-5)


@pytest.mark.parametrize("data_range", [1.0, 255.0])
def test_psnr_is_scikit_images(pair, data_range):
    reference, image = (np.float32(data_range) * images for images in pair)
    expected = [
        skimage_metrics.peak_signal_noise_ratio(x, y, data_range=data_range)
        for x, y in zip(reference, image, strict=True)
    ]
    actual = psnr(jnp.asarray(reference), jnp.asarray(image), data_range=data_range)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize("data_range", [1.0, 255.0])
def test_ssim_is_scikit_images(pair, data_range):
    reference, image = (np.float32(data_range) * images for images in pair)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "channel_axis": -1}
    expected = [
        skimage_metrics.structural_similarity(
            x.astype(np.float64), y.astype(np.float64), data_range=data_range, **options
        )
        for x, y in zip(reference, image, strict=True)
    ]
    actual = ssim(jnp.asarray(reference), jnp.asarray(image), data_range=data_range)
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    assert np.ptp(expected) > 0.3


def test_equal_images(pair):
    image = jnp.asarray(pair[0])
    np.testing.assert_array_equal(mse(image, image), np.zeros(5))
    np.testing.assert_array_equal(psnr(image, image, data_range=1.0), np.full(5, np.inf))
    np.testing.assert_allclose(ssim(image, image, data_range=1.0), np.ones(5), atol=1e-6)


def test_images_smaller_than_the_window_are_refused():
    image = jnp.zeros((1, 10, 32, 3))
    with pytest.raises(InputError, match="10 x 32"):
        ssim(image, image, data_range=1.0)
