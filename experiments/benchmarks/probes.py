"""Hyperplane templates by the full mining protocol, against PyTorch and scikit-learn on the same pools.

All follow the same protocol: rounds of mining, and in each the same number of positives and negatives. PyTorch
takes the paper's steps of SGD in batched matmuls; scikit-learn's SGDClassifier and LogisticRegression are fitted in loops
over concepts, on `--sample` of them, and their times are scaled.
"""

import jax
import numpy as np
from jaxtyping import Bool, Float

from experiments.benchmarks.comparison import Comparison
from experiments.benchmarks.config import BenchConfig
from experiments.benchmarks.planted import Planted, plant
from experiments.benchmarks.timing import Work, measure
from vitprobe_jax.probes.feature_norm import fit_feature_norm
from vitprobe_jax.probes.hyperplane import HyperplaneConfig, fit_hyperplanes
from vitprobe_jax.probes.sampling import RowPool, concept_identity, draw_pools

NEEDS = ("torch", "sklearn")
DEFAULTS = {"rows": 100_000, "concepts": 200}
PROTOCOL = HyperplaneConfig()
HELD_OUT_SHARE = 5
"""One held-out row for so many training rows."""


def compare(config: BenchConfig) -> list[Comparison]:
    """Measures the four contenders; their quality is the mean balanced accuracy on held-out rows."""
    contenders = {
        "vitprobe_jax": (prepare_library,),
        "PyTorch, batched": (prepare_torch,),
        "SGDClassifier loop": (prepare_sgd,),
        "LogisticRegression loop": (prepare_logistic,),
    }
    measured = measure(contenders, config)
    accuracies = [measurement.evidence for measurement in measured]
    quality = {
        "accuracy": [float(a.mean()) if len(a) == config.concepts else None for a in accuracies],
        f"accuracy, first {config.sample}": [float(a[: config.sample].mean()) for a in accuracies],
    }
    title = f"hyperplanes: {config.rows} rows x {config.width}, {config.concepts} concepts"
    return [Comparison(title, measured, quality)]


def prepare_library(config: BenchConfig) -> Work:
    """All concepts in one call."""
    train, pools, score = draw_problem(config)
    table = train.place()
    norm = fit_feature_norm(table, kind="none")
    key, identities = jax.random.key(config.seed), _identities(train)

    def run():
        fitted = fit_hyperplanes(
            key, table, pools, identities, norm=norm, config=PROTOCOL, memory_mb=config.probe_memory
        )
        return np.asarray(fitted.w), fitted.threshold()

    return Work(run, score)


def prepare_torch(config: BenchConfig) -> Work:
    """The same pools and mining, and the paper's SGD, without autograd; a step of all concepts is two batched matmuls."""
    import torch

    train, pools, score = draw_problem(config)
    rows = torch.from_numpy(train.rows)

    def run():
        torch.manual_seed(config.seed)
        # Concepts of like size are padded to the largest of them: at most a factor of two, as torch has no ragged matmul.
        size = np.array([len(pool.positives) for pool in pools])
        octave = np.log2(size).astype(int)
        groups = [np.flatnonzero(octave == o) for o in np.unique(octave)]
        with torch.inference_mode():
            fitted = [_fit_torch(torch, rows, [pools[k] for k in group]) for group in groups]
        order = np.argsort(np.concatenate(groups))
        w, b = (torch.cat(parts).numpy()[order] for parts in zip(*fitted, strict=True))
        return w, b

    return Work(run, score)


