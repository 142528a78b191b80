"""Hyperplane templates: binary logistic regressions with hard-negative mining, all concepts in one jit call.

The protocol is section 3.5 of the paper (after Interpretable Basis Decomposition, ECCV 2018): five rounds, each of three
epochs over all positives and twice as many negatives; the first round's are random from the concept's pool, later ones
are the highest-scoring of the pool under the current template.

Concepts differ in size by orders of magnitude, so padding all to the largest cannot work. They are sorted into buckets
whose capacities double; within a bucket they are vmapped, in chunks that fit a memory bound.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Key, UInt32

from vitprobe_jax.errors import InputError
from vitprobe_jax.probes.feature_norm import Affine
from vitprobe_jax.probes.sampling import RowPool

TRAIN_TOGETHER = {"cpu": 16}
"""Concepts that take their gradient steps together, by platform; all of a chunk elsewhere. On a CPU the rows of a step
(16 x 128 x 384 features are 3 MB) then stay in cache: 1.3 s against 1.5 s for 200 concepts of 500 rows."""
MIN_CAPACITY = 128
CHUNK_BYTES = 1 << 29
"""Bound on what one chunk of concepts adds to memory beside the table."""


Optimizer = Literal["adam", "sgd"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class HyperplaneConfig:
    """The protocol's numbers; the defaults are the paper's where it gives them.

    Attributes:
        rounds: of mining; the first trains on random negatives.
        epochs: passes over the round's rows.
        pool_ratio: size of the negative pool, in positives.
        negative_ratio: negatives of a round, in positives.
        batch_size: rows a gradient step.
        optimizer: optax optimiser.
        learning_rate: of the optimiser, on rows as the feature norm leaves them.
        l2: weight of |w|^2 / 2 in the loss, w in the same coordinates.

    Raises:
        InputError: a number out of its range; names the flag of the sweep.
    """

    rounds: int = 5
    epochs: int = 3
    pool_ratio: int = 20
    negative_ratio: int = 2
    batch_size: int = 128
    optimizer: Optimizer = "adam"
    learning_rate: float = 1e-2
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


class Bucket(NamedTuple):
    """Concepts of similar size, padded to one capacity P and one pool width Q; vmapped over its leading axis C."""

    concepts: Int[np.ndarray, " C"]
    identity: UInt32[np.ndarray, " C"]
    positives: Int[np.ndarray, "C P"]
    n_pos: Int[np.ndarray, " C"]
    pool: Int[np.ndarray, "C Q"]
    n_pool: Int[np.ndarray, " C"]


def fit_hyperplanes(
    key: Key[Array, ""],
    rows: Float[Array, "N D"],
    pools: Sequence[RowPool],
    identities: Sequence[int],
    *,
    norm: Affine,
    config: HyperplaneConfig,
) -> tuple[Float[Array, "K D"], Float[Array, " K"]]:
    """Fits one hyperplane a concept; row z is positive where `w @ z - b >= 0`.

    Args:
        key: randomness of all concepts; each folds in its own identity, so it never depends on the others.
        rows: the table's training rows, raw, any float dtype.
        pools: the rows of every concept, which may be none; each has a positive and a negative at least.
        identities: 32-bit number of every concept, unique and stable.
        norm: feature norm in whose coordinates the regression is done; the result is folded back to raw rows.
        config: the protocol's numbers.

    Returns:
        w and b in float32, in the order of `pools`. A regression that diverged is not finite: the caller checks.
    """
    if not pools:
        return jnp.zeros((0, rows.shape[1])), jnp.zeros(0)
    buckets = make_buckets(pools, identities, config)
    w, b = _fit_buckets(key, rows, buckets, norm, config)
    order = np.argsort(np.concatenate([bucket.concepts for bucket in buckets]))
    return norm.fold(w[order], b[order])


def make_buckets(pools: Sequence[RowPool], identities: Sequence[int], config: HyperplaneConfig) -> tuple[Bucket, ...]:
    """Sorts concepts by size into buckets; the grid of capacities is fixed, so a concept's bucket is its own affair."""
    capacities = [_capacity(len(pool.positives)) for pool in pools]
    buckets = []
    for capacity in sorted(set(capacities)):
        chosen = np.array([k for k, c in enumerate(capacities) if c == capacity], np.int32)
        pool_width = max(len(pools[k].negatives) for k in chosen)
        pool_width = min(config.pool_ratio * capacity, _capacity(pool_width))
        buckets.append(
            Bucket(
                concepts=chosen,
                identity=np.array([identities[k] for k in chosen], np.uint32),
                positives=_pad([pools[k].positives for k in chosen], capacity),
                n_pos=np.array([len(pools[k].positives) for k in chosen], np.int32),
                pool=_pad([pools[k].negatives for k in chosen], pool_width),
                n_pool=np.array([len(pools[k].negatives) for k in chosen], np.int32),
            )
        )
    return tuple(buckets)


