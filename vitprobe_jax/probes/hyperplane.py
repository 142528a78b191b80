"""Hyperplane templates: binary logistic regressions with hard-negative mining, all concepts in one jit call.

The protocol is section 3.5 of the paper (after Interpretable Basis Decomposition, ECCV 2018): five rounds, each of three
epochs over all positives and twice as many negatives; the first round's are random from the concept's pool, later ones
are the highest-scoring of the pool under the current template.

Concepts differ in size by orders of magnitude. They stand in flat arrays (`layout`), take their gradient steps in groups
of like size, and every group makes as many steps as its largest concept needs: one program serves all sizes.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from vitprobe_jax.errors import InputError
from vitprobe_jax.probes.feature_norm import Affine
from vitprobe_jax.probes.layout import Layout, Wave, plan_waves
from vitprobe_jax.probes.mining import drawn, hardest, local_places, pool_scores
from vitprobe_jax.probes.permutation import permutation_words, permute
from vitprobe_jax.probes.sampling import RowPool

GROUP_SIZE = {"cpu": 16}
"""Concepts that take their gradient steps together, by platform. On a CPU the rows of a step (16 x 128 x 384 features are
3 MB) stay in cache; an accelerator wants more work a step."""
DEFAULT_GROUP_SIZE = 64
DENSE_SHARE = {"cpu": 1 / 20}
"""Share of all rows from which on a pool is scored by a product with all rows instead of fetching its own, by platform. On
the CPU of docs/performance.md both take the same time at 1 / 23."""
DEFAULT_DENSE_SHARE = 1 / 100
DEFAULT_MEMORY_MB = 2048
BYTES_PER_SLOT = 24
"""What a place of a pool or of a batch takes: row number, score, counts and target of its move."""

OVERSHOT_LOSS = 2 * math.log(2)
"""A regression whose last epoch ends above this has overshot: its steps are too long for the scale of the rows. An empty
template has ln 2. Against the hardest negatives a sound one may end somewhat above that, not at its double."""

Optimizer = Literal["sgd", "adam", "lbfgs"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class HyperplaneConfig:
    """The protocol's numbers; the defaults are the paper's where it gives them.

    Attributes:
        rounds: of mining; the first trains on random negatives.
        epochs: passes over the round's rows.
        pool_ratio: size of the negative pool, in positives.
        negative_ratio: negatives of a round, in positives.
        batch_size: rows a gradient step.
        optimizer: optax optimiser. `adam` and `sgd` step from batch to batch. `lbfgs` takes one step an epoch, by the
            loss of all rows of the round, and begins anew in every round, whose rows are others.
        learning_rate: of the optimiser, on rows as the feature norm leaves them; `lbfgs` searches its own along each
            direction, and does not use it.
        l2: weight of |w|^2 / 2 in the loss, w in the same coordinates.

    Raises:
        InputError: a number out of its range; names the flag of the sweep.
    """

    rounds: int = 5
    epochs: int = 3
    pool_ratio: int = 20
    negative_ratio: int = 2
    batch_size: int = 128
    optimizer: Optimizer = "sgd"
    learning_rate: float = 1e-1
    l2: float = 0.0

    def __post_init__(self):
        counts = {"rounds": self.rounds, "epochs": self.epochs, "pool_ratio": self.pool_ratio}
        counts |= {"negative_ratio": self.negative_ratio, "probe_batch": self.batch_size}
        for flag, value in counts.items():
            if value < 1:
                raise InputError(f"--{flag}: {value} is less than 1")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise InputError(f"--learning_rate: {self.learning_rate} is not a positive number")
        if not (math.isfinite(self.l2) and self.l2 >= 0):
            raise InputError(f"--l2: {self.l2} is not 0 or a positive number")


class Hyperplanes(NamedTuple):
    """Fitted regressions; row z is positive where `w @ z - b >= 0`.

    Attributes:
        w: direction of every concept, for raw rows, float32.
        b: its threshold.
        loss: mean cross-entropy (nats a row, without the l2 term) over the last epoch, as the steps went; see
            `OVERSHOT_LOSS`.
    """

    w: Float[Array, "K D"]
    b: Float[Array, " K"]
    loss: Float[Array, " K"]


def fit_hyperplanes(
    key: Key[Array, ""],
    rows: Float[Array, "N D"],
    pools: Sequence[RowPool],
    identities: Sequence[int],
    *,
    norm: Affine,
    config: HyperplaneConfig,
    memory_mb: int = DEFAULT_MEMORY_MB,
) -> Hyperplanes:
    """Fits one hyperplane a concept.

    Args:
        key: randomness of all concepts; each folds in its own identity, so it never depends on the others.
        rows: the table's training rows, raw, any float dtype.
        pools: the rows of every concept, which may be none; each has a positive and a negative at least.
        identities: 32-bit number of every concept, unique and stable.
        norm: feature norm in whose coordinates the regression is done; the result is folded back to raw rows.
        config: the protocol's numbers.
        memory_mb: bound on what fitting adds to memory beside the table, 2^20 bytes each: the scores of some concepts
            over all rows, and the row numbers of pools and batches. Less memory means more products of fewer concepts
            and, where even the row numbers do not fit, several waves of concepts. It is exceeded only where a single
            concept needs more.

    Returns:
        Hyperplanes in the order of `pools`. One that diverged is not finite, or its loss is high: the caller checks.
    """
    if not pools:
        return Hyperplanes(jnp.zeros((0, rows.shape[1])), jnp.zeros(0), jnp.zeros(0))
    waves, score_together = plan(pools, identities, len(rows), config=config, memory_mb=memory_mb)
    fitted = []
    for concepts, layout in waves:
        wave = _fit_wave(key, rows, layout, norm, config=config, score_together=score_together)
        # The next wave's rows must not come into memory beside this one's.
        wave = jax.block_until_ready(wave) if len(waves) > 1 else wave
        fitted.append([leaf[: len(concepts)] for leaf in wave])
    order = np.argsort(np.concatenate([wave.concepts for wave in waves]))
    return Hyperplanes(*(jnp.concatenate(leaves)[order] for leaves in zip(*fitted, strict=True)))


def plan(
    pools: Sequence[RowPool], identities: Sequence[int], num_rows: int, *, config: HyperplaneConfig, memory_mb: int
) -> tuple[list[Wave], int]:
    """The waves of concepts that fit the bound, and how many concepts are scored by one product."""
    group_size = GROUP_SIZE.get(jax.default_backend(), DEFAULT_GROUP_SIZE)
    half = memory_mb << 19
    waves = plan_waves(
        pools,
        identities,
        negative_ratio=config.negative_ratio,
        batch_size=config.batch_size,
        group_size=group_size,
        max_slots=half // BYTES_PER_SLOT,
        dense_from=dense_from(num_rows),
    )
    num_concepts = len(waves[0].layout.n_pos)
    fitting = max(1, min(half // (4 * num_rows), max(int(wave.layout.num_dense) for wave in waves)))
    return waves, max(c for c in range(1, fitting + 1) if num_concepts % c == 0)


def dense_from(num_rows: int) -> int:
    """The smallest pool that is scored densely."""
    return math.ceil(num_rows * DENSE_SHARE.get(jax.default_backend(), DEFAULT_DENSE_SHARE))


@functools.partial(jax.jit, static_argnames=("config", "score_together"))
def _fit_wave(key, rows, layout: Layout, norm: Affine, *, config: HyperplaneConfig, score_together: int) -> Hyperplanes:
    num_groups = len(layout.group_steps)
    num_concepts, width = len(layout.n_pos), rows.shape[1]
    layout = jax.tree.map(jnp.asarray, layout)
    keys = jax.vmap(lambda identity: jax.random.fold_in(key, identity))(layout.identity)
    optimizer = make_optimizer(config)
    params = (jnp.zeros((num_concepts, width)), jnp.zeros(num_concepts))
    grouped = lambda leaf: leaf.reshape(num_groups, -1, *leaf.shape[1:])  # noqa: E731
    flat = lambda leaf: leaf.reshape(num_concepts, *leaf.shape[2:])  # noqa: E731
    n, first_batch = grouped(layout.n_pos + layout.n_neg), grouped(layout.first_batch)

    def words(round_number, purpose):
        """Of a permutation for every concept; purpose 0 draws negatives, 1 and up are the epochs."""
        folded = jax.vmap(lambda k: jax.random.fold_in(jax.random.fold_in(k, round_number), purpose))(keys)
        return jax.vmap(permutation_words)(folded)

    def mined(params, members):
        raw, _ = norm.fold(*params)
        return hardest(pool_scores(rows, raw, layout, score_together=score_together), members, layout)

    def one_round(carry, round_number):
        params, state, members, loss = carry
        members = jax.lax.cond(
            round_number == 0,
            lambda: drawn(words(round_number, 0), members, layout),
            lambda: mined(params, members),
        )
        if config.optimizer == "lbfgs":
            state = jax.vmap(optimizer.init)(params)

        def epoch(carry, number):
            params, state, _ = carry
            visits = shuffle(words(round_number, number), members, layout)

            def group(inputs):
                return _train_group(rows, norm, visits, optimizer, config, *inputs)

            inputs = (n, first_batch, layout.group_steps, *jax.tree.map(grouped, (params, state)))
            return jax.tree.map(flat, jax.lax.map(group, inputs)), None

        params, state, loss = jax.lax.scan(epoch, (params, state, loss), 1 + jnp.arange(config.epochs))[0]
        return (params, state, members, loss), None

    start = (params, jax.vmap(optimizer.init)(params), layout.positives, jnp.zeros(num_concepts))
    params, _, _, loss = jax.lax.scan(one_round, start, jnp.arange(config.rounds))[0]
    return Hyperplanes(*norm.fold(*params), loss)


def make_optimizer(config: HyperplaneConfig) -> optax.GradientTransformationExtraArgs:
    """The optax optimiser of the regressions."""
    if config.optimizer == "lbfgs":
        return optax.lbfgs()
    return optax.with_extra_args_support({"adam": optax.adam, "sgd": optax.sgd}[config.optimizer](config.learning_rate))


def shuffle(words, members: Int[Array, "batches batch"], layout: Layout) -> Int[Array, "batches batch"]:
    """The members of every concept in a random order of their own."""
    mine = layout.batch_concept
    n = (layout.n_pos + layout.n_neg)[mine]
    order = permute(words[mine], local_places(layout), n)
    return members.reshape(-1)[layout.first_batch[mine][:, None] * members.shape[1] + order]


def _train_group(rows, norm: Affine, visits, optimizer, config: HyperplaneConfig, n, first_batch, steps, params, state):
    """One epoch of G concepts side by side, each over its own n rows; also the mean loss of the rows."""
    batch_size = visits.shape[1]

    def batch(first_batch, n, number):
        """Rows [batch, D] of one concept's batch, whether they are positives, which are real."""
        codes = visits[jnp.minimum(first_batch + number, len(visits) - 1)]
        real = number * batch_size + jnp.arange(batch_size) < n
        # Negatives are coded as the complement of their row.
        return rows.at[jnp.where(codes < 0, ~codes, codes)].get(mode="promise_in_bounds"), codes >= 0, real

    def total_loss(params, z, is_pos, real):
        """Cross-entropy of one concept, summed over the rows of a batch."""
        w, b = params
        # The norm is applied to the template, never to the rows: D numbers instead of batch x D.
        raw_w, raw_b = norm.fold(w[None], b[None])
        logits = jnp.einsum("nd,d->n", z, raw_w[0], preferred_element_type=jnp.float32) - raw_b
        return jnp.sum(optax.sigmoid_binary_cross_entropy(logits, is_pos.astype(jnp.float32)) * real)

    def penalty(params):
        return config.l2 / 2 * jnp.sum(params[0] ** 2)

    def minibatch_step(number, carry):
        def step(first_batch, n, params, state, loss):
            z, is_pos, real = batch(first_batch, n, number)

            def objective(params):
                total = total_loss(params, z, is_pos, real)
                return total / jnp.maximum(jnp.sum(real), 1) + penalty(params), total

            (_, total), gradient = jax.value_and_grad(objective, has_aux=True)(params)
            updates, new_state = optimizer.update(gradient, state, params)
            new = (optax.apply_updates(params, updates), new_state, loss + total)
            # A concept that is through while others of its group are not keeps everything, Adam's moments too.
            return jax.tree.map(lambda a, b: jnp.where(number * batch_size < n, a, b), new, (params, state, loss))

        return jax.vmap(step)(first_batch, n, *carry)

    def full_step(first_batch, n, params, state):
        """One step by all rows of a concept, which are gone through batch by batch as often as the line search asks."""

        def value_and_gradient(params):
            def add(number, sums):
                return jax.tree.map(
                    jnp.add, sums, jax.value_and_grad(total_loss)(params, *batch(first_batch, n, number))
                )

            sums = jax.lax.fori_loop(0, steps, add, (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params)))
            mean = jax.tree.map(lambda leaf: leaf / jnp.maximum(n, 1), sums)
            return jax.tree.map(jnp.add, mean, jax.value_and_grad(penalty)(params))

        # A loop of unknown length has no reverse mode; the gradient comes with the value instead.
        objective = jax.custom_vjp(lambda params: value_and_gradient(params)[0])
        objective.defvjp(value_and_gradient, lambda gradient, g: (jax.tree.map(lambda leaf: g * leaf, gradient),))
        value, gradient = value_and_gradient(params)
        updates, state = optimizer.update(gradient, state, params, value=value, grad=gradient, value_fn=objective)
        return optax.apply_updates(params, updates), state, value - penalty(params)

    if config.optimizer == "lbfgs":
        return jax.vmap(full_step)(first_batch, n, params, state)
    params, state, loss = jax.lax.fori_loop(0, steps, minibatch_step, (params, state, jnp.zeros(len(n))))
    return params, state, loss / jnp.maximum(n, 1)
