"""One program over the images of a batch, spread over the devices: in groups that no number of devices changes."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree, UInt8

from vitprobe_jax.backbones.capture import IMAGES_AT_ONCE
from vitprobe_jax.features.table import DATA_AXIS, replicate

GROUPS = 8
"""A batch is dealt into so many groups, whatever the devices: a product of other shapes sums in another order, so devices
that took what comes to each at once would give other last digits than one device."""


def in_groups(
    run: Callable[[Any, UInt8[Array, "n height width 3"]], PyTree[Array]], mesh: Mesh
) -> Callable[[Any, UInt8[Array, "B height width 3"]], PyTree[Array]]:
    """`run(params, images)` of a few images at a time, every device with its own ones; to be jitted.

    The groups are the same on 1, 2, 4 and 8 devices where B is a multiple of `GROUPS`, hence so are all results, to the last
    bit. With any other B a device's images are one group, and last digits are those of a number of devices. On a CPU groups
    are smaller (`capture.IMAGES_AT_ONCE`).

    Args:
        run: gives arrays with the images first; sees `params` as they are passed.
        mesh: B is a multiple of its devices; parameters are on all of them, images are spread over them.

    Returns:
        The function of `params` and the whole batch; its arrays stay spread over the devices.
    """

    def on_device(params, images):
        batch = len(images) * mesh.size
        part = batch // GROUPS if batch % GROUPS == 0 and GROUPS % mesh.size == 0 else len(images)
        at_once = IMAGES_AT_ONCE.get(jax.default_backend())
        size = part if at_once is None else math.gcd(part, at_once)
        groups = images.reshape(-1, size, *images.shape[1:])
        found = jax.lax.map(lambda group: run(params, group), groups)
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), found)

    by_image = PartitionSpec(DATA_AXIS)
    return jax.shard_map(
        on_device, mesh=mesh, in_specs=(PartitionSpec(), by_image), out_specs=by_image, check_vma=False
    )


def place(params: PyTree, images: UInt8[Array | np.ndarray, "B height width 3"], mesh: Mesh) -> tuple[PyTree, Array]:
    """Both where `in_groups` wants them; what already lies there is not moved.

    Raises:
        ValueError: the images cannot be dealt to the devices.
    """
    if len(images) % mesh.size:
        raise ValueError(f"{len(images)} images cannot be dealt to {mesh.size} devices; pad them to a multiple")
    return replicate(params, mesh), jax.device_put(images, NamedSharding(mesh, PartitionSpec(DATA_AXIS)))
