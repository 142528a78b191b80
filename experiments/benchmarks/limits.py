"""What the machine could do at best: the unavoidable work of a benchmark and nothing else, measured beside it.

Fitting hyperplanes has to multiply all rows with all templates, and to fetch the rows that it trains on; everything else
is overhead, and the share of the time that these two take alone tells how much.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vitprobe_jax.features.streaming import take_rows
from vitprobe_jax.probes.hyperplane import HyperplaneConfig, dense_from
from vitprobe_jax.probes.sampling import RowPool

ROWS_AT_ONCE = 2048
"""Rows of one fetch: 16 concepts x 128."""
SCORES_AT_ONCE = 1 << 30
SIDE = 4096
"""Of the products that measure the rate of operations."""


def hyperplane_limit(
    rows: Float[Array, "I R D"], pools: Sequence[RowPool], config: HyperplaneConfig, seed: int
) -> Callable[[], None]:
    """A function that does the products of the mined rounds, and fetches as many random rows as all stages visit.

    The products of the solver `lbfgs` with the rows that it has fetched are not part of it: how many there are depends on
    the rows.

    Args:
        rows: of the table.
        pools: pools of the concepts; a round of `lbfgs` and an epoch of `paper` fetch the positives and the round's
            negatives.
        config: the protocol.
        seed: of templates and row numbers.
    """
    num_rows, width = rows.shape[0] * rows.shape[1], rows.shape[2]
    sparse = [len(pool.negatives) for pool in pools if len(pool.negatives) < dense_from(num_rows)]
    num_dense = len(pools) - len(sparse)
    w = jnp.asarray(np.random.default_rng(seed).standard_normal((num_dense, width)), rows.dtype)
    # More scores than these would not fit beside the rows of a large table.
    together = max(1, min(num_dense, SCORES_AT_ONCE // num_rows))
    visits = sum(
        len(pool.positives) + min(config.negative_ratio * len(pool.positives), len(pool.negatives)) for pool in pools
    )
    fetches = config.rounds * (config.epochs if config.solver == "paper" else 1)
    fetch = fetch_limit(rows, visits, fetches, seed)
    fetch_pools = fetch_limit(rows, sum(sparse), config.rounds - 1, seed)

    @jax.jit
    def product(rows, w):
        return jnp.einsum("cd,nd->cn", w, rows.reshape(-1, width), preferred_element_type=jnp.float32)

    def run():
        for _ in range(config.rounds - 1):
            for start in range(0, num_dense, together):
                jax.block_until_ready(product(rows, w[start : start + together]))
        fetch_pools()
        fetch()

    return run


def fetch_limit(rows: Float[Array, "I R D"], visits: int, times: int, seed: int) -> Callable[[], None]:
    """A function that fetches `visits` random rows, so many times over."""
    steps = -(-visits // ROWS_AT_ONCE)
    index = np.random.default_rng(seed).integers(0, rows.shape[0] * rows.shape[1], (steps, ROWS_AT_ONCE), np.int32)

    @jax.jit
    def fetch(rows, index):
        def step(total, places):
            # A product with the fetched rows, so that they must exist.
            z = take_rows(rows, places).astype(jnp.float32)
            return total + jnp.einsum("n,nd->d", jnp.ones(len(places)), z), None

        return jax.lax.scan(step, jnp.zeros(rows.shape[-1]), index)[0]

    index = jax.device_put(index)

    def run():
        for _ in range(times):
            jax.block_until_ready(fetch(rows, index))

    return run


def matmul_limit(flops: float, dtype) -> Callable[[], None]:
    """A function that does so many operations in large square products."""
    side = int(np.clip((flops / 2) ** (1 / 3), 1, SIDE))
    x = jnp.ones((side, side), dtype)
    times = max(1, round(flops / (2 * side**3)))

    @jax.jit
    def product(x):
        return jnp.matmul(x, x, precision=jax.lax.Precision.HIGHEST)

    def run():
        for _ in range(times):
            out = product(x)
        jax.block_until_ready(out)

    return run
