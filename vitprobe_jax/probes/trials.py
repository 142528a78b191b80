"""Draws of images as device arrays: an item a (concept, trial), or a concept's trials together where they share images."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int, PyTree

from vitprobe_jax.data.labels import LabelTable
from vitprobe_jax.features.streaming import StreamedRows, take_images
from vitprobe_jax.features.table import DATA_AXIS, FeatureTable, Membership, deal, membership, replicate
from vitprobe_jax.probes.feature_norm import Affine
from vitprobe_jax.probes.sampling import ImageDraw

CHUNK_BYTES = {"cpu": 1 << 22}
"""Bound on the rows that are gathered at a time, by platform. A CPU is faster while they and what is made of them stay in
its cache: fitting 200 concepts of 500 images x 384 features took 0.20 s, 0.14 s, 0.12 s and 0.15 s for 1, 2, 4 and 8 MB.
An accelerator wants large pieces."""
DEFAULT_CHUNK_BYTES = 1 << 29


@dataclasses.dataclass(frozen=True)
class Trials:
    """Images drawn for every concept and trial; concepts split over the devices, the last one repeated to fill them.

    Attributes:
        concept: index of every concept as the slots count them, from 0.
        category: index of its category.
        images: image numbers of the split, padding is any number.
        counts: images that are no padding; they stand first.
    """

    concept: Int[Array, " K"]
    category: Int[Array, " K"]
    images: Int[Array, "K trials S"]
    counts: Int[Array, "K trials"]

    @classmethod
    def of(cls, draw: ImageDraw, labels: LabelTable, concepts: Int[np.ndarray, " k"], mesh: Mesh) -> "Trials":
        """The draws of some of the concepts of a label table."""
        images = np.maximum(draw.images[concepts], 0)
        arrays = (concepts, labels.concept_category[concepts], images, draw.counts[concepts])
        return cls(*(deal(_filled(array, mesh), mesh) for array in arrays))


jax.tree_util.register_dataclass(Trials, ["concept", "category", "images", "counts"], [])


def _filled(array: np.ndarray, mesh: Mesh) -> Int[np.ndarray, "..."]:
    """As int32, the last entry repeated up to a multiple of the devices: all have the same work."""
    padding = [(0, -len(array) % mesh.size if len(array) else 0), *[(0, 0)] * (array.ndim - 1)]
    return np.pad(array, padding, "edge").astype(np.int32) if padding[0][1] else array.astype(np.int32)


NEVER = np.iinfo(np.int32).max
"""Rank of an image that was not drawn."""


class Unions(NamedTuple):
    """Draws of concepts with unions of like size: an image that several trials of a concept drew stands there once.

    Images stand by their lowest rank in any trial, so that the first `trials * s` hold all that the first s of every
    draw can be.

    Attributes:
        concept: index of every concept as the slots count them, from 0.
        category: index of its category.
        images: distinct images of all its trials, padding is any number.
        rank: at which each trial drew each image; beyond all shot counts where it did not.
        order: where in `images` the draw of each trial stands, padding is any of them.
        counts: images of each draw that are no padding; they stand first.
    """

    concept: Int[Array, " K"]
    category: Int[Array, " K"]
    images: Int[Array, "K U"]
    rank: Int[Array, "K trials U"]
    order: Int[Array, "K trials S"]
    counts: Int[Array, "K trials"]


class Support(NamedTuple):
    """Support images of concepts, those of 4^n to 4^(n + 1) distinct images together.

    Attributes:
        groups: concepts split over the devices, the last one of a group repeated to fill them.
        place: of every concept among those of all groups, one after the other.
    """

    groups: tuple[Unions, ...]
    place: Int[Array, " K"]

    @classmethod
    def of(cls, draw: ImageDraw, labels: LabelTable, concepts: Int[np.ndarray, " k"], mesh: Mesh) -> "Support":
        """The draws of some of the concepts of a label table."""
        scratch = np.zeros(len(labels.slots), int)
        unions = [_union(draw.images[k], draw.counts[k], scratch) for k in concepts]
        sizes = np.array([len(images) for images, _ in unions], int)
        power = np.log2(np.maximum(sizes, 1)).astype(int) // 2
        groups, placed, start = [], np.zeros(len(concepts), np.int32), 0
        for members in [np.flatnonzero(power == n) for n in np.unique(power)] or [np.arange(0)]:
            chosen = concepts[members]
            counts = draw.counts[chosen]
            width, depth = sizes[members].max(initial=1), counts.max(initial=1)
            images = np.zeros((len(members), width), np.int32)
            rank = np.full((len(members), counts.shape[1], width), NEVER, np.int32)
            order = np.zeros((*counts.shape, depth), np.int32)
            for i, k in enumerate(members):
                union, drawn = unions[k]
                images[i, : len(union)] = union
                order[i] = drawn[:, :depth]
                trial, at = np.nonzero(np.arange(depth)[None] < counts[i][:, None])
                rank[i, trial, order[i, trial, at]] = at
            arrays = (chosen, labels.concept_category[chosen], images, rank, order, counts)
            groups.append(Unions(*(deal(_filled(array, mesh), mesh) for array in arrays)))
            placed[members] = start + np.arange(len(members))
            start += len(groups[-1].concept)
        return cls(tuple(groups), replicate(placed, mesh))


def _union(images: np.ndarray, counts: np.ndarray, scratch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct images of one concept's draws by lowest rank, and where among them every draw [trials, S] stands.

    `scratch` has a place for every image of the split; a sort of the images would take five times as long.
    """
    rank, trial = np.nonzero((np.arange(images.shape[1])[None] < counts[:, None]).T)
    drawn = images[trial, rank]
    number = np.arange(len(drawn))
    scratch[drawn[::-1]] = number[::-1]  # The last write stands: where each image was drawn first.
    is_first = scratch[drawn] == number
    order = np.zeros(images.shape, np.int32)
    order[trial, rank] = (np.cumsum(is_first) - 1)[scratch[drawn]]
    return drawn[is_first], order


