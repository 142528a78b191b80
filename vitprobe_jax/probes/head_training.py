"""Steps of many heads at once: one pass over the tokens of a micro batch feeds all of them.

A step's images come in *micro batches*, of which each has BatchNorm statistics of its own, as in PyTorch; gradients of
images are summed over them, and the step is by their mean.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from vitprobe_jax.features.frozen import ImageTokens
from vitprobe_jax.features.table import DATA_AXIS
from vitprobe_jax.probes.heads import HeadsConfig, HeadsState, classify, normalize
from vitprobe_jax.probes.pooled_parts import gathered, in_parts, own_parts, parts_of, pool_parts

MOMENTUM = 0.1
"""Share of a micro batch in BatchNorm's running statistics, PyTorch's."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Gradients:
    """What the micro batches of a step have given so far, on every device.

    Attributes:
        sums: as `HeadsState.params`, summed over images.
        losses: by head [M], likewise.
        count: images that took part.
    """

    sums: Any
    losses: Any
    count: Any


@functools.partial(jax.jit, static_argnums=(0, 1))
def zero_gradients(config: HeadsConfig, mesh: Mesh, state: HeadsState) -> Gradients:
    """Those before the first micro batch of a step."""
    losses = {name: jnp.zeros(len(config.members)) for name in state.params}
    gradients = Gradients(jax.tree.map(jnp.zeros_like, state.params), losses, jnp.zeros(()))
    return jax.lax.with_sharding_constraint(gradients, NamedSharding(mesh, PartitionSpec()))


def add_micro_batch(
    config: HeadsConfig,
    mesh: Mesh,
    state: HeadsState,
    gradients: Gradients,
    tokens: ImageTokens,
    labels: Int[Array, " B"] | Float[Array, "B C"],
    valid: Float[Array, " B"],
) -> tuple[HeadsState, Gradients]:
    """Adds the gradients of a micro batch to those of its step.

    The loss of an image is its cross-entropy, or for several classes an image the mean over classes of the sigmoids'.

    Args:
        config: of the heads.
        mesh: over whose data axis tokens, labels and `valid` are spread; B is a multiple of `parts_of(mesh)`.
        state: of the heads.
        gradients: of the step so far; are given up, their memory is the next ones'.
        tokens: of a frozen backbone.
        labels: classes from 0, or for several classes an image 1 where it carries one and 0 elsewhere.
        valid: 1, or 0 for images that take part in nothing: padding and what could not be decoded. Their tokens are
            finite.

    Returns:
        The state with new running statistics, and the gradients.

    Raises:
        ValueError: B cannot be dealt to the parts.
    """
    if len(valid) % parts_of(mesh):
        raise ValueError(f"a micro batch of {len(valid)} images cannot be dealt into {parts_of(mesh)} parts: pad it")
    # Not the whole config: other rates and optimisers share the program.
    add = functools.partial(_add, config.poolings, config.multilabel, mesh)
    statistics, gradients = add(state.params, state.statistics, gradients, tokens, labels, valid)
    return dataclasses.replace(state, statistics=statistics), gradients


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=(5,))
def _add(poolings, multilabel, mesh, params, statistics, gradients, tokens, labels, valid):
    def on_device(params, statistics, tokens, labels, valid):
        labels, valid = (jax.lax.all_gather(leaf, DATA_AXIS, tiled=True) for leaf in (labels, valid))
        vectors, pull = pool_parts(poolings, params, in_parts(tokens, mesh))
        sums, losses, moved, cotangents = {}, {}, {}, {}
        for pooling in poolings:
            name = pooling.name
            whole_mxBxD = gathered(vectors[name])
            found = _classified(multilabel, params[name]["classifier"], whole_mxBxD, labels, valid)
            gradient, cotangent_mxBxD, losses[name], moments = found
            sums[name] = {"classifier": gradient, "pooling": {}}
            moved[name] = _run_statistics(statistics[name], *moments, jnp.sum(valid))
            if pooling.is_trained:
                cotangents[name] = own_parts(cotangent_mxBxD, mesh)
        for name, leaf in pull(cotangents).items():
            sums[name]["pooling"] = leaf
        return moved, Gradients(sums, losses, jnp.sum(valid))

    everywhere, by_image = PartitionSpec(), PartitionSpec(DATA_AXIS)
    spread = jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(everywhere, everywhere, by_image, by_image, by_image),
        out_specs=everywhere,
        check_vma=False,
    )
    statistics, new = spread(params, statistics, tokens, labels, valid)
    return statistics, jax.tree.map(jnp.add, gradients, new)


