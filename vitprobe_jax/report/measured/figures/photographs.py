"""Photographs in lines, as they are or painted."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure
from PIL import Image

from vitprobe_jax.report.figures.painting import Block, Tile, tile_figure

IMAGES = 4
"""Photographs of a line at most."""
FEWEST = 3
"""There is room for so many in a line: fewer are no larger."""
_SIDE = 360  # pixels of a picture's longer side: 1.4 inches at 200 an inch, and some for screens


def picture_figure(pictures: Mapping[str, UInt8[np.ndarray, "n H W 3"]]) -> Figure:
    """Lines of photographs under what stands above them, `IMAGES` in a line at most."""
    return tile_figure(
        [Block(title, tiles([shrunk(image) for image in own[:IMAGES]])) for title, own in pictures.items()],
        pinned=None,
        columns=FEWEST,
    )


def tiles(pictures: Sequence[np.ndarray]) -> list[Tile]:
    """Pictures without words of their own."""
    return [Tile(picture, (), ()) for picture in pictures]


def shrunk(image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """A photograph at the size that figures show it; one that is no larger stays as it is."""
    picture = Image.fromarray(image)
    picture.thumbnail((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    return np.asarray(picture)
