"""Batched L-BFGS for logistic regressions in PyTorch, without autograd: the rival of the library's solver.

The objective is the library's: mean cross-entropy plus penalty / 2 |w|^2, the threshold free, on standardised rows. All
regressions of a batch take their steps together, in full-batch products (`bmm`) with rows that are gathered once a round. As
in the library, the scores of all rows are kept, so that the search along a direction takes no pass over the rows.
"""

from typing import NamedTuple

import torch

from vitprobe_jax.probes.lbfgs import THRESHOLD_UNIT

MEMORY = 10
SEARCH_STEPS, MOST_SEARCH_STEPS = 3, 20
"""Points along a direction where the slope of the loss is evaluated, and how many at most while none is flatter than the
start: without preconditioning the first direction of a round, the gradient, may be a hundred times too long."""


class Regressions(NamedTuple):
    """C regressions, padded to the rows of the largest.

    Attributes:
        x: standardised rows, [C, n, D].
        positive: 1 where a row is a positive, 0 elsewhere, [C, n].
        share: one over the rows of the regression, and 0 where a row is padding, [C, n].
        penalty: weight of |w|^2 / 2.
    """

    x: torch.Tensor
    positive: torch.Tensor
    share: torch.Tensor
    penalty: float

    def scores(self, w):
        """x.w of every row."""
        return torch.bmm(self.x, w[..., None])[..., 0]

    def objective(self, u, w):
        """The penalised loss where the scores are u."""
        loss = self.share * (torch.nn.functional.softplus(u) - self.positive * u)
        return loss.sum(1) + self.penalty / 2 * w.square().sum(1)

    def gradient(self, u, w):
        """The gradient in (w, b), [C, D + 1]."""
        error = self.share * (u.sigmoid() - self.positive)
        of_w = torch.bmm(error[:, None], self.x)[:, 0] + self.penalty * w
        return torch.cat([of_w, -error.sum(1, keepdim=True)], dim=1)


def minimise(
    problems: Regressions,
    w: torch.Tensor,
    b: torch.Tensor,
    basis: torch.Tensor,
    *,
    precondition: bool,
    tolerance: float,
    max_steps: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Continues all regressions from (w, b) until each is within the library's tolerance, or for `max_steps` iterations.

    Args:
        problems: the regressions.
        w: weights to start from, [C, D].
        b: thresholds to start from, [C].
        basis: the library's preconditioner, [D, D]. Gradients are measured in its variables, so that both solvers stop
            at the same distance from the minimum.
        precondition: whether steps are taken in these variables as well, as the library does.
        tolerance: bound on half the square of that gradient's length, as a share of the objective.
        max_steps: bound on the iterations.
    """
    mean = torch.bmm(problems.share[:, None], problems.x)[:, 0]

    def in_basis(gradient):
        of_w = (gradient[:, :-1] + mean * gradient[:, -1:]) @ basis
        return torch.cat([of_w, THRESHOLD_UNIT * gradient[:, -1:]], dim=1)

    def out_of_basis(direction):
        of_w = direction[:, :-1] @ basis.T
        of_b = THRESHOLD_UNIT * direction[:, -1:] + (mean * of_w).sum(1, keepdim=True)
        return torch.cat([of_w, of_b], dim=1)

    def unfinished(measured, u, w):
        return measured.square().sum(1) / 2 > tolerance * problems.objective(u, w)

    u = problems.scores(w) - b[:, None]
    gradient = problems.gradient(u, w)
    measured = in_basis(gradient)
    moves, pairs = unfinished(measured, u, w), []
    for _ in range(max_steps):
        if not moves.any():
            break
        old = measured if precondition else gradient
        variables = two_loops(old, pairs)
        direction = out_of_basis(variables) if precondition else variables
        q = problems.scores(direction[:, :-1]) - direction[:, -1:]
        slope = (direction * gradient).sum(1)
        a = search(problems, u, q, w, direction[:, :-1], slope, moves)[:, None]
        w, b, u = w + a * direction[:, :-1], b + a[:, 0] * direction[:, -1], u + a * q
        gradient = problems.gradient(u, w)
        measured = in_basis(gradient)
        pairs = [*pairs[1 - MEMORY :], (a * variables, (measured if precondition else gradient) - old)]
        # One whose direction gains nothing in float32 is left where it is.
        moves = moves & (a[:, 0] > 0) & unfinished(measured, u, w)
    return w, b


def two_loops(gradient, pairs):
    """The direction of L-BFGS from pairs of steps and gradient changes, oldest first (Nocedal and Wright, algorithm 7.4)."""
    direction, weights = gradient.clone(), []
    curvatures = [(step * change).sum(1, keepdim=True) for step, change in pairs]
    inverses = [torch.where(curvature > 0, 1 / curvature, 0.0) for curvature in curvatures]
    for (step, change), inverse in zip(reversed(pairs), reversed(inverses), strict=True):
        weights.append(inverse * (step * direction).sum(1, keepdim=True))
        direction -= weights[-1] * change
    if pairs:
        squared = pairs[-1][1].square().sum(1, keepdim=True)
        direction *= torch.where(curvatures[-1] > 0, curvatures[-1] / squared, 1.0)
    for (step, change), inverse, weight in zip(pairs, inverses, reversed(weights), strict=True):
        direction += (weight - inverse * (change * direction).sum(1, keepdim=True)) * step
    return -direction


def search(problems: Regressions, u, q, w, dw, slope, moves):
    """Step lengths along directions that change the scores by q, by safeguarded Newton; 0 where none moves or gains."""
    share, y, penalty = problems.share, problems.positive, problems.penalty
    along, squared = (dw * w).sum(1), dw.square().sum(1)
    a, low, high = torch.ones_like(slope), torch.zeros_like(slope), torch.full_like(slope, torch.inf)
    best, flattest = torch.zeros_like(slope), slope.abs()
    for number in range(MOST_SEARCH_STEPS):
        if number >= SEARCH_STEPS and ((best > 0) | ~moves).all():
            break
        p = (u + a[:, None] * q).sigmoid_()
        weighted = share * q
        slope = (weighted * (p - y)).sum(1) + penalty * (along + a * squared)
        curvature = (weighted * q * p * (1 - p)).sum(1) + penalty * squared
        better = slope.abs() < flattest
        best, flattest = torch.where(better, a, best), torch.where(better, slope.abs(), flattest)
        low, high = torch.where(slope < 0, a, low), torch.where(slope < 0, high, a)
        newton = a - slope / curvature.clamp(min=torch.finfo(a.dtype).tiny)
        middle = torch.where(high.isinf(), 4 * low, (low + high) / 2)
        inside = (newton > low) & (newton < torch.where(high.isinf(), 8 * low + 1, high))
        a = torch.where(inside, newton, middle)
    return torch.where(moves, best, 0.0)
