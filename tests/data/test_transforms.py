import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from experiments.benchmarks.torch_ops import torchvision
from vitprobe_jax.data.transforms import Transform
from vitprobe_jax.errors import InputError

tv = torchvision.transforms
SIZES = [(300, 400), (401, 299), (224, 224), (256, 256), (97, 333), (511, 257), (225, 1001), (256, 301)]
MODES = {"bicubic": tv.InterpolationMode.BICUBIC, "bilinear": tv.InterpolationMode.BILINEAR}


def photograph(height, width, seed=0):
    """Smooth colours with noise: every pixel depends on the filter."""
    rng = np.random.default_rng([seed, height, width])
    coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    noise = rng.integers(-20, 20, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", SIZES)
def test_family_crop_is_torchvisions(size, interpolation):
    image = photograph(*size)
    expected = tv.Compose([tv.Resize(256, MODES[interpolation]), tv.CenterCrop(224)])(image)
    actual = Transform((224, 224), interpolation=interpolation).image(image)
    np.testing.assert_array_equal(actual, np.asarray(expected))


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(8, 90),
    width=st.integers(8, 90),
    side=st.integers(4, 40),
    ratio=st.sampled_from([1.0, 256 / 224, 1.5]),
)
def test_family_crop_is_torchvisions_at_any_size(height, width, side, ratio):
    image = photograph(height, width)
    expected = tv.Compose([tv.Resize(int(side * ratio), MODES["bicubic"]), tv.CenterCrop(side)])(image)
    np.testing.assert_array_equal(Transform((side, side), resize_ratio=ratio).image(image), np.asarray(expected))


@pytest.mark.parametrize("size", SIZES)
def test_no_crop_is_one_resize(size):
    image = photograph(*size)
    expected = tv.Resize((224, 320), MODES["bicubic"])(image)
    np.testing.assert_array_equal(Transform((224, 320), "none").image(image), np.asarray(expected))


def test_an_image_of_the_size_stays_as_it_is():
    image = photograph(224, 224)
    np.testing.assert_array_equal(Transform((224, 224), "none").image(image), np.asarray(image))
    np.testing.assert_array_equal(Transform((224, 224), "family", 1.0).image(image), np.asarray(image))


@settings(max_examples=60, deadline=None)
@given(st.integers(8, 90), st.integers(8, 90), st.integers(4, 40), st.integers(4, 40))
def test_oblong_crops_lie_within_the_image(height, width, out_height, out_width):
    """A white image stays white to its rim: the resized image covers the whole crop, with nothing padded."""
    image = Image.fromarray(np.full((height, width, 3), 255, np.uint8))
    result = Transform((out_height, out_width)).image(image)
    assert result.shape == (out_height, out_width, 3)
    assert result.min() == 255


def assert_equal_off_borders(actual, expected, transform, image_size, mask_size):
    """pillow adds its coordinates up in floating point, so a centre that lies exactly on the border of two mask pixels
    may fall to either; everywhere else two nearest resizes must agree.
    """
    resized, offsets = transform._geometry(image_size)
    border_rows, border_columns = (
        (2 * (start + np.arange(length)) + 1) * source % (2 * total) == 0
        for start, length, source, total in zip(offsets, transform.size, mask_size, resized, strict=True)
    )
    decided = ~(border_rows[:, None] | border_columns)
    assert actual.shape == expected.shape == transform.size
    np.testing.assert_array_equal(actual[decided], expected[decided])


def every_pixel_its_own_label(height, width):
    return np.arange(height * width, dtype=np.int32).reshape(height, width)


sides = st.integers(8, 90)


@settings(max_examples=60, deadline=None)
@given(image_size=st.tuples(sides, sides), side=st.integers(4, 40))
def test_cropped_mask_is_torchvisions_nearest_resize(image_size, side):
    mask = every_pixel_its_own_label(*image_size)
    resize = tv.Resize(int(side * 256 / 224), tv.InterpolationMode.NEAREST)
    expected = np.asarray(tv.Compose([resize, tv.CenterCrop(side)])(Image.fromarray(mask)))
    transform = Transform((side, side))
    assert_equal_off_borders(transform.mask(mask, image_size), expected, transform, image_size, image_size)


@settings(max_examples=60, deadline=None)
@given(image_size=st.tuples(sides, sides), mask_size=st.tuples(sides, sides), size=st.tuples(sides, sides))
def test_whole_mask_of_any_size_is_pillows_nearest_resize(image_size, mask_size, size):
    mask = every_pixel_its_own_label(*mask_size)
    expected = np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))
    transform = Transform(size, "none")
    assert_equal_off_borders(transform.mask(mask, image_size), expected, transform, image_size, mask_size)


@pytest.mark.parametrize("crop", ["family", "none"])
@pytest.mark.parametrize("out", [(224, 224), (224, 160), (128, 256)])
@pytest.mark.parametrize("size", [(300, 400), (402, 298), (510, 514)])
@pytest.mark.parametrize("mask_scale", [1, 2])
def test_mask_lies_on_its_image_to_the_pixel(size, out, crop, mask_scale):
    """A chequered image against its own mask, of full and half size: they agree best where they lie, not a pixel aside.

    The resized image is grey on the borders of its squares, hence not all pixels agree; squares are 40 pixels wide.
    """
    rows, columns = np.indices(size) // 40
    labels = (rows + columns) % 2
    image = Image.fromarray(np.repeat((200 * labels)[..., None], 3, -1).astype(np.uint8))
    transform = Transform(out, crop)
    white = transform.image(image)[..., 0] > 100
    mask = transform.mask(labels[::mask_scale, ::mask_scale], size)

    def agreement(dy, dx):
        shifted = np.roll(mask, (dy, dx), (0, 1))
        return (white == shifted)[1:-1, 1:-1].mean()

    assert agreement(0, 0) > 0.985
    assert agreement(0, 0) > 0.01 + max(agreement(dy, dx) for dy, dx in [(0, 1), (1, 0), (0, -1), (-1, 0)])


def test_half_size_mask_by_hand():
    """A 2 x 4 mask over a 4 x 8 image, whole and cropped to its centre."""
    mask = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    np.testing.assert_array_equal(Transform((4, 4), "none").mask(mask, (4, 8)), [[1, 2, 3, 4]] * 2 + [[5, 6, 7, 8]] * 2)
    np.testing.assert_array_equal(
        Transform((4, 4), "family", 1.0).mask(mask, (4, 8)), [[2, 2, 3, 3]] * 2 + [[6, 6, 7, 7]] * 2
    )


@pytest.mark.parametrize("options", [{"size": (0, 8)}, {"size": (8, 8), "resize_ratio": 0.9}])
def test_impossible_sizes_are_refused(options):
    with pytest.raises(InputError):
        Transform(**options)
