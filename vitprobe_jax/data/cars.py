"""Stanford Cars: photographs of 196 models of cars, with the official split (Krause et al., 2013).

    cars_train/00001.jpg, cars_test/00001.jpg
    devkit/cars_meta.mat                            class_names
    devkit/cars_train_annos.mat                     annotations: box, class from 1, fname
    cars_test_annos_withlabels.mat                  the same of the test images, beside devkit/ or in it

Copies of it nest folders of one name (cars_train/cars_train/, car_devkit/devkit/), which is understood.
"""

from pathlib import Path
from typing import Any

import numpy as np

from vitprobe_jax.data.class_lists import Classed, class_dataset, first_folder
from vitprobe_jax.data.dataset import Dataset
from vitprobe_jax.data.files import existing_folder
from vitprobe_jax.errors import InputError
from vitprobe_jax.types import Split

_META = "cars_meta.mat"
_LISTS: dict[Split, tuple[str, str]] = {
    "train": ("cars_train", "cars_train_annos.mat"),
    "val": ("cars_test", "cars_test_annos_withlabels.mat"),
}
"""Folder of the images and file of the annotations."""
_DEVKITS = ("devkit", "car_devkit/devkit", "car_devkit", ".")


def open_cars(folder: str | Path, name: str) -> Dataset:
    """Reads the annotations of Stanford Cars; the test images are `val`. No image is decoded.

    Classes have their official numbers, from 1; images are in the order of the annotations.

    Args:
        folder: holds the images and devkit, or stanford_cars.
        name: what results call the data set.

    Raises:
        InputError: the folder is missing or empty, annotations are missing (those of the test images come in a file of their
            own), unreadable or of a class that there is not, or an annotated image is not there.
    """
    root = first_folder(existing_folder(folder), ("stanford_cars",), "cars_train", "Stanford Cars")
    path = _annotations(root, _META)
    names = [str(own) for own in _read(path, "class_names", ())]
    listed = {}
    for split, (images, file) in _LISTS.items():
        path = _annotations(root, file)
        place = f"{images}/{images}" if (root / images / images).is_dir() else images
        annotations = _read(path, "annotations", ("fname", "class"))
        listed[split] = [_classed(path, place, own, len(names)) for own in annotations]
    return class_dataset(root, name, names, listed)


def _annotations(root: Path, file: str) -> Path:
    """Where a file of annotations is."""
    places = [root / devkit / file for devkit in _DEVKITS]
    found = next((path for path in places if path.is_file()), None)
    if found is None:
        raise InputError(f"--dataset: {file} is neither in {root / 'devkit'} nor in {root}; put it there")
    return found


def _read(path: Path, variable: str, fields: tuple[str, ...]) -> np.ndarray:
    """A variable of a MATLAB file as a list of entries, with these fields.

    Raises:
        InputError: the file cannot be read, or does not have it.
    """
    # Here, so that only those who ask for cars wait for its import.
    from scipy.io import loadmat

    try:
        found = np.atleast_1d(loadmat(path, squeeze_me=True)[variable])
    # On broken bytes scipy raises errors of many kinds.
    except Exception as error:
        reason = f"no {variable}" if isinstance(error, KeyError) else str(error).partition("\n")[0]
        raise InputError(f"{path}: no readable annotations ({reason}); restore the file") from error
    if not len(found) or not set(fields) <= set(found.dtype.names or ()):
        raise InputError(f"{path}: {variable} has no {' and '.join(fields) or 'entries'}; restore the file")
    return found


def _classed(path: Path, place: str, annotation: Any, classes: int) -> Classed:
    file, number = str(annotation["fname"]), annotation["class"]
    if not np.issubdtype(np.asarray(number).dtype, np.number) or not 1 <= int(number) <= classes:
        raise InputError(f"{path}: {file} has the class {number}, not one of 1 to {classes}; restore the file")
    return Classed(f"{place}/{file}", int(number))
