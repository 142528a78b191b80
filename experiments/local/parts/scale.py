"""Whether whole images are known again when they are seen from farther off: neighbours over ground distances (Fig. 8).

Training and held-out images are resized whole to the squares that they fill at each ground sample distance, in whole
patches, and each held-out image is told by the vote of its nearest training images at the same distance: once by [CLS],
once by the mean of the patches. Positions that know a distance (Scale-MAE's) are given that of the resized image. All
images are taken to be as large as the first one: in RESISC45 they are, and UC Merced's few smaller ones are resized to the
same size first by Scale-MAE's code, too.

Beside the plain votes of `--neighbours` stand those of Scale-MAE's own k-NN, whatever the flags say (`WEIGHTED`): the 20
most similar training images by cosine, each with a vote of exp(s / 0.07). All images take part unless flags ask for a draw.

The features that variants leave out are those of highest variance over the patches of the training images at their own
scale: the same for [CLS] and the mean and for all distances, and chosen as in the other parts.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from experiments.local.classify import PatchClassifier, Predictions, features_without
from experiments.local.views import View
from experiments.local.workbench import Workbench
from experiments.measuring import Measured, Part
from vitprobe_jax.data.dataset import image_size
from vitprobe_jax.errors import InputError
from vitprobe_jax.features.store import Cell
from vitprobe_jax.probes.knn import nearest
from vitprobe_jax.probes.votes import classify_weighted
from vitprobe_jax.types import Split

FACTORS = (1.0, 2.0, 4.0)
"""Distances, in units of the images' own, where `--gsds` names none."""
SMALLEST = 2
"""Patches along a side: of a single one there is no mean to compare with [CLS]."""
POOLS = ("class", "mean")
"""The rows of a view of pools, in their order."""
NEIGHBOURS = 20
WEIGHTED = f"{NEIGHBOURS}-nn weighted"
"""The method of Scale-MAE's code (bair-climate-initiative/scale-mae, mae/eval/knn.py; `--knn` in mae/main_pretrain.py)."""


def measure(bench: Workbench, cell: Cell, cells: Sequence[Cell]) -> Measured:
    """Accuracy at every distance for both pools, every variant and number of neighbours, and by weighted votes (`WEIGHTED`).

    `name` is `class` for [CLS], `mean` for the mean of the patches. Held-out images of classes without a training image
    take no part; each such class has a skipped row.
    """
    native, side = native_gsd(bench), image_side(bench)
    width = bench.backbone.spec.config.width
    own = view_at(bench, side, native, native)
    patches = dataclasses.replace(own, rows="segmentation", splits={"train": own.splits["train"]})
    keeps = {m: bench.keep(patches, cell, cells, m) if m else np.ones(width, bool) for m in bench.drops}
    labels = {split: class_indices(bench, split) for split in ("train", "val")}
    rows, lacking = [], set()
    for gsd in bench.config.gsds or [native * factor for factor in FACTORS]:
        columns = {"setting": "gsd", "level": float(gsd), "measure": "accuracy"}
        view = view_at(bench, side, native, gsd)
        if view.size[0] < SMALLEST * bench.patch_size:
            reason = f"images of {side * native / gsd:.0f} pixels are no {SMALLEST} patches of {bench.patch_size} wide"
            rows.append(bench.row(PART.name, cell, count=0, skipped=reason, **columns))
            continue
        pools = {split: bench.take(view, split, cell, cells) for split in labels}
        train, val = (_decoded(bench, view, split, labels[split]) for split in labels)
        known = val & np.isin(labels["val"], labels["train"][train])
        lacking |= set(labels["val"][val & ~known].tolist())
        for pool, name in enumerate(POOLS):
            reason = _reason(bench, name, bool(known.any()))
            if reason:
                rows.append(bench.row(PART.name, cell, name=name, count=0, skipped=reason, **columns))
                continue
            base, queries = pools["train"][train, pool], pools["val"][known, pool]
            classifier = PatchClassifier(bench, base, labels["train"][train], keeps, ("knn",))
            found = classifier(queries) | weighted_votes(bench, base, labels["train"][train], keeps, queries)
            for (method, dropped), told in found.items():
                value = float(np.mean(told == labels["val"][known]))
                what = {"method": method, **features_without(dropped), "name": name, "count": int(known.sum())}
                rows.append(bench.row(PART.name, cell, value=value, **what, **columns))
    for k in sorted(lacking):
        concept = bench.dataset.concepts[k]
        what = {"concept": concept.number, "name": concept.name, "category": concept.category}
        reason = "no training image shows it"
        rows.append(bench.row(PART.name, cell, measure="accuracy", count=0, skipped=reason, **what))
    return Measured(rows)


