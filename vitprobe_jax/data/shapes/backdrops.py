"""The backdrops of `shapes`: what lies behind the things of a picture, and where it leaves room for them."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from vitprobe_jax.data.shapes.drawing import SIZE, Brush, Number, Points, Region, Sketch, box, ellipse, polygon
from vitprobe_jax.data.shapes.materials import PAINTS, TEXTURES, Colour, draw_colours, hsv, mix
from vitprobe_jax.data.shapes.objects import DRAW


@dataclasses.dataclass(frozen=True)
class Stage:
    """Where a backdrop has room for things: the lines are y in pixels.

    Attributes:
        horizon: where the ground begins.
        haze: colour that far things take on.
        textures: those that the backdrop shows.
        shore: where the sea ends, if there is one between the horizon and the ground.
        far: scale of things at the horizon.
        floating: whether there is no ground to stand on.
    """

    horizon: float
    haze: Colour
    textures: tuple[str, ...] = ()
    shore: float = 0.0
    far: float = 0.38
    floating: bool = False


@dataclasses.dataclass(frozen=True)
class Scene:
    """A kind of place.

    Attributes:
        weight: share of the images.
        backdrop: paints it and says where things have room.
        ground: (object, paint) that the ground is drawn from; the material's name is the paint's.
        things: relative frequency of the things that may be there.
        count: the fewest and the most of them.
        water: whether there is a sea between the horizon and the ground.
        night: whether it is dark.
    """

    weight: float
    backdrop: Callable[[Sketch, np.random.Generator, "Scene"], Stage]
    ground: tuple[tuple[str, str], ...]
    things: dict[str, float | int]
    count: tuple[int, int]
    water: bool = False
    night: bool = False


def _surface(rng: np.random.Generator, name: str, paint: str, **fields) -> Region:
    """A region of the backdrop: an object of that name; fields that are not given are drawn from its paint."""
    look = PAINTS[paint]
    drawn = {
        "colours": draw_colours(look, rng),
        "origin": (rng.uniform(0, SIZE), rng.uniform(0, SIZE)),
        "period": look.period * rng.uniform(0.9, 1.5),
    }
    material = None if paint.startswith("_") else paint
    return Region(object=name, material=material, pattern=look.pattern, **{**drawn, **fields})


def _textured(rng: np.random.Generator, name: str | None, texture: str, *, horizon: float | None = None) -> Region:
    """A region covered with a texture in two colours of any hue, more or less apart."""
    hue, value = rng.random(), rng.uniform(0.25, 0.95)
    first = hsv(hue, rng.uniform(0.05, 0.7), value)
    apart = rng.uniform(0.2, 0.5) * (-1 if value > 0.6 else 1)
    second = hsv(hue + rng.normal(0, 0.2), rng.uniform(0.05, 0.7), value + apart)
    return Region(
        object=name,
        pattern=texture,
        colours=(first, second),
        origin=(rng.uniform(0.2, 0.8) * SIZE, rng.uniform(0.2, 0.8) * SIZE),
        turn=rng.uniform(0, math.pi) if horizon is None else 0.0,
        period=rng.uniform(7, 20),
        horizon=horizon,
    )


def _pick_texture(rng: np.random.Generator) -> str:
    """Frequencies fall as a power law, as Broden's do."""
    weights = 1 / np.arange(1, len(TEXTURES) + 1)
    return TEXTURES[rng.choice(len(TEXTURES), p=weights / weights.sum())]


def _ridge(rng: np.random.Generator, level: float, rise: Number, bottom: Number) -> Points:
    """A hilly line across the picture around y = level, closed below at `bottom`."""
    x = np.linspace(0, SIZE, 33)
    waves = [(rng.uniform(0.5, 4.0), rng.uniform(0, 2 * math.pi)) for _ in range(3)]
    y = level + rise * sum(np.sin(2 * math.pi * n * x / SIZE + phase) / (1 + n) for n, phase in waves)
    return np.concatenate([np.stack([x, y], -1), polygon((SIZE, bottom), (0, bottom))])


def _everywhere() -> Points:
    return box(0, 0, SIZE, SIZE)


def outdoors(sketch: Sketch, rng: np.random.Generator, scene: Scene) -> Stage:
    """Sky over ground, with weather, mountains, and a sea before the shore."""
    horizon = rng.uniform(0.32, 0.56) * SIZE
    if scene.night:
        top, low = hsv(0.64, 0.6, rng.uniform(0.12, 0.25)), hsv(rng.normal(0.66, 0.05), 0.5, rng.uniform(0.3, 0.5))
    else:
        top, _ = draw_colours(PAINTS["_sky"], rng)
        low = mix(top, hsv(rng.choice([0.57, 0.08, 0.95]), 0.25, 1.0), rng.uniform(0.4, 0.9))
    sky = _surface(rng, "sky", "_sky", colours=(top, low), origin=(0.0, 0.0), period=horizon)
    sketch.fill(sky, _everywhere())
    if rng.random() < (0.9 if scene.night else 0.25):
        radius, x, y = rng.uniform(5, 10), rng.uniform(0.1, 0.9) * SIZE, rng.uniform(0.2, 0.6) * horizon
        disc = _surface(rng, "moon" if scene.night else "sun", "_disc")
        sketch.fill(disc, ellipse(x, y, radius, radius))
    if not scene.night and rng.random() < 0.5:
        _clouds(sketch, rng, horizon)
    if rng.random() < 0.35:
        stone = mix(draw_colours(PAINTS["stone"], rng)[0], low, 0.45)
        mountain = _surface(rng, "mountain", "stone", colours=(stone, mix(stone, low, 0.35)))
        sketch.fill(mountain, _ridge(rng, horizon - rng.uniform(6, 16), 12, horizon + 12))
    shore = 0.0
    if scene.water:
        sea = box(0, horizon, SIZE, SIZE)
        sketch.fill(_surface(rng, "water", "water", horizon=horizon), sea)
        shore = horizon + rng.uniform(0.3, 0.7) * (SIZE - horizon)
    name, paint = scene.ground[rng.integers(len(scene.ground))]
    ground = _surface(rng, name, paint, horizon=horizon)
    sketch.fill(ground, _ridge(rng, shore or horizon, rng.uniform(0.5, 3), SIZE))
    if name == "road":
        _verge(sketch, rng, horizon)
    return Stage(horizon=horizon, haze=low, shore=shore)


