"""The vectors of many heads from one pass over tokens, part by part, and the gradients of their parameters.

A batch is dealt into parts that are the same on 1, 2, 4 and 8 devices. A product of other shapes sums in another order;
those of a part are always of one shape, so its vectors and gradients hang on no number of devices.

Heads whose representation is folded (`Pooling.is_folded`) share their two products with the patches: all members of all of
them are columns of one matrix, and their weights are kept for the gradient. Other trained heads go part by part and are
computed again for the gradient, at most `TOGETHER` images at a time: hidden layers of all patches for all members would not
fit.
"""

import functools
import math
import operator
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, PyTree

from vitprobe_jax.features.frozen import ImageTokens
from vitprobe_jax.features.groups import GROUPS
from vitprobe_jax.features.table import DATA_AXIS
from vitprobe_jax.probes.pooling import Pooling, fold, patch_logits, pool, unfold, weighted_sums

TOGETHER = 64
"""Images of a part whose hidden layers are in memory together; more where its number of images is odd times a power of 2."""
Params = dict[str, PyTree[Float[Array, "M ..."]]]
Vectors = dict[str, Float[Array, "q m b D"]]
Pull = Callable[[Vectors], Params]


def parts_of(mesh: Mesh) -> int:
    """Into how many parts a batch is dealt; every device has as many."""
    return math.lcm(GROUPS, mesh.size)


def in_parts(tree: PyTree[Array], mesh: Mesh) -> PyTree[Array]:
    """A device's share of a batch, images first, with its q parts along a new first axis."""
    own = parts_of(mesh) // mesh.size
    return jax.tree.map(lambda leaf: leaf.reshape(own, -1, *leaf.shape[1:]), tree)


def in_order(parts: Float[Array, "q m b ..."]) -> Float[Array, "m B ..."]:
    """What was found part by part, images in their order."""
    whole = jnp.moveaxis(parts, 1, 0)
    return whole.reshape(len(whole), -1, *whole.shape[3:])


def gathered(parts: Float[Array, "q m b D"]) -> Float[Array, "m B D"]:
    """The vectors of the whole batch on every device."""
    return in_order(jax.lax.all_gather(parts, DATA_AXIS, tiled=True))


def own_parts(whole: Float[Array, "m B D"], mesh: Mesh) -> Float[Array, "q m b D"]:
    """A device's parts of the whole batch: the inverse of `gathered`."""
    own = parts_of(mesh) // mesh.size
    parts = jnp.moveaxis(whole.reshape(len(whole), parts_of(mesh), -1, whole.shape[-1]), 1, 0)
    return jax.lax.dynamic_slice_in_dim(parts, jax.lax.axis_index(DATA_AXIS) * own, own)


def pool_parts(poolings: tuple[Pooling, ...], params: Params, parts: ImageTokens) -> tuple[Vectors, Pull]:
    """The vectors of a device's images for all members of all heads.

    Args:
        poolings: of the heads.
        params: by head, `pooling` with the members as a first axis of every leaf; other entries are left alone.
        parts: of `in_parts`.

    Returns:
        The vectors, m = 1 for all members where nothing of the representation is trained; and a function from the gradients
        for those of trained representations to the gradients for their parameters, summed over the images of all devices.
    """
    own = {pooling.name: params[pooling.name]["pooling"] for pooling in poolings if pooling.is_trained}
    folded = tuple(pooling for pooling in poolings if pooling.is_folded)
    vectors, pulls = {}, []
    if folded:
        vectors, pull = _pool_folded(folded, {pooling.name: own[pooling.name] for pooling in folded}, parts)
        pulls.append(pull)
    for pooling in poolings:
        if not pooling.is_trained:
            vectors[pooling.name] = jax.vmap(functools.partial(pool, pooling, {}))(parts)[:, None]
        elif not pooling.is_folded:
            vectors[pooling.name], pull = _pool_again(pooling, own[pooling.name], parts)
            pulls.append(pull)

    def pull_all(cotangents):
        return functools.reduce(operator.or_, [pull(cotangents) for pull in pulls], {})

    return vectors, pull_all


