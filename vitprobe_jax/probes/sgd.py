"""One epoch of plain SGD for a group of logistic regressions, side by side, each over its own rows in a random order."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, UInt32

from vitprobe_jax.features.streaming import StreamedRows, take_rows
from vitprobe_jax.probes.feature_norm import Affine
from vitprobe_jax.probes.layout import Layout
from vitprobe_jax.probes.mining import local_places
from vitprobe_jax.probes.permutation import permute

Params = tuple[Float[Array, "*group D"], Float[Array, "*group"]]
"""(w, b) in the coordinates of the feature norm."""


def shuffle(
    words: UInt32[Array, "C words"], members: Int[Array, "batches batch"], layout: Layout
) -> Int[Array, "batches batch"]:
    """The members of every concept in a random order."""
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
    *,
    learning_rate: float,
) -> Params:
    """The parameters of G concepts after one epoch, a gradient step a batch.

    Args:
        rows: the table's rows, raw.
        norm: applied to the templates, never to the rows.
        visits: members of all concepts, in the order of this epoch; negatives are coded as the complement of their row.
        n: members of every concept of the group.
        first_batch: where in `visits` they begin.
        steps: batches of the largest of them.
        params: templates of the group.
        learning_rate: length of a step, in gradients of the mean loss of a batch.
    """

    def train(n, first_batch, params):
        walk, optimizer = _walk(rows, visits, n, first_batch, steps, together), optax.sgd(learning_rate)

        def step(number, batch, params):
            gradient = jax.grad(_mean_loss)(params, norm, *batch)
            new = optax.apply_updates(params, optimizer.update(gradient, optimizer.init(params))[0])
            # A concept that is through keeps its parameters while others of its group go on.
            return jax.tree.map(lambda a, b: jnp.where(number * visits.shape[1] < n, a, b), new, params)

        return walk(step, params)

    together = len(n)
    return jax.vmap(train)(n, first_batch, params)


def _walk(rows, visits, n, first_batch, steps, together: int) -> Callable:
    """`walk(body, carry)` does `carry = body(number, (z [batch, D], is_pos [batch], real [batch]), carry)` batch by batch.

    For one concept of a group of `together`. Resident rows are fetched a batch at a time. For streamed ones, a window of
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


def _mean_loss(params: Params, norm: Affine, z, is_pos, real):
    """Cross-entropy of one concept, averaged over the rows of a batch."""
    w, b = params
    # The norm is applied to the template: D numbers instead of batch x D.
    raw_w, raw_b = norm.fold(w[None], b[None])
    logits = jnp.einsum("nd,d->n", z, raw_w[0], preferred_element_type=jnp.float32) - raw_b
    losses = optax.sigmoid_binary_cross_entropy(logits, is_pos.astype(jnp.float32)) * real
    return jnp.sum(losses) / jnp.maximum(jnp.sum(real), 1)
