"""Trained heads on held-out images: how well each does, which rate is the best, and what it weights."""

import dataclasses
import functools

import numpy as np
from jaxtyping import Array, Float

from experiments.aggregate.stream import fetched
from experiments.aggregate.training import TrainedHeads, train_heads
from experiments.aggregate.workbench import NO_IMAGE, Workbench
from vitprobe_jax.features.frozen import ImageTokens
from vitprobe_jax.features.store import Cell
from vitprobe_jax.metrics.classification import is_found, mean_average_precision
from vitprobe_jax.probes.heads import scores, weights_of


@dataclasses.dataclass(frozen=True, eq=False)
class Heads:
    """The heads of one backbone and cell.

    Attributes:
        bench: of the run.
        cell: block and token.
        trained: the heads.
    """

    bench: Workbench
    cell: Cell
    trained: TrainedHeads

    @classmethod
    def of(cls, bench: Workbench, cell: Cell) -> "Heads":
        """Trained now, or before; the same for all parts."""
        if cell not in bench.trained:
            bench.trained[cell] = cls(bench, cell, train_heads(bench, cell))
        return bench.trained[cell]

    @property
    def measure(self) -> str:
        """What tells how well a head does: `top1`, or `map` where images carry several labels."""
        return "map" if self.bench.dataset.multilabel else "top1"

    @functools.cached_property
    def evaluated(self) -> tuple[dict[str, Float[np.ndarray, "R S"]], int]:
        """Of each representation, that measure (0 to 1) by rate and seed, and the number of held-out images.

        The measure is NaN where there is nothing to measure it on.
        """
        bench, found, present = self.bench, {}, []
        given = [pooling.weights for pooling in self.trained.config.poolings if pooling.kind == "given"]
        targets, multilabel = bench.drawn.targets("val"), bench.dataset.multilabel
        for placed in bench.held_out("heads", order=bench.drawn.labelled("val")):
            tokens = bench.tokens(placed.images, self.cell, given)
            of_images = targets[placed.indices[placed.valid]]
            present.append(of_images)
            told = scores(self.trained.config, bench.mesh, self.trained.state, tokens)
            for name, of_members in told.items():
                of_valid = fetched(of_members)[:, placed.valid]
                # Of classes only what is needed is kept: all scores of ImageNet would fill the memory.
                kept = of_valid if multilabel else is_found(of_valid, of_images)
                found.setdefault(name, []).append(kept)
        shape = len(self.trained.config.rates), len(self.trained.config.seeds)
        if not sum(map(len, present)):
            return {pooling.name: np.full(shape, np.nan) for pooling in self.trained.config.poolings}, 0
        truth = np.concatenate(present)
        values = {}
        for name, parts in found.items():
            kept = np.concatenate(parts, axis=1)
            if multilabel:
                of_members = [mean_average_precision(member, truth > 0)[0] for member in kept]
            else:
                of_members = kept.mean(axis=1)
            values[name] = np.reshape(np.asarray(of_members, np.float64), shape)
        return values, len(truth)

    def best(self, name: str) -> int | None:
        """The place of the rate whose mean over seeds is highest, of equal ones the lowest; None if all diverged."""
        values, _ = self.evaluated
        sound = [rate for rate in range(len(values[name])) if self.trained.diverged(name, rate) is None]
        return max(sound, key=lambda rate: values[name][rate].mean(), default=None)

    def weights(self, name: str, tokens: ImageTokens) -> Float[Array, "B P"]:
        """How a representation weights patches: at its best rate, with the first seed."""
        config = self.trained.config
        member = (self.best(name) or 0) * len(config.seeds)
        return weights_of(config, self.bench.mesh, self.trained.state, tokens, name)[member]

    def rows(self, part: str, names: list[str]) -> list[dict]:
        """How well the heads of some representations do: by rate, and at the best one; reasons for what there is not."""
        values, count = self.evaluated
        rates = self.bench.config.rates
        reasons = {pooling.name: self.bench.unfit(pooling) for pooling in self.bench.config.poolings}
        rows = []
        for name in names:
            row = functools.partial(self.bench.row, part, self.cell, method=name)
            if reasons[name]:
                rows.append(row(measure=self.measure, count=0, skipped=reasons[name]))
                continue
            if np.isnan(values[name]).all():
                reason = "no label is on some held-out images and missing on others" if count else NO_IMAGE
                rows.append(row(measure=self.measure, count=count, skipped=reason))
                continue
            for place, rate in enumerate(rates):
                epoch = self.trained.diverged(name, place)
                said = {"measure": self.measure, "setting": "rate", "level": rate}
                if epoch:
                    rows.append(row(**said, count=0, skipped=f"its loss was no number in epoch {epoch}"))
                    continue
                rows.append(row(**said, **_mean(values[name][place]), count=count))
            best = self.best(name)
            if best is not None:
                of_best = _mean(values[name][best])
                said = {"measure": f"{self.measure}_best", "setting": "best rate", "level": rates[best]}
                rows.append(row(**said, **of_best, count=count))
        return rows

    def data_row(self, part: str) -> dict:
        """A row with the number of classes as `value` and the number of training images as `count`."""
        bench = self.bench
        count = len(bench.drawn.labelled("train"))
        return bench.row(part, self.cell, measure="classes", value=float(len(bench.dataset.concepts)), count=count)

    def loss_rows(self, part: str, names: list[str]) -> list[dict]:
        """Mean training loss by epoch, of every rate that did not diverge."""
        seeds, count = len(self.trained.config.seeds), len(self.bench.drawn.labelled("train"))
        return [
            self.bench.row(
                part,
                self.cell,
                method=name,
                measure="loss",
                setting="epoch",
                level=float(epoch),
                name=f"{rate:g}",
                count=count,
                **_mean(losses[place * seeds : (place + 1) * seeds]),
            )
            for name in names
            if name in self.trained.losses
            for place, rate in enumerate(self.bench.config.rates)
            if self.trained.diverged(name, place) is None
            for epoch, losses in enumerate(self.trained.losses[name], 1)
        ]


def _mean(of_seeds: Float[np.ndarray, " S"]) -> dict[str, float]:
    """Mean over seeds, with its deviation where there are several."""
    found = {"value": float(of_seeds.mean())}
    return found | ({"deviation": float(of_seeds.std(ddof=1))} if len(of_seeds) > 1 else {})