def _capacity(size: int) -> int:
    capacity = MIN_CAPACITY
    while capacity < size:
        capacity *= 2
    return capacity


def _pad(rows: list[np.ndarray], width: int) -> np.ndarray:
    padded = np.zeros((len(rows), width), np.int32)
    for line, row in zip(padded, rows, strict=True):
        line[: len(row)] = row
    return padded


@jax.jit(static_argnames="config")
def _fit_buckets(key, rows, buckets: tuple[Bucket, ...], norm: Affine, config: HyperplaneConfig):
    fitted = []
    for bucket in buckets:
        num_rows, width = rows.shape
        per_concept = 4 * (num_rows + 2 * bucket.pool.shape[1] + 8 * bucket.positives.shape[1])
        per_concept += 4 * width * config.batch_size * 3
        chunk = max(1, min(len(bucket.concepts), CHUNK_BYTES // per_concept))
        fitted.append(_map_chunks(lambda part: _fit_chunk(key, rows, part, norm, config), bucket, chunk))
    return jnp.concatenate([w for w, _ in fitted]), jnp.concatenate([b for _, b in fitted])


def _map_chunks(fit, bucket: Bucket, chunk: int):
    """`fit` over chunks of equal size one after the other; the last one is filled up with repeated concepts."""
    count = len(bucket.concepts)
    num_chunks = -(-count // chunk)
    take = np.minimum(np.arange(num_chunks * chunk), count - 1).reshape(num_chunks, chunk)
    results = jax.lax.map(fit, jax.tree.map(lambda leaf: jnp.asarray(leaf)[take], bucket))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:count], results)


def _fit_chunk(key, rows, bucket: Bucket, norm: Affine, config: HyperplaneConfig):
    keys = jax.vmap(lambda identity: jax.random.fold_in(key, identity))(bucket.identity)
    optimizer = make_optimizer(config)
    w_CxD = jnp.zeros((len(keys), rows.shape[1]))
    b_C = jnp.zeros(len(keys))
    state = jax.vmap(optimizer.init)((w_CxD, b_C))

    def one_round(carry, round_number):
        (w_CxD, b_C), state = carry
        round_keys = jax.vmap(lambda k: jax.random.fold_in(k, round_number))(keys)
        scores_CxQ = jax.lax.cond(
            round_number == 0,
            lambda: jax.vmap(lambda k: jax.random.uniform(k, bucket.pool.shape[1:]))(round_keys),
            lambda: _score_pools(rows, norm, w_CxD, b_C, bucket.pool),
        )
        index, is_pos, valid = jax.vmap(lambda *a: round_rows(*a, ratio=config.negative_ratio))(bucket, scores_CxQ)
        together = TRAIN_TOGETHER.get(jax.default_backend(), len(keys))
        inputs = (round_keys, index, is_pos, valid, (w_CxD, b_C), state)
        return jax.lax.map(lambda a: _train(rows, norm, optimizer, config, *a), inputs, batch_size=together), None

    (params, _), _ = jax.lax.scan(one_round, ((w_CxD, b_C), state), jnp.arange(config.rounds))
    return params


def make_optimizer(config: HyperplaneConfig) -> optax.GradientTransformation:
    """The optax optimiser of the regressions."""
    return {"adam": optax.adam, "sgd": optax.sgd}[config.optimizer](config.learning_rate)


def _score_pools(rows, norm: Affine, w_CxD, b_C, pool_CxQ):
    """Scores of every concept's own pool: one matmul over all rows, read out by place.

    Thresholds do not matter to the order, and are left out.
    """
    raw_CxD, _ = norm.fold(w_CxD, b_C)
    scores_CxN = jnp.einsum("cd,nd->cn", raw_CxD.astype(rows.dtype), rows, preferred_element_type=jnp.float32)
    return jnp.take_along_axis(scores_CxN, pool_CxQ, axis=1)


def round_rows(concept: Bucket, scores_Q, *, ratio: int):
    """The rows of one concept's round: all positives, then the best-scored negatives of its pool, then padding.

    Returns:
        Row numbers, which of them are positives, which are real: a place means the same in any capacity.
    """
    capacity, pool_width = concept.positives.shape[0], concept.pool.shape[0]
    n_neg = jnp.minimum(ratio * concept.n_pos, concept.n_pool)
    scores_Q = jnp.where(jnp.arange(pool_width) < concept.n_pool, scores_Q, -jnp.inf)
    _, hardest = jax.lax.top_k(scores_Q, min(ratio * capacity, pool_width))
    place = jnp.arange(capacity + len(hardest))
    is_pos = place < concept.n_pos
    negatives = concept.pool[hardest][jnp.clip(place - concept.n_pos, 0, len(hardest) - 1)]
    index = jnp.where(is_pos, concept.positives[jnp.minimum(place, capacity - 1)], negatives)
    return index, is_pos, place < concept.n_pos + n_neg


def _train(rows, norm: Affine, optimizer, config: HyperplaneConfig, key, index, is_pos, valid, params, state):
    """`epochs` passes of minibatch steps over one concept's rows, shuffled anew for each."""
    num_batches = -(-len(index) // config.batch_size)
    padding = num_batches * config.batch_size - len(index)

    def loss(params, z, target, mask):
        w, b = params
        # The norm is applied to the template, never to the rows: D numbers instead of batch x D.
        raw_w, raw_b = norm.fold(w[None], b[None])
        logits = jnp.einsum("nd,d->n", z, raw_w[0], preferred_element_type=jnp.float32) - raw_b
        losses = optax.sigmoid_binary_cross_entropy(logits, target)
        return jnp.sum(losses * mask) / jnp.maximum(jnp.sum(mask), 1) + config.l2 / 2 * jnp.sum(w**2)

    def step(carry, place):
        params, state = carry
        mask = valid.at[place].get(mode="fill", fill_value=False)
        target = is_pos.at[place].get(mode="clip").astype(jnp.float32)
        z = rows[index.at[place].get(mode="clip")]
        gradient = jax.grad(loss)(params, z, target, mask)
        updates, new_state = optimizer.update(gradient, state, params)
        new = (optax.apply_updates(params, updates), new_state)
        # Only the padding of a bucket makes an empty batch: it must leave no trace, not even in Adam's moments.
        return jax.tree.map(lambda a, b: jnp.where(jnp.any(mask), a, b), new, carry), None

    def epoch(carry, number):
        order = epoch_order(jax.random.fold_in(key, number), valid)
        order = jnp.pad(order, (0, padding), constant_values=len(index))
        return jax.lax.scan(step, carry, order.reshape(num_batches, config.batch_size))[0], None

    return jax.lax.scan(epoch, (params, state), 1 + jnp.arange(config.epochs))[0]


def epoch_order(key: Key[Array, ""], valid: Bool[Array, " n"]) -> Int[Array, " n"]:
    """A random order of the places 0..n-1, those that are not valid last.

    One sort of packed integers, which XLA does many times faster than an argsort on a CPU: random bits on top, below them
    the place, multiplied by a random odd number modulo a power of two. That is a bijection, so the place can be read back,
    and it scatters the places whose few random bits happen to be equal.
    """
    bits = max(1, (len(valid) - 1).bit_length())
    mask = jnp.uint32((1 << bits) - 1)
    odd = jax.random.bits(jax.random.fold_in(key, 0)) | 1
    inverse = odd  # Correct to 3 bits; each of Newton's steps doubles that.
    for _ in range(4):
        inverse = inverse * (2 - odd * inverse)
    scattered = (jnp.arange(len(valid), dtype=jnp.uint32) * odd) & mask
    # Bit 30 puts the places that are not valid last; bit 31 stays clear, so signed and unsigned order agree.
    random = jax.random.bits(jax.random.fold_in(key, 1), (len(valid),)) >> 2 & ~mask
    packed = jnp.where(valid, random, jnp.uint32(1 << 30)) | scattered
    ordered = jnp.sort(packed.astype(jnp.int32)).astype(jnp.uint32)
    return ((ordered & mask) * inverse & mask).astype(jnp.int32)
