"""Photographs with patches told apart, set in lines under each other."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, UInt8
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vitprobe_jax.report.figures import style

OUTLINE = (240, 228, 66)
"""Colour of the line around what is positive."""
_GAP = 0.08  # inches
_LINE = 0.145
_NAME = 0.21
_TALLEST = 1.5  # of a picture, as a share of its width


def paint(
    photograph: UInt8[np.ndarray, "height width 3"],
    positive: Bool[np.ndarray, "rows columns"],
    left_out: Bool[np.ndarray, "rows columns"],
) -> UInt8[np.ndarray, "height width 3"]:
    """The photograph with patches told apart, at its own size.

    Args:
        photograph: colours.
        positive: patches that keep their colours, with a line of `OUTLINE` around them.
        left_out: patches that take no part: under a white veil. All others are grey and dim.
    """
    height, width, _ = photograph.shape
    rows, columns = positive.shape
    at = np.ix_(np.arange(height) * rows // height, np.arange(width) * columns // width)
    positive, left_out = positive[at], left_out[at]
    grey = photograph.mean(axis=2, keepdims=True)
    painted = np.where(positive[..., None], photograph, 0.4 * grey + 25)
    painted = np.where(
        left_out[..., None], 0.45 * np.where(positive[..., None], photograph, grey) + 0.55 * 255, painted
    )
    painted[_edge(positive, max(1, round(min(height, width) / 90)))] = OUTLINE
    return painted.astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class Tile:
    """A painted photograph with lines of text above and below it; None leaves its place empty."""

    picture: UInt8[np.ndarray, "height width 3"] | None
    above: Sequence[str]
    below: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Block:
    """The tiles of one concept under its name."""

    name: str
    tiles: Sequence[Tile]


def tile_figure(
    blocks: Sequence[Block], *, pinned: int | None, keys: Sequence[Artist] = (), columns: int = 4
) -> Figure:
    """Blocks under each other, as wide as all figures.

    Args:
        blocks: from top to bottom.
        pinned: how many tiles stand in a line behind the first one, which begins the first line; all tiles in one line if
            None.
        keys: entries of a legend above all of them.
        columns: that there is room for at least: fewer tiles are no larger.
    """
    across = max(columns, max(len(block.tiles) for block in blocks) if pinned is None else pinned + 1)
    side = (style.WIDTH - (across + 1) * _GAP) / across
    tiles, names, y = [], [], _GAP + style.legend_height(keys, style.WIDTH)
    for i, block in enumerate(blocks):
        names.append((block.name, y))
        y += _NAME
        lines = _lines(block.tiles, pinned)
        for line in lines:
            # Columns mean the same from block to block, unless a block takes several lines.
            above = max(len(tile.above) for _, tile in line) if i == 0 or len(lines) > 1 else 0
            tall = max(_height(tile, side) for _, tile in line)
            top = y + above * _LINE
            for column, tile in line:
                shown = tile if above else dataclasses.replace(tile, above=())
                tiles.append((shown, _GAP + column * (side + _GAP), top))
            y = top + tall + max(len(tile.below) for _, tile in line) * _LINE + 0.08
        y += 0.06
    figure = Figure(figsize=(style.WIDTH, y), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1), facecolor="none")
    axes.set_axis_off()
    for name, top in names:
        _write(axes, name, _GAP, top, style.WIDTH - 2 * _GAP, style.MEDIUM, weight="bold")
    for tile, x, top in tiles:
        _place(axes, tile, x, top, side)
    axes.set(xlim=(0, style.WIDTH), ylim=(y, 0), aspect="auto")
    style.draw_legend(figure, keys)
    return figure


def _lines(tiles: Sequence[Tile], pinned: int | None) -> list[list[tuple[int, Tile]]]:
    """Tiles with their columns, line by line."""
    if pinned is None:
        return [list(enumerate(tiles))]
    first, *others = tiles
    lines = [list(enumerate(others[at : at + pinned], start=1)) for at in range(0, len(others), pinned)]
    lines[0].insert(0, (0, first))
    return lines


def _height(tile: Tile, side: float) -> float:
    return side if tile.picture is None else side * min(tile.picture.shape[0] / tile.picture.shape[1], _TALLEST)


def _place(axes: Axes, tile: Tile, x: float, top: float, side: float) -> None:
    for i, text in enumerate(tile.above):
        # Names may reach into the gap, which spares the usual ones an ellipsis.
        _write(axes, text, x, top - (len(tile.above) - i) * _LINE, side + 0.75 * _GAP, style.SMALL)
    height = _height(tile, side)
    if tile.picture is not None:
        # Without a clip, matplotlib keeps every picture by itself in vector files, at its own resolution.
        axes.imshow(
            tile.picture, extent=(x, x + side, top + height, top), aspect="auto", interpolation="none", clip_on=False
        )
    for i, text in enumerate(tile.below):
        _write(axes, text, x, top + height + i * _LINE + 0.02, side, style.SMALL)


def _write(axes: Axes, text: str, x: float, y: float, room: float, size: float, **font) -> None:
    axes.text(x, y, style.shorten(text, room, size), fontsize=size, color=style.INK, va="top", parse_math=False, **font)


def _edge(positive: Bool[np.ndarray, "height width"], thickness: int) -> Bool[np.ndarray, "height width"]:
    """What is not positive but within `thickness` pixels, by rows or columns, of what is."""
    near = positive.copy()
    for _ in range(thickness):
        padded = np.pad(near, 1)
        near = padded[1:-1, 1:-1] | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
    return near & ~positive
