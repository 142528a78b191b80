"""From a rasterised sketch to a photograph: patterns, roundness, shadows, light, blur and noise."""

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFilter

from vitprobe_jax.data.shapes.drawing import SIZE, SUPERSAMPLING, Sketch
from vitprobe_jax.data.shapes.materials import PATTERNS, Noise
from vitprobe_jax.data.shapes.scenes import Light

# Distance to a receding plane's horizon, in pixels, at which its pattern has its own size.
_FOCUS = 45.0


def shade(sketch: Sketch, ids: UInt8[np.ndarray, "S S"], light: Light, rng: np.random.Generator) -> Image.Image:
    """The image of SIZE x SIZE pixels in RGB.

    Args:
        sketch: its regions and shadows.
        ids: of `rasterise(sketch)`.
        light: what it is seen in.
        rng: of the noise in patterns and sensor.
    """
    pixels = ids[1::SUPERSAMPLING, 1::SUPERSAMPLING].ravel()
    noise = Noise(*(_smooth_noise(rng, cells) for cells in (5, 26, SIZE)))
    weight = _mix_weight(sketch, pixels, noise)
    first, second = (_flat_colours(sketch, ids, which) for which in (0, 1))
    rgb = first + weight[:, None] * (second - first)
    rgb *= (_roundness(sketch, pixels, light) * _shadow(sketch, pixels))[:, None] * np.float32(light.tint)
    rgb = np.clip(rgb, 0, 1) ** np.float32(light.gamma)
    if light.blur:
        image = Image.fromarray(_to_bytes(rgb)).filter(ImageFilter.GaussianBlur(light.blur))
        rgb = np.asarray(image, np.float32).reshape(-1, 3) / 255
    rgb = rgb + np.float32(light.grain) * rng.standard_normal(rgb.shape, np.float32)
    return Image.fromarray(_to_bytes(rgb))


def _to_bytes(rgb: Float[np.ndarray, "n 3"]) -> UInt8[np.ndarray, "s s 3"]:
    return (np.clip(rgb, 0, 1) * 255 + 0.5).astype(np.uint8).reshape(SIZE, SIZE, 3)


def _smooth_noise(rng: np.random.Generator, cells: int) -> Float[np.ndarray, " n"]:
    """Values about in [-1, 1] with bumps of SIZE / cells pixels."""
    grid = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
    return np.asarray(Image.fromarray(grid).resize((SIZE, SIZE), Image.Resampling.BICUBIC)).ravel()


def _flat_colours(sketch: Sketch, ids: UInt8[np.ndarray, "S S"], which: int) -> Float[np.ndarray, "n 3"]:
    """One colour of each pixel's regions, averaged over the points of the pixel: this smooths the outlines."""
    palette = np.array([region.colours[which] for region in sketch.regions])
    canvas = Image.fromarray(ids)
    canvas.putpalette(np.round(palette * 255).astype(np.uint8).tobytes())
    return np.asarray(canvas.convert("RGB").reduce(SUPERSAMPLING), np.float32).reshape(-1, 3) / 255


def _mix_weight(sketch: Sketch, ids: UInt8[np.ndarray, " n"], noise: Noise) -> Float[np.ndarray, " n"]:
    """The share of the second colour in each pixel: its region's pattern there."""
    names = list(PATTERNS)
    pattern_of = np.array([names.index(region.pattern) for region in sketch.regions])[ids]
    frame = np.array(
        [
            (*region.origin, np.cos(region.turn), np.sin(region.turn), region.period, region.horizon or np.nan)
            for region in sketch.regions
        ],
        np.float32,
    )
    weight = np.zeros(len(ids), np.float32)
    for i in np.flatnonzero(np.bincount(pattern_of)):
        here = np.flatnonzero(pattern_of == i)
        x0, y0, cos, sin, period, horizon = frame[ids[here]].T
        y, x = (here // SIZE).astype(np.float32), (here % SIZE).astype(np.float32)
        # Far parts of a plane shrink below a pixel: there the pattern gives way to its mean.
        recedes = ~np.isnan(horizon)
        distance = np.where(recedes, np.maximum(y - horizon, 0) + 4, _FOCUS)
        scale = _FOCUS / distance
        x = (x - x0) * scale
        y = np.where(recedes, -_FOCUS * scale, y - y0)
        u, v = (cos * x + sin * y) / period, (cos * y - sin * x) / period
        fade = np.minimum(1, distance / 30) ** 2
        local = Noise(noise.coarse[here], noise.middle[here], noise.fine[here])
        pattern = np.clip(PATTERNS[names[i]](u, v, local), 0, 1)
        weight[here] = 0.4 + (pattern - 0.4) * fade
    return weight


def _roundness(sketch: Sketch, ids: UInt8[np.ndarray, " n"], light: Light) -> Float[np.ndarray, " n"]:
    """Brightness of each pixel on a region bulging from its bounding box."""
    relief = np.array([region.relief for region in sketch.regions], np.float32)
    low = np.full((len(relief), 2), np.inf, np.float32)
    high = -low
    for region, outline in sketch.shapes:
        low[region] = np.minimum(low[region], outline.min(0))
        high[region] = np.maximum(high[region], outline.max(0))
    centre, extent = (low + high) / 2, (high - low) / 2 + 1
    place = np.arange(len(ids))
    x = ((place % SIZE).astype(np.float32) - centre[ids, 0]) / extent[ids, 0]
    y = ((place // SIZE).astype(np.float32) - centre[ids, 1]) / extent[ids, 1]
    slant_x, slant_y = light.slant
    return 1 + relief[ids] * (0.08 + np.float32(slant_x) * x + np.float32(slant_y) * y - 0.2 * (x * x + y * y))


def _shadow(sketch: Sketch, ids: UInt8[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Brightness left by the shadows, on ground alone."""
    canvas = Image.new("L", (SIZE, SIZE), 255)
    draw = ImageDraw.Draw(canvas)
    for x, y, half_width, half_height in sketch.shadows:
        draw.ellipse((x - half_width, y - half_height, x + half_width, y + half_height), fill=140)
    darkness = np.asarray(canvas.filter(ImageFilter.BoxBlur(2)), np.float32).ravel() / 255
    ground = np.array([region.horizon is not None for region in sketch.regions])
    return np.where(ground[ids], darkness, 1)
