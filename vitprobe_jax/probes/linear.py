"""Linear probes: softmax regression on rows, fitted in one of three ways, for several choices of features at once.

A few features of some backbones vary a hundred times as much as the others and say nothing. A linear map can leave them
alone, so its score should not hang on how loud a feature is; whether it does is a matter of how it is fitted:

- *minimum*: the one minimum of the penalised cross-entropy, sought by L-BFGS over all rows. Raw features are so unlike in
  scale and so alike in content that it would take thousands of steps. It works on a rotated and scaled copy of the weights,
  in which the loss is at first equally curved in all directions, and takes 15 to 50. That changes the way, not the
  minimum: no learning rate, order of rows or seed is left in the result.
- *batch_norm*: features are normalised by the statistics of each batch, as in front of MAE's linear probe, so there is no
  one function to minimise; Adam in batches, the learning rate falling to 0 along a cosine. At the end running statistics
  take the place of those of batches, and are folded into the weights.
- *gradient*: stochastic gradient descent with momentum on features as they are, at the highest safe learning rate: one over
  half the largest eigenvalue of E zz' + 1, which bounds the curvature of the loss. A few features of large variance decide
  it, and along all others the descent is slow. What it falls behind is the effect of the features' scale.

The first two penalise weights in units of the deviations of their features, so that the scale of a feature is of no
account; *gradient* penalises them as they are. The paper does not say how its probes were trained.
"""

import dataclasses
import functools
import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, Key

from vitprobe_jax.errors import InputError
from vitprobe_jax.features.moments import feature_moments
from vitprobe_jax.features.table import DATA_AXIS, deal, make_mesh, on_all_devices, replicate

