"""What the surfaces of `shapes` look like: the colours of materials, and the patterns that materials and textures make.

A pattern mixes two colours: a function of pattern coordinates (u, v), of which 1 is a period, and of noise, in [0, 1].
"""

import colorsys
import dataclasses
import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

Colour = tuple[float, float, float]
Values = Float[np.ndarray, " n"]


@dataclasses.dataclass(frozen=True)
class Noise:
    """Smooth random fields at the pixels of a surface, about in [-1, 1], with bumps some 30, 5 and 1 pixels wide."""

    coarse: Values
    middle: Values
    fine: Values


@dataclasses.dataclass(frozen=True)
class Paint:
    """A kind of surface.

    Attributes:
        pattern: key of `PATTERNS`.
        period: of the pattern on an object 60 pixels tall, in pixels.
        tones: usual colours as (hue, saturation, value); one is drawn, then jittered.
        contrast: the second colour's value less the first's.
        any_hue: probability that the hue is any other.
    """

    pattern: str
    period: float
    tones: tuple[tuple[float, float, float], ...]
    contrast: float
    any_hue: float = 0.15


# Tones overlap and any surface may be painted over, so that a colour alone names no material.
PAINTS: dict[str, Paint] = {
    "wood": Paint("planks", 6.0, ((0.07, 0.55, 0.5), (0.09, 0.4, 0.72), (0.05, 0.6, 0.35), (0.1, 0.1, 0.8)), -0.22),
    "brick": Paint("bricks", 5.5, ((0.03, 0.6, 0.6), (0.06, 0.45, 0.68), (0.1, 0.3, 0.7), (0.0, 0.05, 0.6)), 0.25),
    "metal": Paint("sheen", 14.0, ((0.6, 0.08, 0.6), (0.0, 0.8, 0.7), (0.6, 0.7, 0.65), (0.13, 0.7, 0.8)), 0.35, 0.4),
    "glass": Paint("glint", 11.0, ((0.56, 0.35, 0.7), (0.6, 0.4, 0.4), (0.5, 0.15, 0.85), (0.13, 0.5, 0.9)), 0.25),
    "fabric": Paint("weave", 3.2, ((0.0, 0.7, 0.8), (0.6, 0.6, 0.6), (0.12, 0.2, 0.85), (0.35, 0.4, 0.5)), -0.3, 0.6),
    "foliage": Paint("leaves", 5.0, ((0.28, 0.6, 0.6), (0.22, 0.6, 0.68), (0.36, 0.5, 0.5), (0.09, 0.75, 0.8)), -0.28),
    "water": Paint("waves", 8.0, ((0.55, 0.55, 0.6), (0.5, 0.45, 0.65), (0.6, 0.3, 0.45), (0.45, 0.35, 0.55)), 0.22),
    "sand": Paint("grains", 12.0, ((0.11, 0.4, 0.85), (0.08, 0.45, 0.75), (0.12, 0.2, 0.9), (0.07, 0.3, 0.6)), -0.2),
    "stone": Paint("blotches", 9.0, ((0.1, 0.08, 0.55), (0.6, 0.1, 0.5), (0.07, 0.2, 0.6), (0.0, 0.0, 0.75)), -0.25),
    "fur": Paint("hair", 4.0, ((0.1, 0.1, 0.93), (0.08, 0.3, 0.75), (0.07, 0.5, 0.35), (0.0, 0.0, 0.3)), -0.22, 0.05),
    "skin": Paint("soft", 9.0, ((0.06, 0.4, 0.9), (0.06, 0.5, 0.7), (0.06, 0.55, 0.42), (0.04, 0.3, 0.95)), -0.1, 0.0),
    "plaster": Paint(
        "soft", 9.0, ((0.11, 0.15, 0.92), (0.55, 0.15, 0.85), (0.03, 0.25, 0.9), (0.3, 0.15, 0.8)), -0.1, 0.3
    ),
    "rubber": Paint("soft", 9.0, ((0.0, 0.0, 0.14), (0.6, 0.1, 0.2), (0.07, 0.1, 0.25)), 0.08, 0.0),
    "snow": Paint("drifts", 12.0, ((0.58, 0.04, 0.97), (0.6, 0.1, 0.93), (0.05, 0.06, 0.97)), -0.14, 0.0),
    "_sky": Paint("sky", 60.0, ((0.57, 0.5, 0.85), (0.6, 0.6, 0.7), (0.55, 0.15, 0.8), (0.07, 0.5, 0.95)), 0.1, 0.05),
    "_cloud": Paint("soft", 9.0, ((0.0, 0.0, 1.0), (0.07, 0.15, 1.0), (0.6, 0.1, 0.8)), -0.12, 0.0),
    "_disc": Paint("soft", 9.0, ((0.14, 0.35, 1.0), (0.08, 0.6, 1.0), (0.13, 0.1, 0.98)), -0.05, 0.0),
    "_asphalt": Paint("grains", 12.0, ((0.6, 0.04, 0.38), (0.08, 0.08, 0.5), (0.6, 0.1, 0.28)), -0.1, 0.0),
    "_scales": Paint(
        "scales", 5.0, ((0.05, 0.8, 0.9), (0.55, 0.6, 0.7), (0.14, 0.7, 0.9), (0.0, 0.1, 0.7)), -0.28, 0.5
    ),
    "_feathers": Paint("hair", 5.0, ((0.6, 0.5, 0.6), (0.0, 0.6, 0.65), (0.1, 0.2, 0.85), (0.08, 0.4, 0.4)), -0.2, 0.4),
    "_petal": Paint(
        "soft", 9.0, ((0.95, 0.6, 0.9), (0.0, 0.75, 0.85), (0.13, 0.7, 0.95), (0.78, 0.5, 0.8)), -0.15, 0.3
    ),
    "_hair": Paint("hair", 4.0, ((0.07, 0.6, 0.25), (0.1, 0.6, 0.65), (0.0, 0.0, 0.12), (0.04, 0.7, 0.4)), -0.1, 0.05),
    "_beak": Paint("soft", 9.0, ((0.08, 0.8, 0.9), (0.0, 0.0, 0.25)), -0.05, 0.0),
    "_white": Paint("soft", 9.0, ((0.12, 0.06, 0.96),), -0.05, 0.0),
    "_dark": Paint("soft", 9.0, ((0.6, 0.15, 0.12),), 0.03, 0.0),
}
"""By the name of the material; names with an underscore are of surfaces that have no material label."""


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """RGB of a hue (in turns, any number), with saturation and value cut to [0, 1]."""
    return colorsys.hsv_to_rgb(hue % 1, min(max(saturation, 0.0), 1.0), min(max(value, 0.0), 1.0))