def weighted_votes(
    bench: Workbench,
    base: Float[np.ndarray, "N D"],
    labels: Int[np.ndarray, " N"],
    keeps: Mapping[int, Bool[np.ndarray, " D"]],
    queries: Float[np.ndarray, "Q D"],
) -> Predictions:
    """Classes by `WEIGHTED` with the features of each variant; fewer than 20 training images all vote."""
    predictions = {}
    for dropped, keep in keeps.items():
        found = nearest(
            queries * keep[None],
            base * keep[None],
            k=min(NEIGHBOURS, len(base)),
            metric="cosine",
            memory=bench.config.knn_memory << 20,
            mesh=bench.mesh,
        )
        num_classes = len(bench.dataset.concepts)
        predictions[WEIGHTED, dropped] = classify_weighted(labels[found.indices], found.scores, num_classes)
    return predictions


def native_gsd(bench: Workbench) -> float:
    """Metres a pixel of the images as they are; 1 where nobody knows, which the results get a note of."""
    known = bench.config.native_gsd
    if known is None:
        bench.rows.folder.note(
            f"{bench.dataset.name}: the metres a pixel of its images are not known (--native_gsd tells them); part scale "
            "takes them for 1, so its distances are relative"
        )
    return known or 1.0


def image_side(bench: Workbench) -> float:
    """Side in pixels of a square as large as the first training image that can be read.

    Raises:
        InputError: none can, or the data set allows for none that cannot.
    """
    split = bench.drawn.splits["train"]
    for index in range(len(split)):
        try:
            height, width = image_size(split, index)
        except InputError:
            if not bench.dataset.skip_corrupt or index == len(split) - 1:
                raise
        else:
            break
    return float(np.sqrt(height * width))


def view_at(bench: Workbench, side: float, native: float, gsd: float) -> View:
    """Both pools of whole images, resized from `native` metres a pixel to the whole patches nearest to `gsd`."""
    length = max(1, round(side * native / gsd / bench.patch_size)) * bench.patch_size
    described = f"{bench.view('tiles').described} whole"
    return View(bench.drawn.splits, described, (length, length), "pools", native * side / length)


def class_indices(bench: Workbench, split: Split) -> Int[np.ndarray, " I"]:
    """The class of each drawn image as its index in the data set's concepts; -1 where it has none."""
    index = {concept.number: k for k, concept in enumerate(bench.dataset.concepts)}
    images = bench.drawn.splits[split]
    of_images = (images.annotation(i).labels for i in range(len(images)))
    return np.array([next((index[number] for _, number in labels if number in index), -1) for labels in of_images], int)


def _decoded(bench: Workbench, view: View, split: Split, labels: Int[np.ndarray, " I"]) -> np.ndarray:
    """Which images have a class and rows."""
    there = labels >= 0
    there[bench.rows.left_out(view, split)] = False
    return there


def _reason(bench: Workbench, name: str, any_known: bool) -> str | None:
    """Why a pool cannot be measured."""
    if not any_known:
        return "no held-out image is of a class with a training image"
    if name == "class" and not bench.backbone.spec.config.class_token:
        return "it has no [CLS] token"
    return None


PART = Part("scale", "classes", measure, once="x2")
