"""The pictures of `shapes`: a backdrop, things placed in it from far to near, and the light that it is seen in."""

import dataclasses
import math

import numpy as np

from vitprobe_jax.data.shapes import backdrops
from vitprobe_jax.data.shapes.backdrops import Scene, Stage
from vitprobe_jax.data.shapes.drawing import SIZE, Brush, Sketch
from vitprobe_jax.data.shapes.materials import Colour
from vitprobe_jax.data.shapes.objects import DRAW


@dataclasses.dataclass(frozen=True)
class Light:
    """How a sketch becomes a photograph.

    Attributes:
        slant: change of brightness across a round surface, to the right and down.
        tint: gain of each colour channel.
        gamma: exponent of the brightness.
        blur: standard deviation of the blur, in pixels.
        grain: standard deviation of the sensor's noise, of 1.
    """

    slant: tuple[float, float]
    tint: Colour
    gamma: float
    blur: float
    grain: float


@dataclasses.dataclass(frozen=True)
class Picture:
    """Everything about an image but its pixels.

    Attributes:
        sketch: what is drawn where.
        light: what it is seen in.
        scene: the kind of place, if any.
        textures: those that cover a wall, a floor or the whole image.
    """

    sketch: Sketch
    light: Light
    scene: str | None
    textures: tuple[str, ...]


# Height at the front of the picture, as a share of it, and where a thing belongs.
_THINGS: dict[str, tuple[float, str]] = {
    "house": (0.66, "ground"),
    "tree": (0.75, "ground"),
    "car": (0.28, "ground"),
    "cart": (0.34, "ground"),
    "bicycle": (0.36, "ground"),
    "boat": (0.42, "water"),
    "fish": (0.24, "swim"),
    "lamp": (0.62, "ground"),
    "person": (0.55, "ground"),
    "flower": (0.32, "ground"),
    "bird": (0.2, "air"),
    "sheep": (0.3, "ground"),
    "table": (0.32, "ground"),
    "chair": (0.42, "ground"),
    "umbrella": (0.5, "ground"),
    "cactus": (0.5, "ground"),
    "painting": (0.26, "wall"),
    "rock": (0.2, "ground"),
    "mushroom": (0.22, "ground"),
    "wheel": (0.24, "ground"),
    "window": (0.34, "wall"),
}


def compose(rng: np.random.Generator) -> Picture:
    """Draws a picture: its place, the things in it and its light."""
    names = list(SCENES)
    weights = np.array([SCENES[name].weight for name in names])
    name = names[rng.choice(len(names), p=weights / weights.sum())]
    scene = SCENES[name]
    sketch = Sketch()
    stage = scene.backdrop(sketch, rng, scene)
    _place_things(sketch, rng, scene, stage)
    return Picture(sketch, _light(rng, scene.night), name or None, stage.textures)


def _light(rng: np.random.Generator, night: bool) -> Light:
    angle, strength = rng.uniform(-math.pi, 0), rng.uniform(0.08, 0.28)
    warmth, exposure = rng.normal(0, 0.06), math.exp(rng.normal(0, 0.12))
    tint = (0.55, 0.65, 0.95) if night else (1.0, 1.0, 1.0)
    tint = (tint[0] * exposure * (1 + warmth), tint[1] * exposure, tint[2] * exposure * (1 - warmth))
    blur = rng.uniform(0.3, 0.9) if rng.random() < 0.35 else 0.0
    return Light(
        slant=(strength * math.cos(angle), strength * math.sin(angle)),
        tint=tint,
        gamma=math.exp(rng.normal(0.3 if night else 0, 0.12)),
        blur=blur,
        grain=rng.uniform(0.005, 0.03),
    )


def _place_things(sketch: Sketch, rng: np.random.Generator, scene: Scene, stage: Stage) -> None:
    names, weights = list(scene.things), np.array(list(scene.things.values()))
    count = rng.integers(scene.count[0], scene.count[1] + 1)
    chosen = [names[i] for i in rng.choice(len(names), count, p=weights / weights.sum())]
    zoom = math.exp(rng.normal(0, 0.15))
    rooms = [_room(rng, stage, "swim" if stage.floating else _THINGS[name][1]) for name in chosen]
    # What hangs or flies is behind all else; what stands lower in the picture is nearer.
    for (layer, y, x, depth), name in sorted(zip(rooms, chosen, strict=True)):
        height = SIZE * _THINGS[name][0] * (1.5 if stage.floating else depth) * zoom * math.exp(rng.normal(0, 0.1))
        if layer == 1:
            sketch.shadows.append((x, y, 0.35 * height, 0.07 * height))
        haze = (stage.haze, 0.0 if stage.floating else 0.45 * max(1 - depth, 0.0))
        lean = 0.3 if stage.floating else 0.05
        DRAW[name](Brush(sketch, rng, name=name, foot=(x, y), height=height, haze=haze, lean=lean))


