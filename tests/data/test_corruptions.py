import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from vitprobe_jax.data.corruptions import CORRUPTIONS, CorruptedSplit, Corruption, corrupt
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


@pytest.mark.parametrize("side", [9, *map(int, CORRUPTIONS["blur"])])
def test_blur_is_the_mean_of_a_square(side):
    """Summed pixel by pixel, the image's outermost pixels repeated beyond it; an even image stays as it is, to its rim."""
    image = np.asarray(Photographs().image(1))
    before, after = side // 2, side - 1 - side // 2
    padded = np.pad(image.astype(float), ((before, after), (before, after), (0, 0)), mode="edge")
    height, width, _ = image.shape
    expected = sum(padded[i : i + height, j : j + width] for i in range(side) for j in range(side)) / side**2
    actual = corrupt(image, Corruption("blur", float(side)), seed=(0,))
    # Half a level of rounding, and a hair for float32.
    assert np.abs(actual - expected).max() < 0.5 + 1e-3
    assert np.abs(actual - image.astype(float)).max() > 20
    np.testing.assert_array_equal(corrupt(GREY, Corruption("blur", float(side)), seed=(0,)), GREY)


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
    """It fills the band with its share of noise of deviation 40; all else is the error of rounding, 1/12 of variance."""
    grey = np.full((*size, 3), 128, np.uint8)
    noise = corrupt(grey, Corruption("frequency", band), seed=(3,)).astype(float) - 128
    power = np.abs(np.fft.fftshift(np.fft.fft2(noise, axes=(0, 1)), axes=(0, 1))) ** 2
    radius = cycles(*size)
    inside = (radius >= band / 4) & ((radius < (band + 1) / 4) | (band == 3))
    assert power[~inside].sum() / power.sum() < 5e-3
    assert power[inside].sum(-1).min() > 5e-3 * power[inside].sum(-1).mean()
    assert np.sqrt(power.sum() / noise.size / np.prod(size)) == pytest.approx(40 * np.sqrt(inside.mean()), rel=0.1)


def test_frequency_noise_by_the_formula():
    """x + F^-1(F(delta) M), with the whole complex spectrum and the draw that plain noise of the seed shows."""
    image = np.asarray(Photographs(size=(48, 64)).image(0)) // 2 + 64
    seed = (5, 8)
    delta = np.random.default_rng(seed).standard_normal(image.shape, np.float32)
    radius = np.fft.ifftshift(cycles(48, 64))
    mask = (radius >= 0.25) & (radius < 0.5)
    added = np.fft.ifft2(np.fft.fft2(delta, axes=(0, 1)) * mask[..., None], axes=(0, 1))
    assert np.abs(added.imag).max() < 1e-6
    expected = image + 40 * added.real
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
    [
        *(("frequency", level) for level in (4.0, 0.5, -1.0)),
        *(("blur", level) for level in (0.0, 2.5, np.inf)),
        *(("noise", level) for level in (-3.0, np.inf)),
    ],
)
def test_levels_that_mean_nothing_are_refused(kind, level):
    with pytest.raises(InputError, match=kind):
        Corruption(kind, level)
