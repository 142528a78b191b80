"""Numbers as colours: cells with their numbers in them, and the bar that says what colours mean."""

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from vitprobe_jax.report.figures import style

BAR = 0.62
"""Inches of the colour bar with its numbers."""
_COLOURS = matplotlib.colormaps["cividis"]
_DARK, _LIGHT = "#000000", "#ffffff"


def shared_norm(values: Float[np.ndarray, " n"]) -> Normalize:
    """Colours for all finite numbers of some panels, 0 to 1 without any."""
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 1.0)
    return Normalize(low, max(high, low + 0.01))


def draw_cells(axes: Axes, values: Float[np.ndarray, "rows columns"], norm: Normalize) -> None:
    """Cells around whole numbers, with two decimals in each where there is room; what is not finite stays empty."""
    num_rows, num_columns = values.shape
    axes.pcolormesh(
        np.arange(num_columns + 1) - 0.5,
        np.arange(num_rows + 1) - 0.5,
        np.ma.masked_invalid(values),
        norm=norm,
        cmap=_COLOURS,
        edgecolor="face",
        linewidth=0.2,
    )
    width = axes.get_position().width * axes.figure.get_figwidth() / num_columns
    for (i, j), value in np.ndenumerate(values):
        text = f"{value:.2f}"
        if np.isfinite(value) and width >= style.text_width(text, style.SMALL) + 0.04:
            dark = _luminance(_COLOURS(norm(value))) > 0.179  # where black and white letters stand out equally
            axes.text(j, i, text, ha="center", va="center", fontsize=style.SMALL, color=_DARK if dark else _LIGHT)
    axes.tick_params(length=0)
    axes.set_xlim(-0.5, num_columns - 0.5)
    axes.spines[["left", "bottom"]].set_visible(False)


def colour_bar(figure: Figure, beside: Axes, norm: Normalize, title: str) -> Axes:
    """What colours mean, at the right of a figure as high as a panel; its vertical axis has the numbers."""
    place, width = beside.get_position(), figure.get_figwidth()
    axes = figure.add_axes((1 - BAR / width, place.y0, 0.13 / width, place.height))
    edges = np.linspace(norm.vmin, norm.vmax, 65)
    axes.pcolormesh(
        [0, 1], edges, (edges[:-1] + edges[1:])[:, None] / 2, norm=norm, cmap=_COLOURS, edgecolor="face", linewidth=0.2
    )
    axes.set_xticks([])
    axes.yaxis.tick_right()
    axes.tick_params(labelsize=style.SMALL, color=style.INK, labelcolor=style.INK, length=2, pad=2)
    axes.spines[:].set_visible(False)
    axes.set_ylim(norm.vmin, norm.vmax)
    axes.set_title(title, fontsize=style.SMALL, color=style.INK, pad=4, loc="left")
    return axes


def _luminance(colour: tuple[float, ...]) -> float:
    """Relative luminance of an sRGB colour, in [0, 1]."""
    encoded = np.array(colour[:3])
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))
