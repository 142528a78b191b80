"""The geometry of an image on its way into a backbone; masks take the same way.

Images are uint8 RGB [H, W, 3] in 0..255; the backbone normalises them on the device.
"""

import dataclasses
import math
from typing import Literal

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from vitprobe_jax.errors import InputError

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclasses.dataclass(frozen=True)
class Transform:
    """Brings images and masks of any size to one size.

    Attributes:
        size: height and width of the output, in pixels.
        crop: `family` resizes the image to `resize_ratio` x `size`, then takes the centre, as torchvision's Resize and
            CenterCrop do on PIL images; `none` resizes the whole image straight to `size`, which keeps every pixel in view
            and bends the aspect.
        resize_ratio: size of the resized image as a multiple of the crop, at least 1; for `family` alone.
        interpolation: pillow's filter for images, with antialiasing. Masks always take the nearest pixel.
        resize_rounding: whether `resize_ratio` x `size` is truncated (`down`) or rounded (`nearest`) to whole pixels.
        aspect: `kept` resizes until the image covers `resize_ratio` x `size`; `bent` resizes both sides to exactly that.
        crop_rounding: where an odd number of pixels is cut off, the offset is rounded half to `even` or `down`.
    """

    size: tuple[int, int]
    crop: Literal["family", "none"] = "family"
    resize_ratio: float = 256 / 224
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    resize_rounding: Literal["down", "nearest"] = "down"
    aspect: Literal["kept", "bent"] = "kept"
    crop_rounding: Literal["even", "down"] = "even"

    def __post_init__(self):
        if min(self.size) < 1:
            raise InputError(f"--image_size: {self.size} is not a size in pixels; both sides are at least 1")
        if self.resize_ratio < 1:
            raise InputError(f"resize_ratio={self.resize_ratio} resizes below the crop; it is at least 1")

    def image(self, image: Image.Image) -> UInt8[np.ndarray, "H W 3"]:
        """Resizes and crops an RGB image."""
        (height, width), (top, left) = self._geometry((image.height, image.width))
        if image.size != (width, height):
            image = image.resize((width, height), _FILTERS[self.interpolation])
        if (height, width) != self.size:
            image = image.crop((left, top, left + self.size[1], top + self.size[0]))
        return np.asarray(image)

    def mask(self, mask: Int[np.ndarray, "sh sw"], image_size: tuple[int, int]) -> Int[np.ndarray, "H W"]:
        """Takes a mask the way of its image: each output pixel gets the label under its centre.

        Args:
            mask: labels, in the image's size or any other.
            image_size: height and width of the image that the mask belongs to.
        """
        resized, offsets = self._geometry(image_size)
        rows, columns = (
            nearest_cells(start, count, length=length, cells=cells)
            for start, count, length, cells in zip(offsets, self.size, resized, mask.shape, strict=True)
        )
        return mask[rows][:, columns]

    def _geometry(self, image_size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """Height and width after the resize, and where the crop starts in it."""
        if self.crop == "none":
            return self.size, (0, 0)
        height, width = image_size
        cover_height, cover_width = (resized_side(side, self.resize_ratio, self.resize_rounding) for side in self.size)
        # The side that is short of room is met exactly; torchvision truncates the other one.
        if self.aspect == "bent":
            resized = cover_height, cover_width
        elif cover_height * width >= cover_width * height:
            resized = cover_height, int(cover_height * width / height)
        else:
            resized = int(cover_width * height / width), cover_width
        left_over = [total - side for total, side in zip(resized, self.size, strict=True)]
        if self.crop_rounding == "down":
            top, left = (pixels // 2 for pixels in left_over)
        else:
            # Python's round, half to even, as in CenterCrop.
            top, left = (round(pixels / 2) for pixels in left_over)
        return resized, (top, left)


def resized_side(side: int, ratio: float, rounding: Literal["down", "nearest"] = "down") -> int:
    """Pixels to which a side is resized before a crop of `side` pixels, `ratio` times as many in whole pixels."""
    if rounding == "nearest":
        return round(side * ratio)
    # Authors divide by a share or multiply by a ratio; the margin makes whole products whole in either form.
    return math.floor(side * ratio + 1e-6)


def nearest_cells(start: int, count: int, *, length: int, cells: int) -> Int[np.ndarray, " n"]:
    """Along a side of `length` pixels that is also divided into `cells`: the cell that each pixel's centre lies in.

    The centre of pixel i lies at (i + 1/2) / length of the side, so in cell floor((2 i + 1) cells / (2 length)). Integers
    throughout: no rounding.

    Args:
        start: the first pixel.
        count: of pixels.
        length: all pixels of the side.
        cells: equal parts of it.
    """
    return (2 * (start + np.arange(count)) + 1) * cells // (2 * length)
