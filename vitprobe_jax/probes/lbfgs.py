"""Preconditioned L-BFGS for many logistic regressions at once, each on its own rows.

Every regression minimises F(w, b) = mean over its rows of log(1 + exp(u)) - y u, u = x.w - b, plus penalty / 2 |w|^2; the
threshold b is not penalised. The scores u of all rows are kept, so that the loss along a search direction d is a function
of one number, u + a (x.d), and its minimum is found exactly without a further pass over the rows. An iteration takes two
passes: scores of the new direction, and the gradient where it ends.

Two changes of variables make the iterations few. Weights are `basis @ v` (`standardize`). The threshold is counted from the
mean score of the regression's own rows, whose mean is far from that of all rows: mined negatives resemble the positives.
Measured on tokens of the bundled backbones and on planted rows, either alone takes up to three times the iterations.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

MEMORY = 6
"""Pairs of steps and gradient changes that L-BFGS remembers."""
THRESHOLD_UNIT = 4.0
"""One unit of the threshold among the variables: 2 would make its curvature 1 at an empty template."""
SEARCH_STEPS, MOST_SEARCH_STEPS = 2, 24
"""Points along a direction where the slope of the loss is evaluated; the flattest one is taken. More are tried only where
none of them is flatter than the start."""


class Problems(NamedTuple):
    """C regressions over tiles of rows; every tile belongs to one of them.

    Attributes:
        slot: the regression of every tile, ascending.
        positive: 1 where the row is a positive, 0 elsewhere.
        real: 1 for rows, 0 for padding.
        scores: `scores(w [C, D]) -> x.w of every row [tiles, n]`.
        pull: `pull(r [tiles, n]) -> sums of r x over the rows of each regression [C, D]`.
    """

    slot: Int[Array, " tiles"]
    positive: Float[Array, "tiles n"]
    real: Float[Array, "tiles n"]
    scores: Callable[[Float[Array, "C D"]], Float[Array, "tiles n"]]
    pull: Callable[[Float[Array, "tiles n"]], Float[Array, "C D"]]


class Solution(NamedTuple):
    """Where C regressions ended.

    Attributes:
        w: weights of standardised features.
        b: thresholds; a row is positive where `x.w - b >= 0`.
        loss: mean cross-entropy over the rows, in nats, without the penalty.
        gradient_norm: length of the gradient of the penalised loss in preconditioned variables. Half its square is about
            how far the loss is above its minimum.
        converged: whether half the square of the gradient norm is at most `enough` times the penalised loss.
        steps: iterations taken.
    """

    w: Float[Array, "C D"]
    b: Float[Array, " C"]
    loss: Float[Array, " C"]
    gradient_norm: Float[Array, " C"]
    converged: Bool[Array, " C"]
    steps: Int[Array, " C"]


class _State(NamedTuple):
    """Everything of C regressions that an iteration changes.

    `pairs` holds M steps and the M gradient changes that they made, newest first; `step_change` and `change_change` are
    their scalar products [i, j]: step i with change j, change i with change j; `with_gradient` holds those of all pairs with
    the gradient.
    """

    w: Float[Array, "C D"]
    b: Float[Array, " C"]
    u: Float[Array, "tiles n"]
    gradient: Float[Array, "C V"]
    pairs: Float[Array, "C 2M V"]
    step_change: Float[Array, "C M M"]
    change_change: Float[Array, "C M M"]
    with_gradient: Float[Array, "C 2M"]
    objective: Float[Array, " C"]
    loss: Float[Array, " C"]
    steps: Int[Array, " C"]
    stuck: Bool[Array, " C"]


def minimise(
    problems: Problems,
    w: Float[Array, "C D"],
    b: Float[Array, " C"],
    basis: Float[Array, "D D"],
    *,
    penalty: float,
    tolerance: float,
    enough: float,
    max_steps: int,
) -> Solution:
    """Continues C regressions from (w, b) until each is within `tolerance`, or for `max_steps` iterations.

    One that is, or that float32 takes no further, is left as it is while others go on.

    Args:
        problems: the rows; a regression without rows is left as it is.
        w: weights to start from.
        b: thresholds to start from.
        basis: preconditioner, see `standardize.Coordinates`.
        penalty: weight of |w|^2 / 2; above 0 where minima have to exist.
        tolerance: a regression stops where half the square of its gradient norm is at most this share of its penalised loss.
        enough: the share at which it counts as converged.
        max_steps: 0 measures where the regressions are.
    """
    num = len(w)
    slot, y, real = problems.slot, problems.positive, problems.real

    def per_problem(of_rows):
        """Sums over the rows of each regression, tile after tile."""
        return jax.ops.segment_sum(jnp.sum(of_rows, axis=-1), slot, num, indices_are_sorted=True)

    count = per_problem(real)
    has_rows, count = count > 0, jnp.maximum(count, 1)
    share = (real / count[slot][:, None]).astype(jnp.float32)
    mean = problems.pull(share)
    dot = lambda a, b: jnp.einsum("cv,cv->c", a, b, precision=jax.lax.Precision.HIGHEST)  # noqa: E731
    times = lambda a, matrix: jnp.einsum("cd,de->ce", a, matrix, precision=jax.lax.Precision.HIGHEST)  # noqa: E731
    at_rows = lambda of_problem: of_problem[slot][:, None]  # noqa: E731

    def losses(u, w):
        loss = per_problem(share * (jax.nn.softplus(u) - y * u))
        return loss + penalty / 2 * dot(w, w), loss

    def gradient_at(u, w):
        error = share * (jax.nn.sigmoid(u) - y)
        sums = per_problem(error)
        of_w = problems.pull(error) + penalty * w - mean * sums[:, None]
        return jnp.concatenate([times(of_w, basis), -THRESHOLD_UNIT * sums[:, None]], axis=1)

    def search(moves, u, q, w, dw, slope):
        """The minimum along the direction, by Newton's method between bounds; 0 where nothing is gained."""

        def slopes(a):
            p = jax.nn.sigmoid(u + at_rows(a) * q)
            squared = penalty * dot(dw, dw)
            slope = per_problem(share * (p - y) * q) + penalty * dot(dw, w) + a * squared
            return slope, per_problem(share * p * (1 - p) * q**2) + squared

        def step(carry):
            number, a, low, high, best, flattest = carry
            slope, curvature = slopes(a)
            better = jnp.abs(slope) < flattest
            new_best, flattest = jnp.where(better, a, best), jnp.where(better, jnp.abs(slope), flattest)
            low, high = jnp.where(slope < 0, a, low), jnp.where(slope < 0, high, a)
            newton = a - slope / jnp.maximum(curvature, jnp.finfo(jnp.float32).tiny)
            middle = jnp.where(jnp.isinf(high), 4 * low, (low + high) / 2)
            inside = (newton > low) & (newton < jnp.where(jnp.isinf(high), 8 * low + 1, high))
            # Nobody's search goes on for the sake of others: a regression must not depend on those beside it.
            best = jnp.where((number < SEARCH_STEPS) | (best == 0), new_best, best)
            return number + 1, jnp.where(inside, newton, middle), low, high, best, flattest

        def unfinished(carry):
            number, *_, best, _ = carry
            return (number < SEARCH_STEPS) | ((number < MOST_SEARCH_STEPS) & jnp.any(moves & (best == 0)))

        zeros = jnp.zeros(num)
        start = 0, jnp.ones(num), zeros, jnp.full(num, jnp.inf), zeros, jnp.abs(slope)
        return jax.lax.while_loop(unfinished, step, start)[4]

    def goes_on(state):
        gap = dot(state.gradient, state.gradient) / 2
        return ~(gap <= tolerance * state.objective) & ~state.stuck & has_rows

    def iterate(carry):
        number, state = carry
        direction = _direction(state)
        dw = jnp.einsum("ce,de->cd", direction[:, :-1], basis, precision=jax.lax.Precision.HIGHEST)
        db = THRESHOLD_UNIT * direction[:, -1] + dot(mean, dw)
        q = problems.scores(dw) - at_rows(db)
        moves = goes_on(state)
        a = jnp.where(moves, search(moves, state.u, q, state.w, dw, dot(state.gradient, direction)), 0.0)
        w, b, u = state.w + a[:, None] * dw, state.b + a * db, state.u + at_rows(a) * q
        gradient = gradient_at(u, w)
        objective, loss = losses(u, w)
        pairs, products = _remember(state, a[:, None] * direction, gradient)
        new = _State(w, b, None, gradient, pairs, *products, objective, loss, state.steps + 1, a == 0)
        # Scores need no choice: where nothing moves, a is 0.
        keep = lambda new, old: jnp.where(moves.reshape(-1, *(1,) * (new.ndim - 1)), new, old)  # noqa: E731
        return number + 1, jax.tree.map(keep, new, state._replace(u=None))._replace(u=u)

    u = problems.scores(w) - at_rows(b)
    objective, loss = losses(u, w)
    memory = jnp.zeros((num, 2 * MEMORY, w.shape[1] + 1))
    products = (*(jnp.zeros((num, MEMORY, MEMORY)),) * 2, jnp.zeros((num, 2 * MEMORY)))
    steps, stuck = jnp.zeros(num, jnp.int32), jnp.zeros(num, bool)
    state = _State(w, b, u, gradient_at(u, w), memory, *products, objective, loss, steps, stuck)
    unfinished = lambda carry: (carry[0] < max_steps) & jnp.any(goes_on(carry[1]))  # noqa: E731
    _, state = jax.lax.while_loop(unfinished, iterate, (0, state))
    squared = dot(state.gradient, state.gradient)
    converged = squared / 2 <= enough * state.objective
    return Solution(state.w, state.b, state.loss, jnp.sqrt(squared), converged, state.steps)


