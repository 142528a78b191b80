"""Images as a part of the study wants them, and their rows: extracted once, kept as long as memory lasts."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from experiments.backbones import at_gsd
from experiments.local.config import LocalConfig
from experiments.preparation import PreparedData
from experiments.results_folder import ResultsFolder
from vitprobe_jax.backbones.loading import Backbone
from vitprobe_jax.data.dataset import Dataset, ImageSplit
from vitprobe_jax.data.transforms import Transform
from vitprobe_jax.errors import InputError
from vitprobe_jax.features.store import Cell
from vitprobe_jax.types import Rows, Split


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """Some images of a data set in some state and size.

    Attributes:
        splits: the images: drawn, cut into tiles, corrupted.
        described: what was done to them, in full: views of one data set with the same description have the same images.
        size: height and width that they are resized to.
        rows: which rows of them are wanted.
        gsd: metres a pixel at that size, for backbones whose positions know it; None for each backbone's own.
    """

    splits: Mapping[Split, ImageSplit]
    described: str
    size: tuple[int, int]
    rows: Rows = "segmentation"
    gsd: float | None = None

    @property
    def key(self) -> tuple:
        """What tells views of a data set apart."""
        return self.described, self.size, self.rows, self.gsd

    @property
    def transform(self) -> Transform:
        """How images and masks are brought to the size: whole, nothing is cropped."""
        return Transform(self.size, "none")


@dataclasses.dataclass(eq=False)
class ViewRows:
    """The rows of one backbone's views of one data set.

    What has been extracted stays in memory (or in `--cache_dir`) until others need the room, so that parts that want the
    same view share one pass over its images.
    """

    config: LocalConfig
    dataset: Dataset
    backbone: Backbone
    folder: ResultsFolder
    mesh: Mesh
    local_mesh: Mesh
    _prepared: dict[tuple, PreparedData] = dataclasses.field(default_factory=dict, init=False)
    _held: dict[tuple, int] = dataclasses.field(default_factory=dict, init=False)

    def get(self, view: View, split: Split, cell: Cell, cells: Sequence[Cell]) -> Float[np.ndarray, "I R D"]:
        """The rows of a cell, float32; of images that cannot be decoded zeros (`left_out`).

        Args:
            view: which images.
            split: one of its splits.
            cell: (block, token).
            cells: all that will be asked for; they are extracted together, as many as fit.

        Raises:
            InputError: bad images, a cache that cannot be written, rows of one cell that do not fit the memory.
        """
        data, backbone = self._data(view), self._backbone(view)
        if (view.key, cell) not in self._held:
            plan = data.plan(backbone, list(cells))
            together = next(part for part in plan.passes if cell in part)
            needed = sum(shape.bytes for shape in plan.shapes.values())
            self._make_room(len(together) * needed, data.bounds.host)
            data.extract(backbone, plan, together)
            self._held |= {(view.key, other): needed for other in together}
        source = data.store(backbone, split).source(cell)
        return np.asarray(source.read(np.arange(len(view.splits[split]))), np.float32)

    def left_out(self, view: View, split: Split) -> Int[np.ndarray, " n"]:
        """Images of an extracted view that could not be decoded."""
        return np.array(sorted(self._data(view).store(self._backbone(view), split).errors()), int)

    def _backbone(self, view: View) -> Backbone:
        return at_gsd(self.backbone, view.gsd)

    def _data(self, view: View) -> PreparedData:
        if view.key not in self._prepared:
            patch = self.backbone.spec.config.patch_size
            if any(side % patch for side in view.size):
                height, width = view.size
                raise InputError(
                    f"--image_size: {height}x{width} is no multiple of the patch size {patch} of {self.backbone.spec.name}; "
                    "give another, or another --whole_size"
                )
            text = f"{self.dataset.fingerprint}\0{view.described}"
            dataset = dataclasses.replace(
                self.dataset, splits=dict(view.splits), fingerprint=hashlib.sha256(text.encode()).hexdigest()
            )
            config = dataclasses.replace(self.config, image_size=view.size, crop="none", max_images=0)
            self._prepared[view.key] = PreparedData(config, view.rows, dataset, self.folder, self.mesh, self.local_mesh)
        return self._prepared[view.key]

    def _make_room(self, needed: int, bound: int) -> None:
        """Forgets what was extracted first, until there is room; what is on disk takes none."""
        if self.config.cache_dir is not None:
            return
        while self._held and sum(self._held.values()) + needed > bound:
            key, cell = next(iter(self._held))
            del self._held[key, cell]
            self._prepared[key].release(at_gsd(self.backbone, key[-1]), cell)
