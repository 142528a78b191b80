"""How every figure looks: colours, marks, letters, and panels laid out in inches.

Colours are those of Okabe and Ito (2008), told apart with any common colour blindness; nothing depends on them alone, for
tokens also differ by marker and backbones by hatch. Places are computed from the widths of the words instead of by
matplotlib's layout engines, which take longer than the drawing. Nothing here touches pyplot or any global state.
"""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.textpath import text_to_path

from vitprobe_jax.types import Token

INK = "#1b1f24"
"""Of all letters and axes, and of nothing else: `svg` turns it into the colour of the text around the figure."""
GRID = {"color": "#808080", "alpha": 0.3, "linewidth": 0.7}  # seen on white and on black ground
WIDTH = 6.0  # inches: letters of 8 points are read on a phone
SMALL, MEDIUM = 8.0, 9.0

ALWAYS_POSITIVE = {"accuracy": 0.5, "precision": 0.5, "recall": 1.0, "f1": 2 / 3}
"""The metrics of a template with TPR = FPR = 1. No token that carries a concept should fall below its F1."""
REFERENCE = "always positive"
OVER_CONCEPTS, OVER_TRIALS = "95% interval over concepts", "std over trials"
OVER_SEEDS_TOO = f"{OVER_CONCEPTS} and seeds"
THICK = 4.0  # points: the standard deviation over trials, under or over the thin interval over concepts

TOKEN_COLOURS: dict[Token, str] = {
    "q": "#0072B2",
    "k": "#D55E00",
    "v": "#009E73",
    "x1": "#E69F00",
    "xn": "#CC79A7",
    "x2": "#56B4E9",
    "q_rotated": "#0072B2",
    "k_rotated": "#D55E00",
    "x2_raw": "#56B4E9",
}
"""Queries and keys after RoPE have the colour that they have before it, and are hollow; so is a block's output before the
final norm."""
BACKBONE_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#666666")
_TOKEN_MARKERS: dict[Token, str] = {
    "q": "o",
    "k": "s",
    "v": "^",
    "x1": "D",
    "xn": "v",
    "x2": "P",
    "q_rotated": "o",
    "k_rotated": "s",
    "x2_raw": "P",
}
_HOLLOW_TOKENS: tuple[Token, ...] = ("q_rotated", "k_rotated", "x2_raw")
_HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\", "----", "++++")
_LEGEND_ROW = 0.2
_HANDLE = 0.55  # inches of a legend's entry beside its words
_TITLE = 0.26


@dataclasses.dataclass(frozen=True)
class Mark:
    """How one token, backbone or rule is told from the others: as points of a line, or as a bar.

    Attributes:
        label: in the legend.
        colour: of line, marker and bar.
        marker: of points.
        hatch: of bars; as many colours as there are repeat under another hatch.
        hollow: not filled, as controls and rotated tokens are.
    """

    label: str
    colour: str
    marker: str = "o"
    hatch: str = ""
    hollow: bool = False

    @property
    def bar(self) -> dict:
        """Keywords of a patch."""
        if self.hollow:
            return {"facecolor": "none", "edgecolor": self.colour, "hatch": self.hatch or "////", "linewidth": 1.2}
        return {"facecolor": self.colour, "edgecolor": "white", "hatch": self.hatch, "linewidth": 0}

    @property
    def points(self) -> dict:
        """Keywords of a line's markers."""
        face = "none" if self.hollow else self.colour
        return {"color": self.colour, "marker": self.marker, "markerfacecolor": face, "markersize": 4.6}


@runtime_checkable
class OfBackbone(Protocol):
    """Whatever is of a backbone: a row of a table, a summary of rows.

    Attributes:
        backbone: its name.
        untrained: whether it is a control with random weights.
    """

    @property
    def backbone(self) -> str: ...

    @property
    def untrained(self) -> bool: ...


def backbone_marks(rows: Iterable[OfBackbone]) -> dict[str, Mark]:
    """A mark for each backbone in order; controls are hollow and named so."""
    marks = {}
    for row in rows:
        if row.backbone not in marks:
            turn, place = divmod(len(marks), len(BACKBONE_COLOURS))
            hatch = _HATCHES[(place + turn) % len(_HATCHES)]
            marks[row.backbone] = Mark(backbone_label(row), BACKBONE_COLOURS[place], hatch=hatch, hollow=row.untrained)
    return marks


def token_marks(tokens: Iterable[Token]) -> dict[str, Mark]:
    """The mark of each token: always the same, whatever others there are."""
    return {
        token: Mark(token, TOKEN_COLOURS[token], _TOKEN_MARKERS[token], hollow=token in _HOLLOW_TOKENS)
        for token in tokens
    }


def backbone_label(row: OfBackbone) -> str:
    """The name; of a control, that it is one."""
    return f"{row.backbone} (control)" if row.untrained else row.backbone


def bar_key(mark: Mark) -> Patch:
    """A legend's entry of bars."""
    return Patch(label=mark.label, **mark.bar)


def points_key(mark: Mark, *, line: bool) -> Line2D:
    """A legend's entry of points, on a line or alone."""
    return Line2D([], [], label=mark.label, linestyle="-" if line else "none", linewidth=1.6, **mark.points)


