"""Exact nearest neighbours, block by block: no matrix of all scores ever exists.

Blocks of queries meet blocks of the base in one matrix product, and of its scores only the largest of every few
consecutive rows, a *group*, is kept: the k best rows lie in the k groups of the largest maxima. The distances to all rows
of these groups, and of a few groups more, are then computed again from differences. So nearly all of the time is the
product, whose rounding decides nothing as long as it misplaces no more than those few groups, and a row is at distance 0
from itself.
"""

import dataclasses
import functools
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from vitprobe_jax.errors import InputError
from vitprobe_jax.features.table import DATA_AXIS, deal, make_mesh, on_all_devices, replicate

Metric = Literal["l2", "cosine"]

DEFAULT_MEMORY = 1 << 30
"""Bytes that a device may take beside the rows themselves."""
SPARE = 8
"""Groups that are looked into beyond k: as many may be misplaced by the product's rounding."""
COARSE = 16
"""Groups that are first compared by their largest maximum: sorting all maxima of a large base would take long."""
CALL = 8
"""Blocks of queries of one call of the program: a new call finds its memory untouched, which takes time."""
IN_FLIGHT = 2
"""Calls at a time: on a CPU, one sorts on a single core while the other multiplies."""
ALIGNED = 128
"""Rows of a block are a multiple of these, so that the product computes all of them in the same way, and equal rows of
the base score equally to the last bit."""
SAMPLE = 1024
"""Rows that tell the mean of the base."""
LARGEST = 1e17
"""Squares of larger values, added up, would leave float32's range."""
FEW_ROWS = 128
LEAST_ROWS = 8
"""Queries of a block, where memory does not allow more."""


class Blocks(NamedTuple):
    """Sizes at most: queries of a block, rows of a block of the base, bytes of the rows that are looked into together."""

    rows: int
    size: int
    tile: int


