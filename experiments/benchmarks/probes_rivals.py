"""The rivals of `probes`: other solvers of a round's regressions inside the same mining protocol.

All but PyTorch's SGD minimise the library's objective on standardised rows, and fold the weights back to raw rows.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from experiments.benchmarks.config import BenchConfig
from experiments.benchmarks.problem import PROTOCOL, Fitted, Problem
from experiments.benchmarks.timing import Work
from vitprobe_jax.probes.hyperplane import MAX_STEPS, TOLERANCE
from vitprobe_jax.probes.sampling import RowPool
from vitprobe_jax.probes.standardize import fit_coordinates

TOGETHER = 50
"""Concepts of one batch of L-BFGS, whose rows are read twice an iteration; a batch goes on until its slowest concept is
done."""
PROBEKIT_TOGETHER = 50
"""Concepts of one call of probekit."""


@dataclasses.dataclass(frozen=True)
class Round:
    """The regressions of one round of concepts of like size, padded to the largest.

    Attributes:
        number: number of the round, from 0.
        index: rows, [C, n].
        positive: which of them are positives, [C, n].
        valid: which are not padding, [C, n].
    """

    number: int
    index: Any
    positive: Any
    valid: Any

    @property
    def last(self) -> bool:
        """Whether this round gives the templates."""
        return self.number == PROTOCOL.rounds - 1


def prepare_torch_lbfgs(config: BenchConfig, precondition: bool = False) -> Work:
    """Batched L-BFGS by hand (`torch_lbfgs`), each round from the minima of the one before.

    Args:
        config: the benchmark's.
        precondition: whether to take the library's preconditioner.
    """
    import torch

    from experiments.benchmarks.torch_lbfgs import Regressions, minimise

    problem = Problem.of(config)
    raw = torch.from_numpy(problem.train.rows)
    # Without preconditioning it only measures where to stop, so its time is not counted.
    basis = torch.from_numpy(_preconditioner(problem.train.rows))

    def run():
        shift, deviation, x = _standardize(torch, raw)

        def solve(round_, w, b):
            for part in _parts(len(w), TOGETHER):
                valid = round_.valid[part].float()
                share = valid / valid.sum(1, keepdim=True)
                rows, positive = _gather(x, round_.index[part]), round_.positive[part].float()
                w[part], b[part] = minimise(
                    Regressions(rows, positive, share, PROTOCOL.penalty),
                    w[part],
                    b[part],
                    basis,
                    precondition=precondition,
                    tolerance=TOLERANCE,
                    max_steps=MAX_STEPS,
                )
            return w, b

        groups = like_size(problem.pools)
        return _raw(mine(torch, x, problem.pools, groups, solve, config.seed), shift, deviation)

    return Work(run, problem.evidence)


def prepare_probekit(config: BenchConfig) -> Work:
    """Batched Newton of probekit. It takes no row weights, so that a call has concepts of one size; it starts from zero."""
    import torch
    from probekit.fitters.batch.logistic import fit_logistic_batch

    problem = Problem.of(config)
    raw = torch.from_numpy(problem.train.rows)
    sizes = np.array([(len(pool.positives), len(pool.negatives)) for pool in problem.pools])
    groups = [np.flatnonzero((sizes == size).all(1)) for size in np.unique(sizes, axis=0)]

    def run():
        shift, deviation, x = _standardize(torch, raw)

        def solve(round_, w, b):
            for part in _parts(len(w), PROBEKIT_TOGETHER):
                rows = _gather(x, round_.index[part])
                fitted = fit_logistic_batch(
                    rows,
                    round_.positive[part].float(),
                    c_param=1 / (PROTOCOL.penalty * rows.shape[1]),
                    normalize=False,
                    **PROBEKIT_OPTIONS,
                )
                weights, biases = fitted.to_tensor()
                w[part], b[part] = weights, -biases
            return w, b

        return _raw(mine(torch, x, problem.pools, groups, solve, config.seed), shift, deviation)

    return Work(run, problem.evidence)


PROBEKIT_OPTIONS = {"solver": "newton-cholesky", "tol": 1e-3, "max_iter": 30}
"""The fastest that was found at this quality: Newton steps are quadratic, so that one of 1e-3 is the last that matters."""


def prepare_torch_sgd(config: BenchConfig) -> Work:
    """The paper's SGD on raw rows, without autograd; a step of all concepts is two batched matmuls."""
    import torch

    problem = Problem.of(config)
    rows = torch.from_numpy(problem.train.rows)

    def solve(round_, w, b):
        for _ in range(PROTOCOL.epochs):
            order = torch.rand(round_.index.shape).masked_fill_(~round_.valid, torch.inf).argsort(1)
            for chosen in order.split(PROTOCOL.batch_size, dim=1):
                mask = round_.valid.gather(1, chosen).float()
                target = round_.positive.gather(1, chosen).float()
                z = _gather(rows, round_.index.gather(1, chosen))
                logits = torch.baddbmm(-b[:, None, None], z, w[..., None])[..., 0]
                error = (logits.sigmoid() - target) * mask / mask.sum(1, keepdim=True).clamp(min=1)
                w = w - PROTOCOL.learning_rate * torch.bmm(error[:, None], z)[:, 0]
                b = b + PROTOCOL.learning_rate * error.sum(1)
        return w, b

    def run():
        w, b, _ = mine(torch, rows, problem.pools, like_size(problem.pools), solve, config.seed)
        return Fitted(w, b, np.zeros(config.width, np.float32))

    return Work(run, problem.evidence)