def _pool_again(pooling: Pooling, params, parts: ImageTokens):
    """A few images after the other, of which the gradient keeps nothing."""
    own, count = parts.patches.shape[:2]
    # A power of two: sums over parts are taken in pairs, and so do not depend on how many parts a device has.
    cuts = 1
    while count / cuts > TOGETHER and count % (2 * cuts) == 0:
        cuts *= 2
    few = jax.tree.map(lambda leaf: leaf.reshape(own * cuts, count // cuts, *leaf.shape[2:]), parts)

    def members(params, part):
        return jax.vmap(functools.partial(pool, pooling), in_axes=(0, None))(params, part)

    def pull_part(part, cotangent):
        return jax.vjp(lambda params: members(params, part), params)[1](cotangent)[0]

    def pull(cotangents):
        of_few = _cut(cotangents[pooling.name], cuts)
        by_part = jax.lax.map(lambda both: pull_part(*both), (few, of_few))
        return {pooling.name: jax.tree.map(_total, by_part)}

    return _joined(jax.lax.map(lambda part: members(params, part), few), cuts), pull


def _cut(parts: Float[Array, "q m b D"], cuts: int) -> Float[Array, "r m c D"]:
    """Each part as `cuts` parts of fewer images, in order."""
    own, members, count = parts.shape[:3]
    return jnp.moveaxis(parts.reshape(own, members, cuts, count // cuts, -1), 2, 1).reshape(
        own * cuts, members, count // cuts, -1
    )


def _joined(few: Float[Array, "r m c D"], cuts: int) -> Float[Array, "q m b D"]:
    """The inverse of `_cut`."""
    count, members, images = few.shape[:3]
    return jnp.moveaxis(few.reshape(count // cuts, cuts, members, images, -1), 1, 2).reshape(
        count // cuts, members, cuts * images, -1
    )


def _pool_folded(folded: tuple[Pooling, ...], params, parts: ImageTokens):
    """All parts and all representations in one product each for logits and sums."""
    columns_KxD, pull_columns = jax.vjp(functools.partial(_fold_all, folded), params)
    unfold_part = functools.partial(_unfold_all, folded)

    patches = parts.patches.astype(jnp.float32)
    sums_qxbxKxD, pull_sums = jax.vmap(
        lambda patches: jax.vjp(lambda columns: weighted_sums(patch_logits(columns, patches), patches), columns_KxD)
    )(patches)

    def pull(cotangents):
        def pull_part(sums, pull_sums, cotangents):
            of_params, of_sums = jax.vjp(unfold_part, params, sums)[1](cotangents)
            return of_params, *pull_sums(of_sums)

        own = {pooling.name: cotangents[pooling.name] for pooling in folded}
        of_params, of_columns = jax.tree.map(_total, jax.vmap(pull_part)(sums_qxbxKxD, pull_sums, own))
        return jax.tree.map(jnp.add, of_params, *pull_columns(of_columns))

    return jax.vmap(lambda sums: unfold_part(params, sums))(sums_qxbxKxD), pull


def _fold_all(folded, params):
    """The columns [K, D] of all members and heads of all folded representations, one representation after the other."""
    columns = [jax.vmap(functools.partial(fold, pooling))(params[pooling.name]) for pooling in folded]
    return jnp.concatenate([leaf.reshape(-1, leaf.shape[-1]) for leaf in columns])


def _unfold_all(folded, params, sums_bxKxD):
    members = len(jax.tree.leaves(params[folded[0].name])[0])
    ends = np.cumsum([members * pooling.heads for pooling in folded])
    vectors = {}
    for pooling, sums in zip(folded, jnp.split(sums_bxKxD, ends[:-1], axis=1), strict=True):
        by_member = sums.reshape(len(sums), members, pooling.heads, -1)
        vectors[pooling.name] = jax.vmap(functools.partial(unfold, pooling), in_axes=(0, 1))(
            params[pooling.name], by_member
        )
    return vectors


def _total(by_part: Float[Array, "q ..."]) -> Float[Array, "..."]:
    """The sum over the parts of all devices, in pairs: what a device sums alone, one that has all parts sums as well."""
    return _in_pairs(jax.lax.all_gather(_in_pairs(by_part), DATA_AXIS))


def _in_pairs(leaf):
    while len(leaf) > 1:
        odd = leaf[len(leaf) // 2 * 2 :]
        leaf = jnp.concatenate([leaf[0 : len(leaf) - 1 : 2] + leaf[1::2], odd]) if len(odd) else leaf[::2] + leaf[1::2]
    return leaf[0]
