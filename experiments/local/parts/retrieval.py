"""Patches of transformed images search among all patches of the original ones (Section 5.2; Figs 5, 6 and 11, Table 3).

Every patch of a transformed image that shows an object by its majority is a query. Its counterpart is the original patch
that holds its centre; without one it still counts among concepts and background. Images are those of the data set's
`retrieval_split`: held-out ones, of FAIR1M the training draw. Tiles are transformed as they are fed, each on its own, so a
level is in the model's pixels. All is of the first `--tiling`.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from experiments.local.classify import features_without
from experiments.local.views import View
from experiments.local.workbench import Workbench
from experiments.measuring import Measured, Part
from vitprobe_jax.data.dataset import Dataset, ImageSubset
from vitprobe_jax.data.tiles import patch_of_pixels
from vitprobe_jax.data.transformations import RETRIEVALS, Transformation, TransformedSplit, patches_before
from vitprobe_jax.features.store import Cell
from vitprobe_jax.metrics.retrieval import retrieval_bound, retrieval_shares
from vitprobe_jax.probes.knn import nearest
from vitprobe_jax.types import Split

METHODS = {"1-nn": False, "1-nn other images": True}
"""Whether the patches of the query's own image are left out."""

BACKGROUND = "background"
"""What shows no concept, in `statistics`."""


@dataclasses.dataclass(frozen=True, eq=False)
class Originals:
    """All patches of the original images, among which is searched.

    Attributes:
        view: the images.
        split: of the view.
        owner: drawn image that each image of the view belongs to.
        number: place of each patch of the view among `rows`; -1 for a patch that is left out, since it repeats what an
            earlier tile shows or its image cannot be decoded.
        rows: features.
        concepts: what each of `rows` shows, from 1 on, 0 for none.
        supers: super category of each concept, as `super_categories`.
    """

    view: View
    split: Split
    owner: Int[np.ndarray, " I"]
    number: Int[np.ndarray, "I P"]
    rows: Float[np.ndarray, "N D"]
    concepts: Int[np.ndarray, " N"]
    supers: Int[np.ndarray, " K1"]

    @functools.cached_property
    def decoded(self) -> Bool[np.ndarray, " I"]:
        """The images that have patches here; every tile has one of its own."""
        return (self.number >= 0).any(axis=1)

    @functools.cached_property
    def image(self) -> Int[np.ndarray, " N"]:
        """Image of the view that each of `rows` is of."""
        return np.nonzero(self.number >= 0)[0]


class Queries(NamedTuple):
    """The patches of transformed images that show an object.

    Attributes:
        transformation: of the images.
        image: image of the view that each is of, ascending.
        patch: its number there.
        concept: what it shows, from 1 on.
        counterpart: its own patch among the originals; -1 where there is none.
    """

    transformation: Transformation
    image: Int[np.ndarray, " Q"]
    patch: Int[np.ndarray, " Q"]
    concept: Int[np.ndarray, " Q"]
    counterpart: Int[np.ndarray, " Q"]


def measure(bench: Workbench, cell: Cell, cells: Sequence[Cell]) -> Measured:
    """Every transformation and variant, the query's own image among those searched (`1-nn`) or not (`1-nn other images`).

    Measures are those of `metrics.retrieval.OUTCOMES`, and of `1-nn` the `upper_bound` of `same_patch`. The untransformed
    images come first, as the setting `identity`. `statistics` has further measures, of what is searched.
    """
    originals = original_patches(bench, cell, cells)
    columns = {"tiling": bench.config.tiling[0]} | ({"shots": bench.shots} if originals.split == "train" else {})
    if not (originals.supers[originals.concepts] > 0).any():
        reason = "no patch of the original images shows an object"
        return Measured([bench.row(PART.name, cell, measure="same_patch", count=0, skipped=reason, **columns)])
    rows = [bench.row(PART.name, cell, **columns, **row) for row in statistics(bench, originals)]
    keeps = {m: bench.keep(originals.view, cell, cells, m) for m in bench.drops}
    levels = [(kind, level) for kind in bench.config.transformations for level in RETRIEVALS[kind]]
    transformations = (Transformation("identity"), *(Transformation(*level) for level in levels))
    asking = [queries_of(bench, originals, transformation) for transformation in transformations]
    most = max(len(queries.image) for queries in asking)
    for queries in asking:
        level = {"setting": queries.transformation.kind, "level": queries.transformation.level}
        of_level = functools.partial(bench.row, PART.name, cell, count=len(queries.image), **level, **columns)
        if not len(queries.image):
            rows.append(of_level(measure="same_patch", skipped="no patch of the transformed images shows an object"))
            continue
        found = search(bench, originals, queries, keeps, most, cell, cells)
        for dropped in keeps:
            for method in METHODS:
                of = functools.partial(of_level, method=method, **features_without(dropped))
                rows += _rows(bench, of, originals, queries, found.get((dropped, method)), bound=not METHODS[method])
    return Measured(rows)