def mix(a: Colour, b: Colour, weight: float) -> Colour:
    """From a (weight 0) to b (weight 1)."""
    return tuple(x + (y - x) * weight for x, y in zip(a, b, strict=True))


def draw_colours(paint: Paint, rng: np.random.Generator) -> tuple[Colour, Colour]:
    """The two colours of a new surface."""
    hue, saturation, value = paint.tones[rng.integers(len(paint.tones))]
    if rng.random() < paint.any_hue:
        hue, saturation = rng.random(), rng.uniform(0.2, 0.75)
    hue += rng.normal(0, 0.02)
    saturation += rng.normal(0, 0.08)
    value += rng.normal(0, 0.08)
    second = value + paint.contrast * rng.uniform(0.7, 1.3)
    return hsv(hue, saturation, value), hsv(hue + rng.normal(0, 0.02), saturation - 0.5 * paint.contrast, second)


def _wave(x: Values) -> Values:
    """A sine of period 1, in [0, 1]."""
    return 0.5 + 0.5 * np.sin(2 * math.pi * x)


def _fraction(x: Values) -> Values:
    return x - np.floor(x)


def _edge(x: Values) -> Values:
    """A soft step at 0, a quarter of a period wide."""
    return np.clip(0.5 + 4 * x, 0, 1)


def _tint(u: Values, v: Values) -> Values:
    """A number in [0, 1) for every cell of a lattice, without order."""
    return _fraction(np.floor(u) * 0.37 + np.floor(v) * 0.73 + 0.1 * np.floor(u) * np.floor(v))


def _planks(u: Values, v: Values, noise: Noise) -> Values:
    grain = _wave(3 * v + 0.8 * noise.coarse + 0.06 * u)
    return np.maximum(0.35 * grain + 0.35 * _tint(u / 6, v), 0.9 * (_fraction(v) < 0.2)) + 0.08 * noise.middle


def _bricks(u: Values, v: Values, noise: Noise) -> Values:
    u = 0.5 * u + 0.5 * (np.floor(v) % 2)
    joint = (_fraction(v) < 0.24) | (_fraction(u) < 0.13)
    return np.where(joint, 1.0, 0.45 * _tint(u, v) + 0.1 * noise.middle)


def _sheen(u: Values, v: Values, noise: Noise) -> Values:
    return _wave(v + 0.2 * u + 0.15 * noise.coarse) ** 4


