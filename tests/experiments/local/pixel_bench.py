"""A workbench whose backbone's tokens are the pixels of each patch, so that what is true can be read off the images."""

import dataclasses
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image

from experiments.local.views import View
from experiments.local.workbench import Workbench
from tests.backbones.random_vit import tiny
from tests.experiments.local.make_bench import make_bench
from vitprobe_jax.backbones.config import BackboneSpec
from vitprobe_jax.backbones.loading import Backbone
from vitprobe_jax.data.dataset import Annotation, Dataset
from vitprobe_jax.types import Split

PATCH, WIDTH = 4, 48
CELL = (1, "x2")
BACKBONE = Backbone(
    BackboneSpec(name="pixels", family="dino", objective="none", config=tiny("dino", patch_size=PATCH, width=WIDTH)), {}
)


@dataclasses.dataclass(frozen=True)
class Frames:
    """Frames given as arrays, each with its annotation, its sequence and its number there."""

    images: tuple
    annotations: tuple
    frames: tuple

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        return f"frames/{index}"

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(self.images[index])

    def annotation(self, index: int) -> Annotation:
        return self.annotations[index]

    def frame(self, index: int) -> tuple[str, int]:
        return self.frames[index]


def pixels(view: View, split: Split) -> Float[np.ndarray, "I P D"]:
    """The pixels of every patch of a view, in 0..1."""
    images = view.splits[split]
    stacked = np.stack([view.transform.image(images.image(i)) for i in range(len(images))])
    rows, columns = (side // PATCH for side in view.size)
    patches = stacked.reshape(len(images), rows, PATCH, columns, PATCH, 3).swapaxes(2, 3)
    return patches.reshape(len(images), rows * columns, WIDTH).astype(np.float32) / 255


def pixel_bench(out: Path, dataset: Dataset, *arguments: str, planted=pixels) -> Workbench:
    """A workbench on all images of a data set, with patches of `PATCH` pixels."""
    return make_bench(out, dataset, BACKBONE, "--mesh=1", "--drop_features=0", *arguments, planted=planted)
