"""Hyperplane templates by the full mining protocol, against PyTorch and scikit-learn on the same pools.

The PyTorch rival is the same algorithm on the same buckets in batched matmuls; scikit-learn's SGDClassifier mines in a
loop over concepts; its LogisticRegression, which cannot mine, is fitted on all positives and the whole pool, with
balanced class weights. The two loops run on `--sample` concepts and are scaled.
"""

import jax
import numpy as np
from jaxtyping import Bool, Float

from experiments.benchmarks.comparison import Comparison
from experiments.benchmarks.config import BenchConfig
from experiments.benchmarks.planted import Planted, plant
from experiments.benchmarks.timing import Work, measure
from vitprobe_jax.probes.feature_norm import fit_feature_norm
from vitprobe_jax.probes.hyperplane import HyperplaneConfig, fit_hyperplanes, make_buckets
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
    train, pools, score = _problem(config)
    table = train.place()
    norm = fit_feature_norm(table, kind="none")
    key, identities = jax.random.key(config.seed), _identities(train)

    def run():
        return jax.block_until_ready(fit_hyperplanes(key, table.flat, pools, identities, norm=norm, config=PROTOCOL))

    return Work(run, score)


def prepare_torch(config: BenchConfig) -> Work:
    """The same buckets, mining and optimiser; one gradient step of all concepts of a bucket is two batched matmuls."""
    import torch

    train, pools, score = _problem(config)
    rows = torch.from_numpy(train.rows)
    identities = _identities(train)

    def run():
        torch.manual_seed(config.seed)
        with torch.inference_mode():
            buckets = make_buckets(pools, identities, PROTOCOL)
            fitted = [_fit_torch(torch, rows, bucket) for bucket in buckets]
        order = np.argsort(np.concatenate([bucket.concepts for bucket in buckets]))
        w, b = (torch.cat(parts).numpy()[order] for parts in zip(*fitted, strict=True))
        return w, b

    return Work(run, score)


def _fit_torch(torch, rows, bucket):
    c = PROTOCOL
    positives, pool, n_pos, n_pool = (
        torch.from_numpy(leaf).long() for leaf in (bucket.positives, bucket.pool, bucket.n_pos, bucket.n_pool)
    )
    (count, capacity), width = positives.shape, rows.shape[1]
    hard = min(c.negative_ratio * capacity, pool.shape[1])
    place = torch.arange(capacity + hard)
    is_pos = place < n_pos[:, None]
    valid = place < (n_pos + torch.minimum(c.negative_ratio * n_pos, n_pool))[:, None]
    in_pool = torch.arange(pool.shape[1]) < n_pool[:, None]
    params = torch.zeros(count, width + 1)  # w, then -b.
    first, second, steps = torch.zeros_like(params), torch.zeros_like(params), torch.zeros(count, 1)
    for round_number in range(c.rounds):
        scores = torch.rand(pool.shape) if round_number == 0 else (params[:, :-1] @ rows.T).gather(1, pool)
        hardest = scores.masked_fill_(~in_pool, -torch.inf).topk(hard).indices
        # Negatives follow right after each concept's own positives, as in the library.
        nth = (place - n_pos[:, None]).clamp(0, hard - 1)
        negatives = pool.gather(1, hardest).gather(1, nth)
        padded = torch.nn.functional.pad(positives, (0, hard))
        index = torch.where(is_pos, padded, negatives)
        for _ in range(c.epochs):
            order = torch.rand(index.shape).masked_fill_(~valid, torch.inf).argsort(1)
            for chosen in order.split(c.batch_size, dim=1):
                mask = valid.gather(1, chosen).float()
                target = is_pos.gather(1, chosen).float()
                z = rows.index_select(0, index.gather(1, chosen).flatten()).view(count, -1, width)
                logits = torch.baddbmm(params[:, None, -1:], z, params[:, :-1, None])[..., 0]
                error = (logits.sigmoid() - target) * mask / mask.sum(1, keepdim=True).clamp(min=1)
                gradient = torch.cat([torch.bmm(error[:, None], z)[:, 0], error.sum(1, keepdim=True)], 1)
                real = mask.any(1, keepdim=True).float()  # A batch of padding alone leaves no trace.
                steps += real
                first.lerp_(gradient, 0.1 * real)
                second.lerp_(gradient.square(), 0.001 * real)
                scale = (second / (1 - 0.999**steps)).sqrt_().add_(1e-8)
                params -= real * c.learning_rate * (first / (1 - 0.9**steps)) / scale
    return params[:, :-1], -params[:, -1]


def prepare_sgd(config: BenchConfig) -> Work:
    """The mining protocol around `partial_fit`, one concept after the other."""
    from sklearn.linear_model import SGDClassifier

    train, pools, score = _problem(config)

    def fit(pool: RowPool):
        rng = np.random.default_rng(config.seed)
        model = SGDClassifier(loss="log_loss", random_state=config.seed)
        negatives = train.rows[pool.negatives]
        count = min(PROTOCOL.negative_ratio * len(pool.positives), len(negatives))
        scores = rng.random(len(negatives))
        for _ in range(PROTOCOL.rounds):
            hardest = np.argpartition(-scores, count - 1)[:count]
            z = np.concatenate([train.rows[pool.positives], negatives[hardest]])
            for _ in range(PROTOCOL.epochs):
                order = rng.permutation(len(z))
                model.partial_fit(z[order], order < len(pool.positives), classes=[False, True])
            scores = model.decision_function(negatives)
        return model

    return _loop(fit, pools, score, config)


def prepare_logistic(config: BenchConfig) -> Work:
    """No mining: every concept on its positives and its whole pool."""
    from sklearn.linear_model import LogisticRegression

    train, pools, score = _problem(config)

    def fit(pool: RowPool):
        z = train.rows[np.concatenate([pool.positives, pool.negatives])]
        return LogisticRegression(class_weight="balanced").fit(z, np.arange(len(z)) < len(pool.positives))

    return _loop(fit, pools, score, config)


def _loop(fit, pools: list[RowPool], score, config: BenchConfig) -> Work:
    def run():
        models = [fit(pool) for pool in pools[: config.sample]]
        w = np.concatenate([model.coef_ for model in models]).astype(np.float32)
        return w, -np.concatenate([model.intercept_ for model in models]).astype(np.float32)

    return Work(run, score, scale=config.concepts / config.sample)


def _problem(config: BenchConfig):
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