def _classified(multilabel, classifier, pooled_mxBxD, labels, valid_B):
    """Gradients for the classifiers of a head and for its vectors, losses, all summed over images, and the moments.

    It is the same work for any number of devices: on the vectors of the whole micro batch, on every device alike.
    """

    def total_loss(classifier, pooled_mxBxD):
        mean_mxD, variance_mxD = moments = _moments(pooled_mxBxD, valid_B)
        logits_MxBxC = classify(classifier, normalize(pooled_mxBxD, mean_mxD, variance_mxD))
        losses_M = jnp.sum(_losses(multilabel, logits_MxBxC, labels) * valid_B[None], axis=1)
        return jnp.sum(losses_M), (losses_M, moments)

    gradients, (losses_M, moments) = jax.grad(total_loss, (0, 1), has_aux=True)(classifier, pooled_mxBxD)
    return *gradients, losses_M, moments


def _moments(pooled_mxBxD, valid_B):
    """Mean and variance of the features over the images that are valid."""
    share_1xBx1 = (valid_B / jnp.maximum(jnp.sum(valid_B), 1))[None, :, None]
    mean_mxD = jnp.sum(pooled_mxBxD * share_1xBx1, axis=1)
    return mean_mxD, jnp.sum((pooled_mxBxD - mean_mxD[:, None]) ** 2 * share_1xBx1, axis=1)


def _run_statistics(running, mean, variance, count):
    """With Bessel's correction for the variance, as PyTorch has it; a micro batch without images leaves no trace."""
    share = jnp.where(count > 0, MOMENTUM, 0.0)
    unbiased = variance * (count / jnp.maximum(count - 1, 1))
    return {
        "mean": running["mean"] + share * (mean - running["mean"]),
        "variance": running["variance"] + share * (unbiased - running["variance"]),
    }


def _losses(multilabel, logits_MxBxC, labels):
    """The loss of every image, [M, B]."""
    if multilabel:
        whole = jnp.broadcast_to(labels[None], logits_MxBxC.shape)
        return jnp.mean(optax.sigmoid_binary_cross_entropy(logits_MxBxC, whole), axis=-1)
    return jax.vmap(lambda logits: optax.softmax_cross_entropy_with_integer_labels(logits, labels))(logits_MxBxC)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=(2,))
def apply_gradients(
    config: HeadsConfig, mesh: Mesh, state: HeadsState, gradients: Gradients
) -> tuple[HeadsState, dict[str, Float[Array, " M"]]]:
    """A step by the mean over the images of its micro batches.

    Args:
        config: of the heads.
        mesh: the devices that have all of it.
        state: is given up, its memory is the next one's.
        gradients: of the step's micro batches.

    Returns:
        The next state, and the mean training loss of every member of every head.
    """

    def act(optimizer, gradient, state, params):
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    share = 1 / jnp.maximum(gradients.count, 1)
    params, optimizer = {}, {}
    for name, own in state.params.items():
        mean = jax.tree.map(lambda leaf: leaf * share, gradients.sums[name])
        params[name], optimizer[name] = config.over_members(act, mean, state.optimizer[name], own)
    losses = {name: leaf * share for name, leaf in gradients.losses.items()}
    state = HeadsState(state.step + 1, params, optimizer, state.statistics)
    return jax.lax.with_sharding_constraint((state, losses), NamedSharding(mesh, PartitionSpec()))
