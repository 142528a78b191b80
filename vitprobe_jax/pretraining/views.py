"""Random views of one image, on the device: crops, flips and the colour changes of DINO.

Images are float RGB in [0, 1], [H, W, 3]; every function takes a key and one image, and is meant to be vmapped.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

_LUMA = (0.299, 0.587, 0.114)


def random_resized_crop(
    key: Key[Array, ""],
    image: Float[Array, "H W 3"],
    *,
    size: int,
    area: tuple[float, float],
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Float[Array, "size size 3"]:
    """A crop of random area, aspect and place, brought to `size` by an antialiased cubic filter.

    As torchvision's RandomResizedCrop, but that a crop which does not fit is cut to the image at once, where torchvision
    draws up to ten others first.

    Args:
        key: of this crop.
        image: the whole image.
        size: side of the result in pixels.
        area: between which shares of the image's area, uniform.
        ratio: between which ratios of width to height, uniform in the logarithm.
    """
    corner, sides = random_box(key, image.shape[:2], area=area, ratio=ratio)
    scale = size / sides
    cropped = jax.image.scale_and_translate(
        image, (size, size, 3), (0, 1), scale, -corner * scale, method="cubic", antialias=True
    )
    return jnp.clip(cropped, 0.0, 1.0)


def random_box(
    key: Key[Array, ""], size: tuple[int, int], *, area: tuple[float, float], ratio: tuple[float, float]
) -> tuple[Float[Array, "2"], Float[Array, "2"]]:
    """Where a crop lies in an image of `size` (height, width): its upper left corner, its height and width, in pixels."""
    of_area, of_ratio, of_top, of_left = jax.random.split(key, 4)
    pixels = size[0] * size[1] * jax.random.uniform(of_area, minval=area[0], maxval=area[1])
    low, high = jnp.log(jnp.asarray(ratio))
    aspect = jnp.exp(jax.random.uniform(of_ratio, minval=low, maxval=high))
    whole = jnp.array(size)
    sides = jnp.minimum(jnp.stack([jnp.sqrt(pixels / aspect), jnp.sqrt(pixels * aspect)]), whole)
    corner = jnp.stack([jax.random.uniform(of_top), jax.random.uniform(of_left)]) * (whole - sides)
    return corner, sides


def random_flip(key: Key[Array, ""], image: Float[Array, "H W 3"]) -> Float[Array, "H W 3"]:
    """The image or its mirror image, equally often."""
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


def random_colours(
    key: Key[Array, ""], image: Float[Array, "H W 3"], *, blur: float, solarize: float
) -> Float[Array, "H W 3"]:
    """DINO's colour changes: jitter in four of five images, grey in one of five, blur and solarisation as often as said.

    Brightness and contrast change by up to 40%, saturation by 20%, hue by a tenth of the circle, in this order (torchvision
    draws the order too, and turns hue in HSV; here it is turned in YIQ, a rotation). The deviation of the blur is uniform in
    0.1 to 2 pixels of a crop of 224, and scaled with the crop.

    Args:
        key: of this view.
        image: a crop.
        blur: probability.
        solarize: probability that values above 1/2 are inverted.
    """
    jittered, grey, blurred, solarized, of_jitter, of_blur = jax.random.split(key, 6)
    image = jnp.where(jax.random.bernoulli(jittered, 0.8), _jitter(of_jitter, image), image)
    image = jnp.where(jax.random.bernoulli(grey, 0.2), jnp.broadcast_to(_luma(image), image.shape), image)
    image = jnp.where(jax.random.bernoulli(blurred, blur), _blur(of_blur, image), image)
    inverted = jnp.where(image < 0.5, image, 1.0 - image)
    return jnp.where(jax.random.bernoulli(solarized, solarize), inverted, image)


def _luma(image: Float[Array, "H W 3"]) -> Float[Array, "H W 1"]:
    return jnp.sum(image * jnp.array(_LUMA).reshape(1, 1, 3), axis=-1, keepdims=True)


def _jitter(key: Key[Array, ""], image: Float[Array, "H W 3"]) -> Float[Array, "H W 3"]:
    brightness, contrast, saturation, hue = jax.random.uniform(key, (4,), minval=-1.0, maxval=1.0)
    image = jnp.clip(image * (1 + 0.4 * brightness), 0.0, 1.0)
    mean = jnp.mean(_luma(image))
    image = jnp.clip(mean + (image - mean) * (1 + 0.4 * contrast), 0.0, 1.0)
    grey = _luma(image)
    image = jnp.clip(grey + (image - grey) * (1 + 0.2 * saturation), 0.0, 1.0)
    return jnp.clip(jnp.einsum("hwc,dc->hwd", image, _hue_turn(0.1 * hue), precision=jax.lax.Precision.HIGHEST), 0, 1)


def _hue_turn(share: Float[Array, ""]) -> Float[Array, "3 3"]:
    """The matrix that turns hue by a share of the circle: RGB to YIQ, a rotation of IQ, and back."""
    to_yiq = jnp.array([_LUMA, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)])
    cos, sin = jnp.cos(2 * jnp.pi * share), jnp.sin(2 * jnp.pi * share)
    turn = jnp.eye(3).at[1:, 1:].set(jnp.stack([jnp.stack([cos, -sin]), jnp.stack([sin, cos])]))
    return jnp.linalg.inv(to_yiq) @ turn @ to_yiq


def _blur(key: Key[Array, ""], image: Float[Array, "H W 3"]) -> Float[Array, "H W 3"]:
    """A Gaussian blur as one banded matrix for the rows and one for the columns; edges take what is there."""
    deviation = jax.random.uniform(key, minval=0.1, maxval=2.0) * len(image) / 224

    def band(length: int) -> Float[Array, "length length"]:
        places = jnp.arange(length, dtype=jnp.float32)
        weights = jnp.exp(-0.5 * ((places[:, None] - places[None, :]) / deviation) ** 2)
        return weights / jnp.sum(weights, axis=1, keepdims=True)

    height, width, _ = image.shape
    return jnp.einsum("ph,qw,hwc->pqc", band(height), band(width), image)
