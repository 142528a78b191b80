"""What MAE's decoder makes of tokens without their features of highest, or of lowest, variance (Table 4).

The held-out tiles are encoded at the decoder's own size, all patches visible or a quarter of them. In the encoder's
normalised output, [CLS] and patches alike, m features are set to zero: those of highest or of lowest variance over the
patches of the training draw. Then the decoder predicts every patch. The whole prediction is held against the image, also
where 75% are masked: visible patches are not pasted into it, since with nothing masked nothing else would be left. Images
are RGB in [0, 1], predictions cut off at both ends; MSE, PSNR in dB and SSIM are means over tiles.
"""

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, UInt8

from experiments.local.views import View
from experiments.local.workbench import Workbench
from experiments.measuring import Measured, Part
from experiments.progress import progress
from vitprobe_jax.backbones.capture import normalize
from vitprobe_jax.backbones.config import BackboneSpec, Preprocess
from vitprobe_jax.backbones.loading import load_decoder
from vitprobe_jax.backbones.mae_decoder import MAETarget, decode, encode_visible, find_target, to_images
from vitprobe_jax.data.pipeline import Batch, image_batches
from vitprobe_jax.errors import InputError
from vitprobe_jax.features.moments import highest_variance
from vitprobe_jax.features.store import Cell
from vitprobe_jax.features.table import DATA_AXIS
from vitprobe_jax.metrics.image_quality import mse, psnr, ssim

MASKED = (0.0, 0.75)
"""Shares of the patches that the encoder does not see."""
TILING = "tiles"

Variant = tuple[str, int]
"""Which features are used (`measurements.FEATURES`), and how many are not."""


class Reconstructed(NamedTuple):
    """What all variants made of the images, with one share of the patches masked.

    Attributes:
        scores: of every variant and image, by measure.
        pictures: what the variants made of the first images, RGB in 0..255.
    """

    scores: dict[str, Float[np.ndarray, "V N"]]
    pictures: UInt8[np.ndarray, "V n height width 3"]


def measure(bench: Workbench, cell: Cell, cells: Sequence[Cell]) -> Measured:
    """Both shares of masked patches, with all features and without the largest of `--drop_features` at either end.

    Pictures, of the first tiles: `image` [n, H, W, 3] uint8 and the same for each `FEATURES DROPPED masked LEVEL`.
    """
    reason = _unfit(bench)
    if reason:
        return Measured([bench.row(PART.name, cell, measure="mse", count=0, skipped=reason)])
    view = bench.view(TILING)
    keeps = variants(bench, view, cell, cells)
    images, of_levels = reconstruct_view(bench, view, np.stack(list(keeps.values())).astype(np.float32))
    if not of_levels:
        reason = "no held-out image can be decoded"
        return Measured([bench.row(PART.name, cell, measure="mse", count=0, skipped=reason)])
    rows, pictures = [], {"image": images}
    for level, made in of_levels.items():
        rows += _rows(bench, cell, keeps, level, made.scores)
        pictures |= {
            f"{features} {dropped} masked {level}": pixels
            for (features, dropped), pixels in zip(keeps, made.pictures, strict=True)
        }
    return Measured(rows, pictures if len(images) else {})


def variants(bench: Workbench, view: View, cell: Cell, cells: Sequence[Cell]) -> dict[Variant, Bool[np.ndarray, " D"]]:
    """Which features are kept: all, and without the m of highest or lowest variance, m the largest that is asked for."""
    keeps = {("all", 0): np.ones(bench.backbone.spec.config.width, bool)}
    m = max(bench.drops, default=0)
    if m:
        variance = bench.variance(view, cell, cells)
        keeps["without top", m] = highest_variance(variance, m)
        keeps["without bottom", m] = highest_variance(-variance, m)
    return keeps


