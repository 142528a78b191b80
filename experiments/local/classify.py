"""Patches are classified by their neighbours or by a linear probe, and compared with the pixels that they show."""

import dataclasses
import functools
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, Integer

from experiments.local.views import View
from experiments.local.workbench import Workbench
from vitprobe_jax.features.store import Cell
from vitprobe_jax.metrics.segmentation import confusion, scores
from vitprobe_jax.probes.knn import nearest
from vitprobe_jax.probes.linear import EPSILON, LinearConfig, LinearProbes, fit_linear, predict
from vitprobe_jax.probes.votes import classify

Predictions = dict[tuple[str, int], Int[np.ndarray, " Q"]]
"""Concepts from 0 on, by (method, features left out); a method is `1-nn`, `1-nn batchnorm` or a name of `PROBES`."""

PROBES = {"linear": "minimum", "linear_gradient": "gradient", "linear_batchnorm": "batch_norm"}
"""The kind of `LinearConfig` of every linear method."""

Key = TypeVar("Key", bound=Hashable)


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingPatches:
    """The patches of the largest training draw whose majority carries a concept.

    Attributes:
        rows: their features.
        labels: their concepts, from 0 on.
        rank: of each patch's image: the draw of n images a group are those below n.
    """

    rows: Float[np.ndarray, "N D"]
    labels: Int[np.ndarray, " N"]
    rank: Int[np.ndarray, " N"]

    @classmethod
    def of(cls, bench: Workbench, view: View, tiling: str, cell: Cell, cells: Sequence[Cell]) -> "TrainingPatches":
        """Read block by block.

        Raises:
            InputError: they do not fit `--host_memory`: whoever looks for neighbours needs all of them at once.
        """
        bench.rows.check(view)  # Before minutes are spent on counting labels.
        majority = bench.counts(tiling, "train").majority()
        used, width = majority > 0, bench.backbone.spec.config.width
        bench.check_room(int(used.sum()), "training patches")
        rows, start = np.empty((int(used.sum()), width), np.float32), 0
        for block in bench.blocks(view, "train", cell, cells):
            chosen = block.rows[used[block.images]]
            rows[start : start + len(chosen)] = chosen
            start += len(chosen)
        return cls(rows, majority[used] - 1, np.repeat(bench.rank(tiling), used.sum(axis=1)))

    def drawn(self, shots: int) -> tuple[Float[np.ndarray, "N D"], Int[np.ndarray, " N"]]:
        """Rows and labels of the draw of `shots` images a group, 0 for all."""
        chosen = self.rank < shots
        if shots == 0 or chosen.all():
            return self.rows, self.labels
        return self.rows[chosen], self.labels[chosen]


