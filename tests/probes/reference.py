"""Both template protocols (paper section 3.5) in plain NumPy: float64, one concept at a time, no padding.

Written to be read beside the paper. Only random numbers come from jax.random, from the same keys as in the engine.
"""

import jax
import jax.numpy as jnp
import numpy as np

from vitprobe_jax.probes.hyperplane import HyperplaneConfig
from vitprobe_jax.probes.permutation import permutation_words, permute
from vitprobe_jax.probes.sampling import RowPool


def feature_norm(rows, kind):
    """Shift and scale of `none` or `standardize`, per feature, from training rows [N, D]."""
    if kind == "none":
        return np.zeros(rows.shape[1]), np.ones(rows.shape[1])
    return rows.mean(axis=0, dtype=np.float64), rows.std(axis=0, dtype=np.float64)


def hyperplane_template(
    key, rows, pool: RowPool, identity: int, *, shift, scale, config: HyperplaneConfig
) -> tuple[np.ndarray, float, float]:
    """w and b of one concept, for raw rows: positive where w.z - b >= 0; and the margin of mining.

    The margin is the smallest difference between the scores of the last negative taken and the first left out, over all
    mined rounds. An engine whose scores are off by as much may rightly end elsewhere.

    Args:
        key: of the run.
        rows: training rows [N, D], raw.
        pool: positives and pool of negatives of the concept.
        identity: of the concept.
        shift: of the feature norm.
        scale: of the feature norm.
        config: the protocol's numbers.
    """
    # (z, -1).(w, b) = w.z - b: the threshold is one more weight.
    z = np.column_stack([(rows.astype(np.float64) - shift) / scale, -np.ones(len(rows))])
    template = np.zeros(z.shape[1])
    # Template and moments live through all rounds.
    optimizer = {"sgd": Sgd, "adam": Adam}[config.optimizer](config.learning_rate)
    concept_key = jax.random.fold_in(key, np.uint32(identity))
    num_negatives = min(config.negative_ratio * len(pool.positives), len(pool.negatives))
    margin = np.inf
    for round_number in range(config.rounds):
        round_key = jax.random.fold_in(concept_key, round_number)
        if round_number == 0:
            chosen = permutation(jax.random.fold_in(round_key, 0), len(pool.negatives))[:num_negatives]
        else:
            scores = z[pool.negatives] @ template
            ranking = np.argsort(-scores, kind="stable")
            chosen = np.sort(ranking[:num_negatives])
            if num_negatives < len(scores):
                margin = min(margin, scores[ranking[num_negatives - 1]] - scores[ranking[num_negatives]])
        round_rows = np.concatenate([pool.positives, pool.negatives[chosen]])
        target = np.arange(len(round_rows)) < len(pool.positives)
        for epoch in range(config.epochs):
            order = permutation(jax.random.fold_in(round_key, 1 + epoch), len(round_rows))
            for start in range(0, len(order), config.batch_size):
                batch = order[start : start + config.batch_size]
                template = template + optimizer.step(logistic_gradient(template, z[round_rows[batch]], target[batch]))
    w = template[:-1] / scale
    return w, template[-1] + w @ shift, margin


def logistic_gradient(template, z, target):
    """Gradient of the mean of -y log p - (1 - y) log(1 - p), p = sigmoid(z.template)."""
    probability = 1 / (1 + np.exp(-z @ template))
    return (probability - target) @ z / len(z)


class Sgd:
    def __init__(self, learning_rate: float):
        self.learning_rate = learning_rate

    def step(self, gradient):
        return -self.learning_rate * gradient


class Adam:
    """Kingma and Ba (2015), algorithm 1."""

    def __init__(self, learning_rate: float, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8):
        self.learning_rate, self.b1, self.b2, self.eps = learning_rate, b1, b2, eps
        self.count, self.mean, self.square = 0, 0.0, 0.0

    def step(self, gradient):
        self.count += 1
        self.mean = self.b1 * self.mean + (1 - self.b1) * gradient
        self.square = self.b2 * self.square + (1 - self.b2) * gradient**2
        mean = self.mean / (1 - self.b1**self.count)
        square = self.square / (1 - self.b2**self.count)
        return -self.learning_rate * mean / (np.sqrt(square) + self.eps)


MOST = 1 << 13
"""Rows that a permutation can have here: one program for all."""
_permute = jax.jit(permute)


def permutation(key, n: int):
    """The library's random permutation of 0..n-1, which has tests of its own."""
    return np.asarray(_permute(permutation_words(key), jnp.arange(MOST), jnp.int32(n)))[:n]


def cosine_template(z, pos, neg) -> tuple[np.ndarray, float]:
    """alpha and t of one concept from the normalised rows [n, D] of its support images."""
    z = z.astype(np.float64)
    alpha = z[pos].mean(axis=0)
    scores = np.array([(row * alpha).sum() / np.linalg.norm(row) / np.linalg.norm(alpha) for row in z])
    return alpha, best_threshold(scores, pos, neg)


def best_threshold(scores, pos, neg):
    """The threshold with the highest F1: every score is tried, fractions are exact, the largest of equals wins."""
    best, best_t = (-1, 1), None
    for t in np.unique(scores[pos | neg])[::-1]:
        tp, fp = int((scores[pos] >= t).sum()), int((scores[neg] >= t).sum())
        f1 = (2 * tp, int(pos.sum()) + tp + fp)
        if f1[0] * best[1] > best[0] * f1[1]:
            best, best_t = f1, t
    return best_t