def images_together(rows: Float[Array, "I R D"] | StreamedRows) -> int:
    """Images whose rows, raw and normalised, fit the bound on what is gathered at a time."""
    bound = CHUNK_BYTES.get(jax.default_backend(), DEFAULT_CHUNK_BYTES)
    fitting = max(1, bound // (2 * 4 * rows.shape[1] * rows.shape[2]))
    return min(fitting, rows.images_together) if isinstance(rows, StreamedRows) else fitting


def map_trials(
    body: Callable[..., PyTree[Array]],
    table: FeatureTable,
    norm: Affine,
    trials: Trials,
    *extra: Float[Array, "shots trials K ..."],
) -> PyTree[Array]:
    """`body(rows, membership, *extra)` of every concept and trial, every device through its own concepts.

    Args:
        body: takes the normalised rows [S, R, D] of the drawn images, their `Membership` [S, R] and the item's slices of
            `extra` [shots, ...]; returns arrays [shots, ...].
        table: rows of the split that the images were drawn from.
        norm: applied to the gathered rows.
        trials: the draws.
        extra: further arguments by shot, trial and concept, without the concepts that fill the devices.

    Returns:
        What `body` returns, as [shots, trials, K, ...], with the concepts that fill the devices.
    """

    def of_device(rows, slots, slot_category, norm, trials, *extra):
        num_concepts, num_trials, width = trials.images.shape

        def one(item):
            concept, category, images, count, *rest = item
            sides = membership(slots[images], slot_category, concept, category)
            real = (jnp.arange(width) < count)[:, None]
            return body(norm(take_images(rows, images)), Membership(*(side & real for side in sides)), *rest)

        items = (
            jnp.repeat(trials.concept, num_trials),
            jnp.repeat(trials.category, num_trials),
            trials.images.reshape(-1, width),
            trials.counts.reshape(-1),
            *(jnp.moveaxis(leaf, 2, 0).swapaxes(1, 2).reshape(-1, leaf.shape[0], *leaf.shape[3:]) for leaf in extra),
        )
        mapped = jax.lax.map(one, items, batch_size=max(1, images_together(rows) // width))
        return jax.tree.map(
            lambda leaf: jnp.moveaxis(leaf.reshape(num_concepts, num_trials, *leaf.shape[1:]), 2, 0).swapaxes(1, 2),
            mapped,
        )

    filling = jnp.minimum(jnp.arange(len(trials.concept)), max(0, extra[0].shape[2] - 1)) if extra else None
    filled = [leaf[:, :, filling] for leaf in extra]
    everywhere, by_concept = PartitionSpec(), PartitionSpec(None, None, DATA_AXIS)
    in_specs = (everywhere, everywhere, everywhere, everywhere, PartitionSpec(DATA_AXIS), *(by_concept for _ in extra))
    spread = jax.shard_map(of_device, mesh=table.mesh, in_specs=in_specs, out_specs=by_concept, check_vma=False)
    return spread(table.rows, table.slots, table.slot_category, norm, trials, *filled)
