"""What every data set offers: photographs and what is annotated on them, by split."""

import dataclasses
from collections import Counter
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int
from PIL import Image

from vitprobe_jax.errors import InputError
from vitprobe_jax.types import Concept, Split


@dataclasses.dataclass(frozen=True)
class Box:
    """An object's upright box, in pixels of its image as `ImageSplit.image` gives it; it may reach beyond the image.

    Attributes:
        number: label number of what it shows.
        track: of the object, the same in every frame of its sequence.
        left, top, right, bottom: edges; a pixel is the unit square from its index on.
    """

    number: int
    track: int
    left: float
    top: float
    right: float
    bottom: float


@dataclasses.dataclass(frozen=True)
class Annotation:
    """What is annotated on one image, in the data set's own label numbers.

    Attributes:
        masks: (category, label number of every pixel, 0 for none). Several masks of one category are allowed; a mask may
            be smaller than its image, it always covers the whole of it.
        labels: (category, label number) that hold for the whole image.
        image_size: height and width of the image; None where the masks have the image's own size, or there are none.
        boxes: of tracked objects.
    """

    masks: tuple[tuple[str, Int[np.ndarray, "sh sw"]], ...] = ()
    labels: tuple[tuple[str, int], ...] = ()
    image_size: tuple[int, int] | None = None
    boxes: tuple[Box, ...] = ()


@runtime_checkable
class ImageSplit(Protocol):
    """The images of one split, in a fixed order. Picklable: grain's worker processes get a copy."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What error messages and caches call the image: its path within the data set."""
        ...

    def image(self, index: int) -> Image.Image:
        """The decoded image in RGB.

        Raises:
            InputError: the file is missing or cannot be decoded; names the file.
        """
        ...

    def annotation(self, index: int) -> Annotation:
        """What is annotated on the image.

        Raises:
            InputError: a mask is missing, of the wrong size, or holds an unknown label number; names the file.
        """
        ...


@runtime_checkable
class SelectiveSplit(ImageSplit, Protocol):
    """A split that reads the annotations of some categories without those of the others."""

    def select(self, categories: tuple[str, ...]) -> ImageSplit:
        """The same images, annotated in these categories only."""
        ...


