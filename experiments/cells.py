"""One cell of the sweep: a token of a layer under a decision rule -> templates and rows of results."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import jax
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool

from experiments import processes
from experiments.config import RULE_OF_SOLVER, SweepConfig
from vitprobe_jax.backbones.config import BackboneSpec
from vitprobe_jax.data.labels import LabelTable
from vitprobe_jax.features.extract import Cell
from vitprobe_jax.features.moments import highest_variance, table_variance
from vitprobe_jax.features.table import FeatureTable
from vitprobe_jax.metrics.balanced import BalancedMetrics, Counts, balanced_metrics, undefined_reason
from vitprobe_jax.metrics.counts import count_cosine, count_hyperplanes, to_counts
from vitprobe_jax.metrics.pixels import PixelTable, count_pixels
from vitprobe_jax.metrics.results import FIT, METRICS
from vitprobe_jax.probes.cosine import fit_cosine
from vitprobe_jax.probes.feature_norm import fit_feature_norm
from vitprobe_jax.probes.hyperplane import Hyperplanes, fit_hyperplanes
from vitprobe_jax.probes.sampling import (
    ImageDraw,
    RowPool,
    concept_identity,
    draw_pools,
    draw_queries,
    draw_support,
    rows_by_concept,
)
from vitprobe_jax.probes.templates import CONCEPT_AXIS, Templates, check_finite
from vitprobe_jax.probes.trials import Support, Trials
from vitprobe_jax.types import HYPERPLANE_RULES, Concept, Evaluation, Rule

STUDY = "directions"
NAMED = 5
"""Concepts that a note names; it counts the others."""


@dataclasses.dataclass(frozen=True)
class Design:
    """All that is drawn before any feature is seen: the same for every token and layer of a grid.

    Attributes:
        seed: by which everything is drawn.
        labels: of the training rows.
        pools: of the hyperplane rule, one a concept.
        support: of the cosine rules, which draw alike.
        queries: of the cosine rules, images of the held-out split.
        n_pos_test: held-out rows that carry each concept.
        n_neg_test: held-out rows that carry another concept of its category.
        probed: the concepts that get templates; the others only label rows.
    """

    seed: int
    labels: LabelTable
    pools: list[RowPool]
    support: ImageDraw
    queries: ImageDraw
    n_pos_test: np.ndarray
    n_neg_test: np.ndarray
    probed: Bool[np.ndarray, " K"]

    @classmethod
    def draw(cls, train: LabelTable, val: LabelTable, config: SweepConfig, probed: Bool[np.ndarray, " K"]) -> "Design":
        """Draws pools, support sets and queries by the configuration's seed."""
        n_pos_test = np.array([len(rows) for rows in rows_by_concept(val)])
        members = np.array([val.in_category(c).sum() for c in range(len(val.categories))], int)
        return cls(
            seed=config.seed,
            labels=train,
            pools=draw_pools(train, ratio=config.hyperplane.pool_ratio, seed=config.seed),
            support=draw_support(train, shots=max(config.shots), trials=config.trials, seed=config.seed),
            queries=draw_queries(val, trials=config.trials, seed=config.seed),
            n_pos_test=n_pos_test,
            n_neg_test=members[val.concept_category] - n_pos_test,
            probed=probed,
        )

    def skipped(self, rule: Rule, min_positives: int) -> dict[int, str]:
        """The concepts to be probed that this rule cannot fit or whose templates nothing can measure, with the reason."""
        reasons = {}
        for k in np.flatnonzero(self.probed).tolist():
            pool = self.pools[k]
            undefined = undefined_reason(int(self.n_pos_test[k]), int(self.n_neg_test[k]), "val")
            if len(pool.positives) == 0:
                reasons[k] = "no positives in train"
            elif undefined:
                reasons[k] = undefined
            elif len(pool.positives) < min_positives:
                reasons[k] = f"{len(pool.positives)} positives in train, fewer than --min_positives={min_positives}"
            elif rule in HYPERPLANE_RULES and pool.num_negatives == 0:
                reasons[k] = "no negatives in train"
        return reasons

    def mining_note(self, config: SweepConfig) -> str:
        """Which concepts have pools that mining cannot choose from, in a sentence; "" where there are none.

        A pool of at most `--negative_ratio` negatives a positive is taken whole in every round.
        """
        ratio = config.hyperplane.negative_ratio
        skipped = self.skipped("hyperplane", config.min_positives)
        fitted = [k for k in np.flatnonzero(self.probed).tolist() if k not in skipped]
        whole = [k for k in fitted if len(self.pools[k].negatives) <= ratio * len(self.pools[k].positives)]
        if not whole:
            return ""
        return (
            f"the negative pools of {len(whole)} of {len(fitted)} concepts hold at most --negative_ratio={ratio} negatives "
            "a positive: every round takes the whole pool, so mining chooses nothing for "
            f"{_named([self.labels.concepts[k] for k in whole])}"
        )