def spread_keys(*, seeds: bool) -> list[Line2D]:
    """The legend's entries of the thin intervals over concepts (and seeds) and the thick deviations over trials."""
    spreads = ((OVER_SEEDS_TOO if seeds else OVER_CONCEPTS, 1.1), (OVER_TRIALS, THICK))
    return [Line2D([], [], label=label, color=INK, linewidth=width, solid_capstyle="butt") for label, width in spreads]


def reference_key() -> Line2D:
    """The legend's entry of `draw_reference`."""
    return Line2D([], [], label=REFERENCE, color=INK, linestyle="--", linewidth=1)


def draw_reference(axes: Axes, metric: str, *, along: str) -> None:
    """The dashed line at what a template that is positive everywhere reaches, along axis `x` or `y`."""
    draw = axes.axhline if along == "x" else axes.axvline
    draw(ALWAYS_POSITIVE[metric], color=INK, linestyle="--", linewidth=1, zorder=1.5, clip_on=False, label=REFERENCE)


def panels(
    num_rows: int,
    num_columns: int,
    *,
    height: float,
    left: float,
    bottom: float = 0.45,
    gap: float | None = None,
    top: float = _TITLE,
    right: float = 0.12,
    keys: Sequence[Artist] = (),
    width: float = WIDTH,
) -> tuple[Figure, np.ndarray]:
    """A figure with equal panels under one legend.

    Args:
        num_rows: of panels.
        num_columns: of panels.
        height: of a panel, as all lengths in inches.
        left: what stands on the left of the first column.
        bottom: what stands under a panel.
        gap: between columns; as `left` if None.
        top: what stands above a panel.
        right: what stands on the right of the last column.
        keys: the legend's entries, with labels.
        width: of the figure.

    Returns:
        The figure and its axes [num_rows, num_columns], with a transparent ground and no frame on top and right.
    """
    gap = left if gap is None else gap
    legend = legend_height(keys, width)
    total = legend + num_rows * (top + height + bottom)
    panel = (width - left - right - (num_columns - 1) * gap) / num_columns
    figure = Figure(figsize=(width, total), facecolor="white")
    grid = np.empty((num_rows, num_columns), object)
    for i, j in np.ndindex(grid.shape):
        x, y = left + j * (panel + gap), total - legend - (i + 1) * (top + height) - i * bottom
        grid[i, j] = axes = figure.add_axes((x / width, y / total, panel / width, height / total), facecolor="none")
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(INK)
        axes.tick_params(labelsize=SMALL, color=INK, labelcolor=INK, length=3, pad=2.5)
        axes.set_axisbelow(True)
    draw_legend(figure, keys)
    return figure, grid


def legend_height(keys: Sequence[Artist], width: float) -> float:
    """Inches that `draw_legend` takes at the top of a figure."""
    return _LEGEND_ROW * _legend_shape(keys, width)[1] + 0.06 if keys else 0.0


def draw_legend(figure: Figure, keys: Sequence[Artist]) -> None:
    """Sets entries with labels into the upper left corner, in as many columns as fit; nothing without entries."""
    if not keys:
        return
    width = figure.get_figwidth()
    shown = figure.legend(
        handles=list(keys),
        loc="upper left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=_legend_shape(keys, width)[0],
        frameon=False,
        fontsize=SMALL,
        labelcolor=INK,
        handlelength=2.4,
        columnspacing=1.2,
        borderaxespad=0.1,
        borderpad=0.2,
        labelspacing=0.45,
    )
    for text in shown.get_texts():
        text.set(parse_math=False, text=shorten(text.get_text(), width - _HANDLE, SMALL))


def title(axes: Axes, text: str) -> None:
    """Names a panel; a name that is too long loses its middle."""
    figure = axes.figure
    room = axes.get_position().width * figure.get_figwidth()
    axes.set_title(shorten(text, room, MEDIUM), fontsize=MEDIUM, color=INK, parse_math=False, loc="left", pad=5)


def hide(axes: Iterable[Axes]) -> None:
    """Takes places of a grid that no panel needs."""
    for own in axes:
        own.set_visible(False)


@functools.lru_cache(maxsize=4096)
def text_width(text: str, size: float) -> float:
    """Inches that a line of text takes in matplotlib's own font."""
    return text_to_path.get_text_width_height_descent(text, FontProperties(size=size), False)[0] / 72


def widest(texts: Iterable[str], size: float) -> float:
    """Inches of the longest of some lines, 0 without any."""
    return max((text_width(text, size) for text in texts), default=0.0)


def shorten(text: str, room: float, size: float) -> str:
    """The text, or its ends around an ellipsis where it takes more than `room` inches."""
    if text_width(text, size) <= room:
        return text
    keep = len(text) - 1
    while keep > 2 and text_width(_ends(text, keep), size) > room:
        keep -= 1
    return _ends(text, keep)


def _ends(text: str, keep: int) -> str:
    return f"{text[: (keep + 1) // 2]}\N{HORIZONTAL ELLIPSIS}{text[len(text) - keep // 2 :]}"


def _legend_shape(keys: Sequence[Artist], width: float) -> tuple[int, int]:
    """As many columns as fit, and the number of lines. Matplotlib fills column after column, the first ones fuller."""
    widths = [min(text_width(key.get_label(), SMALL) + _HANDLE, width) for key in keys]
    for columns in range(len(keys), 1, -1):
        if sum(max(own) for own in np.array_split(widths, columns)) <= width:
            return columns, -(-len(keys) // columns)
    return 1, len(keys)
