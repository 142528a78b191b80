"""Hyperplane templates: binary logistic regressions with hard-negative mining, all concepts in one jit call.

The protocol is section 3.5 of the paper (after Interpretable Basis Decomposition, ECCV 2018): five rounds, each on all
positives and twice as many negatives; the first round's negatives are random from the concept's pool, later ones are the
highest-scoring of the pool under the current template.

How a round's regression is solved is a choice (`Solver`):

- `lbfgs`: to the minimum of its cross-entropy and a small penalty on the weights, on standardised features. The minimum does
  not depend on the units of the features, on an order of rows or on a learning rate, and a fit that misses it is reported.
- `paper`: three epochs of SGD on raw rows, as the paper and its reference describe it. Where it ends depends on the scale of
  the features; it is kept for reproductions.

Concepts differ in size by orders of magnitude. They lie in flat arrays (`layout`); `lbfgs` gathers their rows in `bundles`,
SGD takes steps in groups of concepts of like size.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, Key

from vitprobe_jax.errors import InputError
from vitprobe_jax.features.streaming import StreamedRows, finished
from vitprobe_jax.features.table import DATA_AXIS, FeatureTable, on_all_devices, replicate
from vitprobe_jax.probes.bundles import SAMPLE, SLOTS, TILE_ROWS, Bundles, bundle_problems, large_problem, plan_bundles
from vitprobe_jax.probes.feature_norm import Affine
from vitprobe_jax.probes.layout import Layout, Wave, plan_waves
from vitprobe_jax.probes.lbfgs import Problems, Solution, minimise
from vitprobe_jax.probes.mining import drawn, hardest, pool_scores, rows_scored
from vitprobe_jax.probes.permutation import permutation_words
from vitprobe_jax.probes.sampling import RowPool
from vitprobe_jax.probes.sgd import shuffle, train_epoch
from vitprobe_jax.probes.standardize import Coordinates, fit_coordinates

Solver = Literal["lbfgs", "paper"]
SOLVERS: tuple[Solver, ...] = get_args(Solver)

GROUP_SIZE = {"cpu": 16}
"""Concepts that take their SGD steps together, by platform. On a CPU the rows of a step (16 x 128 x 384 features are
3 MB) stay in cache; an accelerator wants more work a step."""
DEFAULT_GROUP_SIZE = 64
DENSE_SHARE = {"cpu": 1 / 20}
"""Share of all rows from which on a pool is scored by a product with all rows instead of fetching its own, by platform. On
the CPU of docs/performance.md both take the same time at 1 / 23."""
DEFAULT_DENSE_SHARE = 1 / 100
DEFAULT_MEMORY_MB = 2048
BYTES_PER_SLOT = 24
"""What a place of a pool or of a batch takes: row number, score, counts and target of its move."""

CONVERGED = 5e-6
"""A regression has converged where half the square of its gradient norm is at most this share of its loss
(`lbfgs.Solution`). On tokens of real photographs the loss is up to 60 times as far above its minimum, so within 1e-3."""
TOLERANCE = 1e-7
"""The same share, at which the solver stops. It is far smaller for the sake of mining, whose choices hang on small
differences that later rounds amplify (docs/protocol.md has the numbers)."""
MAX_STEPS = 200
"""Iterations of L-BFGS after which a regression is given up in a round."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class HyperplaneConfig:
    """The protocol's numbers; the defaults are the paper's where it gives them.

    Attributes:
        rounds: rounds of mining; the first trains on random negatives.
        pool_ratio: size of the negative pool, in positives.
        negative_ratio: negatives of a round, in positives.
        solver: how the regression of a round is solved.
        penalty: `lbfgs`: weight of |w|^2 / 2 beside the mean cross-entropy, w in units of one over the features' deviations;
            the threshold is not penalised.
        epochs: `paper`: passes over the round's rows.
        batch_size: `paper`: rows a gradient step.
        learning_rate: `paper`: length of a gradient step, on rows as the feature norm leaves them.

    Raises:
        InputError: a number out of its range; names the flag of the sweep.
    """

    rounds: int = 5
    pool_ratio: int = 20
    negative_ratio: int = 2
    solver: Solver = "lbfgs"
    penalty: float = 1e-3
    epochs: int = 3
    batch_size: int = 128
    learning_rate: float = 1e-1

    def __post_init__(self):
        counts = {"rounds": self.rounds, "epochs": self.epochs, "pool_ratio": self.pool_ratio}
        counts |= {"negative_ratio": self.negative_ratio, "probe_batch": self.batch_size}
        for flag, value in counts.items():
            if value < 1:
                raise InputError(f"--{flag}: {value} is less than 1")
        for flag, value in {"learning_rate": self.learning_rate, "penalty": self.penalty}.items():
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"--{flag}: {value} is not a positive number")
        if self.solver not in SOLVERS:
            raise InputError(f"--solver: {self.solver!r} unknown; choose from {', '.join(SOLVERS)}")


