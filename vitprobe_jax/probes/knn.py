"""Exact nearest neighbours, block by block: no matrix of all scores ever exists.

Blocks of queries meet blocks of the base in one matrix product, and of its scores only the largest of every few
consecutive rows, a *group*, is kept: the k best rows are among the k groups with the largest maxima. The distances to the
rows of these groups, and of a few groups more, are then computed again from differences. So nearly all of the time is the
product; its rounding decides nothing as long as it misplaces a row by no more than those few groups; and a row is at
distance 0 from itself.
"""

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from vitprobe_jax.errors import InputError
from vitprobe_jax.features.table import DATA_AXIS, deal, make_mesh, on_all_devices, replicate

Metric = Literal["l2", "cosine"]

DEFAULT_MEMORY = 512 * 2**20
"""Bytes that a device may take beside the rows themselves."""
SPARE = 8
"""Groups that are looked into beyond k: as many may be misplaced by the product's rounding."""
COARSE = 16
"""Groups that are first compared by their largest maximum: sorting all maxima of a large base would take long."""
IN_FLIGHT = 2
"""Blocks of queries at work together: on a CPU, sorting is on one core, while the next block multiplies on the other."""
ROWS, BLOCK = 1024, 1024
NO_GROUP = np.iinfo(np.int32).max


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """The k nearest rows of a base, nearest first; of equally near ones the lower index comes first.

    Attributes:
        scores: [Q, k] squared Euclidean distances (`l2`) or cosine similarities (`cosine`).
        indices: [Q, k] rows of the base.
    """

    scores: Float[np.ndarray, "Q k"]
    indices: Int[np.ndarray, "Q k"]