def _glint(u: Values, v: Values, noise: Noise) -> Values:
    across = _fraction(0.6 * u + 0.6 * v)
    return np.where((across < 0.16) | ((across > 0.26) & (across < 0.34)), 1.0, 0.25 + 0.2 * noise.coarse)


def _weave(u: Values, v: Values, noise: Noise) -> Values:
    return 0.35 + 0.4 * (_wave(u) - 0.5) * (1 + np.sign(_wave(v) - 0.5)) + 0.35 * noise.coarse


def _leaves(u: Values, v: Values, noise: Noise) -> Values:
    return 0.4 + 0.45 * noise.middle + 0.22 * noise.fine


def _waves(u: Values, v: Values, noise: Noise) -> Values:
    return _wave(v + 0.35 * noise.middle + 0.3 * np.sin(0.7 * u)) ** 2


def _grains(u: Values, v: Values, noise: Noise) -> Values:
    return 0.4 + 0.25 * noise.fine + 0.35 * (_wave(v + 0.12 * u + 0.5 * noise.coarse) - 0.5)


def _blotches(u: Values, v: Values, noise: Noise) -> Values:
    return np.where(np.abs(noise.middle) < 0.07, 1.0, 0.4 + 0.4 * noise.middle + 0.1 * noise.fine)


def _hair(u: Values, v: Values, noise: Noise) -> Values:
    return _wave(u + 0.35 * v + 0.7 * noise.middle) * (0.6 + 0.3 * noise.coarse)


def _soft(u: Values, v: Values, noise: Noise) -> Values:
    return 0.5 + 0.3 * noise.coarse + 0.08 * noise.fine


def _drifts(u: Values, v: Values, noise: Noise) -> Values:
    return 0.8 * _wave(0.8 * v + noise.coarse) ** 2 + 0.06 * noise.fine


def _sky(u: Values, v: Values, noise: Noise) -> Values:
    return v + 0.12 * noise.coarse


def _scales(u: Values, v: Values, noise: Noise) -> Values:
    shift = 0.5 * (np.floor(v) % 2)
    return np.hypot(_fraction(u + shift) - 0.2, _fraction(v) - 0.5) * 1.1


def _striped(u: Values, v: Values, noise: Noise) -> Values:
    return _edge(_wave(u) - 0.5)


def _chequered(u: Values, v: Values, noise: Noise) -> Values:
    return _edge(2 * (_wave(u) - 0.5) * (_wave(v) - 0.5))


def _dotted(u: Values, v: Values, noise: Noise) -> Values:
    u = u + 0.5 * (np.floor(v) % 2)
    return _edge(0.32 - np.hypot(_fraction(u) - 0.5, _fraction(v) - 0.5))


def _zigzagged(u: Values, v: Values, noise: Noise) -> Values:
    return _edge(_wave(v + np.abs(_fraction(u) - 0.5)) - 0.5)


def _grid(u: Values, v: Values, noise: Noise) -> Values:
    return _edge(0.1 - np.minimum(_fraction(u), _fraction(v)))


def _marbled(u: Values, v: Values, noise: Noise) -> Values:
    return _wave(0.35 * u + 0.8 * noise.coarse + 0.3 * noise.middle) ** 3


def _woven(u: Values, v: Values, noise: Noise) -> Values:
    over = (np.floor(u) + np.floor(v)) % 2
    return np.where(over > 0, np.sin(math.pi * _fraction(u)), 0.55 * np.sin(math.pi * _fraction(v)))


def _spiralled(u: Values, v: Values, noise: Noise) -> Values:
    return _edge(_wave(np.hypot(u, v) + np.arctan2(v, u) / (2 * math.pi)) - 0.5)


PATTERNS: dict[str, Callable[[Values, Values, Noise], Values]] = {
    "planks": _planks,
    "bricks": _bricks,
    "sheen": _sheen,
    "glint": _glint,
    "weave": _weave,
    "leaves": _leaves,
    "waves": _waves,
    "grains": _grains,
    "blotches": _blotches,
    "hair": _hair,
    "soft": _soft,
    "drifts": _drifts,
    "sky": _sky,
    "scales": _scales,
    "striped": _striped,
    "chequered": _chequered,
    "polka-dotted": _dotted,
    "zigzagged": _zigzagged,
    "grid": _grid,
    "marbled": _marbled,
    "woven": _woven,
    "spiralled": _spiralled,
}

TEXTURES = ("striped", "chequered", "polka-dotted", "zigzagged", "grid", "marbled", "woven", "spiralled")
"""The patterns that cover walls and whole images, and are labelled as textures; from common to rare."""
