"""A small Cityscapes in the official layout, drawn by code: what a pixel is can be told by its colour and stripes."""

import colorsys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

CITIES = {"train": {"aachen": 3, "bochum": 3}, "val": {"frankfurt": 2}}


def paint(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A photograph of a mask: every label has a hue and stripes of its own, under light and noise of the image's own."""
    rows, columns = np.indices(labels.shape)
    image = np.zeros((*labels.shape, 3))
    for label in np.unique(labels):
        hue = 0.618 * label % 1
        color = 255 * np.array(colorsys.hsv_to_rgb(hue, 0.7, 0.55 + 0.3 * (label % 3) / 2))
        angle, period = 2.4 * label, 4 + label % 5
        waves = np.sin(2 * np.pi / period * (rows * np.sin(angle) + columns * np.cos(angle)))
        image = np.where((labels == label)[..., None], color + 20 * waves[..., None], image)
    light = rng.uniform(0.85, 1.1)
    return np.clip(np.round(light * image + rng.normal(0, 6, image.shape)), 0, 255).astype(np.uint8)


def street(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Ids of a street under the sky: houses and trees, cars and people, and the bonnet, which is not evaluated."""
    height, width = size
    labels = np.full(size, 23, np.uint8)
    horizon = int(height * rng.uniform(0.4, 0.6))
    for left in range(0, width, max(width // 6, 1)):
        top = int(horizon * rng.uniform(0.2, 0.8))
        labels[top:horizon, left : left + width // 6 + 1] = rng.choice([11, 21])
    labels[horizon:] = 7
    labels[horizon:, : int(width * rng.uniform(0.1, 0.25))] = 8
    for label, tall, wide in ((26, 0.2, 0.18), (26, 0.2, 0.18), (24, 0.3, 0.05), (17, 0.5, 0.02), (20, 0.1, 0.05)):
        h, w = max(int(tall * height), 1), max(int(wide * width), 1)
        bottom, left = horizon + int(rng.uniform(0, 0.3) * height), int(rng.uniform(0, 1) * (width - w))
        labels[max(bottom - h, 0) : bottom, left : left + w] = label
    labels[int(0.95 * height) :] = 1
    return labels


def write_frame(root: Path, split: str, city: str, frame: int, labels: np.ndarray, image: np.ndarray) -> str:
    """An image and its mask of ids; gives the name that both begin with."""
    stem = f"{city}_000000_{frame:06d}"
    for folder, ending, pixels in (
        ("leftImg8bit", "leftImg8bit", image),
        ("gtFine", "gtFine_labelIds", labels.astype(np.uint8)),
    ):
        path = root / folder / split / city / f"{stem}_{ending}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return stem


def write_cityscapes(
    root: Path,
    *,
    cities: Mapping[str, Mapping[str, int]] = CITIES,
    size: tuple[int, int] = (64, 128),
    seed: int = 0,
) -> Path:
    """So many frames of each city of each split, of height and width `size`; gives the root."""
    rng = np.random.default_rng(seed)
    for split, counts in cities.items():
        for city, count in counts.items():
            for frame in range(count):
                labels = street(size, rng)
                write_frame(root, split, city, frame, labels, paint(labels, rng))
    return root