def reconstruct_view(
    bench: Workbench, view: View, keeps: Float[np.ndarray, "V D"]
) -> tuple[UInt8[np.ndarray, "n height width 3"], dict[float, Reconstructed]]:
    """Reconstructs the held-out images of a view, dealt over the devices of this process; images in any number of batches.

    Args:
        bench: of a backbone with a decoder.
        view: at the decoder's size.
        keeps: 0 for the features that a variant sets to zero, else 1; the first keeps all.

    Returns:
        The first `--examples` images, and what was made of all, by the share of masked patches. Images that cannot be
        decoded are left out.

    Raises:
        InputError: an image cannot be decoded, and the data set allows for none.
    """
    spec, mesh, room = bench.backbone.spec, bench.rows.local_mesh, bench.config.examples
    by_image, everywhere = (NamedSharding(mesh, PartitionSpec(axis)) for axis in (DATA_AXIS, None))
    _, decoder_params = load_decoder(bench.backbone.folder)
    fixed = jax.device_put((bench.backbone.params, decoder_params, keeps), everywhere)
    target, images, parts = None, [], {level: [] for level in MASKED}
    for batch, good in _decoded(bench, view):
        order = mask_orders(bench.config.seed, batch.first + np.arange(len(batch.images)), spec.config.grid)
        placed = jax.device_put((batch.images, order), by_image)
        shown = np.flatnonzero(good)[: room - len(images)]
        images += list(batch.images[shown])
        # Most masked first: it tells what the decoder was trained to predict.
        for level in sorted(MASKED, reverse=True):
            num_visible = max(1, int(order.shape[1] * (1 - level)))
            predicted = _forward(spec, num_visible, mesh)(*fixed, *placed)
            if target is None:
                target = _target(bench, np.asarray(predicted[0])[good], batch.images[good], order[good, :num_visible])
            scores, made = _compare(predicted, placed[0], target, spec.preprocess, bench.patch_size)
            of_good = {name: np.asarray(values)[:, good] for name, values in scores.items()}
            parts[level].append(Reconstructed(of_good, _pictures(made, shown)))
    images = np.array(images, np.uint8).reshape(-1, *view.size, 3)
    return images, {level: _joined(of_level) for level, of_level in parts.items() if of_level}


def mask_orders(seed: int, images: Int[np.ndarray, " B"], grid: tuple[int, int]) -> Int[np.ndarray, "B P"]:
    """For each image, by its number, its patches in a random order: the first ones are seen, the others masked."""
    return np.stack([np.random.default_rng([seed, int(image)]).permutation(grid[0] * grid[1]) for image in images])


def _unfit(bench: Workbench) -> str | None:
    """Why there is nothing to measure."""
    spec = bench.backbone.spec
    if spec.decoder is None:
        return "it has no decoder; convert MAE's full checkpoint"
    native, size = spec.config.native_size, bench.size(TILING)
    if size != native:
        (height, width), (of_height, of_width) = size, native
        return f"its decoder knows no images of {height}x{width}; give --image_size={of_height}x{of_width}"
    return None


