"""Procedural images with Broden's five kinds of labels: a data set that needs no file.

Every image is drawn by code from (seed, split, index): a place with light and weather, things made of parts and
materials, walls and close-ups with textures. As in Broden, labels share one numbering, some stand in two categories, few
are common and many rare, and no image is annotated in full.
"""

import dataclasses
import hashlib

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vitprobe_jax.data.dataset import Annotation, Dataset
from vitprobe_jax.data.shapes.drawing import SIZE, SUPERSAMPLING, Region, rasterise
from vitprobe_jax.data.shapes.scenes import Picture, compose
from vitprobe_jax.data.shapes.shading import shade
from vitprobe_jax.errors import InputError
from vitprobe_jax.types import SPLITS, Concept

CATEGORIES = ("object", "part", "material", "scene", "texture")

LABELS: tuple[tuple[int, str, tuple[str, ...]], ...] = (
    (1, "sky", ("object",)),
    (2, "tree", ("object",)),
    (3, "grass", ("object",)),
    (4, "wall", ("object",)),
    (5, "floor", ("object",)),
    (6, "house", ("object",)),
    (7, "person", ("object",)),
    (8, "road", ("object",)),
    (9, "mountain", ("object",)),
    (10, "cloud", ("object",)),
    (11, "car", ("object",)),
    (12, "chair", ("object",)),
    (13, "table", ("object",)),
    (14, "flower", ("object",)),
    (15, "painting", ("object",)),
    (16, "sun", ("object",)),
    (17, "bird", ("object",)),
    (18, "rock", ("object",)),
    (19, "boat", ("object",)),
    (20, "lamp", ("object",)),
    (21, "sheep", ("object",)),
    (22, "umbrella", ("object",)),
    (23, "fish", ("object",)),
    (24, "cactus", ("object",)),
    (25, "bicycle", ("object",)),
    (26, "mushroom", ("object",)),
    (27, "cart", ("object",)),
    (28, "moon", ("object",)),
    (251, "window", ("object", "part")),
    (252, "wheel", ("object", "part")),
    (253, "water", ("object", "material")),
    (254, "sand", ("object", "material")),
    (255, "snow", ("object", "material")),
    (256, "head", ("part",)),
    (257, "leg", ("part",)),
    (258, "pane", ("part",)),
    (259, "trunk", ("part",)),
    (260, "crown", ("part",)),
    (261, "roof", ("part",)),
    (262, "door", ("part",)),
    (263, "arm", ("part",)),
    (264, "torso", ("part",)),
    (265, "knob", ("part",)),
    (266, "chimney", ("part",)),
    (267, "eye", ("part",)),
    (268, "hub", ("part",)),
    (269, "back", ("part",)),
    (270, "seat", ("part",)),
    (271, "top", ("part",)),
    (272, "stem", ("part",)),
    (273, "leaf", ("part",)),
    (274, "petal", ("part",)),
    (275, "frame", ("part",)),
    (276, "headlight", ("part",)),
    (277, "tail", ("part",)),
    (278, "wing", ("part",)),
    (279, "beak", ("part",)),
    (280, "shade", ("part",)),
    (281, "pole", ("part",)),
    (282, "hull", ("part",)),
    (283, "mast", ("part",)),
    (284, "sail", ("part",)),
    (285, "fin", ("part",)),
    (510, "wood", ("material",)),
    (511, "foliage", ("material",)),
    (512, "fabric", ("material",)),
    (513, "metal", ("material",)),
    (514, "glass", ("material",)),
    (515, "stone", ("material",)),
    (516, "brick", ("material",)),
    (517, "skin", ("material",)),
    (518, "rubber", ("material",)),
    (519, "plaster", ("material",)),
    (520, "fur", ("material",)),
    (730, "meadow", ("scene",)),
    (731, "street", ("scene",)),
    (732, "room", ("scene",)),
    (733, "beach", ("scene",)),
    (734, "forest", ("scene",)),
    (735, "snowfield", ("scene",)),
    (736, "desert", ("scene",)),
    (737, "underwater", ("scene",)),
    (738, "night", ("scene",)),
    (1010, "striped", ("texture",)),
    (1011, "chequered", ("texture",)),
    (1012, "polka-dotted", ("texture",)),
    (1013, "zigzagged", ("texture",)),
    (1014, "grid", ("texture",)),
    (1015, "marbled", ("texture",)),
    (1016, "woven", ("texture",)),
    (1017, "spiralled", ("texture",)),
)
"""(number, name, categories), as in Broden's label.csv: a label of two categories is two concepts."""

