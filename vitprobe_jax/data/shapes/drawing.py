"""How `shapes` draws: labelled regions filled with polygons, painted one over the other.

Image coordinates are pixels, x right and y down, in [0, SIZE]. A brush has coordinates of its own: x right, y up, the
origin where the object stands, its height the unit.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from vitprobe_jax.data.shapes.materials import PAINTS, Colour, draw_colours, mix

SIZE = 128
SUPERSAMPLING = 2

Points = Float[np.ndarray, "_ 2"]
Number = float | int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Region:
    """A surface: what it is, and what it is painted with.

    Attributes:
        object: name of the object that it belongs to, if any.
        parts: names of the parts that it belongs to, the outer first (`window`, `pane`).
        material: name of its material, if any.
        pattern: key of `shapes.materials.PATTERNS`; it mixes the two colours.
        colours: RGB in [0, 1].
        origin: where the pattern starts, in pixels.
        turn: angle of the pattern in radians.
        period: of the pattern, in pixels.
        horizon: for a plane that recedes, the y at which it vanishes; the pattern shrinks towards it.
        relief: how round it is lit, from 0 (flat) to 1.
    """

    object: str | None = None
    parts: tuple[str, ...] = ()
    material: str | None = None
    pattern: str
    colours: tuple[Colour, Colour]
    origin: tuple[float, float] = (0.0, 0.0)
    turn: float = 0.0
    period: float = 8.0
    horizon: float | None = None
    relief: float = 0.0


@dataclasses.dataclass
class Sketch:
    """A picture before it is rasterised.

    Attributes:
        regions: at most 256; region 0 is what shows where nothing is painted.
        shapes: (index of the region, its outline in pixels), in painting order.
        shadows: ellipses (x, y, half width, half height) that objects cast, in pixels.
    """

    regions: list[Region] = dataclasses.field(default_factory=list)
    shapes: list[tuple[int, Points]] = dataclasses.field(default_factory=list)
    shadows: list[tuple[float, float, float, float]] = dataclasses.field(default_factory=list)

    def fill(self, region: Region, *outlines: Points) -> None:
        """Paints a region over what is there."""
        self.regions.append(region)
        self.shapes += [(len(self.regions) - 1, outline) for outline in outlines]


def rasterise(sketch: Sketch) -> UInt8[np.ndarray, "S S"]:
    """The index of the topmost region at every point of a grid of SUPERSAMPLING x SUPERSAMPLING points a pixel."""
    canvas = Image.new("L", (SIZE * SUPERSAMPLING,) * 2)
    draw = ImageDraw.Draw(canvas)
    for region, outline in sketch.shapes:
        draw.polygon((outline * SUPERSAMPLING).ravel().tolist(), fill=region)
    return np.asarray(canvas)


class Brush:
    """Paints one object in coordinates of its own, with random choices from one generator."""

    def __init__(
        self,
        sketch: Sketch,
        rng: np.random.Generator,
        *,
        name: str,
        foot: tuple[float, float],
        height: float,
        haze: tuple[Colour, float] = ((1.0, 1.0, 1.0), 0.0),
        lean: float = 0.06,
    ):
        self._sketch = sketch
        self._rng = rng
        self._name = name
        self._foot = foot
        self._height = height
        self._haze = haze
        self._paints: dict[tuple[str, tuple[str, ...]], tuple[Colour, Colour]] = {}
        self._turn = rng.normal(0, lean)
        cos, sin = math.cos(self._turn), math.sin(self._turn)
        rotation = np.array([[cos, -sin], [sin, cos]])
        stretch = math.exp(rng.normal(0, 0.1))
        mirrored = -1.0 if rng.random() < 0.5 else 1.0
        self._matrix = rotation @ np.array([[mirrored * stretch, rng.normal(0, 0.04)], [0, -1 / stretch]]) * height

    def uniform(self, low: Number, high: Number) -> float:
        return self._rng.uniform(low, high)

    def chance(self, probability: Number) -> bool:
        return self._rng.random() < probability

    def pick(self, *options: str) -> str:
        return options[self._rng.integers(len(options))]

    def blob(self, x: Number, y: Number, rx: Number, ry: Number, *, rough: Number = 0.12, lobes: int = 7) -> Points:
        """An ellipse with an uneven outline."""
        angles = np.arange(28) * (2 * math.pi / 28)
        phases = self._rng.uniform(0, 2 * math.pi, 2)
        radius = 1 + rough * (np.sin(lobes * angles + phases[0]) + np.sin(2 * angles + phases[1]))
        return np.stack([x + rx * radius * np.cos(angles), y + ry * radius * np.sin(angles)], -1)

    def paint(
        self,
        outlines: Points | Sequence[Points],
        material: str,
        *parts: str,
        colour: Colour | None = None,
        relief: Number = 0.5,
    ) -> None:
        """Fills outlines; equal parts of equal material share their colours within the object.

        Args:
            outlines: one or several polygons in the brush's coordinates, one region together.
            material: key of `shapes.materials.PAINTS`.
            *parts: the parts that the region belongs to, the outer first.
            colour: where none of the material's own will do.
            relief: see `Region`.
        """
        paint, key = PAINTS[material], (material, parts)
        if key not in self._paints:
            first, second = draw_colours(paint, self._rng)
            if colour is not None:
                first, second = colour, mix(colour, second, 0.3)
            self._paints[key] = mix(first, *self._haze), mix(second, *self._haze)
        region = Region(
            object=self._name,
            parts=parts,
            material=None if material.startswith("_") else material,
            pattern=paint.pattern,
            colours=self._paints[key],
            origin=self._foot,
            turn=self._turn,
            period=paint.period * min(max(self._height / 60, 0.7), 1.5),
            relief=relief,
        )
        outlines = [outlines] if isinstance(outlines, np.ndarray) else outlines
        self._sketch.fill(region, *(outline @ self._matrix.T + self._foot for outline in outlines))


def polygon(*corners: tuple[Number, Number]) -> Points:
    """A polygon with these corners."""
    return np.array(corners, np.float64)


def box(x0: Number, y0: Number, x1: Number, y1: Number) -> Points:
    """A rectangle between two opposite corners."""
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], np.float64)


def ellipse(x: Number, y: Number, rx: Number, ry: Number, *, start: Number = 0.0, stop: Number = 1.0) -> Points:
    """An ellipse, or the part of it between two fractions of a turn, counter-clockwise from the right."""
    angles = np.linspace(2 * math.pi * start, 2 * math.pi * stop, 25)
    return np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], -1)


def ring(x: Number, y: Number, radius: Number, width: Number) -> Points:
    """A ring, its inside left open."""
    return np.concatenate([ellipse(x, y, radius, radius), ellipse(x, y, radius - width, radius - width)[::-1]])


def limb(x0: Number, y0: Number, x1: Number, y1: Number, width: Number, end: Number | None = None) -> Points:
    """A straight bar from one point to another, from `width` to `end` wide."""
    length = math.hypot(x1 - x0, y1 - y0)
    nx, ny = (y0 - y1) / length / 2, (x1 - x0) / length / 2
    end = width if end is None else end
    return polygon(
        (x0 + nx * width, y0 + ny * width),
        (x1 + nx * end, y1 + ny * end),
        (x1 - nx * end, y1 - ny * end),
        (x0 - nx * width, y0 - ny * width),
    )