@dataclasses.dataclass(frozen=True, eq=False)
class PatchClassifier:
    """Every method and variant on one training draw. Linear probes are fitted once, when they are first asked.

    Attributes:
        bench: the study's.
        rows: features of the training patches that carry a concept.
        labels: their concepts, from 0 on.
        keeps: the features that each variant keeps, by how many it leaves out.
        methods: of `config.METHODS`.
    """

    bench: Workbench
    rows: Float[np.ndarray, "N D"]
    labels: Int[np.ndarray, " N"]
    keeps: Mapping[int, Bool[np.ndarray, " D"]]
    methods: tuple[str, ...]
    _fitted: dict[str, LinearProbes] = dataclasses.field(default_factory=dict, init=False)

    @classmethod
    def of(
        cls,
        bench: Workbench,
        train: TrainingPatches,
        keeps: Mapping[int, Bool[np.ndarray, " D"]],
        methods: tuple[str, ...],
        *,
        shots: int,
    ) -> "PatchClassifier | None":
        """From the training patches of the draw of `shots` images a group (0: all); None: there are none."""
        rows, labels = train.drawn(shots)
        return cls(bench, rows, labels, keeps, methods) if len(rows) else None

    def __call__(self, queries: Float[np.ndarray, "Q D"]) -> Predictions:
        """What each method and variant takes patches for."""
        told = {}
        for method in self.methods:
            if method in PROBES:
                by_variant = zip(self.keeps, predict(self.probes(method), queries), strict=True)
                told |= {(method, dropped): concepts for dropped, concepts in by_variant}
                continue
            suffix = " batchnorm" if method == "knn_batchnorm" else ""
            for variant, dropped in enumerate(self.keeps):
                voted = self._by_neighbours(queries, variant, method)
                told |= {(f"{name}{suffix}", dropped): concepts for name, concepts in voted.items()}
        return told

    def _prepared(self, rows: Float[np.ndarray, "n D"], variant: int, method: str) -> Float[np.ndarray, "n D"]:
        """Rows as a variant's search sees them: without what it leaves out, and perhaps normalised as the linear probe's."""
        keep = list(self.keeps.values())[variant]
        if method == "knn_batchnorm":
            probes = self.probes("linear_batchnorm")
            mean, variance = np.asarray(probes.mean[variant]), np.asarray(probes.variance[variant])
            return (rows - mean[None]) * (keep / np.sqrt(variance + EPSILON))[None]
        # A copy only where it differs.
        return rows if keep.all() else rows * keep[None]

    def probes(self, method: str) -> LinearProbes:
        """The linear probes of all variants, in the order of `keeps`."""
        if method not in self._fitted:
            self._fitted[method] = self._fit(method)
        return self._fitted[method]

    def _fit(self, method: str) -> LinearProbes:
        return fit_linear(
            jax.random.key(self.bench.config.seed),
            self.rows,
            self.labels,
            len(self.bench.dataset.concepts),
            np.stack(list(self.keeps.values())).astype(np.float32),
            LinearConfig(kind=PROBES[method]),
            mesh=self.bench.mesh,
        )

    def _by_neighbours(self, queries, variant: int, method: str) -> dict[str, Int[np.ndarray, " Q"]]:
        """The votes of each of `--neighbours`; of all patches there are, where they are fewer."""
        config = self.bench.config
        found = nearest(
            self._prepared(queries, variant, method),
            self._prepared(self.rows, variant, method),
            k=min(max(config.neighbours), len(self.rows)),
            metric=config.metric,
            memory=config.knn_memory << 20,
            mesh=self.bench.mesh,
        )
        labels = self.labels[found.indices]
        return {f"{k}-nn": classify(labels[:, :k], len(self.bench.dataset.concepts)) for k in config.neighbours}


def classify_view(
    bench: Workbench, classifiers: Mapping[Key, PatchClassifier], view: View, cell: Cell, cells: Sequence[Cell]
) -> dict[Key, Predictions]:
    """What classifiers take all held-out patches of a view for, read block by block, and once for all of them."""
    told: dict[Key, dict[tuple[str, int], list[np.ndarray]]] = {key: {} for key in classifiers}
    for block in bench.blocks(view, "val", cell, cells):
        queries = block.rows.reshape(-1, block.rows.shape[-1])
        for key, classifier in classifiers.items():
            for variant, concepts in classifier(queries).items():
                told[key].setdefault(variant, []).append(concepts)
    return {key: {variant: np.concatenate(parts) for variant, parts in of_key.items()} for key, of_key in told.items()}


def measured_rows(
    bench: Workbench,
    part: str,
    cell: Cell,
    told: Predictions,
    counts: Integer[np.ndarray, "Q K1"],
    *,
    by_concept: bool = False,
    **columns: Any,
) -> list[dict]:
    """Rows of mIoU and pixel accuracy of each method and variant.

    Args:
        bench: the study's.
        part: its name.
        cell: (block, token).
        told: what the patches were taken for.
        counts: pixels of each concept in each patch, as in `LabelCounts`.
        by_concept: add the IoU of each concept; one that no held-out pixel carries is skipped.
        columns: further columns of every row.
    """
    rows = []
    pixels = counts[:, 1:].sum(0, dtype=np.int64)
    for (method, dropped), concepts in told.items():
        of = functools.partial(bench.row, part, cell, method=method, **features_without(dropped), **columns)
        if not pixels.any():
            rows.append(of(measure="miou", count=0, skipped="no held-out pixel carries a concept"))
            continue
        score = scores(confusion(concepts, counts))
        for measure, value in (("miou", score.miou), ("pixel_accuracy", score.pixel_accuracy)):
            rows.append(of(measure=measure, value=float(value), count=int(pixels.sum())))
        for concept, iou, count in zip(bench.dataset.concepts, score.iou, pixels, strict=True) if by_concept else ():
            what = {"concept": concept.number, "name": concept.name, "category": concept.category, "count": int(count)}
            there = {"value": float(iou)} if np.isfinite(iou) else {"skipped": "no held-out pixel carries it"}
            rows.append(of(measure="iou", **what, **there))
    return rows


def features_without(dropped: int) -> dict:
    """The columns of a variant that leaves out the features of highest variance."""
    return {"features": "without top" if dropped else "all", "dropped": dropped}
