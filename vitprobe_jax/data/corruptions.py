"""Images made worse on purpose: blur, noise, noise in a band of frequencies (study 2, appendix A.6).

Noise in a band is what Park and Kim add to find which frequencies a model leans on: x + F^-1(F(delta) * M_b), where delta
is Gaussian noise of deviation 40, F the two-dimensional Fourier transform and M_b the mask of one of four bands (Section
5.1, appendix A.6). What the mask keeps is added as it is, so a wider ring is a louder noise. The edges of the bands appear
only in a figure of the paper. Chosen here: rings of equal width in the radius of the frequency, up to Nyquist's half cycle a
pixel, the corners of the spectrum beyond it counting for the last.

Images are uint8 RGB [H, W, 3]; levels of noise are in their units, 0..255, and lengths in their pixels.

References:
    Park and Kim, How Do Vision Transformers Work?, ICLR 2022.
"""

import dataclasses
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from scipy import fft, ndimage

from vitprobe_jax.data.dataset import Annotation, ImageSplit
from vitprobe_jax.errors import InputError

CorruptionKind = Literal["blur", "noise", "frequency"]

CORRUPTIONS: dict[CorruptionKind, tuple[float, ...]] = {
    "blur": (10.0, 20.0, 30.0, 40.0),
    "noise": (10.0, 20.0, 30.0, 40.0),
    "frequency": (0.0, 1.0, 2.0, 3.0),
}
"""The levels of the study (Section 5.1). Blur is by kernels of 10 x 10 to 40 x 40 pixels; that all their weights are equal
is taken from the even sizes."""

NUM_BANDS = 4
FREQUENCY_DEVIATION = 40.0
"""Of the noise of which a band is taken (Section 5.1)."""


@dataclasses.dataclass(frozen=True)
class Corruption:
    """One way to make an image worse.

    Attributes:
        kind: `blur`, the mean of a square of pixels; `noise`, Gaussian and independent for every pixel and channel;
            `frequency`, Gaussian noise in one band of frequencies.
        level: of `blur`, the side of the square, whole pixels from 1 on; of `noise`, its deviation in units of 0..255, above
            0; of `frequency`, the number of the band, 0 (with the mean of the image) to 3.
    """

    kind: CorruptionKind
    level: float

    def __post_init__(self):
        if self.kind not in get_args(CorruptionKind):
            raise InputError(f"corruption: {self.kind!r} is unknown; give one of {', '.join(CORRUPTIONS)}")
        if self.kind == "frequency" and self.level not in range(NUM_BANDS):
            raise InputError(
                f"corruption: frequency has no band {self.level:g}; give a number from 0 to {NUM_BANDS - 1}"
            )
        if not 0 < self.level < np.inf and self.kind != "frequency":
            raise InputError(f"corruption: {self.kind} of level {self.level:g} is none; give a level above 0")

        if self.kind == "blur" and self.level != int(self.level):
            raise InputError(f"corruption: blur of level {self.level:g}; give a whole number of pixels")

    @property
    def name(self) -> str:
        """Kind and level: `blur 20`."""
        return f"{self.kind} {self.level:g}"


def corrupt(
    image: UInt8[np.ndarray, "H W 3"], corruption: Corruption, *, seed: tuple[int, ...]
) -> UInt8[np.ndarray, "H W 3"]:
    """The image made worse, rounded and clipped to 0..255.

    Channels are blurred, and get noise, each on its own. Beyond its border a blurred image goes on with its outermost
    pixels; a square of even side 2 n reaches n pixels up and left, n - 1 down and right. Noise of one seed is the same
    draw at any level and in any band.

    Args:
        image: RGB.
        corruption: what to do.
        seed: whole numbers, none negative, which with the image's size fix the noise; `blur` does not use it.
    """
    pixels = image.astype(np.float32)
    if corruption.kind == "blur":
        side = int(corruption.level)
        pixels = ndimage.uniform_filter(pixels, size=(side, side, 1), mode="nearest")
    elif corruption.kind == "noise":
        pixels += np.float32(corruption.level) * _white_noise(image.shape[:2], seed)
    else:
        pixels += band_noise(image.shape[:2], int(corruption.level), seed=seed)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def band_noise(size: tuple[int, int], band: int, *, seed: tuple[int, ...]) -> Float[np.ndarray, "H W 3"]:
    """What `corrupt` adds to an image of a size for noise in a band, in units of 0..255.

    It is 0 where an image is too small to have frequencies of the band.

    Args:
        size: height and width of the image.
        band: its number, 0 to 3.
        seed: as `corrupt` takes it.
    """
    spectrum = fft.rfft2(_white_noise(size, seed), axes=(0, 1))
    # The real transform holds half of the spectrum, which mirrors the other half, as the mask does.
    kept = spectrum * band_mask(size, band)[:, : spectrum.shape[1], None]
    return np.float32(FREQUENCY_DEVIATION) * fft.irfft2(kept, s=size, axes=(0, 1))


def _white_noise(size: tuple[int, int], seed: tuple[int, ...]) -> Float[np.ndarray, "H W 3"]:
    """Of deviation 1."""
    return np.random.default_rng(seed).standard_normal((*size, 3), np.float32)


def band_mask(size: tuple[int, int], band: int) -> Bool[np.ndarray, "H W"]:
    """Which frequencies of the discrete transform lie in the band: |f| of [b/4, (b+1)/4) times Nyquist's half cycle a pixel.

    Frequencies are in the order of the transform, (0, 0) first.

    Args:
        size: height and width of the image.
        band: its number, 0 to 3.
    """
    height, width = size
    radius = np.hypot(fft.fftfreq(height)[:, None], fft.fftfreq(width)[None])
    return np.minimum(np.floor(radius / 0.5 * NUM_BANDS), NUM_BANDS - 1) == band


class CorruptedSplit:
    """The images of a split, each made worse; names and annotations are the split's own.

    The pixels of an image hang on the seed and its index alone: reading order, threads and processes change nothing, and
    the same image gets the same draw of noise at every level.
    """

    def __init__(self, parent: ImageSplit, corruption: Corruption, seed: int):
        self._parent = parent
        self._corruption = corruption
        self._seed = seed

    def __len__(self) -> int:
        return len(self._parent)

    def name(self, index: int) -> str:
        return self._parent.name(index)

    def image(self, index: int) -> Image.Image:
        pixels = np.asarray(self._parent.image(index))
        return Image.fromarray(corrupt(pixels, self._corruption, seed=(self._seed, index)))

    def annotation(self, index: int) -> Annotation:
        return self._parent.annotation(index)
