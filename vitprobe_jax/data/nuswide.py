r"""NUS-WIDE's photographs of Flickr and the 81 concepts that they show, any number an image (Chua et al., CIVR 2009).

    ImageList/TrainImagelist.txt, TestImagelist.txt     one image a line: actor\0001_2124494179.jpg
    ConceptsList/Concepts81.txt                         one concept a line
    Groundtruth/TrainTestLabels/                        Labels_airport_Train.txt, Labels_airport_Test.txt and so on: 1 or 0 a
                                                        line, of the images in the order of their list
    Flickr/actor/0001_2124494179.jpg                    or below images/

The lists are the official ones; the photographs are handed on by those who have them.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Bool

from vitprobe_jax.data.dataset import Dataset
from vitprobe_jax.data.files import existing_folder, read_lines
from vitprobe_jax.data.label_lists import Listed, listed_dataset
from vitprobe_jax.errors import InputError
from vitprobe_jax.types import Split

_PARTS: dict[Split, str] = {"train": "Train", "val": "Test"}
_CONCEPTS = "ConceptsList/Concepts81.txt"
_IMAGES = ("Flickr", "images")


def open_nuswide(folder: str | Path, name: str) -> Dataset:
    """Reads which concepts each photograph of NUS-WIDE shows; the official test images are `val`. No image is decoded.

    Concepts are numbered from 1 in the order of their list. Images keep the order of theirs, and those of no concept are
    kept. Some of the photographs have gone from Flickr: those that are not there are skipped as broken ones are.

    Args:
        folder: holds ImageList, ConceptsList, Groundtruth and Flickr.
        name: what results call the data set.

    Raises:
        InputError: the folder is missing or empty, a list is missing or malformed, labels are not one of 0 and 1 for every
            image, or of a split no image is there.
    """
    folder = existing_folder(folder)
    place = next((place for place in _IMAGES if (folder / place).is_dir()), None)
    if place is None:
        raise InputError(f"--dataset: {folder} has no folder {' or '.join(_IMAGES)}; unpack the images into one")
    concepts = _read_names(folder / _CONCEPTS)
    if len(set(concepts)) < len(concepts):
        raise InputError(f"{folder / _CONCEPTS}: names a concept twice; restore the file")
    listed = {}
    for split, part in _PARTS.items():
        path = folder / "ImageList" / f"{part}Imagelist.txt"
        files = [file.replace("\\", "/") for file in _read_names(path)]
        shown = _read_labels(folder, concepts, part, len(files))
        listed[split] = [
            Listed(f"{place}/{file}", tuple((np.flatnonzero(row) + 1).tolist()))
            for file, row in zip(files, shown, strict=True)
        ]
    return listed_dataset(folder, name, dict(enumerate(concepts, 1)), listed)


def _read_names(path: Path) -> list[str]:
    """The lines of a list, blank ones left out."""
    if not path.is_file():
        raise InputError(
            f"--dataset: {path} is missing; NUS-WIDE has ImageList/, {_CONCEPTS} and Groundtruth/TrainTestLabels/"
        )
    names = [name for name in (line.strip() for line in read_lines(path)) if name]
    if not names:
        raise InputError(f"{path}: is empty; restore the file")
    return names


def _read_labels(folder: Path, concepts: list[str], part: str, count: int) -> Bool[np.ndarray, "I K"]:
    """Which concepts each of `count` images of a part shows, from one file a concept."""
    labels = folder / "Groundtruth/TrainTestLabels"

    def read(concept: str) -> Bool[np.ndarray, " I"]:
        path = labels / f"Labels_{concept}_{part}.txt"
        if not path.is_file():
            raise InputError(
                f"--dataset: {path} is missing, the labels of the concept {concept} of {folder / _CONCEPTS}; restore it"
            )
        values = [value for value in (line.strip() for line in read_lines(path)) if value]
        if not set(values) <= {"0", "1"}:
            raise InputError(f"{path}: has lines that are neither 0 nor 1; restore the file")
        if len(values) != count:
            raise InputError(
                f"{path}: has {len(values)} labels, ImageList/{part}Imagelist.txt {count} images; restore the two"
            )
        return np.array(values) == "1"

    return np.stack([read(concept) for concept in concepts], axis=1)
