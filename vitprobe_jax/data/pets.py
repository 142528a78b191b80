"""Oxford-IIIT Pet: photographs of cats and dogs of 37 breeds, with the official split (Parkhi et al., 2012).

images/Abyssinian_1.jpg
annotations/trainval.txt, test.txt      Abyssinian_100 1 1 1: image, class from 1, species, breed within it
"""

from pathlib import Path

from vitprobe_jax.data.class_lists import Classed, class_dataset, first_folder
from vitprobe_jax.data.dataset import Dataset
from vitprobe_jax.data.files import existing_folder, read_lines
from vitprobe_jax.errors import InputError
from vitprobe_jax.types import Split

_LISTS: dict[Split, str] = {"train": "annotations/trainval.txt", "val": "annotations/test.txt"}


def open_pets(folder: str | Path, name: str) -> Dataset:
    """Reads the lists of Oxford-IIIT Pet; the test images are `val`. No image is decoded.

    Classes have their official numbers, from 1, and the name of their images' files. Images keep the order of the lists.

    Args:
        folder: holds images/ and annotations/, or oxford-iiit-pet.
        name: what results call the data set.

    Raises:
        InputError: the folder is missing or empty, a list is missing or malformed, a class has two names or a number below
            1 or beyond their count, or a listed image is not there.
    """
    root = first_folder(existing_folder(folder), ("oxford-iiit-pet",), "annotations", "Oxford-IIIT Pet")
    names: dict[int, str] = {}
    listed = {split: _read(root / own, names) for split, own in _LISTS.items()}
    if sorted(names) != list(range(1, len(names) + 1)):
        raise InputError(f"{root / 'annotations'}: classes are not numbered from 1 to {len(names)}; restore the lists")
    return class_dataset(root, name, [names[number].replace("_", " ") for number in sorted(names)], listed)


def _read(path: Path, names: dict[int, str]) -> list[Classed]:
    """The images of a list; the names of their classes are added."""
    if not path.is_file():
        raise InputError(
            f"--dataset: {path} is missing; Oxford-IIIT Pet has images/ and {' and '.join(_LISTS.values())}"
        )
    images = []
    for place, line in enumerate(read_lines(path), 1):
        cells = line.split()
        if not cells or cells[0].startswith("#"):
            continue
        breed = cells[0].rpartition("_")[0]
        if len(cells) != 4 or not breed or not cells[1].isdecimal():
            raise InputError(f"{path}: line {place} is not as `Abyssinian_100 1 1 1`; restore the file")
        number = int(cells[1])
        if names.setdefault(number, breed) != breed:
            raise InputError(
                f"{path}: line {place} gives class {number} to {breed}, which is {names[number]}; restore it"
            )
        images.append(Classed(f"images/{cells[0]}.jpg", number))
    if not images:
        raise InputError(f"{path}: lists no image; restore the file")
    return images