def _room(rng: np.random.Generator, stage: Stage, place: str) -> tuple[int, float, float, float]:
    """(layer, y, x, depth) of a thing's foot; depth scales its height, 1 at the front."""
    x = rng.uniform(0.06, 0.94) * SIZE
    if place == "swim":
        return 1, rng.uniform(0.3, 0.98) * SIZE, x, rng.uniform(0.55, 1.0)
    if place == "air" and rng.random() < 0.7:
        return 0, rng.uniform(0.12, 0.9) * stage.horizon, x, rng.uniform(0.45, 0.9)
    if place == "wall":
        return 0, rng.uniform(0.55, 0.8) * stage.horizon, x, rng.uniform(0.8, 1.1)
    if place == "water":
        y = rng.uniform(stage.horizon + 3, stage.shore - 3)
        return 0, y, x, 0.4 + 0.6 * (y - stage.horizon) / (SIZE - stage.horizon)
    near = rng.random() ** 0.8
    first = max(stage.horizon, stage.shore) + 4
    return 1, first + near * (SIZE * 0.99 - first), x, stage.far + (1 - stage.far) * near


SCENES: dict[str, Scene] = {
    "meadow": Scene(
        0.2, backdrops.outdoors, (("grass", "foliage"),),
        {"tree": 8, "flower": 4, "house": 3, "sheep": 3, "person": 2, "bird": 2, "cart": 0.8, "rock": 1, "mushroom": 0.5},
        (2, 7),
    ),
    "street": Scene(
        0.17, backdrops.outdoors, (("road", "_asphalt"), ("road", "stone")),
        {"house": 7, "car": 5, "tree": 4, "person": 4, "lamp": 2, "bicycle": 1.2, "cart": 0.5, "wheel": 0.3},
        (3, 7),
    ),
    "room": Scene(
        0.17, backdrops.indoors, (("floor", "wood"), ("floor", "wood"), ("floor", "stone"), ("floor", "fabric")),
        {"table": 4, "chair": 5, "window": 4, "painting": 4, "person": 3, "lamp": 3, "flower": 1},
        (2, 6),
    ),
    "": Scene(
        0.14, backdrops.close_up, (),
        {"flower": 3, "fish": 2, "bird": 3, "car": 3, "wheel": 1, "mushroom": 1, "chair": 1, "house": 1},
        (0, 2),
    ),
    "beach": Scene(
        0.1, backdrops.outdoors, (("sand", "sand"),),
        {"boat": 5, "person": 4, "umbrella": 3, "bird": 2, "rock": 1, "tree": 1}, (2, 6), water=True,
    ),
    "forest": Scene(
        0.08, backdrops.forest, (("grass", "foliage"),),
        {"tree": 8, "mushroom": 2, "person": 1, "bird": 1.5, "flower": 1, "rock": 1}, (4, 8),
    ),
    "snowfield": Scene(
        0.05, backdrops.outdoors, (("snow", "snow"),),
        {"tree": 5, "house": 2, "person": 2, "rock": 2, "sheep": 0.5}, (2, 5),
    ),
    "desert": Scene(
        0.045, backdrops.outdoors, (("sand", "sand"),),
        {"cactus": 5, "rock": 4, "bird": 1, "cart": 0.7, "wheel": 0.5, "person": 1}, (2, 6),
    ),
    "underwater": Scene(
        0.03, backdrops.underwater, (("sand", "sand"), ("sand", "stone")),
        {"fish": 8, "rock": 2, "wheel": 0.3}, (3, 7),
    ),
    "night": Scene(
        0.015, backdrops.outdoors, (("grass", "foliage"), ("road", "_asphalt")),
        {"house": 4, "tree": 4, "lamp": 3, "car": 2, "person": 1}, (3, 6), night=True,
    ),
}  # fmt: skip
"""By name and from common to rare; the one without a name has no scene label."""
