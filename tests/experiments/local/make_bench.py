"""A workbench of study 2 without a run: small data sets of arrays, any backbone, any flags."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
from absl import flags
from PIL import Image

from experiments.local.config import define_local_flags, local_config
from experiments.local.views import Block, View, ViewRows, block_ranges
from experiments.local.workbench import Drawn, Workbench
from experiments.processes import make_meshes
from experiments.results_folder import ResultsFolder
from vitprobe_jax.backbones.loading import Backbone
from vitprobe_jax.data.dataset import Annotation, Dataset
from vitprobe_jax.errors import InputError
from vitprobe_jax.types import Concept


@dataclasses.dataclass(frozen=True)
class Painted:
    """Images given as arrays, with masks of the category `object` or with labels of the category `class`.

    Attributes:
        images: each [H, W, 3] uint8; None for one that cannot be decoded.
        masks: of each image.
        labels: of each image.
    """

    images: tuple
    masks: tuple = ()
    labels: tuple = ()

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        return f"painted/{index}"

    def image(self, index: int) -> Image.Image:
        if self.images[index] is None:
            raise InputError(f"painted/{index}: cannot be decoded; replace the file")
        return Image.fromarray(self.images[index])

    def annotation(self, index: int) -> Annotation:
        return Annotation(
            masks=(("object", self.masks[index]),) if self.masks else (),
            labels=(("class", self.labels[index]),) if self.labels else (),
        )


def painted(train: Painted, val: Painted, names: tuple[str, ...], **fields) -> Dataset:
    """A data set of such splits; concepts are numbered from 1."""
    category = "class" if train.labels else "object"
    concepts = tuple(Concept(number=i, name=name, category=category) for i, name in enumerate(names, 1))
    defaults = {"name": "painted", "skip_corrupt": True, "fingerprint": "painted"}
    return Dataset(**defaults | {"concepts": concepts, "splits": {"train": train, "val": val}} | fields)


def make_bench(
    out: Path, dataset: Dataset, backbone: Backbone, *arguments: str, planted: Callable | None = None
) -> Workbench:
    """A workbench on all images of a data set, unless the flags say otherwise.

    Args:
        out: of the results.
        dataset: opened.
        backbone: loaded.
        arguments: flags of the study.
        planted: `planted(view, split)` gives the rows in place of what would be extracted.
    """
    values = flags.FlagValues()
    define_local_flags(values)
    everything = ["--images_per_group=0", "--val_images_per_group=0"]
    values(["local", f"--out={out}", "--dataset=painted", "--backbones=one", *everything, *arguments])
    config = local_config(values)
    mesh, local_mesh = make_meshes(config.mesh)
    rows = PlantedRows(config, dataset, backbone, ResultsFolder(config.out, config.seed), mesh, local_mesh)
    rows.planted = planted
    return Workbench(Drawn.of(config, dataset, config.images_per_group), backbone, rows, mesh)


class PlantedRows(ViewRows):
    """Rows that a test makes up, in blocks of `block_images`; those of the backbone where it does not."""

    planted: Callable | None = None
    block_images = 3

    def get(self, view: View, split, cell, cells):
        if self.planted is None:
            return super().get(view, split, cell, cells)
        return np.asarray(self.planted(view, split), np.float32)

    def blocks(self, view: View, split, cell, cells, *, images=None, ends=None):
        if self.planted is None:
            yield from super().blocks(view, split, cell, cells, images=images, ends=ends)
            return
        rows, left_out = self.get(view, split, cell, cells), self.left_out(view, split)
        for part in block_ranges(range(len(rows)) if images is None else images, self.block_images, ends):
            numbers = np.arange(part.start, part.stop)
            yield Block(numbers, rows[numbers], np.isin(numbers, left_out))

    def left_out(self, view: View, split):
        return super().left_out(view, split) if self.planted is None else np.zeros(0, int)