BLOCK = 4096
"""Rows that meet the weights in one product: their logits stay small, whatever the number of rows."""
FLATTEST = 1e-6
"""The least curvature that is evened out; beneath it float32's rounding of correlations is the larger part."""
MOMENTUM, EPSILON = 0.1, 1e-5
"""Share of a batch in BatchNorm's running statistics, and what it adds to variances: PyTorch's defaults."""
INERTIA = 0.9
"""Momentum of gradient descent."""
POWER_STEPS = 50
"""Of the power iteration to the largest eigenvalue: enough for 1% where the next one is 5% smaller."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearConfig:
    """How linear probes are fitted.

    Attributes:
        kind: `minimum`, `batch_norm` (one without scale and shift of its own) or `gradient`, see above.
        l2: weight of the penalty, half the squares of the weights (of `gradient` as they are, else times the variances of
            their features), beside the mean cross-entropy.
        max_steps: of L-BFGS, nearly all of one pass over the rows. Measured on tokens of the bundled backbones, the loss is
            then within 1e-3 of its minimum and the accuracy within 0.001 of that of 300 steps.
        gradient_norm: L-BFGS ends where the gradient of its copy of the weights is as short as that.
        steps: of Adam or gradient descent, one a batch, epoch after epoch.
        batch_size: rows of a batch; all rows are one where there are fewer.
        learning_rate: of Adam, at the start; that of `gradient` is told from the rows.
    """

    kind: Literal["minimum", "batch_norm", "gradient"] = "minimum"
    l2: float = 3e-4
    max_steps: int = 50
    gradient_norm: float = 1e-3
    steps: int = 1000
    batch_size: int = 1024
    learning_rate: float = 3e-2


class LinearProbes(NamedTuple):
    """V probes of raw rows z with all features, on every device of the mesh: class k has the logit `w_k @ z + b_k`.

    Attributes:
        w: 0 where a feature is left out.
        b: intercepts.
        mean: of every feature as BatchNorm ran it; without BatchNorm that of the rows.
        variance: likewise.
        loss: mean cross-entropy over all rows (`minimum`) or the last tenth of the batches (others), without the penalty.
    """

    w: Float[Array, "V K D"]
    b: Float[Array, "V K"]
    mean: Float[Array, "V D"]
    variance: Float[Array, "V D"]
    loss: Float[Array, " V"]


def fit_linear(
    key: Key[Array, ""],
    rows: Float[Array | np.ndarray, "N D"],
    labels: Int[Array | np.ndarray, " N"],
    num_classes: int,
    keep: Float[Array | np.ndarray, "V D"] | Bool[Array | np.ndarray, "V D"],
    config: LinearConfig | None = None,
    *,
    mesh: Mesh | None = None,
) -> LinearProbes:
    """Fits V probes that use different features, one after the other on each device of the mesh.

    A probe is the same to the last bit whatever others are fitted beside it, on however many devices.

    Args:
        key: of the order of batches, which all probes share; `minimum` has no use for it.
        rows: float32 or bfloat16, computed with in float32; every device has them whole.
        labels: class of every row, from 0.
        num_classes: K; classes without rows get no weight and a low intercept.
        keep: features of each probe, as 0 and 1; with none at all a probe knows the classes' frequencies.
        config: how; `minimum`, with the defaults, unless given.
        mesh: devices among which the probes are dealt; the first one unless given.

    Raises:
        InputError: fewer than two rows, or a label that is no class.
    """
    config = config or LinearConfig()
    mesh = make_mesh(jax.local_devices()[:1]) if mesh is None else mesh
    labels = np.asarray(labels)
    if len(labels) < 2:
        raise InputError(f"linear probe: {len(labels)} labelled row(s), at least 2 are needed; give more images")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise InputError(f"linear probe: labels go from {low} to {high}, classes from 0 to {num_classes - 1}")
    moments = feature_moments(rows)
    # A feature that varies by no more than its rounding says nothing, and has no scale.
    varies = moments.variance > (np.finfo(np.float32).eps * moments.mean) ** 2
    scale = 1 / np.sqrt(np.where(varies, moments.variance, 1))
    used = ((np.asarray(keep) > 0) & varies[None]).astype(np.float32)
    used = np.pad(used, ((0, -len(keep) % mesh.size), (0, 0)), "edge")
    frequency = (np.bincount(labels, minlength=num_classes) + 1) / (len(labels) + num_classes)
    missing = _round_size(len(labels)) - len(labels)
    data = _Data(
        np.pad(np.asarray(rows), ((0, missing), (0, 0))),
        np.pad(labels.astype(np.int32), (0, missing)),
        np.array(len(labels), np.int32),
        *(leaf.astype(np.float32) for leaf in (frequency, moments.mean, moments.variance, scale)),
    )
    order = batch_order(key, len(labels), config) if config.kind != "minimum" else None
    data, order = replicate((data, order), mesh)
    static = {"num_classes": num_classes, "num_probes": len(keep), "config": config, "mesh": mesh}
    return _fit(data, order, deal(used, mesh), **static)


def predict(probes: LinearProbes, rows: Float[Array | np.ndarray, "Q D"]) -> Int[np.ndarray, "V Q"]:
    """The class with the highest logit for every row, of equals the first; one block of rows after the other."""
    w, b = (jnp.asarray(np.asarray(leaf)) for leaf in (probes.w, probes.b))
    rows = np.asarray(rows)
    found = np.empty((len(w), len(rows)), np.int32)
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        # Of one size, since another one would be another program.
        padded = np.pad(block, ((0, min(BLOCK, len(rows)) - len(block)), (0, 0)))
        found[:, start : start + len(block)] = np.asarray(_highest(w, b, padded))[:, : len(block)]
    return found


@jax.jit
def _highest(w, b, z_NxD):
    logits = jnp.einsum("nd,vkd->vnk", z_NxD.astype(jnp.float32), w, precision=jax.lax.Precision.HIGHEST)
    return jnp.argmax(logits + b[:, None], axis=-1)


def batch_order(key: Key[Array, ""], num_rows: int, config: LinearConfig) -> Int[np.ndarray, "steps batch"]:
    """The rows of every batch: epoch after epoch in a new order, each without the rows that fill no batch."""
    generator = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    size = min(config.batch_size, num_rows)
    per_epoch = num_rows // size
    epochs = [generator.permutation(num_rows)[: per_epoch * size] for _ in range(math.ceil(config.steps / per_epoch))]
    return np.concatenate(epochs).reshape(-1, size)[: config.steps].astype(np.int32)


def _round_size(count: int) -> int:
    """Rows are filled up to four to seven times a power of two: one program serves all tables of about a size."""
    unit = 1 << max(0, (count - 1).bit_length() - 3)
    return -(-count // unit) * unit


class _Data(NamedTuple):
    """Rows with their classes and the features' statistics, on every device; after `count` rows only zeros follow.

    `frequency` is that of classes, as if each had one row more, so that none is 0. `scale` is one over the deviation:
    programs multiply by it. Whether a division by the deviation is replaced by that is up to the compiler, which decides
    otherwise for several devices than for one.
    """

    rows: Float[Array, "N D"]
    labels: Int[Array, " N"]
    count: Int[Array, ""]
    frequency: Float[Array, " K"]
    mean: Float[Array, " D"]
    variance: Float[Array, " D"]
    scale: Float[Array, " D"]


@functools.partial(jax.jit, static_argnames=("num_classes", "num_probes", "config", "mesh"))
def _fit(
    data: _Data, order, keep, *, num_classes: int, num_probes: int, config: LinearConfig, mesh: Mesh
) -> LinearProbes:
    fit = _fit_minimum if config.kind == "minimum" else _fit_in_batches
    # Between standardised features, or of features as they are.
    products = None if config.kind == "batch_norm" else _products(data, centred=config.kind == "minimum")
    shared = (products, order)

    def of_device(data, shared, keep):
        return jax.lax.map(lambda keep: fit(data, shared, keep, num_classes=num_classes, config=config), keep)

    own, everywhere = PartitionSpec(DATA_AXIS), PartitionSpec()
    # Loops start from carries that are the same on all devices, which the check would refuse.
    spread = jax.shard_map(of_device, mesh=mesh, in_specs=(everywhere, everywhere, own), out_specs=own, check_vma=False)
    return jax.tree.map(lambda leaf: leaf[:num_probes], on_all_devices(spread(data, shared, keep), mesh))


def _fit_minimum(data: _Data, shared, keep_D, *, num_classes: int, config: LinearConfig) -> LinearProbes:
    correlation_DxD, _ = shared
    share, spread_K = 1 / data.count.astype(jnp.float32), data.frequency * (1 - data.frequency)
    values_D, vectors_DxD = jnp.linalg.eigh(correlation_DxD * keep_D[:, None] * keep_D[None, :])
    # Where all rows have the classes' frequencies for probabilities, the loss is curved by p (1 - p) times the eigenvalue
    # along a direction of features. One over the root of that, and of the penalty, is a unit for weights.
    curvature_DxK = jnp.maximum(values_D, 0)[:, None] * spread_K[None] + config.l2
    unit_DxK = jax.lax.rsqrt(jnp.maximum(curvature_DxK, FLATTEST))
    unit_K = jax.lax.rsqrt(jnp.maximum(spread_K, FLATTEST))

    def standardized(params):
        """Weights of standardised features."""
        turned_DxK = jnp.einsum("de,ek->dk", vectors_DxD, unit_DxK * params[0], precision=jax.lax.Precision.HIGHEST)
        return keep_D[:, None] * turned_DxK

    def raw(params):
        w_DxK = standardized(params) * data.scale[:, None]
        shift_K = jnp.einsum("d,dk->k", data.mean, w_DxK, precision=jax.lax.Precision.HIGHEST)
        return w_DxK, jnp.log(data.frequency) + unit_K * params[1] - shift_K

    def penalty(params):
        return config.l2 / 2 * jnp.sum(standardized(params) ** 2)

    def value_and_gradient(params):
        folded, pull = jax.vjp(raw, params)

        def add(sums, z, labels, real):
            return jax.tree.map(jnp.add, sums, jax.value_and_grad(_total_loss)(folded, z, labels, real))

        total, gradient = _over_blocks(add, (jnp.zeros(()), jax.tree.map(jnp.zeros_like, folded)), data)
        mean = jax.tree.map(lambda leaf: leaf * share, (total, *pull(gradient)))
        return jax.tree.map(jnp.add, mean, jax.value_and_grad(penalty)(params))

    # The blocks are gone through in a loop, whose reverse would keep all logits; the gradient comes with the value instead.
    objective = jax.custom_vjp(lambda params: value_and_gradient(params)[0])
    objective.defvjp(value_and_gradient, lambda gradient, g: (jax.tree.map(lambda leaf: g * leaf, gradient),))
    optimizer = optax.lbfgs()

    def unfinished(carry):
        number, _, state = carry
        long = optax.tree.norm(optax.tree.get(state, "grad")) > config.gradient_norm
        return (number < config.max_steps) & (long | (number == 0))

    def step(carry):
        number, params, state = carry
        # The line search has been at the parameters already, but for the first.
        value, gradient = optax.value_and_grad_from_state(objective)(params, state=state)
        updates, state = optimizer.update(gradient, state, params, value=value, grad=gradient, value_fn=objective)
        return number + 1, optax.apply_updates(params, updates), state

    params = (jnp.zeros((len(keep_D), num_classes)), jnp.zeros(num_classes))
    _, params, state = jax.lax.while_loop(unfinished, step, (0, params, optimizer.init(params)))
    w_DxK, b_K = raw(params)
    loss = optax.tree.get(state, "value") - penalty(params)
    return LinearProbes(w_DxK.T, b_K, data.mean, data.variance, loss)


def _fit_in_batches(data: _Data, shared, keep_D, *, num_classes: int, config: LinearConfig) -> LinearProbes:
    products_DxD, order_SxB = shared
    num_steps, size = order_SxB.shape
    normalised = config.kind == "batch_norm"
    if normalised:
        optimizer = optax.adam(optax.cosine_decay_schedule(config.learning_rate, num_steps))
    else:
        # That of softmax regression is at most half of it; the intercept is the weight of a feature of 1.
        curvature = (1 + _largest_eigenvalue(products_DxD * keep_D[:, None] * keep_D[None, :])) / 2 + config.l2
        schedule = optax.cosine_decay_schedule(1.0, num_steps)
        optimizer = optax.sgd(lambda step: schedule(step) / curvature, momentum=INERTIA)

    def step(carry, index_B):
        params, state, running = carry
        z_BxD = data.rows[index_B].astype(jnp.float32)
        if normalised:
            mean_D, variance_D = jnp.mean(z_BxD, axis=0), jnp.var(z_BxD, axis=0)
            used_BxD = (z_BxD - mean_D[None]) * (keep_D * jax.lax.rsqrt(variance_D + EPSILON))[None]
            batch = (mean_D, variance_D * (size / (size - 1)))
            running = jax.tree.map(lambda old, new: old + MOMENTUM * (new - old), running, batch)
        else:
            used_BxD = z_BxD * keep_D[None]

        def objective(params):
            loss = _total_loss(params, used_BxD, data.labels[index_B], jnp.ones(size)) / size
            return loss + config.l2 / 2 * jnp.sum(params[0] ** 2), loss

        gradient, loss = jax.grad(objective, has_aux=True)(params)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state, running), loss

    width = len(keep_D)
    params = (jnp.zeros((width, num_classes)), jnp.zeros(num_classes))
    start = (params, optimizer.init(params), (jnp.zeros(width), jnp.ones(width)))
    ((w_DxK, b_K), _, (mean_D, variance_D)), losses_S = jax.lax.scan(step, start, order_SxB)
    loss = jnp.mean(losses_S[-math.ceil(num_steps / 10) :])
    if not normalised:
        return LinearProbes((keep_D[:, None] * w_DxK).T, b_K, data.mean, data.variance, loss)
    w_DxK = (keep_D * jax.lax.rsqrt(variance_D + EPSILON))[:, None] * w_DxK
    b_K = b_K - jnp.einsum("d,dk->k", mean_D, w_DxK, precision=jax.lax.Precision.HIGHEST)
    return LinearProbes(w_DxK.T, b_K, mean_D, variance_D, loss)


def _total_loss(params, z_NxD, labels_N, real_N):
    """Cross-entropy summed over the rows that are real."""
    w_DxK, b_K = params
    logits_NxK = jnp.einsum("nd,dk->nk", z_NxD, w_DxK, precision=jax.lax.Precision.HIGHEST) + b_K[None]
    return jnp.sum(optax.softmax_cross_entropy_with_integer_labels(logits_NxK, labels_N) * real_N)


def _products(data: _Data, *, centred: bool) -> Float[Array, "D D"]:
    """Means over all rows of the products of two features: of standardised ones their correlation, or of raw ones."""
    mean, scale = (data.mean, data.scale) if centred else (jnp.zeros_like(data.mean), jnp.ones_like(data.scale))

    def add(sums, z_NxD, labels_N, real_N):
        used_NxD = real_N[:, None] * (z_NxD - mean[None]) * scale[None]
        return sums + jnp.einsum("nd,ne->de", used_NxD, used_NxD, precision=jax.lax.Precision.HIGHEST)

    width = len(data.mean)
    return _over_blocks(add, jnp.zeros((width, width)), data) * (1 / data.count.astype(jnp.float32))


def _largest_eigenvalue(matrix_DxD: Float[Array, "D D"]) -> Float[Array, ""]:
    """Of a matrix without negative eigenvalues, by power iteration from its longest row; 0 of zeros."""

    def step(_, v_D):
        v_D = jnp.einsum("de,e->d", matrix_DxD, v_D, precision=jax.lax.Precision.HIGHEST)
        return v_D / jnp.maximum(jnp.linalg.norm(v_D), jnp.finfo(jnp.float32).tiny)

    start = matrix_DxD[jnp.argmax(jnp.diagonal(matrix_DxD))]
    vector_D = jax.lax.fori_loop(0, POWER_STEPS, step, start)
    return jnp.linalg.norm(jnp.einsum("de,e->d", matrix_DxD, vector_D, precision=jax.lax.Precision.HIGHEST))


def _over_blocks(add, sums, data: _Data):
    """`sums = add(sums, rows [n, D], labels [n], real [n])` of block after block."""
    size = min(BLOCK, len(data.labels))

    def add_block(i, sums):
        # The last block is moved back to end with the table; what was counted before counts for nothing.
        start = jnp.minimum(i * size, len(data.labels) - size)
        z, labels = (jax.lax.dynamic_slice_in_dim(leaf, start, size) for leaf in data[:2])
        place = start + jnp.arange(size)
        real = (place >= i * size) & (place < data.count)
        return add(sums, z.astype(jnp.float32), labels, real.astype(jnp.float32))

    return jax.lax.fori_loop(0, (data.count + size - 1) // size, add_block, sums)