def prepare_logistic(config: BenchConfig) -> Work:
    """scikit-learn's LogisticRegression, one concept after the other, each round from the minimum of the one before."""
    from sklearn.linear_model import LogisticRegression

    problem = Problem.of(config)
    rows = problem.train.rows

    def fit(x, pool: RowPool):
        rng = np.random.default_rng(config.seed)
        count = min(PROTOCOL.negative_ratio * len(pool.positives), len(pool.negatives))
        num_rows = len(pool.positives) + count
        target = np.arange(num_rows) < len(pool.positives)
        model = LogisticRegression(C=1 / (PROTOCOL.penalty * num_rows), max_iter=1000, warm_start=True)
        negatives = x[pool.negatives]
        for number in range(PROTOCOL.rounds):
            scores = model.decision_function(negatives) if number else rng.random(len(negatives))
            hardest = np.argpartition(-scores, count - 1)[:count]
            members = np.concatenate([pool.positives, pool.negatives[hardest]])
            model.fit(x[members], target)
        return model.coef_[0], -model.intercept_[0], members

    def run():
        fitted = [fit(standardized, pool) for pool in problem.pools[: config.sample]]
        w, b, members = zip(*fitted, strict=True)
        return _raw((np.stack(w), np.stack(b), list(members)), shift, deviation)

    # Once for all concepts, so not a part of the time that is scaled.
    shift, deviation = rows.mean(0), rows.std(0)
    standardized = (rows - shift) / deviation
    return Work(run, problem.evidence, scale=config.concepts / config.sample)


def mine(
    torch: Any,
    x: Any,
    pools: Sequence[RowPool],
    groups: Sequence[Int[np.ndarray, " k"]],
    solve: Callable[[Round, Any, Any], tuple[Any, Any]],
    seed: int,
) -> tuple[Float[np.ndarray, "K D"], Float[np.ndarray, " K"], list[Int[np.ndarray, " n"]]]:
    """The mining protocol around `solve(round, w, b) -> (w, b)`: weights, thresholds and the rows of the last round.

    Args:
        torch: the module, which only this benchmark needs.
        x: rows, [N, D].
        pools: all concepts.
        groups: concepts that are solved together, padded to the largest of them.
        solve: continues the regressions of a round.
        seed: random seed of the first round's negatives.
    """
    torch.manual_seed(seed)
    with torch.inference_mode():
        fitted = [_mine_group(torch, x, [pools[k] for k in group], solve) for group in groups]
    order = np.argsort(np.concatenate(groups))
    w, b = (torch.cat(parts).numpy()[order] for parts in list(zip(*fitted, strict=True))[:2])
    members = [rows for _, _, part in fitted for rows in part]
    return w, b, [members[i] for i in order]


def _mine_group(torch, x, pools: list[RowPool], solve):
    def padded(lists):
        matrix = np.zeros((len(lists), max(map(len, lists))), np.int64)
        for line, numbers in zip(matrix, lists, strict=True):
            line[: len(numbers)] = numbers
        return torch.from_numpy(matrix), torch.tensor([[len(numbers)] for numbers in lists])

    positives, n_pos = padded([pool.positives for pool in pools])
    pool, n_pool = padded([pool.negatives for pool in pools])
    count, capacity = positives.shape
    hard = min(PROTOCOL.negative_ratio * capacity, pool.shape[1])
    place = torch.arange(capacity + hard)
    positive = place < n_pos
    valid = place < n_pos + torch.minimum(PROTOCOL.negative_ratio * n_pos, n_pool)
    # Columns beyond the largest concept would be padding for all.
    used = int(valid.sum(1).max())
    in_pool = torch.arange(pool.shape[1]) < n_pool
    w, b = torch.zeros(count, x.shape[1]), torch.zeros(count)
    for number in range(PROTOCOL.rounds):
        scores = torch.rand(pool.shape) if number == 0 else (w @ x.T).gather(1, pool)
        hardest = scores.masked_fill_(~in_pool, -torch.inf).topk(hard).indices
        # Negatives follow right after each concept's own positives.
        nth = (place - n_pos).clamp(0, hard - 1)
        negatives = pool.gather(1, hardest).gather(1, nth)
        index = torch.where(positive, torch.nn.functional.pad(positives, (0, hard)), negatives)
        w, b = solve(Round(number, *(leaf[:, :used] for leaf in (index, positive, valid))), w, b)
    return w, b, [rows[real].numpy() for rows, real in zip(index, valid, strict=True)]


def like_size(pools: Sequence[RowPool]) -> list[Int[np.ndarray, " k"]]:
    """Concepts by the octave of their positives: padding is at most a factor of two."""
    octave = np.log2([len(pool.positives) for pool in pools]).astype(int)
    return [np.flatnonzero(octave == o) for o in np.unique(octave)]


def _parts(count: int, together: int) -> list[slice]:
    return [slice(start, start + together) for start in range(0, count, together)]


def _gather(x, index):
    return x.index_select(0, index.flatten()).view(*index.shape, x.shape[1])


def _standardize(torch, raw):
    deviation, shift = torch.std_mean(raw, dim=0, correction=0)
    return shift.numpy(), deviation.numpy(), (raw - shift).div_(deviation)


def _preconditioner(rows: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "D D"]:
    """The library's, by which it measures gradients."""
    table, width = jnp.asarray(rows)[:, None], rows.shape[1]
    real, keep = jnp.ones(len(rows), bool), jnp.ones(width, bool)
    return np.array(
        jax.jit(fit_coordinates, static_argnames="penalty")(table, real, keep, penalty=PROTOCOL.penalty).basis
    )


def _raw(fitted, shift, deviation) -> Fitted:
    w, b, members = fitted
    return Fitted((w / deviation).astype(np.float32), b, shift, deviation, members)
