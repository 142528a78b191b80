"""Many heads on the same frozen tokens: a representation, a BatchNorm and a linear classifier each (MAE's linear probe).

A *head* is a representation (`pooling`); its *members* are trained from several seeds with several learning rates. The
BatchNorm has no scale and shift of its own. `head_training` trains all members of all heads together, each as if it were
alone; here they begin, and here they are asked.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, PyTree

from vitprobe_jax.features.frozen import ImageTokens
from vitprobe_jax.features.table import DATA_AXIS
from vitprobe_jax.probes.head_optimizers import HeadOptimizer, head_optimizer
from vitprobe_jax.probes.pooled_parts import in_order, in_parts, pool_parts
from vitprobe_jax.probes.pooling import Pooling, init_pooling, patch_weights

EPSILON = 1e-6
"""What BatchNorm adds to variances, as in front of MAE's linear probe."""
KERNEL_DEVIATION = 0.01
"""Of a classifier's weights at the start, a normal distribution cut off at two deviations: MAE's."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadsConfig:
    """What is trained, and how.

    Attributes:
        poolings: a head each.
        rates: learning rates at their peak, already scaled to the images of a step.
        seeds: of the parameters at the start; the same for all heads and rates.
        num_classes: C.
        multilabel: whether an image may carry several classes: sigmoids then, otherwise a softmax.
        width: features of a token.
        optimizer: see `head_optimizers`.
        momentum: of either optimiser, see `head_optimizers.MOMENTA`.
        steps: of the whole training.
        warmup_steps: of them at the start.
    """

    poolings: tuple[Pooling, ...]
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    num_classes: int
    multilabel: bool
    width: int
    optimizer: HeadOptimizer
    momentum: float = 0.9
    steps: int
    warmup_steps: int

    @property
    def members(self) -> tuple[tuple[float, int], ...]:
        """(rate, seed) of the M members of every head: all seeds of the first rate, then those of the next."""
        return tuple((rate, seed) for rate in self.rates for seed in self.seeds)

    def over_members(self, act: Callable[..., Any], *trees: PyTree[Array]) -> Any:
        """`act(optimiser, *trees)` of every member with its own optimiser and its slice of the trees."""

        def of_member(rate, *trees):
            settings = {"momentum": self.momentum, "steps": self.steps, "warmup_steps": self.warmup_steps}
            return act(head_optimizer(self.optimizer, rate, **settings), *trees)

        return jax.vmap(of_member)(jnp.array([rate for rate, _ in self.members]), *trees)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class HeadsState:
    """All that a training goes on from, on every device: arrays, or what JAX puts in their place.

    Attributes:
        step: steps done, int32.
        params: by head, `pooling` (as `init_pooling` has it) and `classifier` (`kernel` [D, C], `bias` [C]); the members
            are the first axis of every leaf.
        optimizer: by head, optax' state, likewise.
        statistics: by head, BatchNorm's running `mean` and `variance` [M, D]; [1, D] where the representation has nothing
            to be trained, and is the same for all members.
    """

    step: Any
    params: Any
    optimizer: Any
    statistics: Any


@functools.partial(jax.jit, static_argnums=(0, 1))
def init_heads(config: HeadsConfig, mesh: Mesh) -> HeadsState:
    """The state before the first step, on every device of the mesh.

    A member's parameters hang on its seed and its representation alone; the classifiers of a seed are the same in all heads.

    Raises:
        InputError: a representation that the width does not allow.
    """
    params = {pooling.name: _init_members(config, pooling) for pooling in config.poolings}
    statistics = {}
    for pooling in config.poolings:
        shape = (len(config.members) if pooling.is_trained else 1, config.width)
        statistics[pooling.name] = {"mean": jnp.zeros(shape), "variance": jnp.ones(shape)}
    optimizer = {
        name: config.over_members(lambda optimizer, own: optimizer.init(own), tree) for name, tree in params.items()
    }
    state = HeadsState(jnp.zeros((), jnp.int32), params, optimizer, statistics)
    return jax.lax.with_sharding_constraint(state, NamedSharding(mesh, PartitionSpec()))


def scores(config: HeadsConfig, mesh: Mesh, state: HeadsState, tokens: ImageTokens) -> dict[str, Float[Array, "M B C"]]:
    """Logits of every member of every head, with the running statistics; they stay spread over the devices by image.

    Args:
        config: of the heads.
        mesh: over whose data axis the images are spread; their number is a multiple of `parts_of(mesh)`.
        state: of the heads.
        tokens: of a frozen backbone.
    """
    return _scores(config.poolings, mesh, state.params, state.statistics, tokens)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _scores(poolings, mesh, params, statistics, tokens):
    def on_device(params, statistics, tokens):
        pooled, _ = pool_parts(poolings, params, in_parts(tokens, mesh))
        return {name: score(params[name]["classifier"], statistics[name], leaf) for name, leaf in pooled.items()}

    def score(classifier, running, pooled_qxmxbxD):
        def of_part(pooled_mxbxD):
            return classify(classifier, normalize(pooled_mxbxD, running["mean"], running["variance"]))

        return in_order(jax.lax.map(of_part, pooled_qxmxbxD))

    everywhere = PartitionSpec()
    spread = jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(everywhere, everywhere, PartitionSpec(DATA_AXIS)),
        out_specs=PartitionSpec(None, DATA_AXIS),
        check_vma=False,
    )
    return spread(params, statistics, tokens)


@functools.partial(jax.jit, static_argnums=(0, 1, 4))
def weights_of(
    config: HeadsConfig, mesh: Mesh, state: HeadsState, tokens: ImageTokens, name: str
) -> Float[Array, "M B P"]:
    """The weights that every member of one head gives to patches (`patch_weights`), spread over the devices by image.

    Args:
        config: of the heads.
        mesh: as in `scores`.
        state: of the heads.
        tokens: as in `scores`.
        name: of the head.

    Raises:
        ValueError: the head is `cls`, which has no weights.
    """
    (pooling,) = (pooling for pooling in config.poolings if pooling.name == name)

    def on_device(params, tokens):
        return in_order(jax.lax.map(lambda part: of_part(params, part), in_parts(tokens, mesh)))

    def of_part(params, tokens):
        if pooling.is_trained:
            return jax.vmap(functools.partial(patch_weights, pooling), (0, None))(params, tokens)
        weights_BxP = patch_weights(pooling, {}, tokens)
        return jnp.broadcast_to(weights_BxP[None], (len(config.members), *weights_BxP.shape))

    spread = jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec(DATA_AXIS)),
        out_specs=PartitionSpec(None, DATA_AXIS),
        check_vma=False,
    )
    return spread(state.params[name]["pooling"], tokens)


def normalize(
    pooled: Float[Array, "m B D"], mean: Float[Array, "m D"], variance: Float[Array, "m D"]
) -> Float[Array, "m B D"]:
    """BatchNorm by the given statistics."""
    return (pooled - mean[:, None]) * jax.lax.rsqrt(variance + EPSILON)[:, None]


def classify(classifier: dict[str, Float[Array, "M ..."]], normal: Float[Array, "m B D"]) -> Float[Array, "M B C"]:
    """Logits of all members, of vectors of their own or of those that all share."""
    kernel_MxDxC = classifier["kernel"]
    if len(normal) < len(kernel_MxDxC):
        logits = jnp.einsum("bd,mdc->mbc", normal[0], kernel_MxDxC, precision=jax.lax.Precision.HIGHEST)
    else:
        logits = jnp.einsum("mbd,mdc->mbc", normal, kernel_MxDxC, precision=jax.lax.Precision.HIGHEST)
    return logits + classifier["bias"][:, None]


def _init_members(config: HeadsConfig, pooling: Pooling) -> PyTree[Float[Array, "M ..."]]:
    draw = jax.nn.initializers.truncated_normal(KERNEL_DEVIATION)

    def of_seed(seed):
        of_classifier, of_pooling = jax.random.split(jax.random.key(seed))
        kernel = draw(of_classifier, (config.width, config.num_classes))
        classifier = {"kernel": kernel, "bias": jnp.zeros(config.num_classes)}
        return {"classifier": classifier, "pooling": init_pooling(of_pooling, pooling, config.width)}

    by_seed = [of_seed(seed) for seed in config.seeds]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves * len(config.rates)), *by_seed)
