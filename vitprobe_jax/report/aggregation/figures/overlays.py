"""Photographs under the weights of their patches, with boxes around what they find."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image, ImageDraw

from vitprobe_jax.report.figures.painting import Block, Tile, tile_figure
from vitprobe_jax.report.measured.figures.photographs import FEWEST, IMAGES, shrunk, tiles

TRUE_BOX, FOUND_BOX = "#56B4E9", "#F0E442"
"""Colours of annotated boxes and of those that a map finds; black beside them tells them from any ground."""
_HEAT = matplotlib.colormaps["inferno"]
_THROUGH = 0.4  # how much of the photograph is seen through its map
_UNDER = "#444444"  # of boxes in the legend, so that bright ones are seen


def paint_weights(
    image: UInt8[np.ndarray, "h w 3"], weights: Float[np.ndarray, "rows columns"]
) -> UInt8[np.ndarray, "h w 3"]:
    """A photograph in grey under its weights, black where there is none and bright at the largest.

    Args:
        image: colours.
        weights: 0 or more; interpolated between the centres of patches.
    """
    height, width, _ = image.shape
    share = weights / max(float(weights.max()), np.finfo(np.float32).tiny)
    smooth = Image.fromarray(share.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    heat = 255 * _HEAT(np.clip(np.asarray(smooth), 0.0, 1.0))[..., :3]
    return np.round(_THROUGH * image.mean(axis=2, keepdims=True) + (1 - _THROUGH) * heat).astype(np.uint8)


def draw_boxes(
    image: UInt8[np.ndarray, "h w 3"], boxes: Float[np.ndarray, "n 4"], colour: str, scale: float
) -> UInt8[np.ndarray, "h w 3"]:
    """The image with outlined boxes.

    Args:
        image: colours.
        boxes: left, top, right and bottom in pixels before scaling, the last two beyond the box.
        colour: of lines.
        scale: from the pixels of boxes to the image's.
    """
    picture = Image.fromarray(image)
    brush, thickness = ImageDraw.Draw(picture), max(1, round(max(picture.size) / 110))
    for left, top, right, bottom in np.round(boxes * scale).astype(int).tolist():
        if right > left and bottom > top:
            place = (left, top, min(right, picture.width) - 1, min(bottom, picture.height) - 1)
            brush.rectangle(place, outline="black", width=thickness + 1)
            brush.rectangle(place, outline=colour, width=thickness)
    return np.asarray(picture)


def overlay_figure(
    images: UInt8[np.ndarray, "n H W 3"],
    maps: Mapping[str, Float[np.ndarray, "n rows columns"]],
    *,
    names: Sequence[str] = (),
    truth: Sequence[Float[np.ndarray, "_ 4"]] = (),
    boxes: Mapping[str, Float[np.ndarray, "n 4"]] | None = None,
) -> Figure:
    """Lines of the same photographs: themselves, then each of the maps over them.

    Args:
        images: photographs, of which `IMAGES` are shown at most.
        maps: by what stands above them, the weights of patches.
        names: of photographs, which stand below the first line.
        truth: of each photograph, its annotated boxes, drawn into every line.
        boxes: by what stands above the maps, of each photograph the box that the map finds.
    """
    small = [shrunk(image) for image in images[:IMAGES]]
    scale = small[0].shape[1] / images.shape[2]
    boxes = boxes or {}

    def framed(picture: np.ndarray, i: int, found: np.ndarray | None) -> np.ndarray:
        if len(truth):
            picture = draw_boxes(picture, truth[i], TRUE_BOX, scale)
        return picture if found is None else draw_boxes(picture, found[i : i + 1], FOUND_BOX, scale)

    first = [Tile(framed(picture, i, None), (), (names[i],) if len(names) else ()) for i, picture in enumerate(small)]
    blocks = [Block("image", first)]
    for title, weights in maps.items():
        painted = [framed(paint_weights(own, weights[i]), i, boxes.get(title)) for i, own in enumerate(small)]
        blocks.append(Block(title, tiles(painted)))
    return tile_figure(blocks, pinned=None, keys=_keys(truth, boxes), columns=FEWEST)


def _keys(truth: Sequence, boxes: Mapping) -> list[Artist]:
    named = {"annotated box": (TRUE_BOX, len(truth)), "box of the map": (FOUND_BOX, len(boxes))}
    return [
        Patch(facecolor=_UNDER, edgecolor=colour, linewidth=1.6, label=label)
        for label, (colour, drawn) in named.items()
        if drawn
    ]
