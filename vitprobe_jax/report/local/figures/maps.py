"""Photographs beside maps of what their pixels are taken for."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Integer, UInt8
from matplotlib.colors import hsv_to_rgb, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from vitprobe_jax.report.figures import style
from vitprobe_jax.report.figures.painting import Block, tile_figure
from vitprobe_jax.report.measured.figures.photographs import FEWEST, IMAGES, shrunk, tiles

NAMED = 20
"""A legend names so many concepts at most, those with the most pixels."""
_NONE = (0.35, 0.35, 0.35)
_THROUGH = 0.3  # how much of the photograph is seen through its map
_GOLDEN = (5**0.5 - 1) / 2


def map_colours(ranks: Sequence[int]) -> Float[np.ndarray, "K1 3"]:
    """Colours in [0, 1] of pixels without a concept, then of each concept.

    The first concepts have the colours of the other figures; hues of the others go round the circle by the golden ratio, at
    three brightnesses in turn.

    Args:
        ranks: of each concept, 0 for the one with the most pixels.
    """
    ground = [to_rgb(colour) for colour in style.BACKBONE_COLOURS[:-1]]  # without the grey
    count = max(ranks, default=-1) + 1
    while len(ground) < count:
        turn = len(ground)
        ground.append(
            tuple(hsv_to_rgb((turn * _GOLDEN % 1.0, (0.75, 0.5, 0.95)[turn % 3], (0.6, 0.9, 0.75)[turn % 3])))
        )
    return np.array([_NONE, *(ground[rank] for rank in ranks)], np.float64)


def map_figure(
    images: UInt8[np.ndarray, "n H W 3"],
    maps: Mapping[str, Integer[np.ndarray, "n H W"]],
    names: Sequence[str],
    ranks: Sequence[int],
) -> tuple[Figure, list[str]]:
    """Lines of the same photographs: themselves, then each of the maps over them.

    Args:
        images: photographs, of which `IMAGES` are shown at most.
        maps: by what stands above them; 0 where no concept is, k + 1 where concept k is.
        names: of concepts.
        ranks: of concepts, 0 for the one with the most pixels; the concept's colour hangs on it.

    Returns:
        The figure, and the concepts that are in it, those with the most pixels first; the legend names `NAMED` of them.
    """
    images = [shrunk(image) for image in images[:IMAGES]]
    shown = {
        title: [_nearest(labels, image) for labels, image in zip(own, images, strict=False)]
        for title, own in maps.items()
    }
    counts = sum(
        (np.bincount(labels.ravel(), minlength=len(names) + 1) for own in shown.values() for labels in own),
        np.zeros(len(names) + 1, int),
    )
    present = [int(k) for k in np.argsort(-counts[1:], kind="stable") if counts[k + 1]]
    colours = map_colours(ranks)
    keys = [Patch(facecolor=colours[k + 1], label=names[k]) for k in present[:NAMED]]
    if counts[0]:
        keys.append(Patch(facecolor=_NONE, label="no concept"))
    blocks = [Block("image", tiles(images))]
    for title, own in shown.items():
        painted = [_painted(image, colours[labels]) for image, labels in zip(images, own, strict=True)]
        blocks.append(Block(title, tiles(painted)))
    return tile_figure(blocks, pinned=None, keys=keys, columns=FEWEST), [names[k] for k in present]


def _nearest(labels: Integer[np.ndarray, "H W"], like: UInt8[np.ndarray, "h w 3"]) -> Integer[np.ndarray, "h w"]:
    rows, columns = (
        np.arange(wanted) * have // wanted for wanted, have in zip(like.shape[:2], labels.shape, strict=True)
    )
    return labels[np.ix_(rows, columns)].astype(np.int64)


def _painted(image: UInt8[np.ndarray, "h w 3"], colours: Float[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    grey = image.mean(axis=2, keepdims=True)
    return np.round(_THROUGH * grey + (1 - _THROUGH) * 255 * colours).astype(np.uint8)
