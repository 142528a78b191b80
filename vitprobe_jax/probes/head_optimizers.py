"""LARS and SGD, and their learning rate, as MAE's linear probes have them."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

HeadOptimizer = Literal["lars", "sgd"]
MOMENTA: dict[HeadOptimizer, float] = {"lars": 0.9, "sgd": 0.0}
"""Momentum of each in the code of "Beyond [cls]" (gmum/beyond_cls, main_linprobe.py), which gives `torch.optim.SGD` none."""
TRUST = 0.001
"""LARS: a step's length as a share of the parameters' own, at a learning rate of 1."""


def rate_share(step: Int[Array | np.ndarray, "..."] | int, *, steps: int, warmup_steps: int) -> Float[Array, "..."]:
    """The learning rate as a share of the peak at `step`, counted from 0, of `steps`.

    It rises linearly over the first `warmup_steps`, from 0: step 0 moves nothing unless there is no warm-up. Then it falls
    along half a cosine, which would reach 0 at step number `steps`.
    """
    step = jnp.asarray(step, jnp.float32)
    fallen = (step - warmup_steps) / max(1, steps - warmup_steps)
    return jnp.where(step < warmup_steps, step / max(1, warmup_steps), 0.5 * (1 + jnp.cos(jnp.pi * fallen)))


def head_optimizer(
    kind: HeadOptimizer,
    rate: Float[Array, ""] | float,
    *,
    momentum: float,
    steps: int,
    warmup_steps: int,
) -> optax.GradientTransformation:
    """The optimiser of one head; `jax.vmap` over `rate` and trees makes it that of many.

    LARS scales the gradient of each matrix p to 0.001 |p| / |gradient| (left as it is where either is 0), and of nothing
    else: not of biases. Either adds momentum, mu = momentum * mu + gradient, and then steps by -rate(t) * mu. `optax.lars`
    has the rate before the momentum, which is another optimiser where the rate changes. There is no weight decay.

    Args:
        kind: which.
        rate: the peak.
        momentum: share of the last step that is kept, from 0 to below 1; `MOMENTA` has that of the paper.
        steps: of the whole training.
        warmup_steps: of them at the start (`rate_share`).
    """
    trust = optax.masked(optax.scale_by_trust_ratio(trust_coefficient=TRUST), _is_matrix)
    return optax.chain(
        trust if kind == "lars" else optax.identity(),
        optax.trace(momentum),
        optax.scale_by_schedule(lambda step: -rate * rate_share(step, steps=steps, warmup_steps=warmup_steps)),
    )


def _is_matrix(params: PyTree[Array]) -> PyTree[bool]:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
