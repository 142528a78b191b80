"""Random views against pillow and SciPy, and what must hold for every draw."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from vitprobe_jax.pretraining import views

RATIO = (3 / 4, 4 / 3)


@pytest.fixture
def image():
    """Smooth colours with an edge: aliasing and wrong places both show."""
    rows, columns = np.mgrid[:40, :56] / 40
    channels = [rows, columns / 1.4, (rows + columns > 1.1).astype(float)]
    return np.stack(channels, axis=-1).astype(np.float32)


@pytest.mark.parametrize("seed", range(4))
def test_a_crop_is_what_pillow_cuts_at_the_same_place(image, seed):
    key = jax.random.key(seed)
    crop = views.random_resized_crop(key, jnp.asarray(image), size=16, area=(0.3, 0.8))
    corner, sides = (np.asarray(x) for x in views.random_box(key, (40, 56), area=(0.3, 0.8), ratio=RATIO))
    box = (corner[1], corner[0], corner[1] + sides[1], corner[0] + sides[0])
    for channel in range(3):
        plane = Image.fromarray(image[..., channel], mode="F")
        expected = np.asarray(plane.resize((16, 16), Image.Resampling.BICUBIC, box=box))
        # The outermost pixels differ by design: pillow takes nothing from beyond its box, this does.
        inner = np.s_[2:-2, 2:-2]
        np.testing.assert_allclose(crop[..., channel][inner], np.clip(expected, 0, 1)[inner], atol=0.02)


def test_boxes_lie_in_the_image_and_cover_what_was_asked_for():
    keys = jax.random.split(jax.random.key(0), 2000)
    corner, sides = jax.vmap(lambda key: views.random_box(key, (64, 64), area=(0.2, 0.6), ratio=RATIO))(keys)
    assert np.all(np.asarray(corner) >= 0)
    assert np.all(np.asarray(corner + sides) <= 64 + 1e-4)
    share = np.prod(np.asarray(sides), axis=1) / 64**2
    assert share.min() >= 0.2 - 1e-5
    assert share.max() <= 0.6 + 1e-5
    # Uniform between its bounds: mean 0.4, deviation of the mean of 2,000 draws 0.0026.
    assert abs(share.mean() - 0.4) < 0.012
    aspect = np.asarray(sides[:, 1] / sides[:, 0])
    assert aspect.min() >= 0.75 - 1e-5
    assert aspect.max() <= 4 / 3 + 1e-5


def test_the_whole_image_as_a_crop_is_the_image(image):
    square = jnp.asarray(image[:32, :32])
    crop = views.random_resized_crop(jax.random.key(1), square, size=32, area=(1.0, 1.0), ratio=(1.0, 1.0))
    np.testing.assert_allclose(crop, square, atol=1e-5)


def test_flips_are_mirror_images_half_of_the_time(image):
    flipped = jax.vmap(views.random_flip, (0, None))(jax.random.split(jax.random.key(0), 400), jnp.asarray(image))
    same = np.array([np.array_equal(x, image) for x in np.asarray(flipped)])
    mirrored = np.array([np.array_equal(x, image[:, ::-1]) for x in np.asarray(flipped)])
    assert np.all(same ^ mirrored)
    assert 150 < same.sum() < 250  # 5 deviations of 10 on each side.


def test_the_blur_is_gaussian(image):
    square = np.tile(image, (3, 2, 1))[:112, :112]
    key = jax.random.key(3)
    deviation = float(jax.random.uniform(key, minval=0.1, maxval=2.0)) * 112 / 224
    expected = gaussian_filter(square, (deviation, deviation, 0), truncate=8.0)
    inner = np.s_[10:-10, 10:-10]
    np.testing.assert_allclose(views._blur(key, jnp.asarray(square))[inner], expected[inner], atol=1e-5)


@pytest.mark.parametrize("share", [-0.1, 0.05, 0.1])
def test_turning_the_hue_keeps_greys_and_brightness(share):
    turn = np.asarray(views._hue_turn(jnp.float32(share)))
    np.testing.assert_allclose(turn @ np.full(3, 0.6), np.full(3, 0.6), atol=2e-4)  # NTSC's matrix has four digits.
    colour = np.array([0.8, 0.3, 0.1])
    luma = np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(luma @ turn @ colour, luma @ colour, atol=2e-4)
    back = np.asarray(views._hue_turn(jnp.float32(-share)))
    np.testing.assert_allclose(back @ turn, np.eye(3), atol=1e-4)
    assert np.abs(turn @ colour - colour).max() > 0.02


def test_colour_changes_stay_in_range_and_differ_between_keys(image):
    changed = jax.vmap(lambda key: views.random_colours(key, jnp.asarray(image[:32, :32]), blur=0.5, solarize=0.5))(
        jax.random.split(jax.random.key(0), 32)
    )
    changed = np.asarray(changed)
    assert changed.min() >= 0
    assert changed.max() <= 1
    # One in five keeps its colours, and half of those are not blurred either: about three of the 32 may be equal.
    assert len(np.unique(changed.reshape(32, -1).mean(axis=1).round(5))) > 24


@pytest.mark.slow
def test_solarisation_inverts_what_is_bright():
    grey = jnp.full((8, 8, 3), 0.9)
    always = jax.vmap(lambda key: views.random_colours(key, grey, blur=0.0, solarize=1.0))
    never = jax.vmap(lambda key: views.random_colours(key, grey, blur=0.0, solarize=0.0))
    keys = jax.random.split(jax.random.key(2), 16)
    before, after = np.asarray(never(keys)), np.asarray(always(keys))
    np.testing.assert_allclose(after, np.where(before < 0.5, before, 1 - before), atol=1e-6)
