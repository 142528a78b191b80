"""Small trees of CUB-200-2011, Stanford Cars, Oxford-IIIT Pet and Food-101 in their official layouts, drawn by code."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from tests.data.moving import pattern

BIRDS = ("001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross")
CARS = ("AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Acura TL Sedan 2012")
PETS = ("Abyssinian", "american_bulldog", "Birman")
DISHES = ("apple_pie", "baby_back_ribs", "baklava")
SPLITS = ("train", "val")


def write_cub200(root: Path, *, seed: int, train: int = 4, val: int = 2, size: tuple[int, int] = (64, 80)) -> Path:
    """CUB_200_2011 with three species; returns it. Ids go through the classes, training and test images mixed.

    Args:
        root: gets CUB_200_2011.
        seed: of the stripes of each image; their hue is that of the class.
        train: images of each class.
        val: test images of each class.
        size: height and width of the images.
    """
    folder = root / "CUB_200_2011"
    images, labels, parts = [], [], []
    for number, split, i, pixels in _drawn(len(BIRDS), seed, train, val, size):
        file = f"{BIRDS[number]}/{BIRDS[number][4:]}_{i:04d}_{7 * i + (split == 'val')}.jpg"
        _save(pixels, folder / "images" / file)
        images.append(f"{len(images) + 1} {file}\n")
        labels.append(f"{len(images)} {number + 1}\n")
        parts.append(f"{len(images)} {int(split == 'train')}\n")
    classes = [f"{number} {name}\n" for number, name in enumerate(BIRDS, 1)]
    lists = {"images": images, "image_class_labels": labels, "train_test_split": parts, "classes": classes}
    for name, lines in lists.items():
        (folder / f"{name}.txt").write_text("".join(lines))
    return folder


def write_cars(
    root: Path, *, seed: int, train: int = 4, val: int = 2, size: tuple[int, int] = (64, 80), nested: bool = False
) -> Path:
    """stanford_cars with three models; returns it. Arguments as in `write_cub200`; `nested`: as copies of it are packed."""
    folder = root / "stanford_cars"
    places = {split: f"cars_{part}" for split, part in zip(SPLITS, ("train", "test"), strict=True)}
    devkit = folder / ("car_devkit/devkit" if nested else "devkit")
    devkit.mkdir(parents=True)
    annotations = {split: [] for split in SPLITS}
    for number, split, _, pixels in _drawn(len(CARS), seed, train, val, size):
        file = f"{len(annotations[split]) + 1:05d}.jpg"
        place = f"{places[split]}/{places[split]}" if nested else places[split]
        _save(pixels, folder / place / file)
        annotations[split].append((10, 20, size[1] - 5, size[0] - 5, number + 1, file))
    fields = [(name, object) for name in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")]
    files = {"train": devkit / "cars_train_annos.mat", "val": folder / "cars_test_annos_withlabels.mat"}
    for split, path in files.items():
        savemat(path, {"annotations": np.array(annotations[split], fields)[None]})
    savemat(devkit / "cars_meta.mat", {"class_names": np.array(CARS, object)[None]})
    return folder


def write_pets(root: Path, *, seed: int, train: int = 4, val: int = 2, size: tuple[int, int] = (64, 80)) -> Path:
    """oxford-iiit-pet with three breeds; returns it. Arguments as in `write_cub200`."""
    folder = root / "oxford-iiit-pet"
    lists = {split: [] for split in SPLITS}
    for number, split, i, pixels in _drawn(len(PETS), seed, train, val, size):
        name = f"{PETS[number]}_{i + 1 + 100 * (split == 'val')}"
        _save(pixels, folder / "images" / f"{name}.jpg")
        # Class, species (1 cat, 2 dog) and breed within the species.
        species = 2 if PETS[number][0].islower() else 1
        lists[split].append(f"{name} {number + 1} {species} {1 + (number == 2)}\n")
    (folder / "annotations").mkdir()
    (folder / "annotations/trainval.txt").write_text("".join(lists["train"]))
    (folder / "annotations/test.txt").write_text("#Image CLASS-ID SPECIES BREED ID\n" + "".join(lists["val"]))
    return folder


def write_food101(root: Path, *, seed: int, train: int = 4, val: int = 2, size: tuple[int, int] = (64, 80)) -> Path:
    """food-101 with three dishes; returns it. Arguments as in `write_cub200`."""
    folder = root / "food-101"
    lists = {split: [] for split in SPLITS}
    for number, split, i, pixels in _drawn(len(DISHES), seed, train, val, size):
        name = f"{DISHES[number]}/{1005649 + 31 * i + (split == 'val')}"
        _save(pixels, folder / "images" / f"{name}.jpg")
        lists[split].append(name)
    (folder / "meta").mkdir()
    (folder / "meta/classes.txt").write_text("\n".join(DISHES) + "\n")
    (folder / "meta/train.txt").write_text("\n".join(lists["train"]))
    (folder / "meta/test.txt").write_text("\n".join(lists["val"]))
    return folder


def _drawn(
    classes: int, seed: int, train: int, val: int, size: tuple[int, int]
) -> Iterator[tuple[int, str, int, np.ndarray]]:
    """Class from 0, split, place within both, and pixels of every image."""
    for number in range(classes):
        for s, (split, count) in enumerate(zip(SPLITS, (train, val), strict=True)):
            for i in range(count):
                yield number, split, i, pattern(np.random.default_rng([seed, s, number, i]), number, classes, size)


def _save(pixels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=95)