@runtime_checkable
class SizedSplit(ImageSplit, Protocol):
    """A split that knows the sizes of its images without decoding them."""

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of the image, as `image` gives it.

        Raises:
            InputError: the file is missing or is no image; names the file.
        """
        ...


@runtime_checkable
class GroupedSplit(ImageSplit, Protocol):
    """A split whose images belong to groups, of each of which a few-shot draw takes so many: cities, classes.

    Attributes:
        group_names: all groups, in the data set's own order; some may have no image.
    """

    group_names: tuple[str, ...]

    def groups(self, index: int) -> tuple[str, ...]:
        """The groups of an image; it may have to be read for that.

        Raises:
            InputError: as `annotation`.
        """
        ...


@runtime_checkable
class FrameSplit(ImageSplit, Protocol):
    """Frames of sequences, those of a sequence together and ascending; `annotation` has boxes."""

    def frame(self, index: int) -> tuple[str, int]:
        """The sequence of a frame, and its number there. Numbers may leave gaps."""
        ...


@dataclasses.dataclass(frozen=True)
class FewShotDraw:
    """How many images of each group (city, class, kind of tile) the local study takes of a data set.

    Attributes:
        train: of the training split.
        val: of the held-out split.
        compared: further sizes of the training draw, for the figure over sizes.
        in_turn: whether groups are filled one after another, each from the images that those before it left, instead of all
            at once (`draw_shots`).
    """

    train: int = 4
    val: int = 10
    compared: tuple[int, ...] = (2, 4, 8)
    in_turn: bool = False


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set as the pipeline sees it.

    Attributes:
        name: what results call it: the kind and the folder's own name (`broden:camvid`), so that moved data keeps it.
        concepts: everything annotated, sorted by (category in the data set's own order, number).
        splits: `train` (templates are fitted on it) and `val` (held out). Data sets of tracks have `val` alone, FAIR1M may
            have `train` alone.
        skip_corrupt: whether an image that cannot be decoded is left out with a warning (True) or ends the run (False).
        fingerprint: hex digest that changes when the list of images or annotations changes, or the size of a file; where
            the files are does not enter.
        unprobed: categories that are left out unless `--categories` names them.
        supercategories: of each concept, what kind of object it is (`vehicle`), None for what is no object but background
            (`sky`). () where the data set does not tell.
        tile: side in pixels of the tiles that its images are cut into for a model of 224 pixels, 0 where they are as small
            as that.
        draw: the local study's, unless its flags say otherwise; the defaults are those of its paper for Cityscapes
            (Section 3).
        retrieval_split: the split whose patches the local study's part `retrieval` searches for and among.
        multilabel: whether an image carries any number of labels, none included (COCO's objects); False where it is of
            one class, and where nothing but masks tells what it shows.
        coverage: by concept, how much of the images it covers, in any unit that the categories of one label share. Concepts
            of the same number are then categories of one label (`primary_concepts`). () where each label has one category.
    """

    name: str
    concepts: tuple[Concept, ...]
    splits: dict[Split, ImageSplit]
    skip_corrupt: bool
    fingerprint: str
    unprobed: tuple[str, ...] = ()
    supercategories: tuple[str | None, ...] = ()
    tile: int = 256
    draw: FewShotDraw = FewShotDraw()
    retrieval_split: Split = "val"
    multilabel: bool = False
    coverage: tuple[float, ...] = ()

    @property
    def categories(self) -> tuple[str, ...]:
        """Category names in the data set's own order."""
        return tuple(dict.fromkeys(concept.category for concept in self.concepts))

    def require_splits(self, *needed: Split) -> None:
        """Makes sure of splits that a command cannot do without.

        Raises:
            InputError: the data set lacks one of them, as those of tracks lack `train`.
        """
        for split in needed:
            if split not in self.splits:
                raise InputError(
                    f"--dataset: {self.name} has no {split} images, only {' and '.join(self.splits)}, which parts of "
                    f"experiments.local can use; give a data set that has {' and '.join(needed)}"
                )

    def select(self, categories: tuple[str, ...]) -> "Dataset":
        """The same images with the concepts of these categories only; () means all but `unprobed`.

        Splits that can (`SelectiveSplit`) no longer read what is annotated in other categories.

        Raises:
            InputError: a category that the data set does not have.
        """
        unknown = [name for name in categories if name not in self.categories]
        if unknown:
            raise InputError(
                f"--categories: {', '.join(unknown)} not in {self.name}, which has {', '.join(self.categories)}"
            )
        wanted = categories or tuple(name for name in self.categories if name not in self.unprobed)
        kept = [i for i, concept in enumerate(self.concepts) if concept.category in wanted]
        splits = {
            name: split.select(wanted) if isinstance(split, SelectiveSplit) else split
            for name, split in self.splits.items()
        }
        return dataclasses.replace(
            self,
            concepts=tuple(self.concepts[i] for i in kept),
            splits=splits,
            supercategories=tuple(self.supercategories[i] for i in kept) if self.supercategories else (),
            coverage=tuple(self.coverage[i] for i in kept) if self.coverage else (),
        )

    def primary_concepts(self) -> Bool[np.ndarray, " K"]:
        """Which concepts are those of their labels' primary category: of the categories here, the one of largest coverage.

        As in NetDissect's `primary_categories_per_index` (src/labelprobe.py), the last of equals wins, and only the
        categories that are selected compete: with one category alone, all of its concepts are primary. What is not primary
        still labels its rows, so that they carry some concept of that category and stay negatives of the others.

        Raises:
            InputError: labels of the same number and name have several categories, and the data set has no `coverage`.
        """
        if not self.coverage:
            self._require_one_category()
            return np.ones(len(self.concepts), bool)
        best: dict[int, int] = {}
        for i, concept in enumerate(self.concepts):
            other = best.get(concept.number)
            if other is None or self.coverage[i] >= self.coverage[other]:
                best[concept.number] = i
        primary = np.zeros(len(self.concepts), bool)
        primary[list(best.values())] = True
        return primary

    def _require_one_category(self) -> None:
        labels = Counter((concept.number, concept.name) for concept in self.concepts)
        several = [name for (_, name), count in labels.items() if count > 1]
        if several:
            raise InputError(
                f"--label_categories: {self.name} does not say which category of a label covers most, and {several[0]!r} "
                "has several; prepare the data set again with this version, or give --label_categories=all"
            )


def image_size(split: ImageSplit, index: int) -> tuple[int, int]:
    """Height and width of an image, which is decoded where its split is no `SizedSplit`.

    Raises:
        InputError: as `ImageSplit.image`.
    """
    if isinstance(split, SizedSplit):
        return split.size(index)
    image = split.image(index)
    return image.height, image.width


class ImageSubset:
    """Some images of a split, as a split."""

    def __init__(self, parent: ImageSplit, indices: Int[np.ndarray, "n"]):
        self._parent = parent
        self._indices = np.asarray(indices)

    def __len__(self) -> int:
        return len(self._indices)

    def name(self, index: int) -> str:
        return self._parent.name(int(self._indices[index]))

    def image(self, index: int) -> Image.Image:
        return self._parent.image(int(self._indices[index]))

    def annotation(self, index: int) -> Annotation:
        return self._parent.annotation(int(self._indices[index]))

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of the image."""
        return image_size(self._parent, int(self._indices[index]))


def draw_subset(split: ImageSplit, max_images: int, seed: int) -> ImageSplit:
    """At most `max_images` images drawn without replacement by `seed`, in the split's order; 0 keeps all."""
    if not max_images or max_images >= len(split):
        return split
    return ImageSubset(split, draw_indices(len(split), max_images, seed))


def draw_indices(count: int, wanted: int, seed: int) -> Int[np.ndarray, " n"]:
    """`wanted` of `count` things, 0 for all, drawn without replacement by `seed`, ascending."""
    if not wanted or wanted >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng([seed, count]).choice(count, wanted, replace=False))
