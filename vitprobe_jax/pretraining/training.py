"""One optimiser step of an objective, spread over devices: the same on one or on eight of them, but for rounding."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, Key, PyTree, UInt8

from vitprobe_jax.backbones.capture import IMAGES_AT_ONCE
from vitprobe_jax.features.table import DATA_AXIS

PARTS = 8
"""A batch is dealt into so many parts; gradients of each are computed alone, gathered, and summed in their order, on any
number of devices. XLA still compiles backward passes otherwise for other numbers of partitions: gradients of order 1 differ
in the seventh digit. A training on the same devices is the same to the last bit."""


@runtime_checkable
class Objective(Protocol):
    """What a pre-training method is to the trainer: a hashable record of pure functions."""

    @property
    def betas(self) -> tuple[float, float]:
        """Adam's, as the method's paper has them."""
        ...

    @property
    def fixed(self) -> tuple[str, ...]:
        """Names of parameters that are no matter of training."""
        ...

    def init(self, key: Key[Array, ""]) -> Mapping:
        """All parameters that are trained; those of the ViT under `encoder`."""
        ...

    def init_memory(self, params: Mapping) -> Mapping:
        """What the method keeps beside parameters: DINO's teacher and centre."""
        ...

    def loss(
        self,
        params: Mapping,
        memory: Mapping,
        keys: Key[Array, " B"],
        images: UInt8[Array, "B height width 3"],
        step: Int[Array, ""],
        *,
        steps: int,
    ) -> tuple[Float[Array, ""], Mapping]:
        """Mean loss over some images, a key each; and means over them: `shown` on the curve, `kept` for `remember`."""
        ...

    def remember(self, memory: Mapping, params: Mapping, kept: Mapping, step: Int[Array, ""], *, steps: int) -> Mapping:
        """The memory after a step to `params`; `kept` are the means over the whole batch."""
        ...

    def encoder(self, params: Mapping, memory: Mapping) -> Mapping:
        """The ViT that a training ends in."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """The optimiser: AdamW, warmed up linearly, then down along a cosine.

    Attributes:
        steps: of the whole training.
        warmup: of them at the start.
        learning_rate: the highest.
        final_rate: the last.
        weight_decay: at the start; biases, norms and other vectors are never decayed.
        final_weight_decay: at the end, reached along a cosine.
        clip: bound on the norm of each parameter's gradient, as DINO's code has it; 0 for none.
    """

    steps: int
    warmup: int
    learning_rate: float
    final_rate: float
    weight_decay: float
    final_weight_decay: float
    clip: float

    def optimizer(self, objective: Objective) -> optax.GradientTransformation:
        """The optax transformation for an objective's parameters."""
        decay = self.weight_decay
        if self.final_weight_decay != decay:
            # optax' cosine goes down to `alpha` times its start; this one is shifted so that it may go up.
            fall = optax.cosine_decay_schedule(1.0, self.steps)

            def decay(count):
                return self.final_weight_decay + (self.weight_decay - self.final_weight_decay) * fall(count)

        return optax.chain(
            optax.stateless(functools.partial(_clip, self.clip)) if self.clip else optax.identity(),
            optax.adamw(self.rate, *objective.betas, weight_decay=decay, mask=_is_decayed),
            optax.masked(optax.set_to_zero(), functools.partial(_is_fixed, objective.fixed)),
        )

    @property
    def rate(self) -> optax.Schedule:
        """The learning rate by step."""
        return optax.warmup_cosine_decay_schedule(
            0.0, self.learning_rate, self.warmup, self.steps, end_value=self.final_rate
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that a training goes on from: arrays, or whatever JAX puts in their place when it maps over a tree.

    Attributes:
        step: steps done, int32.
        params: what is trained.
        optimizer: optax' state.
        memory: the objective's.
    """

    step: Any
    params: Any
    optimizer: Any
    memory: Any


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def init_state(key: Key[Array, ""], objective: Objective, schedule: Schedule, mesh: Mesh) -> TrainState:
    """The state before the first step, on every device."""
    params = objective.init(key)
    optimizer = schedule.optimizer(objective).init(params)
    state = TrainState(jnp.zeros((), jnp.int32), params, optimizer, objective.init_memory(params))
    return jax.lax.with_sharding_constraint(state, NamedSharding(mesh, PartitionSpec()))


@functools.partial(jax.jit, static_argnums=(3, 4, 5), donate_argnums=(1,))
def train_step(
    key: Key[Array, ""],
    state: TrainState,
    images: UInt8[Array, "B height width 3"],
    objective: Objective,
    schedule: Schedule,
    mesh: Mesh,
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """One step by one batch.

    An image's randomness hangs on the key, the step and its place in the batch, so not on the devices.

    Args:
        key: of the whole training.
        state: is given up: its memory is the next one's.
        images: RGB in 0..255, split over the mesh; their number is a multiple of `PARTS`, and `PARTS` one of the devices.
        objective: what is learned.
        schedule: how.
        mesh: over whose data axis images are split.

    Returns:
        The next state, and means over the batch to show: `loss` and what the objective shows.
    """
    steps = schedule.steps
    places = jnp.arange(len(images))
    keys = jax.vmap(functools.partial(jax.random.fold_in, jax.random.fold_in(key, state.step)))(places)

    def of_images(params, memory, keys, images):
        (loss, extra), gradient = jax.value_and_grad(objective.loss, has_aux=True)(
            params, memory, keys, images, state.step, steps=steps
        )
        return gradient, {"loss": loss, **extra["shown"]}, extra["kept"]

    def of_part(params, memory, part):
        """Means over the images of a part, a few at a time."""
        at_once = min(IMAGES_AT_ONCE.get(jax.default_backend(), len(part[1])), len(part[1]))
        pieces = jax.tree.map(lambda leaf: leaf.reshape(-1, at_once, *leaf.shape[1:]), part)
        found = functools.partial(of_images, params, memory)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(found, *_first(pieces)))
        total, _ = jax.lax.scan(lambda sums, piece: (jax.tree.map(jnp.add, sums, found(*piece)), None), zeros, pieces)
        return jax.tree.map(lambda leaf: leaf / len(pieces[1]), total)

    def on_device(params, memory, keys, images):
        size = len(images) * mesh.size // PARTS
        parts = jax.tree.map(lambda leaf: leaf.reshape(-1, size, *leaf.shape[1:]), (keys, images))
        found = jax.lax.map(functools.partial(of_part, params, memory), parts)
        whole = jax.tree.map(lambda leaf: jax.lax.all_gather(leaf, DATA_AXIS, tiled=True), found)
        return jax.tree.map(_mean_in_order, whole)

    everywhere, by_image = PartitionSpec(), PartitionSpec(DATA_AXIS)
    spread = jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(everywhere, everywhere, by_image, by_image),
        out_specs=everywhere,
        check_vma=False,
    )
    gradient, shown, kept = spread(state.params, state.memory, keys, images)
    updates, optimizer = schedule.optimizer(objective).update(gradient, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    memory = objective.remember(state.memory, params, kept, state.step, steps=steps)
    return TrainState(state.step + 1, params, optimizer, memory), shown


def _first(pieces: PyTree[Array]) -> PyTree[Array]:
    return jax.tree.map(lambda leaf: leaf[0], pieces)


def _mean_in_order(parts: Float[Array, "parts ..."]) -> Float[Array, "..."]:
    """The mean over the first axis, summed from first to last."""
    return functools.reduce(jnp.add, parts) / len(parts)


def _is_decayed(params: PyTree[Array]) -> PyTree[bool]:
    """Matrices, tokens and positions are; biases and norms are not."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def _is_fixed(names: tuple[str, ...], params: PyTree[Array]) -> PyTree[bool]:
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key in names, params)


def _clip(bound: float, updates: PyTree[Array], params: PyTree[Array] | None) -> PyTree[Array]:
    del params
    return jax.tree.map(lambda g: g * jnp.minimum(1.0, bound / (jnp.sqrt(jnp.sum(g**2)) + 1e-6)), updates)
