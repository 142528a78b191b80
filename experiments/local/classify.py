"""Patches are told by their neighbours or by a linear probe, and held against the pixels that they show."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, Integer

from experiments.local.workbench import Workbench
from vitprobe_jax.features.store import Cell
from vitprobe_jax.metrics.segmentation import confusion, scores
from vitprobe_jax.probes.knn import nearest
from vitprobe_jax.probes.linear import LinearConfig, LinearProbes, fit_linear, predict
from vitprobe_jax.probes.votes import classify

Predictions = dict[tuple[str, int], Int[np.ndarray, " Q"]]
"""Concepts from 0 on, by (method, features left out); a method is `1-nn`, `linear`, `linear_batchnorm`."""


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
        rows: Float[np.ndarray, "I P D"],
        keeps: Mapping[int, Bool[np.ndarray, " D"]],
        methods: tuple[str, ...],
        *,
        tiling: str,
        shots: int,
    ) -> "PatchClassifier | None":
        """From the patches, of the draw of `shots` images a group (0: all), whose majority carries a concept; None: there
        are none.
        """
        majority = bench.counts(tiling, "train").majority()
        drawn = np.ones(len(rows), bool) if shots == 0 else bench.rank(tiling) < shots
        used = (majority > 0) & drawn[:, None]
        return cls(bench, rows[used], majority[used] - 1, keeps, methods) if used.any() else None

    def __call__(self, queries: Float[np.ndarray, "Q D"]) -> Predictions:
        """What each method and variant takes patches for."""
        told = {}
        for method in self.methods:
            if method == "knn":
                for dropped, keep in self.keeps.items():
                    voted = self._by_neighbours(queries, keep)
                    told |= {(name, dropped): concepts for name, concepts in voted.items()}
            else:
                by_variant = zip(self.keeps, predict(self.probes(method), queries), strict=True)
                told |= {(method, dropped): concepts for dropped, concepts in by_variant}
        return told

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
            LinearConfig(batch_norm=method == "linear_batchnorm"),
            mesh=self.bench.mesh,
        )

    def _by_neighbours(self, queries, keep) -> dict[str, Int[np.ndarray, " Q"]]:
        """The votes of each of `--neighbours`; of all patches there are, where they are fewer."""
        config = self.bench.config
        found = nearest(
            queries * keep[None],
            self.rows * keep[None],
            k=min(max(config.neighbours), len(self.rows)),
            metric=config.metric,
            memory=config.knn_memory << 20,
            mesh=self.bench.mesh,
        )
        labels = self.labels[found.indices]
        return {f"{k}-nn": classify(labels[:, :k], len(self.bench.dataset.concepts)) for k in config.neighbours}


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