class _Fitted(NamedTuple):
    """The templates of some concepts, and what was counted of them.

    Attributes:
        arrays: arrays of the template file.
        numbers: the columns that say how the template at a place of `counts` was fitted.
        counts: on held-out rows.
        losses: further numbers of each concept; where one is not finite, its template is skipped as diverged.
        notes: warnings for readers of the results.
    """

    arrays: dict[str, np.ndarray]
    numbers: Callable[[tuple[int, ...]], dict]
    counts: Counts
    losses: tuple[np.ndarray, ...] = ()
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class SweepCell:
    """A token of a layer of a backbone, with its tables on the devices, under one seed: `config.seed`, that of `design`.

    With `--drop_features` the backbone is the variant that has its own name (`moments.variant_name`). Its tables are those
    of the whole backbone; features are left out by the feature norm.
    """

    config: SweepConfig
    dataset: str
    backbone: BackboneSpec
    cell: Cell
    design: Design
    train: FeatureTable
    val: FeatureTable

    def run(self, rule: Rule) -> tuple[Templates, list[dict], tuple[str, ...]]:
        """Fits and evaluates every concept under one rule.

        Returns:
            The templates, the rows of the results table, and what a reader of them must be told.
        """
        skipped = self.design.skipped(rule, self.config.min_positives)
        probed = np.array([k for k in np.flatnonzero(self.design.probed) if k not in skipped], np.int32)
        fit = self._hyperplane if rule in HYPERPLANE_RULES else self._cosine
        arrays, numbers, counts, losses, notes = fit(rule, probed)
        diverged = check_finite(*losses, what="the loss")
        diverged |= check_finite(*(np.moveaxis(arrays[name], axis, 0) for name, axis in CONCEPT_AXIS[rule].items()))
        skipped |= {int(probed[i]): reason for i, reason in diverged.items()}
        kept = np.array([i for i in range(len(probed)) if i not in diverged], int)
        arrays |= {name: arrays[name].take(kept, axis) for name, axis in CONCEPT_AXIS[rule].items()}
        layer, token = self.cell
        templates = Templates(
            task=self.config.task,
            backbone=self.backbone.name,
            layer=layer,
            token=token,
            rule=rule,
            concepts=tuple(self.design.labels.concepts[probed[i]] for i in kept),
            arrays=arrays,
            shots=() if rule in HYPERPLANE_RULES else self.config.shots,
            dropped=self.config.drop_features,
        )
        metrics = balanced_metrics(counts)
        rows = [self._skipped_row(rule, k, shots, skipped[k]) for k in sorted(skipped) for shots in self._shots(rule)]
        for place in np.ndindex(counts.tp.shape):
            if place[-1] not in diverged:
                where = "val" if rule in HYPERPLANE_RULES else "the query images"
                measured = numbers(place) | _measured(metrics, counts, place, where)
                rows.append(self._row(rule, int(probed[place[-1]])) | measured)
        return templates, rows, notes

    @functools.cached_property
    def _keep(self) -> Bool[np.ndarray, " D"] | None:
        """The features that every rule keeps; None for all."""
        if not self.config.drop_features:
            return None
        return highest_variance(np.asarray(table_variance(self.train)), self.config.drop_features)

    def pixel_rows(self, hyperplanes: Templates, pixels: PixelTable, patch_rows: Iterable[Mapping]) -> list[dict]:
        """Evaluates hyperplanes on the pixels of the held-out images, those of all processes.

        Args:
            hyperplanes: of this cell.
            pixels: images of this process; all processes together have each of them once.
            patch_rows: rows of the same hyperplanes, counted on patches.

        Returns:
            The rows of the results table, one for each concept: a concept that is skipped on patches is skipped here too,
            for the same reason and without numbers of pixels. What they say of the fit is what its patch row says.
        """
        patch_rows = list(patch_rows)
        without_template = [
            {**row, "evaluation": "pixel", "n_pos_test": None, "n_neg_test": None}
            for row in patch_rows
            if row["skipped"] is not None
        ]
        index = {concept: k for k, concept in enumerate(self.design.labels.concepts)}
        probed = np.array([index[concept] for concept in hyperplanes.concepts], np.int32)
        category = self.design.labels.concept_category[probed]
        counts = to_counts(processes.total(count_pixels(pixels, probed, category, *hyperplanes.hyperplanes())))
        metrics = balanced_metrics(counts)
        copied = ("n_pos_train", "n_neg_train", "threshold", *FIT)
        fits = {(row["concept"], row["category"]): {name: row.get(name) for name in copied} for row in patch_rows}
        return without_template + [
            self._row(hyperplanes.rule, int(k), "pixel")
            | fits[concept.number, concept.category]
            | _measured(metrics, counts, (i,), "the pixels of val")
            for i, (k, concept) in enumerate(zip(probed, hyperplanes.concepts, strict=True))
        ]

    def _hyperplane(self, rule: Rule, probed: np.ndarray) -> _Fitted:
        labels = self.design.labels
        pools = [self.design.pools[k] for k in probed]
        identities = [concept_identity(labels.concepts[k]) for k in probed]
        key = jax.random.key(self.config.seed)
        config = self.config.hyperplane_of(rule)
        kind = self.config.feature_norm if config.solver == "paper" else "none"
        fitted = fit_hyperplanes(
            key,
            self.train,
            pools,
            identities,
            norm=fit_feature_norm(self.train, kind=kind, keep=self._keep),
            config=config,
            memory_mb=self.config.probe_memory,
        )
        category = labels.concept_category[probed]
        counts = to_counts(count_hyperplanes(self.val, probed, category, fitted.w, fitted.b, fitted.shift))
        fitted, threshold = Hyperplanes(*map(np.asarray, fitted)), fitted.threshold()
        scales = self._scales(fitted)

        def numbers(place):
            (i,) = place
            return {
                "n_pos_train": len(pools[i].positives),
                "n_neg_train": pools[i].num_negatives,
                "threshold": float(threshold[i]),
                "loss": float(fitted.loss[i]),
                "gradient_norm": float(fitted.gradient_norm[i]),
                "converged": bool(fitted.converged[i]),
            } | scales

        unconverged = np.flatnonzero(np.isfinite(fitted.loss) & ~fitted.converged)
        # SGD stops where it stops: that is said once a backbone (`paper_notes`).
        warned = unconverged if config.solver == "lbfgs" else ()
        notes = [self._unconverged([labels.concepts[probed[i]] for i in warned], len(probed))] if len(warned) else []
        arrays = {"w": fitted.w, "b": threshold, "shift": fitted.shift}
        return _Fitted(arrays, numbers, counts, (fitted.loss, fitted.gradient_norm), tuple(notes))

    def _scales(self, fitted: Hyperplanes) -> dict[str, float | None]:
        """The smallest and the largest deviation of the features that vary and are kept."""
        varies = fitted.deviation > np.finfo(np.float32).eps * np.abs(fitted.shift)
        scales = fitted.deviation[varies if self._keep is None else varies & self._keep]
        if not len(scales):
            return {"scale_low": None, "scale_high": None}
        return {"scale_low": float(scales.min()), "scale_high": float(scales.max())}

    def _unconverged(self, concepts: list[Concept], count: int) -> str:
        layer, token = self.cell
        return (
            f"{self.backbone.name}, {token} of block {layer}: {len(concepts)} of {count} hyperplane regressions did not "
            f"reach their minimum, those of {_named(concepts)}; raise --penalty (now {self.config.hyperplane.penalty:g})"
        )

    def _cosine(self, rule: Rule, probed: np.ndarray) -> _Fitted:
        shots, labels, support = self.config.shots, self.design.labels, self.design.support
        kind = "center" if rule == "cosine_centered" else self.config.feature_norm
        norm = fit_feature_norm(self.train, kind=kind, keep=self._keep)
        drawn = Support.of(support, labels, probed, self.train.mesh)
        alpha, t, fitted_on = fit_cosine(self.train, drawn, norm=norm, shots=shots)
        queries = Trials.of(self.design.queries, labels, probed, self.val.mesh)
        counts = to_counts(count_cosine(self.val, queries, alpha, t, norm=norm))
        t, fitted_on = np.asarray(t), np.asarray(fitted_on)

        def numbers(place):
            s, trial, i = place
            return {
                "shots": shots[s],
                "trial": trial,
                "effective_shots": min(shots[s], int(support.counts[probed[i], trial])),
                "n_pos_train": int(fitted_on[*place, 0]),
                "n_neg_train": int(fitted_on[*place, 1]),
                "threshold": float(t[place]),
            }

        arrays = {"alpha": np.asarray(alpha), "t": t, "shift": np.asarray(norm.shift), "scale": np.asarray(norm.scale)}
        return _Fitted(arrays, numbers, counts)

    def _shots(self, rule: Rule) -> tuple[int | None, ...]:
        return (None,) if rule in HYPERPLANE_RULES else self.config.shots

    def _row(self, rule: Rule, k: int, evaluation: Evaluation | None = None) -> dict:
        """What stands in every row of a concept; by default of the evaluation of the task's own rows."""
        concept = self.design.labels.concepts[k]
        layer, token = self.cell
        return {
            "study": STUDY,
            "task": self.config.task,
            "dataset": self.dataset,
            "backbone": self.backbone.name,
            "family": self.backbone.family,
            "objective": self.backbone.objective,
            "layer": layer,
            "token": token,
            "rule": rule,
            "evaluation": evaluation or ("patch" if self.config.task == "segmentation" else "image"),
            "seed": self.config.seed,
            "shots": None,
            "trial": None,
            "effective_shots": None,
            "concept": concept.number,
            "name": concept.name,
            "category": concept.category,
            "skipped": None,
        }

    def _skipped_row(self, rule: Rule, k: int, shots: int | None, reason: str) -> dict:
        pool = self.design.pools[k]
        numbers = {
            "shots": shots,
            "n_pos_train": len(pool.positives),
            "n_neg_train": pool.num_negatives,
            "n_pos_test": int(self.design.n_pos_test[k]),
            "n_neg_test": int(self.design.n_neg_test[k]),
            "degenerate": False,
            "skipped": reason,
        }
        return self._row(rule, k) | numbers


