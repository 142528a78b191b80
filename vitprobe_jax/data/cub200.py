"""CUB-200-2011: photographs of birds of 200 species, with the official split (Wah et al., 2011).

images.txt                      1 001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg
image_class_labels.txt          1 1
train_test_split.txt            1 0; 1 for training, 0 for test
classes.txt                     1 001.Black_footed_Albatross
images/001.Black_footed_Albatross/*.jpg
"""

import re
from pathlib import Path

from vitprobe_jax.data.class_lists import Classed, class_dataset, first_folder
from vitprobe_jax.data.dataset import Dataset
from vitprobe_jax.data.files import existing_folder, read_lines
from vitprobe_jax.errors import InputError

_CLASSES, _IMAGES = "classes.txt", "images.txt"
_LABELS, _SPLIT = "image_class_labels.txt", "train_test_split.txt"


def open_cub200(folder: str | Path, name: str) -> Dataset:
    """Reads the lists of CUB-200-2011; its test images are `val`. No image is decoded.

    Classes have their official numbers, from 1; of their names the number before the dot is left out. Images are in the
    order of their ids.

    Args:
        folder: holds the lists and images/, or CUB_200_2011.
        name: what results call the data set.

    Raises:
        InputError: the folder is missing or empty, a list is missing or malformed, the lists are of different images, a
            class or a split is not one of those there are, or a listed image is not there.
    """
    root = first_folder(existing_folder(folder), ("CUB_200_2011",), _CLASSES, "CUB-200-2011")
    names = _read(root / _CLASSES)
    if sorted(names) != list(range(1, len(names) + 1)):
        raise InputError(f"{root / _CLASSES}: classes are not numbered from 1 to {len(names)}; restore the file")
    files, labels, parts = (_read(root / own) for own in (_IMAGES, _LABELS, _SPLIT))
    for path, table in ((root / _LABELS, labels), (root / _SPLIT, parts)):
        other = sorted(files.keys() ^ table.keys())
        if other:
            raise InputError(f"{path}: image {other[0]} is not in both it and {_IMAGES}; restore the two")
    listed = {"train": [], "val": []}
    for image in sorted(files):
        label, part = labels[image], parts[image]
        if not (label.isdecimal() and int(label) in names):
            raise InputError(f"{root / _LABELS}: image {image} has the class {label}, not one of 1 to {len(names)}")
        if part not in ("0", "1"):
            raise InputError(f"{root / _SPLIT}: image {image} has {part!r}, which is neither 1 (training) nor 0 (test)")
        listed["train" if part == "1" else "val"].append(Classed(f"images/{files[image]}", int(label)))
    titles = [re.sub(r"^\d+\.", "", names[number]).replace("_", " ") for number in sorted(names)]
    return class_dataset(root, name, titles, listed)


def _read(path: Path) -> dict[int, str]:
    """What stands behind the number of each line."""
    if not path.is_file():
        raise InputError(
            f"--dataset: {path} is missing; CUB-200-2011 has {_CLASSES}, {_IMAGES}, {_LABELS} and {_SPLIT}"
        )
    found: dict[int, str] = {}
    for place, line in enumerate(read_lines(path), 1):
        number, _, rest = line.strip().partition(" ")
        if not line.strip():
            continue
        if not number.isdecimal() or not rest.strip() or int(number) in found:
            raise InputError(f"{path}: line {place} does not have a new number and a value; restore the file")
        found[int(number)] = rest.strip()
    if not found:
        raise InputError(f"{path}: is empty; restore the file")
    return found