def _decoded(bench: Workbench, view: View) -> Iterator[tuple[Batch, Bool[np.ndarray, " B"]]]:
    """Batches that devices can share, and which of their images are any; batches without one are left out."""
    devices, split = bench.rows.local_mesh.size, view.splits["val"]
    batch_size = -(-bench.config.batch_size // devices) * devices
    batches = image_batches(split, view.transform, batch_size=batch_size, num_workers=bench.config.num_workers)
    label = f"{bench.backbone.spec.name} reconstructions"
    with contextlib.closing(batches):
        for batch in progress(batches, total=-(-len(split) // batch_size), label=label, unit="batch"):
            if batch.errors and not bench.dataset.skip_corrupt:
                raise InputError(batch.errors[0][1])
            good = np.arange(batch_size) < batch.num_valid
            good[[index - batch.first for index, _ in batch.errors]] = False
            if good.any():
                yield batch, good


@functools.lru_cache(maxsize=2 * len(MASKED))
def _forward(spec: BackboneSpec, num_visible: int, mesh: Mesh):
    """The jitted prediction of every variant for images, [V, B, P, pixels]; they are encoded once for all variants."""

    def forward(params, decoder_params, keeps, images, order):
        pixels = normalize(images, spec.preprocess)
        encoded = encode_visible(spec.config, params, pixels, order, num_visible=num_visible)
        return jax.lax.map(
            lambda keep: decode(spec.config, spec.decoder, decoder_params, encoded * keep[None, None], order), keeps
        )

    everywhere, by_image = PartitionSpec(), PartitionSpec(DATA_AXIS)
    in_specs = (everywhere, everywhere, everywhere, by_image, by_image)
    # Every device does to its images what one device does to all.
    spread = jax.shard_map(
        forward, mesh=mesh, in_specs=in_specs, out_specs=PartitionSpec(None, DATA_AXIS), check_vma=False
    )
    return jax.jit(spread)


def _target(bench: Workbench, predicted, images, seen) -> MAETarget:
    """What the decoder was trained to predict; the results get a note of it."""
    spec = bench.backbone.spec
    masked = np.ones(predicted.shape[:2], bool)
    np.put_along_axis(masked, seen, False, axis=1)
    target = find_target(*map(jnp.asarray, (predicted, images, masked)), spec.preprocess, spec.config.patch_size)
    lent = "; mean and deviation of each patch are lent from the image" if target == "normalised patches" else ""
    bench.rows.folder.note(
        f"{spec.name}: by its predictions on {bench.dataset.name}, its decoder was trained to predict {target}{lent}"
    )
    return target


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _compare(predicted, images, target: MAETarget, preprocess: Preprocess, patch_size: int):
    """Each variant's scores, [V, B] by measure, and pictures, [V, B, H, W, 3] in [0, 1]."""
    reference = images / 255.0

    def variant(pixels):
        made = to_images(pixels, images, target, preprocess, patch_size)
        scores = {
            "mse": mse(reference, made),
            "psnr": psnr(reference, made, data_range=1.0),
            "ssim": ssim(reference, made, data_range=1.0),
        }
        return scores, made

    return jax.lax.map(variant, predicted)


def _pictures(made: Float[Array, "V B height width 3"], shown: Int[np.ndarray, " n"]):
    """Some pictures in 0..255; where none is shown, none is fetched."""
    taken = np.asarray(made)[:, shown] if len(shown) else np.zeros((len(made), 0, *made.shape[2:]))
    return np.round(255 * taken).astype(np.uint8)


def _joined(parts: Sequence[Reconstructed]) -> Reconstructed:
    """What was made of all batches."""
    scores = {name: np.concatenate([part.scores[name] for part in parts], axis=1) for name in parts[0].scores}
    return Reconstructed(scores, np.concatenate([part.pictures for part in parts], axis=1))


def _rows(
    bench: Workbench,
    cell: Cell,
    keeps: Mapping[Variant, np.ndarray],
    level: float,
    scores: Mapping[str, Float[np.ndarray, "V N"]],
) -> list[dict]:
    """A row a variant and measure; tiles of infinite PSNR, which are met exactly, do not enter its mean."""
    rows = []
    for name, values in scores.items():
        for (features, dropped), of_variant in zip(keeps, values, strict=True):
            finite = of_variant[np.isfinite(of_variant)]
            number = {"value": float(finite.mean())} if len(finite) else {"skipped": "every tile is met exactly"}
            rows.append(
                bench.row(
                    PART.name,
                    cell,
                    tiling=TILING,
                    features=features,
                    dropped=dropped,
                    setting="masked",
                    level=level,
                    measure=name,
                    count=len(finite),
                    **number,
                )
            )
    return rows


PART = Part("reconstruction", "images", measure, once="x2", splits=("val",))