def paper_notes(table: pa.Table) -> list[str]:
    """What a reader must know of hyperplanes that the paper's SGD fitted: a note for each backbone of a results table."""
    patches = pc.and_(pc.equal(table["rule"], RULE_OF_SOLVER["paper"]), pc.not_equal(table["evaluation"], "pixel"))
    fits = table.filter(pc.and_(patches, pc.is_valid(table["converged"])))
    counted = fits.group_by("backbone", use_threads=False).aggregate([("converged", "count"), ("converged", "sum")])
    return [
        f"{backbone}, --solver=paper: SGD stops before the minimum by design, and its scores depend on the scale of the "
        f"features: {count - converged} of {count} regressions did not converge"
        for backbone, count, converged in zip(*counted.to_pydict().values(), strict=True)
    ]


def _named(concepts: list[Concept]) -> str:
    """The first concepts by name, and how many more there are."""
    names = ", ".join(f"{concept.name} ({concept.category})" for concept in concepts[:NAMED])
    return names + (f" and {len(concepts) - NAMED} more, which the report lists" if len(concepts) > NAMED else "")


def _measured(metrics: BalancedMetrics, counts: Counts, place: tuple[int, ...], where: str) -> dict:
    """The columns of one evaluation; a template without positives or negatives is skipped, without threshold and metrics."""
    n_pos, n_neg = int(counts.n_pos[place]), int(counts.n_neg[place])
    columns = {
        "n_pos_test": n_pos,
        "n_neg_test": n_neg,
        "degenerate": bool(metrics.degenerate[place]),
        "skipped": undefined_reason(n_pos, n_neg, where),
    }
    if columns["skipped"]:
        return columns | dict.fromkeys(("threshold", *FIT))
    return columns | {metric: float(getattr(metrics, metric)[place]) for metric in METRICS}
