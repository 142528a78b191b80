"""Aerial scenes in class folders, as they are downloaded: UC Merced and NWPU-RESISC45, which have no official split.

    UCMerced_LandUse/Images/agricultural/agricultural00.tif     21 classes of 100 images (Yang and Newsam, 2010)
    NWPU-RESISC45/airplane/airplane_001.jpg                     45 classes of 700 images (Cheng et al., 2017)

A tenth of all images, drawn by the seed, is held out, as in Scale-MAE's k-NN (bair-climate-initiative/scale-mae,
mae/main_pretrain.py, where `--eval_path` is a folder): of the whole set, not of each class. That code also takes lists, of
which it has one for RESISC45 (mae/splits, 25,200 and 6,300 images): as `train.txt` and `val.txt` beside the class folders
they are the split.

    train.txt, val.txt      ./airplane/airplane_415.jpg
"""

import dataclasses
from collections.abc import Collection
from pathlib import Path

from absl import logging

from vitprobe_jax.data.class_lists import Classed, class_dataset
from vitprobe_jax.data.dataset import Dataset
from vitprobe_jax.data.files import existing_folder, read_lines, walk_files
from vitprobe_jax.data.imagefolder import EXTENSIONS
from vitprobe_jax.data.plain_tree import draw_splits
from vitprobe_jax.errors import InputError
from vitprobe_jax.types import SPLITS, Split

HELD_OUT = 0.1
"""Share of all images."""


@dataclasses.dataclass(frozen=True)
class _Scenes:
    """A set of scenes.

    Attributes:
        title: its name.
        folders: where the class folders are, from the folder that is given; the first that has one.
        classes: names of the class folders, sorted.
        images: of each class, in the published set.
    """

    title: str
    folders: tuple[str, ...]
    classes: tuple[str, ...]
    images: int


UCMERCED = _Scenes(
    "UC Merced",
    (".", "Images", "UCMerced_LandUse/Images"),
    (
        *("agricultural", "airplane", "baseballdiamond", "beach", "buildings", "chaparral", "denseresidential"),
        *("forest", "freeway", "golfcourse", "harbor", "intersection", "mediumresidential", "mobilehomepark"),
        *("overpass", "parkinglot", "river", "runway", "sparseresidential", "storagetanks", "tenniscourt"),
    ),
    100,
)
RESISC45 = _Scenes(
    "NWPU-RESISC45",
    (".", "NWPU-RESISC45"),
    (
        *("airplane", "airport", "baseball_diamond", "basketball_court", "beach", "bridge", "chaparral", "church"),
        *("circular_farmland", "cloud", "commercial_area", "dense_residential", "desert", "forest", "freeway"),
        *("golf_course", "ground_track_field", "harbor", "industrial_area", "intersection", "island", "lake"),
        *("meadow", "medium_residential", "mobile_home_park", "mountain", "overpass", "palace", "parking_lot"),
        *("railway", "railway_station", "rectangular_farmland", "river", "roundabout", "runway", "sea_ice", "ship"),
        *("snowberg", "sparse_residential", "stadium", "storage_tank", "tennis_court", "terrace"),
        *("thermal_power_station", "wetland"),
    ),
    700,
)


def open_ucmerced(folder: str | Path, name: str, *, seed: int) -> Dataset:
    """Lists UC Merced's scenes and holds a tenth of all out; nothing is decoded yet.

    Classes are numbered from 1 in the sorted order of their names. Whether an image is held out depends on the seed and on
    its name, see `plain_tree.draw_splits`, unless there are lists. Other files and folders are left out.

    Args:
        folder: holds the class folders, or Images, or UCMerced_LandUse.
        name: what results call the data set.
        seed: of the split.

    Raises:
        InputError: the folder is missing or empty, classes have no folder or no image, one of the lists is missing, empty or
            names what is no image of a class, or an image is in both. A class with another number of images than published
            is a warning.
    """
    return _open(UCMERCED, folder, name, seed)


def open_resisc45(folder: str | Path, name: str, *, seed: int) -> Dataset:
    """Lists RESISC45's scenes and holds a tenth of all out, as `open_ucmerced`; the folder may hold NWPU-RESISC45."""
    return _open(RESISC45, folder, name, seed)


def _open(scenes: _Scenes, folder: str | Path, name: str, seed: int) -> Dataset:
    folder = existing_folder(folder)
    places = [folder / part for part in scenes.folders]
    root = next((place for place in places if any((place / own).is_dir() for own in scenes.classes)), None)
    if root is None:
        raise InputError(
            f"--dataset: {folder} has no class folder of {scenes.title}, as {scenes.classes[0]}/; give the folder that it "
            "was unpacked into"
        )
    files = {own: _images(root, own) for own in scenes.classes}
    lacking = [own for own, images in files.items() if not images]
    if lacking:
        raise InputError(
            f"--dataset: {root} has no image of {len(lacking)} of the {len(files)} classes of {scenes.title}, the first is "
            f"{lacking[0]}; unpack all of it"
        )
    other = {own: len(images) for own, images in files.items() if len(images) != scenes.images}
    if other:
        own = next(iter(other))
        logging.warning(
            "%s: %d classes have other than %d images, the first is %s with %d",
            *(root, len(other), scenes.images, own, other[own]),
        )
    numbered = {file: number for number, images in enumerate(files.values(), 1) for file in images}
    split_of = _read_splits(root, numbered) or draw_splits(list(numbered), val_share=HELD_OUT, seed=seed)
    listed = {
        split: [Classed(file, number) for file, number in numbered.items() if split_of.get(file) == split]
        for split in SPLITS
    }
    return class_dataset(root, name, scenes.classes, listed)


def _read_splits(root: Path, files: Collection[str]) -> dict[str, Split]:
    """The split of each image of `train.txt` and `val.txt`; {} where there is neither."""
    lists = {split: root / f"{split}.txt" for split in SPLITS}
    if not any(path.is_file() for path in lists.values()):
        return {}
    split_of: dict[str, Split] = {}
    for split, path in lists.items():
        if not path.is_file():
            raise InputError(f"--dataset: {path} is missing beside the other list; add it, or take the other one away")
        listed = [line.strip().removeprefix("./") for line in read_lines(path) if line.strip()]
        if not listed:
            raise InputError(f"{path}: is empty; restore the file")
        for file in listed:
            if file not in files:
                raise InputError(
                    f"{path}: names {file}, which is not an image of a class; give lines as ./airplane/NAME.jpg"
                )
            if split_of.setdefault(file, split) != split:
                raise InputError(f"{path}: names {file}, which the other list has too; restore the two")
    return split_of


def _images(root: Path, own: str) -> list[str]:
    """Paths of a class's images from the root, sorted."""
    if not (root / own).is_dir():
        return []
    files = (Path(entry.path).relative_to(root).as_posix() for entry in walk_files(root / own))
    return sorted(file for file in files if file.lower().endswith(EXTENSIONS))
