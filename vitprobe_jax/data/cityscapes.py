"""Cityscapes: photographs of streets in the official layout (Cordts et al., CVPR 2016), fine annotations.

    leftImg8bit/SPLIT/CITY/CITY_SEQUENCE_FRAME_leftImg8bit.png
    gtFine/SPLIT/CITY/CITY_SEQUENCE_FRAME_gtFine_labelIds.png      a pixel's value is the id of its class, 0..33

Splits are `train` and `val`; `test`, whose masks are withheld, is left alone. Concepts are the 19 classes that the
benchmark evaluates, under their official ids; all other ids (ego vehicle, parking, caravan, ...) are no label.
"""

import dataclasses
from pathlib import Path

import numpy as np
from PIL import Image

from vitprobe_jax.data.dataset import Annotation, Dataset
from vitprobe_jax.data.files import existing_folder, image_file_size, read_image
from vitprobe_jax.data.mask_files import Pair, find_pairs, pairs_fingerprint, read_pair_mask
from vitprobe_jax.errors import InputError
from vitprobe_jax.types import SPLITS, Concept

CATEGORY = "object"
"""Of all classes, roads and sky included: the main study probes them together, as it does Broden's objects."""

LARGEST_ID = 33
CLASSES: dict[int, tuple[str, str | None]] = {
    7: ("road", None),
    8: ("sidewalk", None),
    11: ("building", None),
    12: ("wall", None),
    13: ("fence", None),
    17: ("pole", "object"),
    19: ("traffic light", "object"),
    20: ("traffic sign", "object"),
    21: ("vegetation", None),
    22: ("terrain", None),
    23: ("sky", None),
    24: ("person", "human"),
    25: ("rider", "human"),
    26: ("car", "vehicle"),
    27: ("truck", "vehicle"),
    28: ("bus", "vehicle"),
    31: ("train", "vehicle"),
    32: ("motorcycle", "vehicle"),
    33: ("bicycle", "vehicle"),
}
"""Name and group of each evaluated id. The groups are the official ones; flat, construction, nature and sky are what
objects stand before, so None."""

_EVALUATED = np.array([number if number in CLASSES else 0 for number in range(LARGEST_ID + 1)], np.int32)


@dataclasses.dataclass(frozen=True)
class CityscapesSplit:
    """The images of one split; its groups are the cities.

    Attributes:
        folder: the root of the data set.
        pairs: images and masks, sorted by city, then by name.
        cities: of each pair.
        group_names: the cities, sorted.
    """

    folder: Path
    pairs: tuple[Pair, ...]
    cities: tuple[str, ...]
    group_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.pairs)

    def name(self, index: int) -> str:
        return self.pairs[index].image

    def image(self, index: int) -> Image.Image:
        return read_image(self.folder / self.pairs[index].image, mode="RGB")

    def size(self, index: int) -> tuple[int, int]:
        return image_file_size(self.folder / self.pairs[index].image)

    def annotation(self, index: int) -> Annotation:
        mask = read_pair_mask(self.folder, self.pairs[index], largest=LARGEST_ID)
        return Annotation(masks=((CATEGORY, _EVALUATED[mask]),))

    def groups(self, index: int) -> tuple[str, ...]:
        return (self.cities[index],)


def open_cityscapes(folder: str | Path, name: str) -> Dataset:
    """Lists the images and masks of a Cityscapes folder; they are read when asked for.

    Masks that hold an id above 33 are refused: 255 stands in masks of train ids, where 0..18 would be wrong silently.

    Args:
        folder: holds leftImg8bit and gtFine.
        name: what results call the data set.

    Raises:
        InputError: the folder is missing or empty, a split lacks a folder or has no images, an image has no mask or a
            mask no image, or an image lies in no folder of a city.
    """
    folder = existing_folder(folder)
    splits = {}
    for split in SPLITS:
        images = f"leftImg8bit/{split}"
        pairs = find_pairs(
            folder,
            images,
            f"gtFine/{split}",
            image_ending="_leftImg8bit.png",
            mask_ending="_gtFine_labelIds.png",
        )
        places = [pair.image.removeprefix(f"{images}/") for pair in pairs]
        stray = [place for place in places if "/" not in place]
        if stray:
            raise InputError(
                f"--dataset: {folder / images / stray[0]} lies in no folder of a city; expected {images}/CITY/{stray[0]}"
            )
        cities = tuple(place.split("/")[0] for place in places)
        splits[split] = CityscapesSplit(folder, pairs, cities, tuple(sorted(set(cities))))
    return Dataset(
        name=name,
        concepts=tuple(Concept(number, class_name, CATEGORY) for number, (class_name, _) in CLASSES.items()),
        splits=splits,
        skip_corrupt=False,
        fingerprint=pairs_fingerprint(folder, (pair for split in SPLITS for pair in splits[split].pairs)),
        supercategories=tuple(group for _, group in CLASSES.values()),
        tile=256,
    )