def _remember(state: _State, step: Float[Array, "C V"], gradient: Float[Array, "C V"]):
    """The pairs with the newest one in front, without the oldest; their products, and those with the new gradient."""
    change = gradient - state.gradient
    pairs = jnp.concatenate(
        [step[:, None], state.pairs[:, : MEMORY - 1], change[:, None], state.pairs[:, MEMORY:-1]], axis=1
    )
    times = lambda v: jnp.einsum("cmv,cv->cm", pairs, v, precision=jax.lax.Precision.HIGHEST)  # noqa: E731
    with_change, with_step = times(change), times(step)
    fill = lambda old: jnp.pad(old[:, :-1, :-1], ((0, 0), (1, 0), (1, 0)))  # noqa: E731
    step_change = fill(state.step_change).at[:, :, 0].set(with_change[:, :MEMORY])
    step_change = step_change.at[:, 0, :].set(with_step[:, MEMORY:])
    change_change = fill(state.change_change).at[:, :, 0].set(with_change[:, MEMORY:])
    change_change = change_change.at[:, 0, :].set(with_change[:, MEMORY:])
    return pairs, (step_change, change_change, times(gradient))


def _direction(state: _State) -> Float[Array, "C V"]:
    """The descent direction of L-BFGS (Nocedal and Wright, algorithm 7.4); pairs without curvature are passed over.

    The recursion runs on coefficients of the pairs, whose scalar products are known, rather than on the vectors (Chen, Wang
    and Zhou, 2014): the vectors are read once.
    """
    step_gradient, change_gradient = state.with_gradient[:, :MEMORY], state.with_gradient[:, MEMORY:]
    curvature = jnp.diagonal(state.step_change, axis1=1, axis2=2)
    usable = curvature > 0
    inverse = jnp.where(usable, 1 / jnp.where(usable, curvature, 1.0), 0.0)
    squared = state.change_change[:, 0, 0]
    scale = jnp.where(usable[:, 0] & (squared > 0), curvature[:, 0] / jnp.where(squared > 0, squared, 1.0), 1.0)
    of_changes = []
    for i in range(MEMORY):
        product = step_gradient[:, i] - sum(of_changes[j] * state.step_change[:, i, j] for j in range(i))
        of_changes.append(inverse[:, i] * product)
    of_steps = {}
    for i in reversed(range(MEMORY)):
        product = change_gradient[:, i] - sum(of_changes[j] * state.change_change[:, i, j] for j in range(MEMORY))
        product = scale * product + sum(of_steps[j] * state.step_change[:, j, i] for j in of_steps)
        of_steps[i] = of_changes[i] - inverse[:, i] * product
    coefficients = jnp.stack([of_steps[i] for i in range(MEMORY)] + [-scale * a for a in of_changes], axis=1)
    of_pairs = jnp.einsum("cm,cmv->cv", coefficients, state.pairs, precision=jax.lax.Precision.HIGHEST)
    return -(scale[:, None] * state.gradient + of_pairs)
