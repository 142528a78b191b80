"""Food-101: photographs of 101 dishes, with the official split (Bossard et al., 2014).

images/apple_pie/1005649.jpg
meta/classes.txt                apple_pie
meta/train.txt, test.txt        apple_pie/1005649
"""

from pathlib import Path

from vitprobe_jax.data.class_lists import Classed, class_dataset, first_folder
from vitprobe_jax.data.dataset import Dataset
from vitprobe_jax.data.files import existing_folder, read_lines
from vitprobe_jax.errors import InputError
from vitprobe_jax.types import Split

_CLASSES = "meta/classes.txt"
_LISTS: dict[Split, str] = {"train": "meta/train.txt", "val": "meta/test.txt"}


def open_food101(folder: str | Path, name: str) -> Dataset:
    """Reads the lists of Food-101; the test images are `val`. No image is decoded.

    Classes are numbered from 1 in the order of their list; images keep the order of theirs.

    Args:
        folder: holds images/ and meta/, or food-101.
        name: what results call the data set.

    Raises:
        InputError: the folder is missing or empty, a list is missing or empty, an image is of no listed class, or a listed
            image is not there.
    """
    root = first_folder(existing_folder(folder), ("food-101",), "meta", "Food-101")
    names = _read(root / _CLASSES)
    if len(set(names)) < len(names):
        raise InputError(f"{root / _CLASSES}: names a class twice; restore the file")
    numbers = {own: number for number, own in enumerate(names, 1)}
    listed = {}
    for split, own in _LISTS.items():
        images = _read(root / own)
        unknown = [image for image in images if image.partition("/")[0] not in numbers]
        if unknown:
            raise InputError(f"{root / own}: {unknown[0]} is of no class of {_CLASSES}; restore the two")
        listed[split] = [Classed(f"images/{image}.jpg", numbers[image.partition("/")[0]]) for image in images]
    return class_dataset(root, name, [own.replace("_", " ") for own in names], listed)


def _read(path: Path) -> list[str]:
    """The lines of a list, blank ones left out."""
    if not path.is_file():
        raise InputError(
            f"--dataset: {path} is missing; Food-101 has images/, {_CLASSES} and {' and '.join(_LISTS.values())}"
        )
    lines = [line for line in (line.strip() for line in read_lines(path)) if line]
    if not lines:
        raise InputError(f"{path}: is empty; restore the file")
    return lines
