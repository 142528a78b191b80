import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from vitprobe_jax.data.corruptions import CORRUPTIONS, FREQUENCY_DEVIATION, CorruptedSplit, Corruption, corrupt
from vitprobe_jax.data.dataset import Annotation
from vitprobe_jax.errors import InputError

GREY = np.full((96, 128, 3), 128, np.uint8)
ALL = [Corruption(kind, level) for kind, levels in CORRUPTIONS.items() for level in levels]


class Photographs:
    """Blotches, every image another."""

    def __init__(self, count=3, size=(40, 56)):
        self._count, self._size = count, size

    def __len__(self):
        return self._count

    def name(self, index):
        return f"photo{index}.png"

    def image(self, index):
        coarse = np.random.default_rng(index).integers(0, 256, (5, 7, 3), np.uint8)
        return Image.fromarray(coarse).resize(self._size[::-1], Image.Resampling.BICUBIC)

    def annotation(self, index):
        return Annotation(labels=(("scene", index + 1),))


def cycles(height, width):
    """Radius of each frequency of a shifted spectrum, in units of Nyquist's."""
    y = (np.arange(height) - height // 2) / (height / 2)
    x = (np.arange(width) - width // 2) / (width / 2)
    return np.sqrt(y[:, None] ** 2 + x[None] ** 2)


def test_blur_is_a_gaussian_of_the_level():
    """A white line spreads into a Gaussian with that deviation; an even image stays as it is, to its rim."""
    line = np.zeros((9, 201, 3), np.uint8)
    line[:, 95:106] = 255
    spread = corrupt(line, Corruption("blur", 20.0), seed=(0,))[4, :, 0].astype(float)
    place = np.arange(201) - 100
    # A box of 11 pixels has a variance of (121 - 1) / 12 = 10; rounding cuts the tails off.
    assert np.sqrt((spread * place**2).sum() / spread.sum()) == pytest.approx(np.sqrt(400 + 10), rel=0.03)
    for level in CORRUPTIONS["blur"]:
        np.testing.assert_array_equal(corrupt(GREY, Corruption("blur", level), seed=(0,)), GREY)


def test_blur_by_hand():
    """Every line of pixels with its ends repeated, under a sampled Gaussian of four deviations to each side."""
    image = np.asarray(Photographs().image(1))
    kernel = np.exp(-0.5 * (np.arange(-40, 41) / 10) ** 2)
    kernel /= kernel.sum()

    def blur_line(line):
        return np.convolve(np.pad(line, 40, mode="edge"), kernel, mode="valid")

    expected = image.astype(float)
    for axis in (0, 1):
        expected = np.apply_along_axis(blur_line, axis, expected)
    actual = corrupt(image, Corruption("blur", 10.0), seed=(0,))
    # Half a level of rounding, and a hair for float32.
    assert np.abs(actual - expected).max() < 0.5 + 1e-3
    assert np.abs(actual - image.astype(float)).max() > 50


@pytest.mark.parametrize("level", CORRUPTIONS["noise"])
def test_noise_has_the_deviation_of_the_level(level):
    noise = corrupt(GREY, Corruption("noise", level), seed=(0, 1)).astype(float) - 128
    # 36,864 values: the deviation is known to 0.4%, the mean to 0.5% of it; at 40 one value in 700 is clipped.
    assert noise.std() == pytest.approx(level, rel=0.02)
    assert abs(noise.mean()) < 0.03 * level
    channels = noise.reshape(-1, 3)
    assert np.abs(np.corrcoef(channels.T) - np.eye(3)).max() < 0.04


def test_noise_is_clipped_and_not_wrapped():
    white, black = (np.full((64, 64, 3), value, np.uint8) for value in (255, 0))
    corruption = Corruption("noise", 40.0)
    assert corrupt(white, corruption, seed=(0,)).min() > 50
    assert corrupt(black, corruption, seed=(0,)).max() < 205


@pytest.mark.parametrize("band", CORRUPTIONS["frequency"])
@pytest.mark.parametrize("size", [(96, 128), (63, 95)])
def test_frequency_noise_lies_in_its_band(band, size):
    """It fills the band, every band is as loud, and nothing but the error of rounding, 1/12 of variance, lies elsewhere."""
    grey = np.full((*size, 3), 128, np.uint8)
    noise = corrupt(grey, Corruption("frequency", band), seed=(3,)).astype(float) - 128
    power = np.abs(np.fft.fftshift(np.fft.fft2(noise, axes=(0, 1)), axes=(0, 1))) ** 2
    radius = cycles(*size)
    inside = (radius >= band / 4) & ((radius < (band + 1) / 4) | (band == 3))
    assert power[~inside].sum() / power.sum() < 1e-3
    assert power[inside].sum(-1).min() > 5e-3 * power[inside].sum(-1).mean()
    assert np.sqrt(power.sum() / noise.size / np.prod(size)) == pytest.approx(FREQUENCY_DEVIATION, rel=0.08)


def test_frequency_noise_by_the_formula():
    """x + F^-1(F(delta) M), with the whole complex spectrum and the draw that plain noise of the seed shows."""
    image = np.asarray(Photographs(size=(48, 64)).image(0)) // 2 + 64
    seed = (5, 8)
    delta = np.random.default_rng(seed).standard_normal(image.shape, np.float32)
    radius = np.fft.ifftshift(cycles(48, 64))
    mask = (radius >= 0.25) & (radius < 0.5)
    added = np.fft.ifft2(np.fft.fft2(delta, axes=(0, 1)) * mask[..., None], axes=(0, 1))
    assert np.abs(added.imag).max() < 1e-6
    expected = image + FREQUENCY_DEVIATION / np.sqrt(mask.mean()) * added.real
    actual = corrupt(image, Corruption("frequency", 1.0), seed=seed)
    # Half a level of rounding, and a hair for float32.
    assert np.abs(actual - np.clip(expected, 0, 255)).max() < 0.5 + 1e-3


def test_an_image_without_frequencies_of_a_band_stays():
    dot = np.full((1, 1, 3), 77, np.uint8)
    np.testing.assert_array_equal(corrupt(dot, Corruption("frequency", 2.0), seed=(0,)), dot)


@pytest.mark.parametrize("corruption", ALL, ids=lambda corruption: corruption.name)
def test_pixels_hang_on_seed_and_index_alone(corruption):
    split = CorruptedSplit(Photographs(), corruption, seed=7)
    first = [np.asarray(split.image(i)) for i in range(3)]
    again = pickle.loads(pickle.dumps(split))
    with ThreadPoolExecutor(3) as pool:
        others = list(pool.map(lambda i: np.asarray(again.image(i)), [2, 1, 0]))[::-1]
    np.testing.assert_array_equal(first, others)
    assert all((np.asarray(Photographs().image(i)) != image).any() for i, image in enumerate(first))
    if corruption.kind != "blur":
        reseeded = np.asarray(CorruptedSplit(Photographs(), corruption, seed=8).image(1))
        assert (reseeded != first[1]).any()


def test_images_of_a_split_get_different_noise():
    class Same(Photographs):
        def image(self, index):
            return Image.fromarray(GREY)

    split = CorruptedSplit(Same(), Corruption("noise", 10.0), seed=0)
    assert (np.asarray(split.image(0)) != np.asarray(split.image(1))).mean() > 0.8


def test_all_but_pixels_is_the_parents():
    parent = Photographs()
    split = CorruptedSplit(parent, Corruption("blur", 10.0), seed=0)
    assert len(split) == 3
    assert split.name(2) == parent.name(2)
    assert split.annotation(2) == parent.annotation(2)


@pytest.mark.parametrize(
    ("kind", "level"),
    [("frequency", 4.0), ("frequency", 0.5), ("frequency", -1.0), ("blur", 0.0), ("noise", -3.0), ("noise", np.inf)],
)
def test_levels_that_mean_nothing_are_refused(kind, level):
    with pytest.raises(InputError, match=kind):
        Corruption(kind, level)
