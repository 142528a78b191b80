"""BDD100K's box tracking: road users tracked through drives (CVPR 2020).

The layout and the labels are the official ones, in the format of Scalabel:

    images/track/val/VIDEO/VIDEO-0000001.jpg      frames at 5 Hz; as well train, and test without labels
    labels/box_track_20/val/VIDEO.json            a list of frames, each with
        name, frameIndex, labels: [{id, category, attributes: {crowd}, box2d: {x1, y1, x2, y2}}]

Older downloads call the folder of the labels `labels-20/box-track`.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import logging

from vitprobe_jax.data.dataset import Box, Dataset
from vitprobe_jax.data.files import existing_folder, image_file_size
from vitprobe_jax.data.tracks import Frame, Sequence, check_box, pack_sequences
from vitprobe_jax.errors import InputError
from vitprobe_jax.types import Concept

CLASSES = (
    ("pedestrian", "human"),
    ("rider", "human"),
    ("car", "vehicle"),
    ("truck", "vehicle"),
    ("bus", "vehicle"),
    ("train", "vehicle"),
    ("motorcycle", "bike"),
    ("bicycle", "bike"),
)
"""The eight classes that the official evaluation counts, numbered from 1, and its three super classes."""

OTHER_NAMES = {"bike": "bicycle", "caravan": "car", "motor": "motorcycle", "person": "pedestrian", "van": "car"}
"""Names of earlier labels, which the official toolkit reads so."""

IGNORED = ("other person", "other vehicle", "trailer")
"""Classes that the official evaluation takes no notice of."""

_LABEL_FOLDERS = ("labels/box_track_20", "labels-20/box-track")
_EXPECTED = f"expected images/track/val/VIDEO/*.jpg and {_LABEL_FOLDERS[0]}/val/VIDEO.json"
_NUMBERS = {name: number for number, (name, _) in enumerate(CLASSES, 1)}


def open_bdd100k(folder: str | Path, name: str) -> Dataset:
    """Reads the labels of BDD100K's box tracking; its validation videos are the split `val`, else the training ones.

    Videos are those that have images; others of the labels are left out with a warning, since the images come in several
    archives. Frames are those that the labels list, with boxes or without. As in the official evaluation, a box includes the
    pixels at `x2` and `y2`, and crowds and `IGNORED` classes are left out; so are labels that have no box. Tracks are
    numbered from 1 in each video. No image is decoded; the size of a video's frames is read from the first one's header.

    Args:
        folder: holds images/track/ and labels/box_track_20/.
        name: what results call the data set.

    Raises:
        InputError: the folder is missing or empty or has no labelled video, a file is missing, labels are malformed, of an
            unknown class, or have a box outside its frame.
    """
    folder = existing_folder(folder)
    images, labels, videos = _find_videos(folder)
    digest = hashlib.sha256()

    def sequences() -> Iterator[Sequence]:
        for video in videos:
            found, content = _read_video(folder, f"{images}/{video}", labels / f"{video}.json")
            digest.update(content)
            yield found

    split = pack_sequences(folder, sequences())
    if not len(split):
        raise InputError(f"--dataset: {labels} lists no frames; restore the files")
    return Dataset(
        name=name,
        concepts=tuple(Concept(number=i, name=concept, category="object") for i, (concept, _) in enumerate(CLASSES, 1)),
        splits={"val": split},
        skip_corrupt=False,
        fingerprint=digest.hexdigest(),
        supercategories=tuple(kind for _, kind in CLASSES),
    )


def _find_videos(folder: Path) -> tuple[str, Path, list[str]]:
    """The folder of a split's images, relative to the root, that of its labels, and the names of its videos."""
    for split in ("val", "train"):
        images = f"images/track/{split}"
        labels = next((folder / place / split for place in _LABEL_FOLDERS if (folder / place / split).is_dir()), None)
        if labels is None or not (folder / images).is_dir():
            continue
        with os.scandir(folder / images) as entries:
            videos = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
        if videos:
            labelled = {path.stem for path in labels.glob("*.json")}
            unlabelled = [video for video in videos if video not in labelled]
            if unlabelled:
                raise InputError(
                    f"--dataset: {labels} has no labels of {len(unlabelled)} of the {len(videos)} videos in "
                    f"{folder / images}, the first is {unlabelled[0]}.json; restore them"
                )
            if len(labelled) > len(videos):
                left_out = len(labelled) - len(videos)
                logging.warning("%s: has no images of %d of the labelled videos", folder / images, left_out)
            return images, labels, videos
    raise InputError(f"--dataset: {folder} has no labelled videos; {_EXPECTED}")