def _clouds(sketch: Sketch, rng: np.random.Generator, horizon: float) -> None:
    cloud = _surface(rng, "cloud", "_cloud", relief=0.15)
    puffs = []
    for _ in range(rng.integers(1, 4)):
        x, y, size = rng.uniform(0, SIZE), rng.uniform(0.15, 0.7) * horizon, rng.uniform(4, 9)
        puffs += [ellipse(x + dx * size, y - up * size, size * r, 0.7 * size * r)
                  for dx, up, r in ((-1.2, 0, 0.8), (0, 0.3, 1.1), (1.1, 0, 0.9), (2, -0.1, 0.6))]  # fmt: skip
    sketch.fill(cloud, *puffs)


def _verge(sketch: Sketch, rng: np.random.Generator, horizon: float) -> None:
    """Grass on both sides of a road that narrows towards the horizon."""
    middle, far, near = rng.uniform(0.3, 0.7) * SIZE, rng.uniform(2, 20), rng.uniform(0.4, 0.9) * SIZE
    left = polygon((-1, horizon), (middle - far, horizon), (middle - near, SIZE), (-1, SIZE))
    right = polygon((SIZE, horizon), (middle + far, horizon), (middle + near, SIZE), (SIZE, SIZE))
    sketch.fill(_surface(rng, "grass", "foliage", horizon=horizon), left, right)


def forest(sketch: Sketch, rng: np.random.Generator, scene: Scene) -> Stage:
    """Grass before rows of trees that fade into the haze."""
    stage = outdoors(sketch, rng, scene)
    for depth in np.sort(rng.uniform(0.05, 0.3, 4)):
        haze = (stage.haze, 0.6 * (1 - depth))
        foot = (rng.uniform(0, SIZE), stage.horizon + depth * 20)
        DRAW["tree"](Brush(sketch, rng, name="tree", foot=foot, height=SIZE * rng.uniform(0.4, 0.6), haze=haze))
    return stage


def indoors(sketch: Sketch, rng: np.random.Generator, scene: Scene) -> Stage:
    """A wall and a floor, either perhaps with a texture."""
    horizon = rng.uniform(0.58, 0.72) * SIZE
    textures = []
    if rng.random() < 0.55:
        textures.append(_pick_texture(rng))
        wall = _textured(rng, "wall", textures[0])
    else:
        wall = _surface(rng, "wall", ("plaster", "plaster", "brick", "wood")[rng.integers(4)])
    sketch.fill(wall, _everywhere())
    # The floor vanishes well above the line where it meets the wall.
    vanishing = 0.5 * horizon
    if rng.random() < 0.25:
        textures.append(("chequered", "striped", "grid")[rng.integers(3)])
        floor = _textured(rng, "floor", textures[-1], horizon=vanishing)
    else:
        name, paint = scene.ground[rng.integers(len(scene.ground))]
        floor = _surface(rng, name, paint, horizon=vanishing)
    sketch.fill(floor, box(0, horizon, SIZE, SIZE))
    skirting = _surface(rng, "wall", "wood", period=float(SIZE))
    sketch.fill(skirting, box(0, horizon - 2, SIZE, horizon + 1))
    return Stage(horizon=horizon, haze=wall.colours[0], textures=tuple(dict.fromkeys(textures)), far=0.8)


def underwater(sketch: Sketch, rng: np.random.Generator, scene: Scene) -> Stage:
    """Water everywhere, above a bottom of sand or stone."""
    sketch.fill(_surface(rng, "water", "water", period=rng.uniform(10, 22), turn=rng.normal(0, 0.2)), _everywhere())
    name, paint = scene.ground[rng.integers(len(scene.ground))]
    bottom = rng.uniform(0.75, 0.9) * SIZE
    sketch.fill(_surface(rng, name, paint, horizon=0.4 * bottom), _ridge(rng, bottom, 5, SIZE))
    return Stage(horizon=bottom, haze=sketch.regions[0].colours[0])


def close_up(sketch: Sketch, rng: np.random.Generator, scene: Scene) -> Stage:
    """Nothing but a texture or two, side by side, and perhaps a thing before them."""
    textures = [_pick_texture(rng)]
    region = _textured(rng, None, textures[0])
    sketch.fill(region, _everywhere())
    if rng.random() < 0.2:
        textures.append(_pick_texture(rng))
        angle, middle = rng.uniform(0, 2 * math.pi), SIZE / 2
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        half = box(0, -2 * SIZE, 2 * SIZE, 2 * SIZE) @ turn.T + middle
        sketch.fill(_textured(rng, None, textures[1]), half)
    return Stage(horizon=0.0, haze=region.colours[0], textures=tuple(dict.fromkeys(textures)), floating=True)
