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
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Key

from vitprobe_jax.errors import InputError
from vitprobe_jax.features.streaming import finished
from vitprobe_jax.features.table import DATA_AXIS, FeatureTable, on_all_devices, replicate
from vitprobe_jax.probes.feature_norm import Affine
from vitprobe_jax.probes.layout import Layout, Wave, plan_waves
from vitprobe_jax.probes.mining import drawn, hardest, pool_scores, rows_scored
from vitprobe_jax.probes.permutation import permutation_words
from vitprobe_jax.probes.sampling import RowPool
from vitprobe_jax.probes.training import Optimizer, make_optimizer, shuffle, train_epoch

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
    table: FeatureTable,
    pools: Sequence[RowPool],
    identities: Sequence[int],
    *,
    norm: Affine,
    config: HyperplaneConfig,
    memory_mb: int = DEFAULT_MEMORY_MB,
) -> Hyperplanes:
    """Fits one hyperplane a concept, on all devices of the table's mesh.

    Every device fits concepts of its own (`layout`), without a word to the others, and has all rows: those of a resident
    table are gathered once a call, those of a streamed one are fetched by each device for itself. On a CPU a concept's
    template has the same bits whatever the number of devices and of concepts beside it. Streamed or resident, templates
    differ by no more than the rounding of products of another size: by 2e-6 with `sgd`, 2e-5 with `adam`, where the largest
    weights are near 1; the line search of `lbfgs` may end at another point of the same loss, within 1e-3.

    Args:
        key: randomness of all concepts; each folds in its own identity, so it never depends on the others.
        table: the training split.
        pools: the rows of every concept, which may be none; each has a positive and a negative at least.
        identities: 32-bit number of every concept, unique and stable.
        norm: feature norm in whose coordinates the regression is done; the result is folded back to raw rows.
        config: the protocol's numbers.
        memory_mb: bound on what fitting adds to the memory of a device beside the rows, 2^20 bytes each: the scores of
            some concepts over all rows (over a window of streamed ones), and the row numbers of pools and batches. Less
            memory means more products of fewer concepts and, where even the row numbers do not fit, several waves of
            concepts. It is exceeded only where a single concept needs more.

    Returns:
        Hyperplanes in the order of `pools`, on every device. One that diverged is not finite, or its loss is high: the
        caller checks.

    Raises:
        InputError: streamed rows could not be read.
    """
    if not pools:
        width = table.rows.shape[-1]
        return Hyperplanes(jnp.zeros((0, width)), jnp.zeros(0), jnp.zeros(0))
    waves, score_together = plan(pools, identities, table, config=config, memory_mb=memory_mb)
    key, norm = replicate((key, norm), table.mesh)
    static = {"config": config, "score_together": score_together, "mesh": table.mesh}
    fitted, places, start = [], np.zeros(len(pools), np.int32), 0
    for wave in waves:
        hyperplanes = _fit_wave(key, table.rows, _spread(wave.layouts, table.mesh), norm, **static)
        # The next wave's rows must not come into memory beside this one's.
        fitted.append(jax.block_until_ready(hyperplanes) if len(waves) > 1 else hyperplanes)
        for concepts, layout in zip(wave.concepts, wave.layouts, strict=True):
            places[concepts] = start + np.arange(len(concepts))
            start += len(layout.n_pos)
    return finished(table.rows, _in_order(fitted, replicate(places, table.mesh)))


def plan(
    pools: Sequence[RowPool],
    identities: Sequence[int],
    table: FeatureTable,
    *,
    config: HyperplaneConfig,
    memory_mb: int,
) -> tuple[list[Wave], int]:
    """The waves of concepts that fit the bound, and how many concepts are scored by one product."""
    half = memory_mb << 19
    waves = plan_waves(
        pools,
        identities,
        negative_ratio=config.negative_ratio,
        batch_size=config.batch_size,
        group_size=GROUP_SIZE.get(jax.default_backend(), DEFAULT_GROUP_SIZE),
        max_slots=half // BYTES_PER_SLOT,
        dense_from=dense_from(table.rows.shape[0] * table.rows.shape[1]),
        num_devices=table.mesh.size,
    )
    layouts = [layout for wave in waves for layout in wave.layouts]
    num_concepts = len(layouts[0].n_pos)
    num_dense = max(int(layout.num_dense) for layout in layouts)
    fitting = max(1, min(half // (4 * rows_scored(table.rows)), num_dense))
    return waves, max(c for c in range(1, fitting + 1) if num_concepts % c == 0)


def dense_from(num_rows: int) -> int:
    """The smallest pool that is scored densely."""
    return math.ceil(num_rows * DENSE_SHARE.get(jax.default_backend(), DEFAULT_DENSE_SHARE))


def _spread(layouts: Sequence[Layout], mesh: Mesh) -> Layout:
    """The layouts along a new first axis, each on its device; no copy of all of them is made."""
    split = NamedSharding(mesh, PartitionSpec(DATA_AXIS))

    def put(*leaves):
        shape = (len(leaves), *leaves[0].shape)
        return jax.make_array_from_callback(shape, split, lambda index: leaves[index[0].start or 0][None])

    return jax.tree.map(put, *layouts)


@jax.jit
def _in_order(fitted: list[Hyperplanes], places) -> Hyperplanes:
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[places], *fitted)


@functools.partial(jax.jit, static_argnames=("config", "score_together", "mesh"))
def _fit_wave(key, rows, layout: Layout, norm: Affine, *, config, score_together, mesh) -> Hyperplanes:
    """The hyperplanes of all devices in a row."""

    def fit(key, rows, layout, norm):
        own = jax.tree.map(lambda leaf: leaf[0], layout)
        return _fit_layout(key, rows, own, norm, config=config, score_together=score_together)

    own, everywhere = PartitionSpec(DATA_AXIS), PartitionSpec()
    # Loops start from carries that are the same on all devices, which the check would refuse.
    spread = jax.shard_map(
        fit, mesh=mesh, in_specs=(everywhere, everywhere, own, everywhere), out_specs=own, check_vma=False
    )
    return on_all_devices(spread(key, rows, layout, norm), mesh)


def _fit_layout(
    key, rows, layout: Layout, norm: Affine, *, config: HyperplaneConfig, score_together: int
) -> Hyperplanes:
    """All rounds of the concepts of one device."""
    num_groups = len(layout.group_steps)
    num_concepts, width = len(layout.n_pos), rows.shape[-1]
    keys = jax.vmap(lambda identity: jax.random.fold_in(key, identity))(layout.identity)
    optimizer = make_optimizer(config.optimizer, config.learning_rate)
    full = config.optimizer == "lbfgs"
    train = functools.partial(train_epoch, optimizer=optimizer, l2=config.l2, one_step=full)
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
        if full:
            state = jax.vmap(optimizer.init)(params)

        def epoch(carry, number):
            params, state, _ = carry
            visits = shuffle(words(round_number, number), members, layout)

            def group(inputs):
                return train(rows, norm, visits, *inputs)

            inputs = (n, first_batch, layout.group_steps, *jax.tree.map(grouped, (params, state)))
            return jax.tree.map(flat, jax.lax.map(group, inputs)), None

        params, state, loss = jax.lax.scan(epoch, (params, state, loss), 1 + jnp.arange(config.epochs))[0]
        return (params, state, members, loss), None

    start = (params, jax.vmap(optimizer.init)(params), layout.positives, jnp.zeros(num_concepts))
    params, _, _, loss = jax.lax.scan(one_round, start, jnp.arange(config.rounds))[0]
    return Hyperplanes(*norm.fold(*params), loss)
