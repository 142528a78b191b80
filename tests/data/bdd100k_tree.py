"""Small trees of BDD100K's box tracking, written by code."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from tests.data.moving import background, draw, movers
from vitprobe_jax.data.bdd100k import CLASSES


def label(track: str, category: str, edges: tuple[float, float, float, float], **attributes: bool) -> dict:
    """An object as the official labels have it; `edges` are x1, y1, x2, y2."""
    return {
        "id": track,
        "category": category,
        "attributes": {"occluded": False, "truncated": False, "crowd": False} | attributes,
        "box2d": dict(zip(("x1", "y1", "x2", "y2"), edges, strict=True)),
    }


def write_video(
    root: Path, video: str, labels: list[list[dict]], images: list[Image.Image], split: str = "val"
) -> Path:
    """A video with the labels of each of its frames; returns the path of their file."""
    folder, path = root / "images/track" / split / video, root / "labels/box_track_20" / split / f"{video}.json"
    folder.mkdir(parents=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = []
    for i, (image, objects) in enumerate(zip(images, labels, strict=True)):
        file = f"{video}-{i + 1:07d}.jpg"
        image.save(folder / file, quality=95)
        frames.append({"name": file, "videoName": video, "frameIndex": i, "labels": objects})
    path.write_text(json.dumps(frames))
    return path


def write_bdd100k(
    root: Path,
    *,
    seed: int,
    videos: tuple[str, ...] = ("b1c66a42-6f7d68ca", "b1c9c847-3bda4659"),
    split: str = "val",
    num_frames: int = 6,
    categories: tuple[str, ...] = ("car", "car", "pedestrian", "bus", "bicycle"),
    size: tuple[int, int] = (144, 256),
) -> Path:
    """Videos of striped objects in lanes: a hue for each category, a pattern for each object; none hides another one.

    Args:
        root: gets images/track and labels/box_track_20.
        seed: of all that is drawn.
        videos: their names.
        split: of all of them.
        num_frames: in each video.
        categories: of the objects of every frame, each with an id of its own; the last object leaves the image by half.
        size: height and width of the frames.
    """
    kinds = [name for name, _ in CLASSES]
    for i, video in enumerate(videos):
        rng = np.random.default_rng([seed, i])
        scene = background(rng, size)
        moving = movers(rng, [kinds.index(name) for name in categories], len(kinds), size, num_frames)
        labels = [[] for _ in range(num_frames)]
        for number, (category, mover) in enumerate(zip(categories, moving, strict=True)):
            for frame in range(num_frames):
                left, top, right, bottom = mover.box(frame)
                # The labels are of what is in view, and name the last pixel.
                edges = left, top, min(right, size[1]) - 1, bottom - 1
                labels[frame].append(label(f"{number:08d}", category, edges, truncated=right > size[1]))
        write_video(root, video, labels, [draw(scene, moving, frame) for frame in range(num_frames)], split)
    return root
