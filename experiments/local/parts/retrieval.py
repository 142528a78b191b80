"""Patches of transformed images look for themselves among all patches of the original ones (Figs 5, 6 and 11).

Asked for is every patch of the held-out images that shows an object by its majority; who asks is the patch of the
transformed image that its centre has come to lie in. Tiles are transformed as they are fed, each on its own, so a level is
one of the model's pixels, and what moves beyond a tile's edge has left the frame. All is of the first `--tiling`.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from experiments.local.classify import features_without
from experiments.local.views import View
from experiments.local.workbench import Workbench
from experiments.measuring import Measured, Part
from vitprobe_jax.data.dataset import Dataset, ImageSubset
from vitprobe_jax.data.tiles import patch_of_pixels
from vitprobe_jax.data.transformations import RETRIEVALS, Transformation, TransformedSplit, patches_after
from vitprobe_jax.features.store import Cell
from vitprobe_jax.metrics.retrieval import retrieval_bound, retrieval_shares
from vitprobe_jax.probes.knn import nearest


@dataclasses.dataclass(frozen=True, eq=False)
class Originals:
    """All patches of the original images, among which is searched.

    Attributes:
        rows: their features.
        concepts: of each, from 1 on, 0 for none.
        image: of the view that each is of: a tile, or a whole image.
        patch: number of each in it.
        owner: drawn image that each is of.
        supers: super category of each concept, as `super_categories`.
    """

    rows: Float[np.ndarray, "N D"]
    concepts: Int[np.ndarray, " N"]
    image: Int[np.ndarray, " N"]
    patch: Int[np.ndarray, " N"]
    owner: Int[np.ndarray, " N"]
    supers: Int[np.ndarray, " K1"]

    @functools.cached_property
    def asked(self) -> Int[np.ndarray, " Q"]:
        """Those that show an object."""
        return np.flatnonzero(self.supers[self.concepts] > 0)


def measure(bench: Workbench, cell: Cell, cells: Sequence[Cell]) -> Measured:
    """Every transformation and variant, the patch's own image among those searched (`1-nn`) or not (`1-nn other images`).

    Measures are those of `metrics.retrieval.OUTCOMES`, and of `1-nn` the `upper_bound` of `same_patch`. The untransformed
    images come first, as the setting `identity`.
    """
    tiling = bench.config.tiling[0]
    view = bench.view(tiling)
    originals = original_patches(bench, view, tiling, cell, cells)
    keeps = {m: bench.keep(view, cell, cells, m) for m in bench.drops}
    asked = originals.asked
    if not len(asked):
        reason = "no held-out patch shows an object"
        row = bench.row(PART.name, cell, tiling=tiling, measure="same_patch", count=0, skipped=reason)
        return Measured([row])
    num_patches = view.size[0] * view.size[1] // bench.patch_size**2
    images, position = np.unique(originals.image[asked], return_inverse=True)
    levels = [(kind, level) for kind in bench.config.transformations for level in RETRIEVALS[kind]]
    rows = []
    for transformation in (Transformation("identity"), *(Transformation(*level) for level in levels)):
        after = patches_after(transformation, view.size, bench.patch_size)[originals.patch[asked]]
        if transformation.kind == "identity":
            queries = originals.rows[asked]
        else:
            changed = bench.take(transformed(bench, view, images, transformation), "val", cell, cells)
            # Where a patch has left the frame, any other asks, and nothing is made of it: so there are always as many.
            queries = changed[position, np.maximum(after, 0)]
        asked_by = np.where(after >= 0, position * num_patches + after, -1)
        for dropped, keep in keeps.items():
            columns = {
                "tiling": tiling,
                **features_without(dropped),
                "setting": transformation.kind,
                "level": transformation.level,
                "count": len(asked),
            }
            rows += _rows(bench, cell, originals, asked_by, queries, keep, columns)
    return Measured(rows)


def transformed(bench: Workbench, view: View, images: Int[np.ndarray, " n"], transformation: Transformation) -> View:
    """Some held-out images of a view, those that show objects, transformed at the size that the backbone takes."""
    shown = ImageSubset(view.splits["val"], images)
    interpolation = bench.backbone.spec.preprocess.interpolation
    changed = TransformedSplit(shown, transformation, view.size, bench.config.seed, interpolation)
    described = f"{view.described}, {transformation} of {images.tolist()}"
    return dataclasses.replace(view, splits={"val": changed}, described=described)


def original_patches(bench: Workbench, view: View, tiling: str, cell: Cell, cells: Sequence[Cell]) -> Originals:
    """The patches of the held-out images, without those that cannot be decoded."""
    concepts = bench.counts(tiling, "val").majority()
    rows = bench.take(view, "val", cell, cells)
    used = own_patches(bench, tiling)
    used[bench.rows.left_out(view, "val")] = False
    image, patch = np.nonzero(used)
    return Originals(
        rows[used], concepts[used], image, patch, bench.owner(tiling, "val")[image], super_categories(bench.dataset)
    )


def own_patches(bench: Workbench, tiling: str) -> Bool[np.ndarray, "I P"]:
    """The patches that show a pixel of their own.

    Others, in tiles that were moved back, repeat what an earlier tile shows. They are annotated nowhere, so to find one
    would count as background.
    """
    images = len(bench.owner(tiling, "val"))
    grid = tuple(side // bench.patch_size for side in bench.size(tiling))
    own = np.ones((images, grid[0] * grid[1]), bool)
    if tiling == "tiles" and bench.tile:
        own[:] = False
        tiles = bench.drawn.tiles["val"]
        for index, size in enumerate(tiles.sizes):
            shown = patch_of_pixels(tiles.boxes(index), grid, size)
            own.reshape(-1)[tiles.first[index] * own.shape[1] + shown] = True
    return own


def super_categories(dataset: Dataset) -> Int[np.ndarray, " K1"]:
    """The super category of each concept from 1 on, 0 for what is no object; that of no concept, 0, comes first.

    Where the data set tells of none, every concept is an object, and no two are of one kind.
    """
    kinds = dataset.supercategories or dataset.concepts
    numbers = {kind: i for i, kind in enumerate(dict.fromkeys(kind for kind in kinds if kind is not None), 1)}
    return np.array([0, *(numbers.get(kind, 0) for kind in kinds)])


def _rows(
    bench: Workbench,
    cell: Cell,
    originals: Originals,
    asked_by: Int[np.ndarray, " Q"],
    queries: Float[np.ndarray, "Q D"],
    keep: Bool[np.ndarray, " D"],
    columns: dict,
) -> list[dict]:
    """Rows of one transformation and variant, of both searches."""
    base, queries = originals.rows[:, keep], queries[:, keep]
    asked, owner = originals.asked, originals.owner
    rows = []
    for method, others_only in (("1-nn", False), ("1-nn other images", True)):
        if others_only and (owner == owner[0]).all():
            reason = "there is no other image"
            rows.append(bench.row(PART.name, cell, method=method, measure="same_fine", skipped=reason, **columns))
            continue
        found = nearest(
            queries,
            base,
            k=1,
            metric=bench.config.metric,
            memory=bench.config.knn_memory << 20,
            mesh=bench.mesh,
            query_groups=owner[asked] if others_only else None,
            base_groups=owner if others_only else None,
        ).indices[:, 0]
        shares = retrieval_shares(asked, np.where(asked_by >= 0, found, -1), originals.concepts, originals.supers)
        if not others_only:
            shares["upper_bound"] = retrieval_bound(asked_by)
        for measure, value in shares.items():
            number = {"value": value}
            if measure == "same_super" and not bench.dataset.supercategories:
                number = {"skipped": "the data set does not tell super categories"}
            rows.append(bench.row(PART.name, cell, method=method, measure=measure, **number, **columns))
    return rows


PART = Part("retrieval", "masks", measure)
