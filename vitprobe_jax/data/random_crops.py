"""Random crops of photographs for training, reproducible one by one (torchvision's RandomResizedCrop and a flip)."""

import math
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from vitprobe_jax.data.dataset import Annotation, ImageSplit
from vitprobe_jax.errors import InputError

_TRIES = 10
"""Crops that are drawn before one that always fits is taken instead."""


class Crop(NamedTuple):
    """A part of an image, in whole pixels, and whether it is mirrored."""

    top: int
    left: int
    height: int
    width: int
    flipped: bool


class CroppedSplit:
    """The images of a split, each at one size, as a random part of it: other parts in every epoch.

    A crop hangs on the seed, the epoch and the index of the image in `parent` alone: not on the order in which images are
    read, on worker processes or on how many devices there are. So images are to be shuffled after they are cropped, by an
    `ImageSubset` of this split. Annotations keep what holds for the whole image; masks and boxes, which would lie elsewhere
    in a crop, are left out.

    Args:
        parent: the split.
        size: height and width of every image, in pixels.
        seed: of all epochs, at least 0.
        epoch: at least 0.
        area: between which shares of the image's area a crop has, uniform.
        ratio: between which ratios of width to height, uniform in the logarithm.
        flip: whether every other crop is mirrored, left to right.
        interpolation: pillow's filter, with antialiasing, which sees nothing beyond the crop.

    Raises:
        InputError: a size, a range, the seed or the epoch is none.
    """

    def __init__(
        self,
        parent: ImageSplit,
        size: tuple[int, int],
        *,
        seed: int,
        epoch: int,
        area: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip: bool = True,
        interpolation: Literal["bicubic", "bilinear"] = "bicubic",
    ):
        if min(size) < 1:
            raise InputError(f"--image_size: {size} is not a size in pixels; both sides are at least 1")
        if min(seed, epoch) < 0:
            raise InputError(f"random crops: seed {seed}, epoch {epoch}; give numbers from 0 on")
        if not 0 < area[0] <= area[1] <= 1:
            raise InputError(f"random crops: {area} is no range of shares of an image; give 0 < low <= high <= 1")
        if not 0 < ratio[0] <= ratio[1] < math.inf:
            raise InputError(f"random crops: {ratio} is no range of width to height; give 0 < low <= high")
        self._parent = parent
        self._size = size
        self._seed = seed, epoch
        self._area = area
        self._ratio = ratio
        self._flip = flip
        self._resampling = Image.Resampling[interpolation.upper()]

    def __len__(self) -> int:
        return len(self._parent)

    def name(self, index: int) -> str:
        return self._parent.name(index)

    def image(self, index: int) -> Image.Image:
        image = self._parent.image(index)
        crop = self.crop(index, (image.height, image.width))
        # Cropped before it is resized: pillow's own `box` lets the filter look beyond the crop.
        image = image.crop((crop.left, crop.top, crop.left + crop.width, crop.top + crop.height))
        image = image.resize(self._size[::-1], self._resampling)
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if crop.flipped else image

    def crop(self, index: int, image_size: tuple[int, int]) -> Crop:
        """What is taken of an image of this height and width."""
        rng = np.random.default_rng([*self._seed, index])
        # First, so that it does not hang on how many crops were tried.
        flipped = bool(rng.random() < 0.5) and self._flip
        return Crop(*draw_crop(rng, image_size, area=self._area, ratio=self._ratio), flipped)

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of the image."""
        del index
        return self._size

    def annotation(self, index: int) -> Annotation:
        return Annotation(labels=self._parent.annotation(index).labels)


def draw_crop(
    rng: np.random.Generator,
    size: tuple[int, int],
    *,
    area: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[int, int, int, int]:
    """A random part of an image by the rule of torchvision's RandomResizedCrop: top, left, height and width.

    Area and ratio are drawn up to ten times, until a crop fits into the image, then its place, uniform. If none fits, it is
    the largest central part whose ratio is in range. (MAE's own probing code cuts a crop that does not fit to the image
    instead, as `pretraining.views` does; that concerns some of the crops of nearly all the image.)

    Args:
        rng: gives the numbers.
        size: height and width of the image.
        area: between which shares of the image's area, uniform.
        ratio: between which ratios of width to height, uniform in the logarithm.
    """
    image_height, image_width = size
    for _ in range(_TRIES):
        pixels = image_height * image_width * rng.uniform(*area)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        height, width = round(math.sqrt(pixels / aspect)), round(math.sqrt(pixels * aspect))
        if 0 < height <= image_height and 0 < width <= image_width:
            top, left = rng.integers(image_height - height + 1), rng.integers(image_width - width + 1)
            return int(top), int(left), height, width
    height, width = image_height, image_width
    if image_width < ratio[0] * image_height:
        height = round(image_width / ratio[0])
    elif image_width > ratio[1] * image_height:
        width = round(image_height * ratio[1])
    # One pixel at least: the sides of an image may differ by more than any ratio lets a crop have.
    height, width = max(height, 1), max(width, 1)
    return (image_height - height) // 2, (image_width - width) // 2, height, width
