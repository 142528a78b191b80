"""One epoch of a group of logistic regressions, side by side, each over its own rows in a random order."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree, UInt32

from vitprobe_jax.features.streaming import StreamedRows, take_rows
from vitprobe_jax.probes.feature_norm import Affine
from vitprobe_jax.probes.layout import Layout
from vitprobe_jax.probes.mining import local_places
from vitprobe_jax.probes.permutation import permute

Optimizer = Literal["sgd", "adam", "lbfgs"]
Params = tuple[Float[Array, "*group D"], Float[Array, "*group"]]
"""(w, b) in the coordinates of the feature norm."""


def make_optimizer(name: Optimizer, learning_rate: float) -> optax.GradientTransformationExtraArgs:
    """The optax optimiser of the regressions; `lbfgs` takes no learning rate."""
    if name == "lbfgs":
        return optax.lbfgs()
    return optax.with_extra_args_support({"adam": optax.adam, "sgd": optax.sgd}[name](learning_rate))


def shuffle(
    words: UInt32[Array, "C words"], members: Int[Array, "batches batch"], layout: Layout
) -> Int[Array, "batches batch"]:
    """The members of every concept in a random order of their own."""
    mine = layout.batch_concept
    n = (layout.n_pos + layout.n_neg)[mine]
    order = permute(words[mine], local_places(layout), n)
    return members.reshape(-1)[layout.first_batch[mine][:, None] * members.shape[1] + order]


def train_epoch(
    rows: Float[Array, "I R D"] | StreamedRows,
    norm: Affine,
    visits: Int[Array, "batches batch"],
    n: Int[Array, " G"],
    first_batch: Int[Array, " G"],
    steps: Int[Array, ""],
    params: Params,
    state: PyTree[Array],
    *,
    optimizer: optax.GradientTransformationExtraArgs,
    l2: float,
    one_step: bool,
) -> tuple[Params, PyTree[Array], Float[Array, " G"]]:
    """One epoch of G concepts.

    Args:
        rows: of the table, raw.
        norm: applied to the templates, never to the rows.
        visits: members of all concepts, in the order of this epoch; negatives are coded as the complement of their row.
        n: members of every concept of the group.
        first_batch: where in `visits` they begin.
        steps: batches of the largest of them.
        params: templates of the group.
        state: of the optimiser, one a concept.
        optimizer: of `make_optimizer`.
        l2: weight of |w|^2 / 2 in the loss.
        one_step: by all members, instead of one a batch.

    Returns:
        New parameters and state, and the mean loss of each concept's members as the steps went, without the l2 term.
    """

    def train(n, first_batch, params, state):
        walk = _walk(rows, visits, n, first_batch, steps, together)
        if one_step:
            return _step(walk, norm, optimizer, l2, n, params, state)
        return _steps(walk, visits.shape[1], norm, optimizer, l2, n, params, state)

    together = len(n)
    return jax.vmap(train)(n, first_batch, params, state)


def _steps(walk, batch_size: int, norm, optimizer, l2: float, n, params, state):
    """A gradient step a batch, of one concept."""

    def step(number, batch, carry):
        params, state, loss = carry
        real = batch[2]

        def objective(params):
            total = _total_loss(params, norm, *batch)
            return total / jnp.maximum(jnp.sum(real), 1) + _penalty(params, l2), total

        (_, total), gradient = jax.value_and_grad(objective, has_aux=True)(params)
        updates, new_state = optimizer.update(gradient, state, params)
        new = (optax.apply_updates(params, updates), new_state, loss + total)
        # A concept that is through while others of its group are not keeps everything, Adam's moments too.
        return jax.tree.map(lambda a, b: jnp.where(number * batch_size < n, a, b), new, carry)

    params, state, loss = walk(step, (params, state, jnp.zeros(())))
    return params, state, loss / jnp.maximum(n, 1)


def _step(walk, norm, optimizer, l2: float, n, params, state):
    """One step by all members of a concept, which are gone through as often as the line search asks."""

    def value_and_gradient(params):
        def add(_, batch, sums):
            return jax.tree.map(jnp.add, sums, jax.value_and_grad(_total_loss)(params, norm, *batch))

        sums = walk(add, (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params)))
        mean = jax.tree.map(lambda leaf: leaf / jnp.maximum(n, 1), sums)
        return jax.tree.map(jnp.add, mean, jax.value_and_grad(_penalty)(params, l2))

    # A loop of unknown length has no reverse mode; the gradient comes with the value instead.
    objective = jax.custom_vjp(lambda params: value_and_gradient(params)[0])
    objective.defvjp(value_and_gradient, lambda gradient, g: (jax.tree.map(lambda leaf: g * leaf, gradient),))
    value, gradient = value_and_gradient(params)
    updates, state = optimizer.update(gradient, state, params, value=value, grad=gradient, value_fn=objective)
    return optax.apply_updates(params, updates), state, value - _penalty(params, l2)


def _walk(rows, visits, n, first_batch, steps, together: int) -> Callable:
    """`walk(body, carry)` does `carry = body(number, (z [batch, D], is_pos [batch], real [batch]), carry)` batch by batch.

    For one concept of a group of `together`. Resident rows are fetched a batch at a time. Of streamed ones, a window of
    as many batches as the bound allows for the whole group is fetched at once: a callback a batch would cost more than the
    batch.
    """
    batch_size = visits.shape[1]

    def members(number):
        codes = visits[jnp.minimum(first_batch + number, len(visits) - 1)]
        real = number[..., None] * batch_size + jnp.arange(batch_size).reshape((1,) * number.ndim + (-1,)) < n
        return jnp.where(codes < 0, ~codes, codes), codes >= 0, real

    def batch_by_batch(body, carry):
        def step(number, carry):
            index, is_pos, real = members(jnp.asarray(number))
            return body(number, (take_rows(rows, index), is_pos, real), carry)

        return jax.lax.fori_loop(0, steps, step, carry)

    def window_by_window(body, carry):
        width = max(1, min(len(visits), rows.rows_together // (together * batch_size)))

        def window(first, carry):
            index, is_pos, real = members(first * width + jnp.arange(width))
            # Places without a member all take the same row: no other image is read for them.
            z = take_rows(rows, jnp.where(real, index, 0))

            def step(i, carry):
                return body(first * width + i, (z[i], is_pos[i], real[i]), carry)

            return jax.lax.fori_loop(0, jnp.minimum(width, steps - first * width), step, carry)

        return jax.lax.fori_loop(0, -(-steps // width), window, carry)

    return window_by_window if isinstance(rows, StreamedRows) else batch_by_batch


def _total_loss(params: Params, norm: Affine, z, is_pos, real):
    """Cross-entropy of one concept, summed over the rows of a batch."""
    w, b = params
    # The norm is applied to the template: D numbers instead of batch x D.
    raw_w, raw_b = norm.fold(w[None], b[None])
    logits = jnp.einsum("nd,d->n", z, raw_w[0], preferred_element_type=jnp.float32) - raw_b
    return jnp.sum(optax.sigmoid_binary_cross_entropy(logits, is_pos.astype(jnp.float32)) * real)


def _penalty(params: Params, l2: float):
    return l2 / 2 * jnp.sum(params[0] ** 2)
