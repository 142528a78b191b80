"""Images -> rows of the feature table: one jitted forward a batch, images sharded over the mesh."""

import dataclasses
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from vitprobe_jax.backbones.capture import capture_pixels
from vitprobe_jax.backbones.config import ViTConfig
from vitprobe_jax.backbones.loading import Backbone
from vitprobe_jax.data.dataset import ImageSplit
from vitprobe_jax.data.pipeline import Batch
from vitprobe_jax.errors import InputError
from vitprobe_jax.features.table import DATA_AXIS
from vitprobe_jax.types import Task, Token

Cell = tuple[int, Token]
"""(block, token): one table."""


def select_rows(tokens: Float[Array, "B T D"], config: ViTConfig, task: Task) -> Float[Array, "B R D"]:
    """The rows a task probes: patches for segmentation; for classification [CLS], or without one the patches' mean."""
    if task == "segmentation":
        return tokens[:, config.num_prefix_tokens :]
    if config.class_token:
        return tokens[:, :1]
    return jnp.mean(tokens[:, config.num_prefix_tokens :], axis=1, keepdims=True)


@dataclasses.dataclass(frozen=True)
class Features:
    """The rows of one split on the host.

    Attributes:
        rows: by (block, token).
        kept: numbers of the images whose rows these are; the others could not be decoded.
        errors: what was wrong with the others.
    """

    rows: dict[Cell, Float[np.ndarray, "I R D"]]
    kept: np.ndarray
    errors: tuple[str, ...]


def extract(
    backbone: Backbone,
    split: ImageSplit,
    batches: Iterable[Batch],
    cells: Sequence[Cell],
    *,
    task: Task,
    skip_corrupt: bool,
    dtype: str,
    mesh: Mesh,
) -> Features:
    """Runs the frozen backbone once over all batches and keeps the rows of every cell.

    Args:
        backbone: the frozen model.
        split: the images, for their names.
        batches: the same images decoded, in order, all of one shape; a multiple of the mesh's devices each.
        cells: (block, token) pairs.
        task: which rows are kept.
        skip_corrupt: leave out images that cannot be decoded instead of ending.
        dtype: of the computation and of the kept rows.
        mesh: images are spread over its data axis, parameters copied to every device.

    Raises:
        InputError: an image that cannot be decoded (unless skipped), a token that is not finite, no image left.
    """
    cells = tuple(cells)
    config, preprocess = backbone.spec.config, backbone.spec.preprocess
    by_image = NamedSharding(mesh, PartitionSpec(DATA_AXIS))
    everywhere = NamedSharding(mesh, PartitionSpec())

    def forward(params, images):
        tokens = capture_pixels(config, preprocess, params, images, cells, dtype=jnp.dtype(dtype), devices=mesh.size)
        rows = [select_rows(tokens[cell], config, task) for cell in cells]
        finite = [jnp.all(jnp.isfinite(row), axis=(1, 2)) for row in rows]
        return rows, jnp.stack(finite)

    step = jax.jit(forward, in_shardings=(everywhere, by_image), out_shardings=(by_image, everywhere))
    params = jax.device_put(backbone.params, everywhere)
    pieces: list[list[np.ndarray]] = [[] for _ in cells]
    kept: list[int] = []
    errors: list[str] = []
    start = 0

    def collect(batch: Batch, start: int, outputs) -> None:
        rows, finite = outputs
        wrong = dict(batch.errors)
        if wrong and not skip_corrupt:
            raise InputError(next(iter(wrong.values())))
        errors.extend(wrong.values())
        good = np.array([i for i in range(batch.num_valid) if start + i not in wrong], int)
        kept.extend(start + good)
        bad = np.argwhere(~np.asarray(finite)[:, good])
        if len(bad):
            (layer, token), image = cells[bad[0, 0]], split.name(start + int(good[bad[0, 1]]))
            raise InputError(
                f"{backbone.spec.name}: token {token} of block {layer} is not finite for image {image}; "
                "check the checkpoint, or extract with --dtype=float32"
            )
        for piece, row in zip(pieces, rows, strict=True):
            piece.append(np.asarray(row)[good])

    pending = None
    for batch in batches:
        # The next batch is on its way before the last one is fetched, so the device never waits for the copy back.
        outputs = step(params, jax.device_put(batch.images, by_image))
        if pending is not None:
            collect(*pending)
        pending = (batch, start, outputs)
        start += batch.num_valid
    if pending is not None:
        collect(*pending)
    if not kept:
        raise InputError(
            f"--dataset: no image could be decoded; the first: {errors[0] if errors else 'no image at all'}"
        )
    rows = {cell: np.concatenate(piece) for cell, piece in zip(cells, pieces, strict=True)}
    return Features(rows, np.array(kept), tuple(errors))