def nearest(
    queries: Float[Array | np.ndarray, "Q D"],
    base: Float[Array | np.ndarray, "N D"],
    *,
    k: int,
    metric: Metric = "l2",
    memory: int = DEFAULT_MEMORY,
    mesh: Mesh | None = None,
    query_groups: Int[np.ndarray, " Q"] | None = None,
    base_groups: Int[np.ndarray, " N"] | None = None,
) -> Neighbours:
    """TODO"""
    _check(queries, base, k, metric, query_groups, base_groups)
    mesh = make_mesh(jax.local_devices()[:1]) if mesh is None else mesh
    plan = _plan(base.shape, k, metric, memory // IN_FLIGHT, mesh.devices.flat[0].platform, len(queries))
    base = replicate(base, mesh)
    shift = _mean(base)
    if not np.isfinite(np.asarray(shift)).all():
        raise InputError("the rows to choose from hold values that are not finite, or too large to add up")
    groups = None if base_groups is None else replicate(base_groups.astype(np.int32), mesh)
    queries = np.asarray(queries)
    at_once = plan.rows * mesh.size
    found = []
    for start in range(0, len(queries), at_once):
        part = [queries[start : start + at_once]]
        if groups is not None:
            part.append(query_groups[start : start + at_once].astype(np.int32))
        missing = at_once - len(part[0])
        padded = [np.pad(leaf, [(0, missing), *[(0, 0)] * (leaf.ndim - 1)]) for leaf in part]
        found.append(_search(*deal(padded, mesh), base=base, shift=shift, groups=groups, mesh=mesh, plan=plan))
        if len(found) > IN_FLIGHT:
            jax.block_until_ready(found[-1 - IN_FLIGHT])
    scores, indices = (np.concatenate([np.asarray(x) for x in parts])[: len(queries)] for parts in zip(*found, strict=True))
    return Neighbours(scores, indices)


def _check(queries, base, k, metric, query_groups, base_groups):
    pass


@dataclasses.dataclass(frozen=True)
class _Plan:
    k: int
    metric: Metric
    rows: int
    block: int
    group: int
    together: int
    kept: int
    tile: int


def _plan(shape, k, metric, memory, platform, num_queries) -> _Plan:
    N, D = shape
    rows, block = ROWS, BLOCK
    rows = min(rows, max(8, 1 << (num_queries - 1).bit_length()))
    block = min(block, -(-N // 128) * 128)
    group = 8 if k <= 64 else 4
    blocks = -(-N // block)
    kept = min(k + SPARE, blocks * (block // group))
    each = rows * (block // group) * 8
    fixed = rows * block * 4 + block * D * 8
    together = int(np.clip((memory - fixed) // each, 1, blocks))
    together = -(-blocks // -(-blocks // together))
    tile = max(1, min(rows, 1 << max(0, ((4 << 20) // (kept * group * D * 4)).bit_length() - 1)))
    return _Plan(k, metric, rows, block, group, together, kept, tile)


@jax.jit
def _mean(base):
    return jnp.mean(base, axis=0, dtype=jnp.float32)


@functools.partial(jax.jit, static_argnames=("mesh", "plan"))
def _search(queries, own=None, *, base, shift, groups, mesh, plan):
    def of_device(queries, own, base, shift, groups):
        chosen = _choose_groups(queries, own, base, shift, groups, plan)
        return _choose_rows(queries, own, chosen, base, groups, plan)

    dealt, whole = PartitionSpec(DATA_AXIS), PartitionSpec()
    spread = jax.shard_map(
        of_device, mesh=mesh, in_specs=(dealt, dealt, whole, whole, whole), out_specs=dealt, check_vma=False
    )
    return on_all_devices(spread(queries, own, base, shift, groups), mesh)


def _prepared(rows, shift, metric):
    """What the product multiplies"""
    rows = rows.astype(jnp.float32)
    return _unit(rows) if metric == "cosine" else rows - shift.reshape((1,) * (rows.ndim - 1) + (-1,))


def _unit(rows):
    norm = jnp.sqrt(jnp.sum(rows**2, axis=-1, keepdims=True))
    return rows / jnp.where(norm > 0, norm, 1.0)


def _choose_groups(queries, own, base, shift, groups, plan):
    num_rows, size, group = len(base), plan.block, plan.group
    if num_rows < size:
        base = jnp.pad(base, ((0, size - num_rows), (0, 0)))
    per_block = size // group
    num_blocks = -(-num_rows // size)
    queries = _prepared(queries, shift, plan.metric)

    def visit(_, number):
        first = number * size
        start = jnp.minimum(first, len(base) - size)
        part = jax.lax.dynamic_slice_in_dim(base, start, size)
        # Rows of a group lie a stride apart: its maximum is then taken lane by lane.
        part = _prepared(part.reshape(per_block, group, -1).swapaxes(0, 1), shift, plan.metric)
        index = start + jnp.arange(size).reshape(per_block, group).T
        valid = (index >= first) & (index < num_rows)
        bias = jnp.where(valid, 0.0 if plan.metric == "cosine" else -jnp.sum(part**2, axis=-1) / 2, -jnp.inf)
        scores = jnp.einsum("qd,nd->qn", queries, part.reshape(size, -1), precision=jax.lax.Precision.HIGHEST)
        scores = scores.reshape(-1, group, per_block) + bias[None]
        if groups is not None:
            same = groups[jnp.clip(index, 0, num_rows - 1)][None] == own[:, None, None]
            scores = jnp.where(same, -jnp.inf, scores)
        # jnp.max would also look for NaN, which takes longer.
        maxima = jax.lax.reduce(scores, -jnp.inf, lambda a, b: jnp.where(a > b, a, b), (1,))
        column = (number % plan.together) * per_block
        return jax.lax.dynamic_update_slice_in_dim(_, jnp.where(maxima == 0, 0.0, maxima), column, axis=1), None

    def pass_(best, number):
        numbers = number * plan.together + jnp.arange(plan.together)
        maxima, _ = jax.lax.scan(visit, jnp.full((len(queries), plan.together * per_block), -jnp.inf), numbers)
        found = _largest(maxima, min(plan.kept, maxima.shape[1]))
        values = jnp.concatenate([best[0], jnp.take_along_axis(maxima, found, axis=1)], axis=1)
        ids = jnp.concatenate([best[1], numbers[0] * per_block + found], axis=1)
        values, order = jax.lax.top_k(values, plan.kept)
        return (values, jnp.take_along_axis(ids, order, axis=1)), None

    best = jnp.full((len(queries), plan.kept), -jnp.inf), jnp.zeros((len(queries), plan.kept), jnp.int32)
    (values, ids), _ = jax.lax.scan(pass_, best, jnp.arange(-(-num_blocks // plan.together)))
    return jnp.sort(jnp.where(values > -jnp.inf, ids, NO_GROUP), axis=1)


def _largest(x, count):
    """Indices of the `count` largest of each row, ascending; of equal ones the lower indices."""
    if x.shape[1] < 4 * COARSE * count:
        return jnp.sort(jax.lax.top_k(x, count)[1], axis=1)
    coarse = jnp.pad(x, ((0, 0), (0, -x.shape[1] % COARSE)), constant_values=-jnp.inf).reshape(len(x), -1, COARSE)
    maxima = jax.lax.reduce(coarse, -jnp.inf, lambda a, b: jnp.where(a > b, a, b), (2,))
    chosen = jnp.sort(jax.lax.top_k(maxima, count)[1], axis=1)
    fine = jnp.take_along_axis(coarse, chosen[:, :, None], axis=1).reshape(len(x), -1)
    order = jnp.sort(jax.lax.top_k(fine, count)[1], axis=1)
    return jnp.take_along_axis(chosen, order // COARSE, axis=1) * COARSE + order % COARSE


def _choose_rows(queries, own, chosen, base, groups, plan):
    num_rows = len(base)
    last = max(0, num_rows - plan.block)

    def of_tile(leaves):
        queries, own, chosen = leaves
        first = chosen // (plan.block // plan.group) * plan.block
        moved = first - jnp.minimum(first, last)
        index = ((chosen * plan.group - moved)[:, :, None] + jnp.arange(plan.group)[None, None])
        valid = (chosen[:, :, None] != NO_GROUP) & (index >= first[:, :, None]) & (index < num_rows)
        index = jnp.clip(index, 0, num_rows - 1).reshape(len(queries), -1)
        valid = valid.reshape(len(queries), -1)
        if groups is not None:
            valid &= groups[index] != own[:, None]
        rows = base[index].astype(jnp.float32)
        if plan.metric == "cosine":
            unit = _unit(queries)
            rows = _unit(rows)
            scores = 1 - jnp.sum((unit[:, None] - rows) ** 2, axis=-1) / 2
            scores = jnp.where(jnp.any(unit != 0, axis=-1)[:, None] & jnp.any(rows != 0, axis=-1), scores, 0.0)
        else:
            scores = -jnp.sum((queries[:, None] - rows) ** 2, axis=-1)
        scores, order = jax.lax.top_k(jnp.where(valid, scores, -jnp.inf), plan.k)
        index = jnp.where(scores > -jnp.inf, jnp.take_along_axis(index, order, axis=1), -1)
        return (scores if plan.metric == "cosine" else -scores), index

    tiles = jax.tree.map(lambda leaf: leaf.reshape(-1, plan.tile, *leaf.shape[1:]), (queries.astype(jnp.float32), own, chosen))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, plan.k), jax.lax.map(of_tile, tiles))


def classify(neighbour_labels: Int[np.ndarray, "Q k"], num_classes: int) -> Int[np.ndarray, " Q"]:
    """The class that most neighbours are of; of equally many votes, that whose nearest neighbour is nearest.

    Args:
        neighbour_labels: of the k neighbours of each query, nearest first.
        num_classes: labels are from 0 to this number less one.
    """
    num_queries, k = neighbour_labels.shape
    cells = np.arange(num_queries)[:, None] * num_classes + neighbour_labels
    votes = np.bincount(cells.ravel(), minlength=num_queries * num_classes)[cells]
    # The votes of each neighbour's own class; argmax takes the first of equals, the nearest.
    return np.take_along_axis(neighbour_labels, np.argmax(votes, axis=1)[:, None], axis=1)[:, 0]
