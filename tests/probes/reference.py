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
        shift: of the feature norm; for the solver `lbfgs`, the mean of the rows.
        scale: of the feature norm; for the solver `lbfgs`, their deviation.
        config: the protocol's numbers.
    """
    # (z, -1).(w, b) = w.z - b: the threshold is one more weight.
    z = np.column_stack([(rows.astype(np.float64) - shift) / scale, -np.ones(len(rows))])
    template = np.zeros(z.shape[1])
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
        if config.solver == "lbfgs":
            template = minimum(template, z[round_rows], target, config.penalty)
            continue
        for epoch in range(config.epochs):
            order = permutation(jax.random.fold_in(round_key, 1 + epoch), len(round_rows))
            for start in range(0, len(order), config.batch_size):
                batch = order[start : start + config.batch_size]
                gradient = logistic_gradient(template, z[round_rows[batch]], target[batch])
                template = template - config.learning_rate * gradient
    w = template[:-1] / scale
    return w, template[-1] + w @ shift, margin


def logistic_gradient(template, z, target):
    """Gradient of the mean of -y log p - (1 - y) log(1 - p), p = sigmoid(z.template)."""
    probability = 1 / (1 + np.exp(-z @ template))
    return (probability - target) @ z / len(z)


def minimum(template, z, target, penalty):
    """The template of the smallest mean cross-entropy plus penalty / 2 |w|^2, by Newton's method with halved steps.

    The last weight is the threshold, which is not penalised.
    """
    ridge = np.append(np.full(z.shape[1] - 1, penalty), 0.0)

    def objective(template):
        u = z @ template
        return np.mean(np.logaddexp(0, u) - target * u) + (ridge * template**2).sum() / 2

    while True:
        gradient = logistic_gradient(template, z, target) + ridge * template
        p = 1 / (1 + np.exp(-z @ template))
        step = np.linalg.solve((z * (p * (1 - p))[:, None]).T @ z / len(z) + np.diag(ridge), gradient)
        if gradient @ step < 1e-14:
            return template
        while objective(template - step) > objective(template) - 1e-4 * gradient @ step:
            step = step / 2
        template = template - step


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