CPU_BLOCKS = Blocks(rows=1024, size=1024, tile=4 << 20)
"""A core's cache holds its share of a product."""
ACCELERATOR_BLOCKS = Blocks(rows=4096, size=8192, tile=256 << 20)
"""An accelerator wants much work at a time."""


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
    plan_for: int = 0,
) -> Neighbours:
    """The k nearest rows of the base for every query.

    All is computed in float32, whatever the type of the rows. By `l2` the candidates are compared by q.b - |b|^2 / 2, the
    squared distance but for what a query's rows have in common. Far from the origin that is the small difference of large
    numbers, so the mean of the base is first taken off everything, which changes no distance. What is returned is the
    squared length of q - b (cosine: 1 less half of it, of rows of length 1), exact to some units of the last digit. Two
    rows whose distances differ by less than the product's rounding, about 1e-6 |q| |b| of centred rows, change places at
    the k-th only where more than `SPARE` groups are as near to it.

    Every block has the same shape on any number of devices, so results are the same to the last bit.

    Args:
        queries: equal in all processes of the mesh, where it has several.
        base: likewise; it is on the devices whole, as it is: nothing of its size is added.
        k: 1 to N.
        metric: `l2`, or `cosine`, by which rows of zeros have similarity 0 with all.
        memory: bytes that a device may take beside the rows themselves; fewer than 2^27 may slow it down.
        mesh: devices among which queries are dealt; one unless given.
        query_groups: of each query: rows of the base of the same group are no neighbours of it (a patch's own image).
        base_groups: of each row of the base, where `query_groups` is given.
        plan_for: queries of the largest of several searches in the same base. All that give it run as one program, which is
            compiled once; their numbers of queries may differ.

    Returns:
        Scores and indices; where the groups leave fewer than k rows, the index is -1 and the score inf (`cosine`: -inf).

    Raises:
        InputError: k is not in 1..N, a value is not finite or beyond `LARGEST`, or memory does not suffice.
    """
    _check(len(base), k, metric, query_groups, base_groups)
    mesh = make_mesh(jax.local_devices()[:1]) if mesh is None else mesh
    plan = _plan(max(len(queries), plan_for), *base.shape, k, metric, memory // IN_FLIGHT, mesh)
    base = replicate(_as_carried(base), mesh)
    groups = None if base_groups is None else replicate(base_groups.astype(np.int32), mesh)
    shift, largest = _shift(base)
    queries = np.asarray(queries, np.float32)
    for number, name in ((largest, "the rows to choose from"), (np.max(np.abs(queries), initial=0), "queries")):
        if not float(number) <= LARGEST:
            raise InputError(f"{name}: values must be finite and at most {LARGEST:.0e}; look at what computed them")
    at_once = mesh.size * plan.blocks * plan.rows

    def search(start: int) -> tuple[np.ndarray, np.ndarray]:
        own = () if query_groups is None else (query_groups[start : start + at_once].astype(np.int32),)
        part = [_padded(leaf, at_once) for leaf in (queries[start : start + at_once], *own)]
        # Blocks of padding alone are passed over.
        blocks = -(-(len(queries) - start) // plan.rows) - plan.blocks * np.arange(mesh.size)
        part.append(np.clip(blocks, 0, plan.blocks).astype(np.int32))
        return tuple(
            np.asarray(leaf) for leaf in _search(deal(part, mesh), (base, shift, groups), mesh=mesh, plan=plan)
        )

    # Devices that talk to each other have to do so in one order.
    with ThreadPoolExecutor(IN_FLIGHT if mesh.size == 1 else 1) as pool:
        found = [(np.zeros((0, k), np.float32), np.zeros((0, k), np.int32))]
        found += pool.map(search, range(0, len(queries), at_once))
    scores, indices = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return Neighbours(scores[: len(queries)], indices[: len(queries)])


def _check(num_rows, k, metric, query_groups, base_groups):
    if metric not in get_args(Metric):
        raise InputError(f"metric: {metric!r} is none of {', '.join(get_args(Metric))}")
    if not 1 <= k <= num_rows:
        raise InputError(f"k={k}: not in 1..{num_rows}, the number of rows to choose from; give another")
    if (query_groups is None) != (base_groups is None):
        raise InputError("query_groups and base_groups: one is given without the other; give both or none")


def _as_carried(base):
    """float32, or the bits of bfloat16: of that, XLA for CPUs would make float32 as a whole before it takes any part."""
    if base.dtype == jnp.bfloat16:
        if isinstance(base, np.ndarray):
            return np.ascontiguousarray(base).view(np.uint16)
        return jax.lax.bitcast_convert_type(base, jnp.uint16)
    return base.astype(np.float32) if base.dtype != np.float32 else base


def _float32(carried):
    """The values of what `_as_carried` gives."""
    if carried.dtype == jnp.float32:
        return carried
    return jax.lax.bitcast_convert_type(carried.astype(jnp.uint32) << 16, jnp.float32)


def _padded(leaf, length):
    return np.pad(leaf, [(0, length - len(leaf)), *[(0, 0)] * (leaf.ndim - 1)])


@jax.jit
def _shift(base):
    """About the mean of the base, [D], and the largest absolute value of all, NaN where there is any.

    Some rows tell the mean well enough, any vector is right. It is the first row and whole multiples of a power of two
    near each feature's deviation: taken off numbers of few digits, it leaves such, whose products are exact, so that rows
    at the same distance stay so.
    """
    some = _float32(base[:: -(-len(base) // SAMPLE)])
    first = some[0]
    some -= first[None]
    deviation = jnp.std(some, axis=0)
    exponent = jax.lax.bitcast_convert_type(jnp.where(deviation > 0, deviation, 1.0), jnp.int32) & 0x7F800000
    unit = jax.lax.bitcast_convert_type(exponent, jnp.float32)
    at_once = min(len(base), SAMPLE)
    largest = jax.lax.map(
        lambda start: jnp.max(jnp.abs(_float32(jax.lax.dynamic_slice_in_dim(base, start, at_once)))),
        jnp.arange(0, len(base), at_once),
    )
    return first + jnp.round(jnp.mean(some, axis=0) / unit) * unit, jnp.max(largest)


@dataclasses.dataclass(frozen=True)
class _Plan:
    """Sizes of the program.

    Attributes:
        k, metric: as in `nearest`.
        rows: queries of a block.
        blocks: of queries, in a call, of a device.
        size: rows of a block of the base.
        group: rows of a group.
        together: blocks of the base whose maxima wait to be sorted together.
        kept: groups that are looked into.
        tile: queries whose candidates are looked into together.
    """

    k: int
    metric: Metric
    rows: int
    blocks: int
    size: int
    group: int
    together: int
    kept: int
    tile: int


def _plan(num_queries: int, num_rows: int, width: int, k: int, metric: Metric, memory: int, mesh: Mesh) -> _Plan:
    """Sizes for which a device needs no more than `memory` in a call."""
    most = CPU_BLOCKS if mesh.devices.flat[0].platform == "cpu" else ACCELERATOR_BLOCKS
    rows = min(most.rows, max(LEAST_ROWS, 1 << (num_queries - 1).bit_length()))
    size = min(most.size, -(-num_rows // ALIGNED) * ALIGNED)
    num_blocks = -(-num_rows // size)
    # What is sorted, N / group, and what is computed again, kept * group, take about as long where this balances them.
    balance = np.sqrt(num_rows / (k + SPARE)) / 10
    group = int(2 ** np.clip(np.round(np.log2(balance)), 0, 4))
    kept = min(k + SPARE, num_blocks * (size // group))

    def needed(rows: int, together: int, tile: int) -> int:
        """Bytes, of whichever step needs most: finding maxima, sorting them, looking into groups."""
        maxima = rows * together * (size // group)
        sorting = maxima // COARSE + 3 * rows * kept * COARSE
        rest = 3 * size * width + 2 * rows * width + 8 * rows * kept
        return 4 * (rest + max(maxima + max(rows * size, sorting), 3 * tile * kept * group * width))

    # Sorting few maxima again and again would take longer than products with fewer queries.
    enough = min(num_blocks, -(-COARSE * kept * group // size))
    while rows > LEAST_ROWS and needed(rows, enough if rows > FEW_ROWS else 1, 1) > memory:
        rows //= 2
    least = needed(rows, 1, 1)
    if least > memory:
        given, least = (IN_FLIGHT * size / 2**20 for size in (memory, least))
        raise InputError(f"memory: {given:.1f} MiB are too few; give {int(np.ceil(least))} or more")
    tile = max(1, min(rows, 1 << (most.tile // (4 * kept * group * width)).bit_length() >> 1))
    while needed(rows, 1, tile) > memory:
        tile //= 2
    passes = next(n for n in range(1, num_blocks + 1) if needed(rows, -(-num_blocks // n), tile) <= memory)
    of_device = max(1, -(-num_queries // (rows * mesh.size)))
    blocks = -(-of_device // (IN_FLIGHT * -(-of_device // (IN_FLIGHT * CALL))))
    return _Plan(k, metric, rows, blocks, size, group, -(-num_blocks // passes), kept, tile)


@functools.partial(jax.jit, static_argnames=("mesh", "plan"))
def _search(dealt, whole, *, mesh: Mesh, plan: _Plan):
    """Scores and indices [Q, k].

    `dealt` among the devices are queries, their groups if there are any, and how many blocks of queries each has to do;
    `whole` on each are the base, its shift, and its groups if there are any.
    """

    def of_device(dealt, whole):
        *leaves, blocks = dealt

        def visit(number, found):
            start = number * plan.rows
            block = [jax.lax.dynamic_slice_in_dim(leaf, start, plan.rows) for leaf in leaves]
            of_block = _look_into(block, _choose_groups(block, whole, plan), whole, plan)
            put = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=start, axis=0)
            return jax.tree.map(put, found, of_block)

        shape = (len(leaves[0]), plan.k)
        return jax.lax.fori_loop(0, blocks[0], visit, (jnp.zeros(shape), jnp.zeros(shape, jnp.int32)))

    own, everywhere = PartitionSpec(DATA_AXIS), PartitionSpec()
    spread = jax.shard_map(of_device, mesh=mesh, in_specs=(own, everywhere), out_specs=own, check_vma=False)
    return on_all_devices(spread(dealt, whole), mesh)


def _prepared(rows, shift, metric):
    """What is multiplied."""
    return _unit(rows) if metric == "cosine" else rows - shift.reshape((1,) * (rows.ndim - 1) + (-1,))


def _unit(rows):
    """Rows of length 1; those of zeros stay."""
    norm = jnp.sqrt(jnp.sum(rows**2, axis=-1, keepdims=True))
    return rows / jnp.where(norm > 0, norm, 1.0)


def _choose_groups(block, whole, plan):
    """Ascending numbers [rows, kept] of the groups of the largest maxima; beyond the last group where there are fewer.

    The k best rows lie in the k best groups also where scores are equal, if of equal maxima that of the lower group counts
    as larger: whatever group comes before that of a row has a row that comes before it.
    """
    (queries, *own), (base, shift, groups) = block, whole
    num_rows, per_block = len(base), plan.size // plan.group
    num_blocks = -(-num_rows // plan.size)
    queries = _prepared(queries, shift, plan.metric)
    if num_rows < plan.size:
        base = jnp.pad(base, ((0, plan.size - num_rows), (0, 0)))

    def visit(maxima, number):
        # The last block is moved back to end with the base; what was seen before does not count.
        first = number * plan.size
        start = jnp.minimum(first, len(base) - plan.size)
        part = _float32(jax.lax.dynamic_slice_in_dim(base, start, plan.size))
        # The rows of a group go a stride apart: its maximum is then one of lanes.
        part = _prepared(part.reshape(per_block, plan.group, -1).swapaxes(0, 1), shift, plan.metric)
        index = (start + jnp.arange(plan.size)).reshape(per_block, plan.group).T
        bias = 0.0 if plan.metric == "cosine" else -jnp.sum(part**2, axis=-1) / 2
        bias = jnp.where((index >= first) & (index < num_rows), bias, -jnp.inf)
        product = jnp.einsum("qd,nd->qn", queries, part.reshape(plan.size, -1), precision=jax.lax.Precision.HIGHEST)
        scores = product.reshape(-1, plan.group, per_block) + bias[None]
        if own:
            same = groups[jnp.minimum(index, num_rows - 1)][None] == own[0][:, None, None]
            scores = jnp.where(same, -jnp.inf, scores)
        found = _maximum(scores, axis=1)
        found = jnp.where(found == 0, 0.0, found)  # top_k tells -0.0 from 0.0.
        column = number % plan.together * per_block
        return jax.lax.dynamic_update_slice_in_dim(maxima, found, column, axis=1), None

    def merge(best, first):
        maxima = jnp.full((len(queries), plan.together * per_block), -jnp.inf)
        maxima, _ = jax.lax.scan(visit, maxima, first + jnp.arange(plan.together))
        found = _largest(maxima, min(plan.kept, maxima.shape[1]))
        new = jnp.take_along_axis(maxima, found, axis=1), first * per_block + found
        if plan.together >= num_blocks:
            return new, None
        values, numbers = (jnp.concatenate(leaves, axis=1) for leaves in zip(best, new, strict=True))
        values, order = jax.lax.top_k(values, plan.kept)
        return (values, jnp.take_along_axis(numbers, order, axis=1)), None

    shape = (len(queries), plan.kept)
    best = jnp.full(shape, -jnp.inf), jnp.zeros(shape, jnp.int32)
    (values, numbers), _ = jax.lax.scan(merge, best, jnp.arange(0, num_blocks, plan.together))
    return jnp.sort(jnp.where(values > -jnp.inf, numbers, num_blocks * per_block), axis=1)


def _maximum(x, axis):
    """jnp.max of x without NaN, for which that looks: it takes longer."""
    return jax.lax.reduce(x, -jnp.inf, lambda a, b: jnp.where(a > b, a, b), (axis,))


def _largest(x, count):
    """Ascending indices of the `count` largest of each row, of equal ones the lower; few are sorted of many."""
    if x.shape[1] < 4 * COARSE * count:
        return jnp.sort(jax.lax.top_k(x, count)[1], axis=1)
    few = jnp.pad(x, ((0, 0), (0, -x.shape[1] % COARSE)), constant_values=-jnp.inf).reshape(len(x), -1, COARSE)
    best, chosen = jax.lax.top_k(_maximum(few, axis=2), count)
    chosen = jnp.sort(chosen, axis=1)
    few = jnp.take_along_axis(few, chosen[:, :, None], axis=1).reshape(len(x), -1)
    # There are `count` maxima already: what is smaller than all of them would only take top_k's time. (With the last of
    # `best` in place of the smallest, XLA for CPUs sorts everything.)
    few = jnp.where(few >= jnp.min(best, axis=1, keepdims=True), few, -jnp.inf)
    order = jnp.sort(jax.lax.top_k(few, count)[1], axis=1)
    return jnp.take_along_axis(chosen, order // COARSE, axis=1) * COARSE + order % COARSE


def _look_into(block, chosen, whole, plan):
    """The k best rows [rows, k] of the chosen groups: scores and indices."""
    base, _, groups = whole
    num_rows, per_block = len(base), plan.size // plan.group

    def of_tile(leaves):
        (queries, *own), chosen = leaves
        first = chosen // per_block * plan.size
        start = jnp.maximum(0, jnp.minimum(first, num_rows - plan.size)) + chosen % per_block * plan.group
        index = start[:, :, None] + jnp.arange(plan.group)[None, None]
        valid = (index >= first[:, :, None]) & (index < num_rows) & (first < num_rows)[:, :, None]
        index = jnp.minimum(index, num_rows - 1).reshape(len(queries), -1)
        valid = valid.reshape(len(queries), -1)
        if own:
            valid &= groups[index] != own[0][:, None]
        rows = _float32(base[index])
        if plan.metric == "cosine":
            queries, rows = _unit(queries), _unit(rows)
        scores = -jnp.sum((queries[:, None] - rows) ** 2, axis=-1)
        if plan.metric == "cosine":
            real = jnp.any(queries != 0, axis=-1)[:, None] & jnp.any(rows != 0, axis=-1)
            scores = jnp.where(real, 1 + scores / 2, 0.0)
        # Candidates are in the order of their indices, and top_k takes the first of equals.
        scores, order = jax.lax.top_k(jnp.where(valid, scores, -jnp.inf), plan.k)
        index = jnp.where(scores > -jnp.inf, jnp.take_along_axis(index, order, axis=1), -1)
        return (scores if plan.metric == "cosine" else -scores), index

    tiles = jax.tree.map(lambda leaf: leaf.reshape(-1, plan.tile, *leaf.shape[1:]), (block, chosen))
    return jax.tree.map(lambda leaf: leaf.reshape(len(chosen), -1), jax.lax.map(of_tile, tiles))
