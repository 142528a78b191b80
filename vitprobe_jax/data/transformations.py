"""Images that are shifted, rotated, scaled, blurred or made noisy, and where their patches come from (study 2's retrieval).

Coordinates are x to the right and y down, in pixels; a pixel is the unit square from its index on, so that an image of W
pixels covers 0 to W, its first pixel has its centre at 1/2, and the image's own centre is W/2.
"""

import dataclasses
import functools
import math
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int
from PIL import Image

from vitprobe_jax.data.corruptions import CORRUPTIONS, Corruption, corrupt
from vitprobe_jax.data.dataset import Annotation, ImageSplit
from vitprobe_jax.data.transforms import Transform
from vitprobe_jax.errors import InputError

TransformationKind = Literal["identity", "shift", "rotation", "scale", "blur", "noise"]

RETRIEVALS: dict[TransformationKind, tuple[float, ...]] = {
    "shift": (1.0, 2.0, 3.0, 4.0),
    "rotation": (5.0, 10.0, 15.0, 20.0),
    "scale": (0.8, 0.9, 1.1, 1.2),
    "blur": CORRUPTIONS["blur"],
    "noise": CORRUPTIONS["noise"],
}
"""The levels of the study (Section 5.2); blur and noise are those of corrupted images (Section 5.1)."""


@dataclasses.dataclass(frozen=True)
class Transformation:
    """What happens to a whole image.

    Attributes:
        kind: `shift` to the right and down; `rotation` about the image's centre, anticlockwise as one sees it; `scale`
            about the centre; `blur` and `noise` as in `Corruption`; `identity`, nothing.
        level: of `shift`, pixels in each direction; of `rotation`, degrees; of `scale`, the factor; of `blur` and
            `noise`, as in `Corruption`; unused by `identity`.
    """

    kind: TransformationKind
    level: float = 0.0

    def __post_init__(self):
        if self.kind not in get_args(TransformationKind):
            raise InputError(f"transformation: {self.kind!r} is unknown; give identity, {', '.join(RETRIEVALS)}")
        if not math.isfinite(self.level):
            raise InputError(f"transformation: {self.kind} of level {self.level:g}; give a finite number")
        if self.kind == "scale" and self.level <= 0:
            raise InputError(f"transformation: {self.kind} of level {self.level:g}; give a level above 0")
        if not self.moves and self.kind != "identity":
            Corruption(self.kind, self.level)  # raises for levels that it refuses

    @property
    def name(self) -> str:
        """Kind and level: `rotation 15`."""
        return self.kind if self.kind == "identity" else f"{self.kind} {self.level:g}"

    @property
    def moves(self) -> bool:
        """Whether pixels change their places; blur, noise and identity leave them where they are."""
        return self.kind in ("shift", "rotation", "scale")

    def affine(self, size: tuple[int, int]) -> Float[np.ndarray, "2 3"]:
        """The matrix A that takes the point (x, y) of an image to A (x, y, 1) of the transformed one.

        Args:
            size: height and width of the image, which stay.
        """
        centre = np.array(size[::-1]) / 2
        linear, offset = np.eye(2), np.zeros(2)
        if self.kind == "shift":
            offset += self.level
        if self.kind == "rotation":
            cos, sin = math.cos(math.radians(self.level)), math.sin(math.radians(self.level))
            linear = np.array([[cos, sin], [-sin, cos]])
        if self.kind == "scale":
            linear *= self.level
        return np.column_stack([linear, centre - linear @ centre + offset])


def transform_image(
    image: Image.Image,
    transformation: Transformation,
    *,
    seed: tuple[int, ...],
    interpolation: Literal["bicubic", "bilinear"] = "bicubic",
) -> Image.Image:
    """The transformed RGB image, of the same size; what comes from outside of it is black.

    Args:
        image: in RGB.
        transformation: what to do.
        seed: of `noise`, as `corrupt` takes it.
        interpolation: pillow's filter between pixels, without antialiasing. A shift by whole pixels needs none.
    """
    if transformation.kind == "identity":
        return image
    if not transformation.moves:
        corruption = Corruption(transformation.kind, transformation.level)
        return Image.fromarray(corrupt(np.asarray(image), corruption, seed=seed))
    # Pillow asks where each point of the result comes from, in coordinates as ours.
    backward = _inverse(transformation.affine((image.height, image.width)))
    resampling = Image.Resampling[interpolation.upper()]
    return image.transform(image.size, Image.Transform.AFFINE, backward.ravel().tolist(), resampling)