def _read_video(folder: Path, place: str, path: Path) -> tuple[Sequence, bytes]:
    """One video, and a digest of all that it is made of."""
    try:
        content = path.read_bytes()
        listed = json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: is no JSON ({error}); restore the file") from error
    if isinstance(listed, dict):  # Scalabel's own way to write a list of frames.
        listed = listed.get("frames")
    if not isinstance(listed, list) or not all(isinstance(frame, dict) for frame in listed):
        raise InputError(f"{path}: is no list of frames; restore the file")
    with os.scandir(folder / place) as entries:
        sizes = {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
    found = {}
    for i, frame in enumerate(listed):
        file, index = frame.get("name"), frame.get("frameIndex", i)
        if not isinstance(file, str) or not isinstance(index, int) or index in found:
            raise InputError(f"{path}: frame {i} has no name, or no frameIndex of its own; restore the file")
        if file not in sizes:
            raise InputError(f"{path}: lists {file}, which is not in {folder / place}; complete the folder")
        found[index] = frame
    ordered = dict(sorted(found.items()))
    image_size = (0, 0)
    if ordered:
        image_size = image_file_size(folder / place / next(iter(ordered.values()))["name"])
    tracks: dict[str, int] = {}
    frames = tuple(
        Frame(f"{place}/{frame['name']}", index, _read_boxes(path, frame, image_size, tracks))
        for index, frame in ordered.items()
    )
    named = "".join(f"{frame.file}\0{sizes[os.path.basename(frame.file)]}\n" for frame in frames)
    digest = hashlib.sha256(named.encode("utf-8", "surrogateescape") + hashlib.sha256(content).digest()).digest()
    return Sequence(path.stem, image_size, frames), digest


def _read_boxes(
    path: Path, frame: dict[str, Any], image_size: tuple[int, int], tracks: dict[str, int]
) -> tuple[Box, ...]:
    """The boxes of a frame that count; objects not yet in `tracks` get the next number there."""
    labels = frame.get("labels") or []
    if not isinstance(labels, list) or not all(isinstance(label, dict) for label in labels):
        raise InputError(f"{path}: the labels of {frame['name']} are no list of objects; restore the file")
    boxes = []
    for label in labels:
        where = f"{path}: object {label.get('id')!r} in {frame['name']}"
        category = label.get("category")
        number = _NUMBERS.get(OTHER_NAMES.get(category, category)) if isinstance(category, str) else None
        if number is None and category not in IGNORED:
            raise InputError(f"{where}: is of the unknown category {category!r}; there are {', '.join(_NUMBERS)}")
        if number is None or _is_crowd(label) or label.get("box2d") is None:
            continue
        if label.get("id") is None:
            raise InputError(f"{where}: has no id to track it by; restore the file")
        x1, y1, x2, y2 = _read_edges(label["box2d"], where)
        box = Box(number, tracks.setdefault(str(label["id"]), len(tracks) + 1), x1, y1, x2 + 1, y2 + 1)
        check_box(box, image_size, where)
        boxes.append(box)
    return tuple(boxes)


def _read_edges(box: Any, where: str) -> list[float]:
    values = [box.get(key) for key in ("x1", "y1", "x2", "y2")] if isinstance(box, dict) else []
    # JSON knows no other numbers than int and float; true and false are int to Python.
    if not values or not all(type(value) in (int, float) and math.isfinite(value) for value in values):
        raise InputError(f"{where}: its box2d is not x1, y1, x2, y2, all of them numbers; restore the file")
    return [float(value) for value in values]


def _is_crowd(label: dict[str, Any]) -> bool:
    attributes = label.get("attributes") or {}
    return isinstance(attributes, dict) and bool(attributes.get("crowd", attributes.get("Crowd", False)))
