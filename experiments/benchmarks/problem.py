"""The problem of `probes` and the quality of its solutions."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from experiments.benchmarks.config import BenchConfig
from experiments.benchmarks.planted import Planted, plant
from vitprobe_jax.probes.hyperplane import HyperplaneConfig
from vitprobe_jax.probes.sampling import RowPool, draw_pools

PROTOCOL = HyperplaneConfig()
HELD_OUT_SHARE = 5
"""Training rows for each held-out row."""
NEWTON_STEPS = 20


@dataclasses.dataclass(frozen=True)
class Fitted:
    """Templates of the first k concepts: row z is positive where `w @ (z - shift) - b >= 0`.

    Attributes:
        w: weights for raw rows.
        b: thresholds.
        shift: subtracted from raw rows.
        deviation: by which the solver divided features; None where it solved another objective than `PROTOCOL`'s.
        members: rows of every concept's last round, the positives first; None where they are not known.
    """

    w: Shaped[np.ndarray, "k D"]
    b: Shaped[np.ndarray, " k"]
    shift: Float[np.ndarray, " D"]
    deviation: Float[np.ndarray, " D"] | None = None
    members: list[Int[np.ndarray, " n"]] | None = None


@dataclasses.dataclass(frozen=True)
class Evidence:
    """The quality of a contender.

    Attributes:
        accuracy: balanced accuracy of each concept on held-out rows.
        excess: how far the objective of the last round is above its minimum, as a share of it, at worst.
    """

    accuracy: Float[np.ndarray, " k"]
    excess: float | None


@dataclasses.dataclass(frozen=True)
class Problem:
    """Training rows and pools."""

    config: BenchConfig
    train: Planted
    pools: list[RowPool]

    @classmethod
    def of(cls, config: BenchConfig) -> "Problem":
        """Derived from the config's seed."""
        train = plant(config, "train")
        return cls(config, train, draw_pools(train.labels, ratio=PROTOCOL.pool_ratio, seed=config.seed))

    def evidence(self, fitted: Fitted) -> Evidence:
        """Accuracy of all templates, and the excess of the first `config.sample`, against Newton's method in float64."""
        if fitted.members is None or fitted.deviation is None:
            return Evidence(self.accuracy(fitted), None)
        excess = []
        for k in range(self.config.sample):
            x = (self.train.rows[fitted.members[k]].astype(float) - fitted.shift) / fitted.deviation
            positive = self.train.concept[fitted.members[k]] == k
            excess.append(excess_loss(x, positive, fitted.w[k] * fitted.deviation.astype(float), float(fitted.b[k])))
        return Evidence(self.accuracy(fitted), max(excess))

    def accuracy(self, fitted: Fitted) -> Float[np.ndarray, " k"]:
        """The balanced accuracy of each concept on held-out rows."""
        config = self.config
        val = plant(config, "val", num_rows=max(4 * config.concepts, config.rows // HELD_OUT_SHARE))
        found: Bool[np.ndarray, "k N"] = fitted.w @ (val.rows - fitted.shift).T >= fitted.b[:, None]
        pos = val.concept == np.arange(len(fitted.w))[:, None]
        return ((found & pos).sum(1) / pos.sum(1) + (~found & ~pos).sum(1) / (~pos).sum(1)) / 2


def excess_loss(
    x: Float[np.ndarray, "n D"], positive: Bool[np.ndarray, " n"], w: Float[np.ndarray, " D"], b: float
) -> float:
    """How far the objective at (w, b) is above its minimum, as a share of it."""
    x = np.concatenate([x, -np.ones((len(x), 1))], axis=1)
    ridge = np.append(np.full(len(w), PROTOCOL.penalty), 0.0)

    def objective(v):
        u = x @ v
        return np.mean(np.logaddexp(0, u) - positive * u) + ridge @ v**2 / 2

    v = start = np.append(w, b)
    for _ in range(NEWTON_STEPS):
        p = 1 / (1 + np.exp(-(x @ v)))
        gradient = x.T @ (p - positive) / len(x) + ridge * v
        step = np.linalg.solve((x.T * (p * (1 - p))) @ x / len(x) + np.diag(ridge + 1e-12), gradient)
        length = 1.0
        while length > 1e-6 and objective(v - length * step) > objective(v):
            length /= 2
        if gradient @ step < 1e-12 or length <= 1e-6:
            break
        v = v - length * step
    return float(objective(start) / objective(v) - 1)