def patches_before(transformation: Transformation, size: tuple[int, int], patch_size: int) -> Int[np.ndarray, " P"]:
    """For each patch of a transformed image the patch of the original that holds its centre (Section 5.2).

    With patches of one pixel, it is the pixel under each pixel's centre.

    Args:
        transformation: of the image.
        size: height and width of the image, multiples of the patch size.
        patch_size: side of a patch, in pixels.

    Returns:
        Patch numbers, row-major; -1 where the centre shows what was outside the original. A centre on the border of two
        patches counts for the later one. Under scaling up, several patches come from the same one.

    Raises:
        InputError: the size is not a multiple of the patch size.
    """
    if patch_size < 1 or size[0] % patch_size or size[1] % patch_size:
        raise InputError(
            f"--image_size: {size[0]} x {size[1]} is not made of patches of {patch_size} pixels; give multiples of that"
        )
    rows, columns = size[0] // patch_size, size[1] // patch_size
    y, x = (np.indices((rows, columns)).reshape(2, -1) + 0.5) * patch_size
    centres = _inverse(transformation.affine(size)) @ np.stack([x, y, np.ones_like(x)])
    # Rounded, so that a centre that lands on a border does so whatever the last bit of a cosine says.
    column, row = np.floor(np.round(centres / patch_size, 9)).astype(int)
    inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
    return np.where(inside, row * columns + column, -1)


def _inverse(affine: Float[np.ndarray, "2 3"]) -> Float[np.ndarray, "2 3"]:
    return np.linalg.inv(np.vstack([affine, [0.0, 0.0, 1.0]]))[:2]


class TransformedSplit:
    """The images of a split at one size and then transformed, their masks with them; names are the split's own.

    Noise is derived from the seed and the index of the image alone.

    Args:
        parent: the split.
        transformation: happens after the whole image is resized, so that its pixels are those of the model.
        size: height and width in pixels.
        seed: of noise.
        interpolation: pillow's filter, of the resize (with antialiasing) and the transformation (without).
    """

    def __init__(
        self,
        parent: ImageSplit,
        transformation: Transformation,
        size: tuple[int, int],
        seed: int,
        interpolation: Literal["bicubic", "bilinear"] = "bicubic",
    ):
        self._parent = parent
        self._transformation = transformation
        self._resize = Transform(size, crop="none", interpolation=interpolation)
        self._seed = seed

    def __len__(self) -> int:
        return len(self._parent)

    def name(self, index: int) -> str:
        return self._parent.name(index)

    def image(self, index: int) -> Image.Image:
        resized = Image.fromarray(self._resize.image(self._parent.image(index)))
        return transform_image(
            resized, self._transformation, seed=(self._seed, index), interpolation=self._resize.interpolation
        )

    def annotation(self, index: int) -> Annotation:
        """What is annotated on the transformed image; blur, noise and identity change nothing of it.

        Masks of an image whose pixels move have its size: each pixel gets the label under its centre, 0 where it shows what
        was outside the image. Labels of the whole image are kept, boxes are left out.

        Raises:
            InputError: as the split's own.
        """
        annotation = self._parent.annotation(index)
        if not self._transformation.moves:
            return annotation
        masks = (
            (category, self._moved(self._resize.mask(mask, annotation.image_size or mask.shape)))
            for category, mask in annotation.masks
        )
        return Annotation(masks=tuple(masks), labels=annotation.labels)

    def _moved(self, mask: Int[np.ndarray, "H W"]) -> Int[np.ndarray, "H W"]:
        return np.where(self._sources >= 0, mask.reshape(-1)[self._sources], 0).astype(mask.dtype).reshape(mask.shape)

    @property
    def outside(self) -> Bool[np.ndarray, "H W"]:
        """Which pixels of a transformed image show what was outside the image; the same for all images."""
        if not self._transformation.moves:
            return np.zeros(self._resize.size, bool)
        return (self._sources < 0).reshape(self._resize.size)

    @functools.cached_property
    def _sources(self) -> Int[np.ndarray, " P"]:
        """The pixel that each pixel of a transformed image shows, -1 for none; the same for all images."""
        return patches_before(self._transformation, self._resize.size, 1)