class Hyperplanes(NamedTuple):
    """Fitted regressions; row z is positive where `w @ (z - shift) - b >= 0`.

    Scores are taken around `shift` because rows of large means lose their digits in `w @ z`.

    Attributes:
        w: direction of every concept, for raw rows, float32.
        b: its threshold, for rows less the shift.
        shift: mean of every feature over the training rows, and 0 for the solver `paper`, which does without.
        deviation: deviation of every feature over the training rows: `lbfgs` divides by it.
        loss: mean cross-entropy over the rows of the last round, in nats, without the penalty.
        gradient_norm: length of the gradient of each regression's loss, see `lbfgs.Solution`.
        converged: whether each regression reached its minimum, see `CONVERGED`.
    """

    w: Float[Array, "K D"]
    b: Float[Array, " K"]
    shift: Float[Array, " D"]
    deviation: Float[Array, " D"]
    loss: Float[Array, " K"]
    gradient_norm: Float[Array, " K"]
    converged: Bool[Array, " K"]

    def threshold(self) -> Float[np.ndarray, " K"]:
        """Thresholds of `w @ z` for raw rows, in float64: the shift is folded in without rounding."""
        w, b, shift = (np.asarray(leaf, np.float64) for leaf in (self.w, self.b, self.shift))
        return b + w @ shift


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

    Every device fits its share of the concepts (`layout`), without communication, and has all rows: those of a resident
    table are gathered once a call, those of a streamed one are fetched by each device for itself. On a CPU a concept's
    template has the same bits whatever the number of devices and of concepts beside it. Streamed or resident, templates
    differ by the rounding of sums of another order, and with `lbfgs` by where within its tolerance a fit ends.

    Args:
        key: randomness of all concepts; each folds in its own identity, so it never depends on the others.
        table: the training split.
        pools: the rows of every concept, possibly of none; each has a positive and a negative at least.
        identities: 32-bit number of every concept, unique and stable.
        norm: coordinates of the solver `paper`, whose result is folded back to raw rows. `lbfgs` takes from it only which
            features are left out: its result does not depend on shifts and scales.
        config: the protocol's numbers.
        memory_mb: bound on what fitting adds to the memory of a device beside the rows, 2^20 bytes each: the scores of
            some concepts over all rows (over a window of streamed ones), and the row numbers of pools and batches. Less
            memory means more products of fewer concepts and, where even the row numbers do not fit, several waves of
            concepts. It is exceeded where a single concept needs more. The rows of a bundle (`bundles.SAMPLE` rows in
            float32, twice) come on top.

    Returns:
        Hyperplanes in the order of `pools`, on every device. One that diverged is not finite: the caller checks.

    Raises:
        InputError: streamed rows could not be read.
    """
    if not pools:
        width = table.rows.shape[-1]
        none, zeros = jnp.zeros(0), jnp.zeros(width)
        return Hyperplanes(jnp.zeros((0, width)), none, zeros, zeros, none, none, jnp.zeros(0, bool))
    waves, score_together = plan(pools, identities, table, config=config, memory_mb=memory_mb)
    # Those of all waves have one shape: one program.
    bundles = plan_bundles([layout for wave in waves for layout in wave.layouts])
    key, norm = replicate((key, norm), table.mesh)
    static = {"config": config, "score_together": score_together, "mesh": table.mesh}
    fitted, places, start = [], np.zeros(len(pools), np.int32), 0
    for number, wave in enumerate(waves):
        of_wave = bundles[number * table.mesh.size :][: table.mesh.size]
        concepts = tuple(_spread(leaves, table.mesh) for leaves in (wave.layouts, of_wave))
        shared, hyperplanes = _fit_wave(key, table.rows, table.real, concepts, norm, **static)
        # The next wave's rows must not come into memory beside this one's.
        fitted.append(jax.block_until_ready(hyperplanes) if len(waves) > 1 else hyperplanes)
        for of_device, layout in zip(wave.concepts, wave.layouts, strict=True):
            places[of_device] = start + np.arange(len(of_device))
            start += len(layout.n_pos)
    fit = _in_order(fitted, replicate(places, table.mesh))
    return finished(table.rows, Hyperplanes(fit.w, fit.b, *shared, fit.loss, fit.gradient_norm, fit.converged))


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
        batch_size=config.batch_size if config.solver == "paper" else TILE_ROWS,
        group_size=GROUP_SIZE.get(jax.default_backend(), DEFAULT_GROUP_SIZE),
        max_slots=half // BYTES_PER_SLOT,
        dense_from=dense_from(table.rows.shape[0] * table.rows.shape[1]),
        num_devices=table.mesh.size,
    )
    layouts = [layout for wave in waves for layout in wave.layouts]
    num_concepts = len(layouts[0].n_pos)
    num_dense = max(int(layout.num_dense) for layout in layouts)
    fitting = max(1, min(half // (4 * rows_scored(table.rows)), num_concepts if num_dense else 1))
    return waves, max(c for c in range(1, fitting + 1) if num_concepts % c == 0)


def dense_from(num_rows: int) -> int:
    """The smallest pool that is scored densely."""
    return math.ceil(num_rows * DENSE_SHARE.get(jax.default_backend(), DEFAULT_DENSE_SHARE))


def _spread(layouts: Sequence[Layout] | Sequence[Bundles], mesh: Mesh) -> Layout | Bundles:
    """The layouts along a new first axis, each on its device; no copy of all of them is made."""
    split = NamedSharding(mesh, PartitionSpec(DATA_AXIS))

    def put(*leaves):
        shape = (len(leaves), *leaves[0].shape)
        return jax.make_array_from_callback(shape, split, lambda index: leaves[index[0].start or 0][None])

    return jax.tree.map(put, *layouts)


@jax.jit
def _in_order(fitted: list[Solution], places) -> Solution:
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[places], *fitted)


@functools.partial(jax.jit, static_argnames=("config", "score_together", "mesh"))
def _fit_wave(key, rows, real, concepts, norm: Affine, *, config, score_together, mesh):
    """The shift and deviations of the features, and the regressions of all devices in a row, for raw rows."""

    def fit(key, rows, real, concepts, norm):
        layout, bundles = jax.tree.map(lambda leaf: leaf[0], concepts)
        coordinates = fit_coordinates(rows, real, jnp.isfinite(norm.scale), penalty=config.penalty)
        problem = _Device(key, rows, layout, bundles, norm, coordinates, config, score_together)
        solution = problem.lbfgs() if config.solver == "lbfgs" else problem.paper()
        shift = coordinates.shift if config.solver == "lbfgs" else jnp.zeros_like(coordinates.shift)
        return (shift, coordinates.deviation), solution

    each, everywhere = PartitionSpec(DATA_AXIS), PartitionSpec()
    # Loops start from carries that are the same on all devices, which the check would refuse.
    spread = jax.shard_map(
        fit,
        mesh=mesh,
        in_specs=(everywhere, everywhere, everywhere, each, everywhere),
        out_specs=(everywhere, each),
        check_vma=False,
    )
    return on_all_devices(spread(key, rows, real, concepts, norm), mesh)


@dataclasses.dataclass(frozen=True)
class _Device:
    """The concepts of one device, within the program."""

    key: Key[Array, ""]
    rows: Float[Array, "I R D"] | StreamedRows
    layout: Layout
    bundles: Bundles
    norm: Affine
    coordinates: Coordinates
    config: HyperplaneConfig
    score_together: int

    @property
    def num_concepts(self) -> int:
        return len(self.layout.n_pos)

    def lbfgs(self) -> Solution:
        """The minima of every round, in standardised coordinates; weights and thresholds of the last round's."""
        width = self.rows.shape[-1]

        def one_round(carry, round_number):
            w, b, members, _ = carry
            members = self.members(round_number, members, w * self.coordinates.inverse[None], self.coordinates.shift)
            solution = self.solve(members, w, b, max_steps=MAX_STEPS)
            return (solution.w, solution.b, members, solution), None

        w, b = jnp.zeros((self.num_concepts, width)), jnp.zeros(self.num_concepts)
        start = (w, b, self.layout.positives, _nothing_solved(w, b))
        (_, _, members, solution), _ = jax.lax.scan(one_round, start, jnp.arange(self.config.rounds))
        solution = self.solve_large(members, solution, max_steps=MAX_STEPS)
        return solution._replace(w=solution.w * self.coordinates.inverse[None])

    def paper(self) -> Solution:
        """SGD on raw rows; loss and gradient norm are measured where it ended, as those of `lbfgs`."""
        num_groups = len(self.layout.group_steps)
        grouped = lambda leaf: leaf.reshape(num_groups, -1, *leaf.shape[1:])  # noqa: E731
        flat = lambda leaf: leaf.reshape(self.num_concepts, *leaf.shape[2:])  # noqa: E731
        n, first_batch = grouped(self.layout.n_pos + self.layout.n_neg), grouped(self.layout.first_batch)

        def one_round(carry, round_number):
            params, members = carry
            members = self.members(round_number, members, self.norm.fold(*params)[0], jnp.zeros_like(params[0][0]))

            def epoch(params, number):
                visits = shuffle(self.words(round_number, number), members, self.layout)

                def group(inputs):
                    rate = self.config.learning_rate
                    return train_epoch(self.rows, self.norm, visits, *inputs, learning_rate=rate)

                inputs = (n, first_batch, self.layout.group_steps, jax.tree.map(grouped, params))
                return jax.tree.map(flat, jax.lax.map(group, inputs)), None

            return (jax.lax.scan(epoch, params, 1 + jnp.arange(self.config.epochs))[0], members), None

        params = (jnp.zeros((self.num_concepts, self.rows.shape[-1])), jnp.zeros(self.num_concepts))
        start = (params, self.layout.positives)
        (params, members), _ = jax.lax.scan(one_round, start, jnp.arange(self.config.rounds))
        w, b = self.norm.fold(*params)
        shift = jnp.einsum("kd,d->k", w, self.coordinates.shift, precision=jax.lax.Precision.HIGHEST)
        standardized = (w * self.coordinates.deviation[None], b - shift)
        solution = self.solve(members, *standardized, max_steps=0)
        solution = self.solve_large(members, solution, max_steps=0)
        return solution._replace(w=w, b=b)

    def members(self, round_number, members, w, shift) -> Int[Array, "batches batch"]:
        """The members of a round: random negatives in the first, the hardest in later ones."""

        def mined():
            scores = pool_scores(self.rows, w, shift, self.layout, score_together=self.score_together)
            return hardest(scores, members, self.layout)

        return jax.lax.cond(round_number == 0, lambda: drawn(self.words(round_number, 0), members, self.layout), mined)

    def words(self, round_number, purpose):
        """The words of a permutation for every concept; purpose 0 draws negatives, 1 and up are the epochs."""
        keys = jax.vmap(lambda identity: jax.random.fold_in(self.key, identity))(self.layout.identity)
        folded = jax.vmap(lambda k: jax.random.fold_in(jax.random.fold_in(k, round_number), purpose))(keys)
        return jax.vmap(permutation_words)(folded)

    def solve(self, members, w, b, *, max_steps: int) -> Solution:
        """Continues all regressions, bundle after bundle; large ones on their samples."""

        def one_bundle(bundle):
            first_concept, first_tile = bundle
            concept = jnp.minimum(first_concept + jnp.arange(SLOTS), self.num_concepts - 1)
            start = w[concept], b[concept]

            def solved():
                problems = bundle_problems(self.rows, self.coordinates, members, self.layout, first_concept, first_tile)
                return self.minimise(problems, *start, max_steps=max_steps)

            # Padding has no bundles' worth of rows to fetch.
            return jax.lax.cond(first_tile[0] == 0, solved, lambda: _nothing_solved(*start))

        solutions = jax.lax.map(one_bundle, (self.bundles.first_concept, self.bundles.first_tile))
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[self.bundles.place], solutions)

    def solve_large(self, members, solution: Solution, *, max_steps: int) -> Solution:
        """Continues the regressions that are larger than a bundle on all their members."""
        if not len(self.bundles.large):
            return solution
        num_chunks = -(-members.size // SAMPLE)

        def one_concept(concept):
            problem = large_problem(self.rows, self.coordinates, members, self.layout, concept, num_chunks)
            start = (leaf[concept][None] for leaf in solution[:2])
            return self.minimise(problem, *start, max_steps=max_steps)

        large = jax.lax.map(one_concept, self.bundles.large)
        put = lambda whole, part: whole.at[self.bundles.large].set(part[:, 0], mode="drop")  # noqa: E731
        return jax.tree.map(put, solution, large)

    def minimise(self, problems: Problems, w, b, *, max_steps: int) -> Solution:
        # What SGD minimises has no penalty.
        penalty = self.config.penalty if self.config.solver == "lbfgs" else 0.0
        basis = self.coordinates.basis
        return minimise(
            problems, w, b, basis, penalty=penalty, tolerance=TOLERANCE, enough=CONVERGED, max_steps=max_steps
        )


def _nothing_solved(w, b) -> Solution:
    zeros = jnp.zeros(len(w))
    return Solution(w, b, zeros, zeros, jnp.zeros(len(w), bool), jnp.zeros(len(w), jnp.int32))