def original_patches(bench: Workbench, cell: Cell, cells: Sequence[Cell]) -> Originals:
    """The patches of the images that are searched, without those of images that cannot be decoded; read block by block.

    Raises:
        InputError: they do not fit `--host_memory`: the search needs all of them at once.
    """
    tiling, split = bench.config.tiling[0], bench.dataset.retrieval_split
    view = bench.view(tiling)
    bench.rows.check(view)  # Before minutes are spent on counting labels.
    used = own_patches(bench, tiling)
    bench.check_room(int(used.sum()), "patches that are searched")
    rows, start = np.empty((int(used.sum()), bench.backbone.spec.config.width), np.float32), 0
    for block in bench.blocks(view, split, cell, cells):
        used[block.images[block.left_out]] = False
        chosen = block.rows[used[block.images]]
        rows[start : start + len(chosen)] = chosen
        start += len(chosen)
    number = np.where(used, np.cumsum(used).reshape(used.shape) - 1, -1)
    concepts = bench.concepts(tiling, split, Transformation("identity"))[used]
    owner, supers = bench.owner(tiling, split), super_categories(bench.dataset)
    return Originals(view, split, owner, number, rows[:start], concepts, supers)


def own_patches(bench: Workbench, tiling: str) -> Bool[np.ndarray, "I P"]:
    """The patches that show a pixel of their own.

    Others, in tiles that were moved back, repeat what an earlier tile shows. They carry no annotation, so to find one would
    count as background.
    """
    split = bench.dataset.retrieval_split
    images = len(bench.owner(tiling, split))
    grid = tuple(side // bench.patch_size for side in bench.size(tiling))
    own = np.ones((images, grid[0] * grid[1]), bool)
    if tiling == "tiles" and bench.tile:
        own[:] = False
        tiles = bench.drawn.tiles[split]
        for index, size in enumerate(tiles.sizes):
            shown = patch_of_pixels(tiles.boxes(index), grid, size)
            own.reshape(-1)[tiles.first[index] * own.shape[1] + shown] = True
    return own


def queries_of(bench: Workbench, originals: Originals, transformation: Transformation) -> Queries:
    """The patches of the transformed images that show an object.

    A patch that repeats what an earlier tile shows carries no annotation there, transformed or not, so it is not a query.
    """
    concepts = bench.concepts(bench.config.tiling[0], originals.split, transformation)
    image, patch = np.nonzero((originals.supers[concepts] > 0) & originals.decoded[:, None])
    before = patches_before(transformation, originals.view.size, bench.patch_size)[patch]
    counterpart = np.where(before >= 0, originals.number[image, before], -1)
    return Queries(transformation, image, patch, concepts[image, patch], counterpart)


def search(
    bench: Workbench,
    originals: Originals,
    queries: Queries,
    keeps: Mapping[int, Bool[np.ndarray, " D"]],
    most: int,
    cell: Cell,
    cells: Sequence[Cell],
) -> dict[tuple[int, str], Int[np.ndarray, " Q"]]:
    """The nearest original of each query, by variant and method; without methods that have no other image to search.

    Args:
        bench: the study's.
        originals: among which is searched.
        queries: whose nearest patches are wanted.
        keeps: the features that each variant keeps, by how many it leaves out.
        most: queries of the transformation that has most, for which the search is compiled.
        cell: (block, token).
        cells: all that will be asked for.
    """
    base_groups = originals.owner[originals.image]
    methods = [method for method, others in METHODS.items() if not others or (base_groups != base_groups[0]).any()]
    found = {(m, method): np.zeros(len(queries.image), np.int64) for m in keeps for method in methods}
    for chosen, rows in query_rows(bench, originals, queries, cell, cells):
        groups = {"query_groups": originals.owner[queries.image[chosen]], "base_groups": base_groups}
        for dropped, keep in keeps.items():
            # Copies only where features are left out.
            asked, base = (part if keep.all() else part[:, keep] for part in (rows, originals.rows))
            for method in methods:
                found[dropped, method][chosen] = nearest(
                    asked,
                    base,
                    k=1,
                    metric=bench.config.metric,
                    memory=bench.config.knn_memory << 20,
                    mesh=bench.mesh,
                    plan_for=most,
                    **(groups if METHODS[method] else {}),
                ).indices[:, 0]
    return found


def query_rows(
    bench: Workbench, originals: Originals, queries: Queries, cell: Cell, cells: Sequence[Cell]
) -> Iterator[tuple[slice, Float[np.ndarray, "q D"]]]:
    """Features of the queries in parts, each with the slice of the queries that it has.

    Transformed images are read block by block; a part has the queries of as many blocks as make it as large as a block.
    """
    if queries.transformation.kind == "identity":
        yield slice(None), originals.rows[originals.number[queries.image, queries.patch]]
        return
    images = np.unique(queries.image)
    view = transformed(bench, originals.view, images, queries.transformation)
    start, end, parts = 0, 0, []
    for block in bench.blocks(view, originals.split, cell, cells):
        first, end = end, int(np.searchsorted(queries.image, images[block.images[-1]], side="right"))
        own = slice(first, end)
        parts.append(block.rows[np.searchsorted(images[block.images], queries.image[own]), queries.patch[own]])
        if sum(part.nbytes for part in parts) >= bench.rows.block_bytes or end == len(queries.image):
            yield slice(start, end), np.concatenate(parts)
            start, parts = end, []


def transformed(bench: Workbench, view: View, images: Int[np.ndarray, " n"], transformation: Transformation) -> View:
    """Some of the images of a view that are searched, transformed at the size that the backbone takes."""
    split, interpolation = bench.dataset.retrieval_split, bench.backbone.spec.preprocess.interpolation
    changed = TransformedSplit(view.splits[split], transformation, view.size, bench.config.seed, interpolation)
    described = f"{view.described}, {transformation} of {split} {images.tolist()}"
    return dataclasses.replace(view, splits={split: ImageSubset(changed, images)}, described=described)


def super_categories(dataset: Dataset) -> Int[np.ndarray, " K1"]:
    """The super category of each concept from 1 on, 0 for what is not an object; that of no concept, 0, comes first.

    Where the data set has no super categories, every concept is an object, and no two are of one kind.
    """
    kinds = dataset.supercategories or dataset.concepts
    numbers = {kind: i for i, kind in enumerate(dict.fromkeys(kind for kind in kinds if kind is not None), 1)}
    return np.array([0, *(numbers.get(kind, 0) for kind in kinds)])


def statistics(bench: Workbench, originals: Originals) -> list[dict]:
    """Columns of rows on what is searched (Table 3): `pixels` and `patches` of each concept, and of none as `background`.

    Pixels are counted at the model's size, a patch under the concept of its majority. `setting` is the super category where
    the concept has one, `level` the number of patches of an image, `count` that of images.
    """
    dataset = bench.dataset
    counts = bench.counts(bench.config.tiling[0], originals.split).counts
    pixels = counts[originals.number >= 0].sum(axis=0, dtype=np.int64)
    patches = np.bincount(originals.concepts, minlength=len(pixels))
    kinds = dataset.supercategories or (None,) * len(dataset.concepts)
    whats = [{"name": BACKGROUND}]
    whats += [
        {"concept": concept.number, "name": concept.name, "category": concept.category, "setting": kind}
        for concept, kind in zip(dataset.concepts, kinds, strict=True)
    ]
    shared = {"level": float(originals.number.shape[1]), "count": int(originals.decoded.sum())}
    return [
        shared | what | {"measure": measure, "value": float(value)}
        for measure, values in (("pixels", pixels), ("patches", patches))
        for what, value in zip(whats, values, strict=True)
    ]


def _rows(
    bench: Workbench,
    of: Callable[..., dict],
    originals: Originals,
    queries: Queries,
    found: Int[np.ndarray, " Q"] | None,
    *,
    bound: bool,
) -> list[dict]:
    """Rows of one transformation, variant and method; of none that found something, one with the reason."""
    if found is None:
        return [of(measure="same_fine", skipped="there is no other image")]
    shares = retrieval_shares(queries.concept, queries.counterpart, found, originals.concepts, originals.supers)
    rows = []
    for measure, value in shares.items():
        number = {"value": value}
        if measure == "same_super" and not bench.dataset.supercategories:
            number = {"skipped": "the data set has no super categories"}
        rows.append(of(measure=measure, **number))
    if bound:
        rows.append(of(measure="upper_bound", value=retrieval_bound(queries.counterpart)))
    return rows


PART = Part("retrieval", "masks", measure, splits=())