def _fit_torch(torch, rows, pools: list[RowPool]):
    c = PROTOCOL

    def padded(lists):
        matrix = np.zeros((len(lists), max(map(len, lists))), np.int64)
        for line, numbers in zip(matrix, lists, strict=True):
            line[: len(numbers)] = numbers
        return torch.from_numpy(matrix), torch.tensor([[len(numbers)] for numbers in lists])

    positives, n_pos = padded([pool.positives for pool in pools])
    pool, n_pool = padded([pool.negatives for pool in pools])
    (count, capacity), width = positives.shape, rows.shape[1]
    hard = min(c.negative_ratio * capacity, pool.shape[1])
    place = torch.arange(capacity + hard)
    is_pos = place < n_pos
    valid = place < n_pos + torch.minimum(c.negative_ratio * n_pos, n_pool)
    in_pool = torch.arange(pool.shape[1]) < n_pool
    params = torch.zeros(count, width + 1)  # w, then -b.
    for round_number in range(c.rounds):
        scores = torch.rand(pool.shape) if round_number == 0 else (params[:, :-1] @ rows.T).gather(1, pool)
        hardest = scores.masked_fill_(~in_pool, -torch.inf).topk(hard).indices
        # Negatives follow right after each concept's own positives.
        nth = (place - n_pos).clamp(0, hard - 1)
        negatives = pool.gather(1, hardest).gather(1, nth)
        index = torch.where(is_pos, torch.nn.functional.pad(positives, (0, hard)), negatives)
        for _ in range(c.epochs):
            order = torch.rand(index.shape).masked_fill_(~valid, torch.inf).argsort(1)
            for chosen in order.split(c.batch_size, dim=1):
                mask = valid.gather(1, chosen).float()
                target = is_pos.gather(1, chosen).float()
                z = rows.index_select(0, index.gather(1, chosen).flatten()).view(count, -1, width)
                logits = torch.baddbmm(params[:, None, -1:], z, params[:, :-1, None])[..., 0]
                error = (logits.sigmoid() - target) * mask / mask.sum(1, keepdim=True).clamp(min=1)
                gradient = torch.cat([torch.bmm(error[:, None], z)[:, 0], error.sum(1, keepdim=True)], 1)
                params -= c.learning_rate * gradient
    return params[:, :-1], -params[:, -1]


def prepare_sgd(config: BenchConfig) -> Work:
    """The protocol around `partial_fit`, one concept after the other."""
    from sklearn.linear_model import SGDClassifier

    def fit_round(model, z, target, rng):
        model = model or SGDClassifier(loss="log_loss", random_state=config.seed)
        for _ in range(PROTOCOL.epochs):
            order = rng.permutation(len(z))
            model.partial_fit(z[order], target[order], classes=[False, True])
        return model

    return _loop(fit_round, config)


def prepare_logistic(config: BenchConfig) -> Work:
    """The protocol with a regression solved to the end in every round, one concept after the other."""
    from sklearn.linear_model import LogisticRegression

    return _loop(lambda model, z, target, rng: LogisticRegression().fit(z, target), config)


def _loop(fit_round, config: BenchConfig) -> Work:
    """The mining protocol around `fit_round(model so far, rows, targets, rng) -> model`, concept after concept."""
    train, pools, score = draw_problem(config)

    def fit(pool: RowPool):
        rng = np.random.default_rng(config.seed)
        model, negatives = None, train.rows[pool.negatives]
        count = min(PROTOCOL.negative_ratio * len(pool.positives), len(negatives))
        target = np.arange(len(pool.positives) + count) < len(pool.positives)
        for _ in range(PROTOCOL.rounds):
            scores = model.decision_function(negatives) if model else rng.random(len(negatives))
            hardest = np.argpartition(-scores, count - 1)[:count]
            model = fit_round(model, np.concatenate([train.rows[pool.positives], negatives[hardest]]), target, rng)
        return model

    def run():
        models = [fit(pool) for pool in pools[: config.sample]]
        w = np.concatenate([model.coef_ for model in models]).astype(np.float32)
        return w, -np.concatenate([model.intercept_ for model in models]).astype(np.float32)

    return Work(run, score, scale=config.concepts / config.sample)


def draw_problem(config: BenchConfig):
    """The training split, the pools, and the score of (w, b): the balanced accuracy of each concept on held-out rows."""
    train = plant(config, "train")
    pools = draw_pools(train.labels, ratio=PROTOCOL.pool_ratio, seed=config.seed)

    def score(fitted) -> Float[np.ndarray, " k"]:
        w, b = map(np.asarray, fitted)
        val = plant(config, "val", num_rows=max(4 * config.concepts, config.rows // HELD_OUT_SHARE))
        found: Bool[np.ndarray, "k N"] = w @ val.rows.T >= b[:, None]
        pos = val.concept == np.arange(len(w))[:, None]
        return ((found & pos).sum(1) / pos.sum(1) + (~found & ~pos).sum(1) / (~pos).sum(1)) / 2

    return train, pools, score


def _identities(train: Planted) -> list[int]:
    return [concept_identity(concept) for concept in train.labels.concepts]
