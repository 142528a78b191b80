"""Small FAIR1M trees, written by code."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from tests.data.moving import background, pattern
from vitprobe_jax.data.fair1m import NAMES

Corners = list[tuple[float, float]]

XML = """<?xml version="1.0" encoding="utf-8"?>
<annotation>
  <source><filename>{stem}.tif</filename><origin>GF2/GF3</origin></source>
  <research><version>1.0</version><provider>FAIR1M</provider></research>
  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>
  <objects>{objects}
  </objects>
</annotation>
"""
OBJECT = """
    <object>
      <coordinate>pixel</coordinate>
      <type>rectangle</type>
      <description>None</description>
      <possibleresult><name>{name}</name></possibleresult>
      <points>{points}</points>
    </object>"""


def write_labels(folder: Path, stem: str, objects: list[tuple[str, Corners]], size: tuple[int, int]) -> Path:
    """`stem.xml` in the folder: category and corners of each box; the first corner is repeated."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for name, corners in objects:
        points = "".join(f"<point>{x:.6f},{y:.6f}</point>" for x, y in [*corners, corners[0]])
        rows.append(OBJECT.format(name=name, points=points))
    path = folder / f"{stem}.xml"
    path.write_text(XML.format(stem=stem, height=size[0], width=size[1], objects="".join(rows)))
    return path


def write_image(folder: Path, stem: str, image: Image.Image) -> Path:
    """`stem.tif` in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    image.save(folder / f"{stem}.tif")
    return folder / f"{stem}.tif"


def rotated(x: float, y: float, length: float, width: float, angle: float) -> Corners:
    """The corners of a rectangle about (x, y) whose long side is turned by `angle` radians."""
    along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    signs = [(1, 1), (1, -1), (-1, -1), (-1, 1)]
    return [tuple((np.array([x, y]) + (a * length * along + b * width * across) / 2).tolist()) for a, b in signs]


def write_fair1m(
    root: Path,
    *,
    seed: int,
    num_images: int = 2,
    size: tuple[int, int] = (256, 448),
    categories: tuple[str, ...] = ("Boeing737", "A220", "Warship", "Small Car", "Bus", "Tennis Court", "Bridge"),
    cell: int = 64,
) -> Path:
    """Images of both splits with a rotated striped rectangle in every cell of a grid: a hue for each category.

    Args:
        root: gets train/part1, train/part2 (half of the images each) and validation.
        seed: of all that is drawn.
        num_images: of each split.
        size: height and width of the images.
        categories: every one is drawn about equally often.
        cell: side of a cell of the grid, in pixels; rectangles do not leave theirs.
    """
    for s, split in enumerate(("train", "validation")):
        for i in range(num_images):
            rng = np.random.default_rng([seed, s, i])
            image = Image.fromarray(background(rng, size))
            objects = []
            for number, (top, left) in enumerate(np.ndindex(size[0] // cell, size[1] // cell)):
                category = categories[(number + i) % len(categories)]
                long, wide = rng.uniform(0.5, 0.8) * cell, rng.uniform(0.3, 0.5) * cell
                corners = rotated((left + 0.5) * cell, (top + 0.5) * cell, long, wide, rng.uniform(0, np.pi))
                area = Image.new("1", (cell, cell))
                ImageDraw.Draw(area).polygon([(x - left * cell, y - top * cell) for x, y in corners], fill=1)
                stripes = Image.fromarray(pattern(rng, NAMES.index(category), len(NAMES), (cell, cell)))
                image.paste(stripes, (left * cell, top * cell), area)
                objects.append((category, corners))
            folder = root / split / (f"part{1 + 2 * i // num_images}" if split == "train" else "")
            write_image(folder / "images", str(i), image)
            write_labels(folder / "labelXml", str(i), objects, size)
    return root
