"""Frames with objects that move, drawn by code: what is where, and what kind it is, can be told from the colours."""

import colorsys
import dataclasses

import numpy as np
from PIL import Image


@dataclasses.dataclass(frozen=True)
class Mover:
    """An upright object that moves along its own lane of the image, so that no two ever overlap.

    Attributes:
        kind: index of its category, which tells its hue.
        pattern: uint8 [height, width, 3].
        top: of its box, in pixels.
        lefts: of its box, in each frame; it may reach beyond the image.
    """

    kind: int
    pattern: np.ndarray
    top: int
    lefts: tuple[int, ...]

    def box(self, frame: int) -> tuple[int, int, int, int]:
        """Left, top, right, bottom."""
        height, width = self.pattern.shape[:2]
        return self.lefts[frame], self.top, self.lefts[frame] + width, self.top + height


def background(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Grey with a soft texture, uint8 [height, width, 3]."""
    coarse = rng.integers(90, 160, (-(-size[0] // 8), -(-size[1] // 8), 1), np.uint8)
    texture = np.kron(coarse, np.ones((8, 8, 3), np.uint8))[: size[0], : size[1]]
    return texture + rng.integers(0, 12, texture.shape, np.uint8)


def pattern(rng: np.random.Generator, kind: int, num_kinds: int, size: tuple[int, int]) -> np.ndarray:
    """Stripes in the hue of a kind; how light and how wide they are, and how they run, differs from draw to draw."""
    lightness, period, along = rng.uniform(0.35, 0.65), int(rng.integers(3, 9)), rng.integers(0, 2, 2)
    light = np.array(colorsys.hls_to_rgb(0.85 * kind / num_kinds, lightness + 0.15, 0.9))
    dark = np.array(colorsys.hls_to_rgb(0.85 * kind / num_kinds, lightness - 0.15, 0.9))
    rows, columns = np.indices(size)
    stripes = ((rows * along[0] + columns * (1 - along[0]) + rows * along[1]) // period % 2)[..., None]
    return (255 * np.where(stripes, light, dark)).astype(np.uint8)


def movers(
    rng: np.random.Generator, kinds: list[int], num_kinds: int, size: tuple[int, int], num_frames: int
) -> list[Mover]:
    """An object for each of `kinds`, in lanes from top to bottom, at an even speed of its own; the last leaves by half."""
    lane = size[0] // len(kinds)
    made = []
    for i, kind in enumerate(kinds):
        height, width = int(rng.integers(lane // 2, lane)), int(rng.integers(size[1] // 6, size[1] // 3))
        ends = rng.integers(0, size[1] - width, 2)
        if i == len(kinds) - 1:
            ends[1] = size[1] - width // 2
        lefts = np.round(np.linspace(*ends, num_frames)).astype(int).tolist()
        made.append(Mover(kind, pattern(rng, kind, num_kinds, (height, width)), i * lane, tuple(lefts)))
    return made


def draw(scene: np.ndarray, moving: list[Mover], frame: int) -> Image.Image:
    """The image of a frame; what reaches beyond the right edge is cut off."""
    image = scene.copy()
    for mover in moving:
        left, top, right, bottom = mover.box(frame)
        image[top:bottom, left:right] = mover.pattern[:, : image.shape[1] - left]
    return Image.fromarray(image)