_COVERAGE = {
    ("window", "object"): 3.1,
    ("window", "part"): 2.2,
    ("wheel", "object"): 0.4,
    ("wheel", "part"): 1.0,
    ("water", "object"): 13.9,
    ("water", "material"): 6.4,
    ("sand", "object"): 15.8,
    ("sand", "material"): 6.3,
    ("snow", "object"): 3.8,
    ("snow", "material"): 2.3,
}
"""Coverage, in whole images, of the labels of two categories in `shapes:400` at seed 0."""

_ANNOTATED = {"object": 0.85, "part": 0.6, "material": 0.4, "scene": 0.75, "texture": 0.9}
"""Share of the images that are annotated in each category."""

_NUMBERS = {(category, name): number for number, name, categories in LABELS for category in categories}
_MASK_STRIDE = 2 * SUPERSAMPLING
_DRAWING = 1  # Raise it when the same seed begins to give other images: features kept of the old ones are stale then.


@dataclasses.dataclass(frozen=True)
class ShapesSplit:
    """The images of one split, drawn when asked for.

    Images are 128 x 128, masks 64 x 64. Annotations follow from the sketch that the image is painted from. They are the
    same everywhere; pixels may differ by one of 255 levels between processors whose sines differ in the last bit.

    Attributes:
        seed: of the data set.
        split: its name.
        num_images: its length; it changes no image.
    """

    seed: int
    split: str
    num_images: int

    def __len__(self) -> int:
        return self.num_images

    def name(self, index: int) -> str:
        return f"shapes/{self.split}/{index}"

    def image(self, index: int) -> Image.Image:
        picture, ids = self._drawing(index)
        return shade(picture.sketch, ids, picture.light, self._rng(index, "shading"))

    def annotation(self, index: int) -> Annotation:
        picture, ids = self._drawing(index)
        draws = self._rng(index, "annotation").random(len(CATEGORIES))
        annotated = {name for name, draw in zip(CATEGORIES, draws, strict=True) if draw < _ANNOTATED[name]}
        # Of the 4 x 4 points of a mask's pixel, the one below and to the right of its centre.
        points = ids[_MASK_STRIDE // 2 :: _MASK_STRIDE, _MASK_STRIDE // 2 :: _MASK_STRIDE]
        masks = []
        for category, names in _region_names(picture.sketch.regions):
            numbers = np.array([_NUMBERS[category, name] if name else 0 for name in names], np.int32)
            mask = numbers[points]
            if category in annotated and mask.any():
                masks.append((category, mask))
        names = {"scene": [picture.scene] if picture.scene else [], "texture": list(picture.textures)}
        labels = [
            (category, _NUMBERS[category, name])
            for category in ("scene", "texture")
            if category in annotated
            for name in names[category]
        ]
        return Annotation(masks=tuple(masks), labels=tuple(labels), image_size=(SIZE, SIZE))

    def _drawing(self, index: int) -> tuple[Picture, UInt8[np.ndarray, "S S"]]:
        picture = compose(self._rng(index, "composition"))
        return picture, rasterise(picture.sketch)

    def _rng(self, index: int, stage: str) -> np.random.Generator:
        """A stream for each stage, so that an annotation costs no shading."""
        stages = ("composition", "shading", "annotation")
        return np.random.default_rng([self.seed, SPLITS.index(self.split), index, stages.index(stage)])


def _region_names(regions: list[Region]) -> list[tuple[str, list[str | None]]]:
    """The masks of a sketch: for each, its category and the name that every region has in it."""
    return [
        ("object", [region.object for region in regions]),
        *(("part", [region.parts[i] if len(region.parts) > i else None for region in regions]) for i in (0, 1)),
        ("material", [region.material for region in regions]),
    ]


def open_shapes(num_images: int, *, seed: int, name: str) -> Dataset:
    """A data set of drawn images, three quarters in train; nothing is drawn yet.

    Image i of a split depends on (seed, split, i) alone: a larger data set begins with the images of a smaller one.

    Args:
        num_images: of both splits together, at least 8.
        seed: any number from 0; another one gives other images.
        name: what results call the data set.

    Raises:
        InputError: fewer than 8 images.
    """
    if num_images < 8:
        raise InputError(f"--dataset=shapes:{num_images}: too few images for train and val; give 8 or more, shapes:64")
    num_val = num_images // 4
    identity = repr((_DRAWING, num_images, seed, LABELS))
    concepts = tuple(
        Concept(number=number, name=label, category=category)
        for category in CATEGORIES
        for number, label, categories in LABELS
        if category in categories
    )
    return Dataset(
        name=name,
        concepts=concepts,
        splits={
            "train": ShapesSplit(seed, "train", num_images - num_val),
            "val": ShapesSplit(seed, "val", num_val),
        },
        skip_corrupt=False,
        fingerprint=hashlib.sha256(identity.encode()).hexdigest(),
        coverage=tuple(_COVERAGE.get((concept.name, concept.category), 0.0) for concept in concepts),
    )
