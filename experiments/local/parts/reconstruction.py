"""What MAE's decoder makes of tokens without their features of highest, or of lowest, variance (Table 4).

The held-out tiles are encoded at the decoder's own size, all patches visible or a quarter of them. In the encoder's
normalised output, [CLS] and patches alike, m features are set to zero: those of highest or of lowest variance over the
patches of the training draw. Then the decoder predicts every patch. The whole prediction is held against the image, also
where 75% are masked: visible patches are not pasted into it, since with nothing masked nothing else would be left. Images
are RGB in [0, 1], predictions cut off at both ends; MSE, PSNR in dB and SSIM are means over tiles.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, UInt8

from experiments import processes
from experiments.local.views import View
from experiments.local.workbench import Workbench
from experiments.measuring import Measured, Part
from experiments.progress import progress
from vitprobe_jax.backbones.capture import normalize
from vitprobe_jax.backbones.config import BackboneSpec, Preprocess
from vitprobe_jax.backbones.loading import load_decoder
from vitprobe_jax.backbones.mae_decoder import MAETarget, decode, encode_visible, find_target, to_images
from vitprobe_jax.data.dataset import ImageSubset
from vitprobe_jax.data.pipeline import image_batches
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
    """Reconstructs the held-out images of a view, their batches dealt over the processes and then over their devices.

    Args:
        bench: of a backbone with a decoder.
        view: at the decoder's size.
        keeps: 0 for the features that a variant sets to zero, else 1; the first keeps all.

    Returns:
        The first `--examples` images, and what was made of all, by the share of masked patches. Images that cannot be
        decoded are left out. The same in every process, and for any number of them.

    Raises:
        InputError: an image cannot be decoded, and the data set allows for none.
    """
    num_batches = -(-len(view.splits["val"]) // _batch_size(bench))
    model = _Model.of(bench, keeps)
    first = next(_decoded(bench, view, range(num_batches), "target"), None)
    if first is None:
        return np.zeros((0, *view.size, 3), np.uint8), {}
    target = _target(bench, model, first)
    images, parts = [], {level: [] for level in MASKED}
    for decoded in _decoded(bench, view, processes.share(num_batches), "reconstructions"):
        shown = np.flatnonzero(decoded.good)[: bench.config.examples - len(images)]
        images += list(decoded.images[shown])
        placed = model.place(decoded)
        for level in MASKED:
            scores, made = _compare(
                model.predict(level, placed), placed[0], target, bench.backbone.spec.preprocess, bench.patch_size
            )
            of_good = {name: np.asarray(values)[:, decoded.good] for name, values in scores.items()}
            parts[level].append(Reconstructed(of_good, _pictures(made, shown)))
    images = processes.gathered(np.array(images, np.uint8).reshape(-1, *view.size, 3))[: bench.config.examples]
    empty = _empty(len(keeps), view.size)
    return images, {level: _joined([empty, *of_level], len(images)) for level, of_level in parts.items()}


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


class _Decoded(NamedTuple):
    """A batch of images in 0..255, which of them are any, and the order of each one's patches (`mask_orders`)."""

    images: UInt8[np.ndarray, "B height width 3"]
    good: Bool[np.ndarray, " B"]
    order: Int[np.ndarray, "B P"]


def _batch_size(bench: Workbench) -> int:
    """The next batch size that the devices of a process can share."""
    devices = bench.rows.local_mesh.size
    return -(-bench.config.batch_size // devices) * devices


def _decoded(bench: Workbench, view: View, numbers: range, label: str) -> Iterator[_Decoded]:
    """Some batches of the held-out images, by their numbers; those without a good image are left out."""
    size, split, grid = _batch_size(bench), view.splits["val"], bench.backbone.spec.config.grid
    first = numbers.start * size
    images = ImageSubset(split, np.arange(first, max(first, min(numbers.stop * size, len(split)))))
    batches = image_batches(images, view.transform, batch_size=size, num_workers=bench.config.num_workers)
    label = f"{bench.backbone.spec.name} {label}"
    with contextlib.closing(batches):
        for batch in progress(batches, total=len(numbers), label=label, unit="batch"):
            if batch.errors and not bench.dataset.skip_corrupt:
                raise InputError(batch.errors[0][1])
            good = np.arange(size) < batch.num_valid
            good[[index - batch.first for index, _ in batch.errors]] = False
            if good.any():
                order = mask_orders(bench.config.seed, first + batch.first + np.arange(size), grid)
                yield _Decoded(batch.images, good, order)


@dataclasses.dataclass(frozen=True, eq=False)
class _Model:
    """An encoder, its decoder and the variants, on every device of this process.

    Attributes:
        spec: of the backbone.
        mesh: the devices.
        fixed: parameters of both, and the features that each variant keeps.
    """

    spec: BackboneSpec
    mesh: Mesh
    fixed: tuple

    @classmethod
    def of(cls, bench: Workbench, keeps: Float[np.ndarray, "V D"]) -> "_Model":
        _, decoder_params = load_decoder(bench.backbone.folder)
        mesh = bench.rows.local_mesh
        everywhere = NamedSharding(mesh, PartitionSpec(None))
        return cls(
            bench.backbone.spec, mesh, jax.device_put((bench.backbone.params, decoder_params, keeps), everywhere)
        )

    def place(self, decoded: _Decoded) -> tuple[Array, Array]:
        """Images and orders of patches, spread over the devices."""
        return jax.device_put((decoded.images, decoded.order), NamedSharding(self.mesh, PartitionSpec(DATA_AXIS)))

    def num_visible(self, level: float) -> int:
        """Patches that the encoder sees, of those of an image, with a share of them masked."""
        rows, columns = self.spec.config.grid
        return max(1, int(rows * columns * (1 - level)))

    def predict(self, level: float, placed: tuple[Array, Array]) -> Float[Array, "V B P pixels"]:
        """What every variant predicts."""
        return _forward(self.spec, self.num_visible(level), self.mesh)(*self.fixed, *placed)


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


def _target(bench: Workbench, model: _Model, decoded: _Decoded) -> MAETarget:
    """What the decoder was trained to predict, by the first good images; the results get a note of it.

    By its predictions with most patches masked, as it was trained.
    """
    spec, level, good = bench.backbone.spec, max(MASKED), decoded.good
    predicted = np.asarray(model.predict(level, model.place(decoded))[0])[good]
    masked = np.ones(predicted.shape[:2], bool)
    np.put_along_axis(masked, decoded.order[good, : model.num_visible(level)], False, axis=1)
    target = find_target(
        *map(jnp.asarray, (predicted, decoded.images[good], masked)), spec.preprocess, spec.config.patch_size
    )
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


def _empty(variants: int, size: tuple[int, int]) -> Reconstructed:
    """What is made of no images: processes may have no batch."""
    scores = {name: np.zeros((variants, 0), np.float32) for name in ("mse", "psnr", "ssim")}
    return Reconstructed(scores, np.zeros((variants, 0, *size, 3), np.uint8))


def _joined(parts: Sequence[Reconstructed], shown: int) -> Reconstructed:
    """What was made of all batches of all processes, with the first pictures."""

    def joined(leaves: Sequence[np.ndarray]) -> np.ndarray:
        return processes.gathered(np.concatenate(leaves, axis=1).swapaxes(0, 1)).swapaxes(0, 1)

    scores = {name: joined([part.scores[name] for part in parts]) for name in parts[0].scores}
    return Reconstructed(scores, joined([part.pictures for part in parts])[:, :shown])


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


PART = Part("reconstruction", "images", measure, once="x2")
