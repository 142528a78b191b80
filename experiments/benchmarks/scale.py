"""Broden's size on one accelerator: rows made on the device, concepts as unequal as Broden's, beside the machine's limits.

`--scale=broden` turns `probes`, `cosine`, `metrics` and `extract` into these. There is no rival at this size: each stands
beside its unavoidable work alone (`limits`), and the number at the end is the share of that limit which it reaches. Give
`--rows`, `--concepts` and `--width` for another size; `--rows=49600000 --width=384` is Broden on DINO's ViT-S/8.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.benchmarks.comparison import Comparison
from experiments.benchmarks.config import BenchConfig
from experiments.benchmarks.extract_rivals import random_images
from experiments.benchmarks.limits import fetch_limit, hyperplane_limit, matmul_limit
from experiments.benchmarks.planted import STRENGTH
from experiments.benchmarks.timing import Work, measure
from vitprobe_jax.backbones.capture import capture_pixels
from vitprobe_jax.backbones.config import Preprocess, ViTConfig
from vitprobe_jax.backbones.families import FAMILIES
from vitprobe_jax.backbones.vit import ViT
from vitprobe_jax.data.labels import LabelTable
from vitprobe_jax.features.table import DATA_AXIS, FeatureTable
from vitprobe_jax.metrics.counts import count_hyperplanes
from vitprobe_jax.probes.cosine import fit_cosine
from vitprobe_jax.probes.feature_norm import fit_feature_norm
from vitprobe_jax.probes.hyperplane import HyperplaneConfig, fit_hyperplanes
from vitprobe_jax.probes.sampling import concept_identity, draw_pools, draw_support
from vitprobe_jax.probes.trials import Support
from vitprobe_jax.types import TOKENS, Concept

DEFAULTS = {"rows": 12_400_000, "concepts": 1190, "width": 768}
PATCHES = 196
CATEGORIES = ("object", "part", "material")
"""A row carries a concept of each, or none of it, as pixels of Broden do."""
EMPTY = 1 / 3
"""Share of the rows without any concept of a category."""
SPREAD = 1e4
"""The largest concept of a category has this many times the rows of the smallest."""
IMAGES_AT_ONCE = 256
"""Images that are made at a time, in float32 before they are rounded."""


def plant_on_device(config: BenchConfig) -> tuple[FeatureTable, LabelTable]:
    """A table of `config.rows` bfloat16 rows, 196 an image, in the memory of the first device; and its labels."""
    num_images = max(1, config.rows // PATCHES)
    rng = np.random.default_rng(config.seed)
    parts = np.array_split(np.arange(config.concepts), len(CATEGORIES))
    slots = np.zeros((num_images, PATCHES, len(CATEGORIES)), np.int32)
    for column, part in enumerate(parts):
        weights = np.geomspace(SPREAD, 1, len(part))
        ends = np.cumsum((1 - EMPTY) * weights / weights.sum())
        drawn = np.searchsorted(ends, rng.random((num_images, PATCHES), dtype=np.float32))
        slots[..., column] = np.where(drawn < len(part), part[0] + drawn + 1, 0)
    concepts = tuple(
        Concept(int(k) + 1, f"planted{k}", category)
        for category, part in zip(CATEGORIES, parts, strict=True)
        for k in part
    )
    labels = LabelTable(slots, np.arange(len(CATEGORIES), dtype=np.int32), concepts, CATEGORIES)
    directions = rng.standard_normal((1 + config.concepts, config.width), dtype=np.float32)
    directions *= STRENGTH / np.linalg.norm(directions, axis=1, keepdims=True)
    directions[0] = 0
    by_image = NamedSharding(Mesh(np.array(jax.devices()[:1]), (DATA_AXIS,)), PartitionSpec(DATA_AXIS))
    placed = jax.device_put(slots, by_image)
    rows = jnp.zeros((num_images, PATCHES, config.width), jnp.bfloat16, device=by_image)
    at_once = min(IMAGES_AT_ONCE, num_images)
    for start in range(0, num_images, at_once):
        rows = _plant_block(rows, placed, directions, jax.random.key(config.seed), start, at_once=at_once)
    real = jax.device_put(np.ones(num_images, bool), by_image)
    slot_category = jax.device_put(labels.slot_category, NamedSharding(by_image.mesh, PartitionSpec()))
    return FeatureTable(jax.block_until_ready(rows), placed, slot_category, real, by_image.mesh), labels


@functools.partial(jax.jit, static_argnames="at_once", donate_argnames="rows")
def _plant_block(rows, slots, directions, key, start, *, at_once):
    """Writes some images in place: the table is given away and comes back, and is in memory once."""
    start = jnp.minimum(start, len(rows) - at_once)
    carried = jax.lax.dynamic_slice_in_dim(slots, start, at_once)
    noise = jax.random.normal(jax.random.fold_in(key, start), (at_once, *rows.shape[1:]))
    block = noise + sum(directions[carried[..., column]] for column in range(carried.shape[-1]))
    return jax.lax.dynamic_update_slice_in_dim(rows, block.astype(rows.dtype), start, 0)


def compare(name: str, config: BenchConfig) -> list[Comparison]:
    """The benchmark `name` at this scale."""
    prepare, limit = CASES[name]
    measured = measure({"vitprobe_jax": (prepare,), "the limit": (limit,)}, config)
    if name == "extract":
        title = f"extract: vitb16, {config.image_size} px, batch {max(config.batch_sizes)}, bfloat16"
    else:
        title = f"{name}: {config.rows} rows x {config.width} in bfloat16, {config.concepts} concepts"
    return [Comparison(title, measured, {measured[0].evidence[0]: [measured[0].evidence[1], None]})]


def headline(comparisons: list[Comparison]) -> tuple[str, float]:
    """The last line's words and number."""
    return "share of the limit", min(comparison.ratio for comparison in comparisons)


def prepare_probes(config: BenchConfig) -> Work:
    """The whole protocol; quality is the mean balanced accuracy on the training rows themselves."""
    table, pools, labels = _problem(config)
    identities = [concept_identity(concept) for concept in labels.concepts]
    norm, key = fit_feature_norm(table, kind="none"), jax.random.key(config.seed)
    kept = _probed(pools)

    def run():
        fitted = fit_hyperplanes(
            key,
            table,
            [pools[k] for k in kept],
            [identities[k] for k in kept],
            norm=norm,
            config=HyperplaneConfig(),
            memory_mb=config.probe_memory,
        )
        return jax.block_until_ready(fitted)

    def accuracy(fitted) -> tuple[str, float]:
        hyperplanes = fitted.w, fitted.b, fitted.shift
        counts = np.asarray(count_hyperplanes(table, kept, labels.concept_category[kept], *hyperplanes), float)
        tp, fp, n_pos, n_neg = counts.T
        return "accuracy", float(np.mean((tp / n_pos + 1 - fp / n_neg) / 2))

    return Work(run, accuracy)


def limit_probes(config: BenchConfig) -> Work:
    """The products and fetches of the same pools."""
    table, pools, _ = _problem(config)
    return Work(hyperplane_limit(table.rows, pools, HyperplaneConfig(), config.seed), lambda _: None)


def prepare_cosine(config: BenchConfig) -> Work:
    """All concepts, shot counts and trials; quality is the mean threshold."""
    table, labels = plant_on_device(config)
    support, _ = _support(config, labels, table.mesh)
    norm = fit_feature_norm(table, kind="none")
    return Work(
        lambda: jax.block_until_ready(fit_cosine(table, support, norm=norm, shots=config.shots)),
        lambda fitted: ("mean threshold", float(jnp.mean(fitted[1]))),
    )


def limit_cosine(config: BenchConfig) -> Work:
    """Every image that any trial of a concept drew, fetched once."""
    table, labels = plant_on_device(config)
    _, images = _support(config, labels, table.mesh)
    return Work(fetch_limit(table.rows, images * PATCHES, 1, config.seed), lambda _: None)


def prepare_metrics(config: BenchConfig) -> Work:
    """The counts of every concept's own direction."""
    table, labels = plant_on_device(config)
    rng = np.random.default_rng(config.seed)
    w = jnp.asarray(rng.standard_normal((config.concepts, config.width), dtype=np.float32))
    concept = np.arange(config.concepts, dtype=np.int32)
    arguments = (concept, labels.concept_category, w, jnp.zeros(config.concepts), jnp.zeros(config.width))
    return Work(
        lambda: jax.block_until_ready(count_hyperplanes(table, *arguments)),
        lambda counted: ("rows found", float(np.asarray(counted, float)[:, :2].sum())),
    )


def limit_metrics(config: BenchConfig) -> Work:
    """As many operations in large products of the type that the scores have, float32."""
    flops = 2.0 * config.rows * config.width * config.concepts
    return Work(matmul_limit(flops, jnp.float32), lambda _: None)


def prepare_extract(config: BenchConfig) -> Work:
    """ViT-B/16 with random weights in bfloat16, the six tokens of the last block."""
    forward, params, images = _forward(config)
    return Work(lambda: jax.block_until_ready(forward(params, images)), lambda tokens: ("tokens", float(len(tokens))))


def limit_extract(config: BenchConfig) -> Work:
    """As many operations as the compiled forward pass has, in large bfloat16 products."""
    forward, params, images = _forward(config)
    flops = forward.lower(params, images).compile().cost_analysis()["flops"]
    return Work(matmul_limit(flops, jnp.bfloat16), lambda _: None)


CASES = {
    "probes": (prepare_probes, limit_probes),
    "cosine": (prepare_cosine, limit_cosine),
    "metrics": (prepare_metrics, limit_metrics),
    "extract": (prepare_extract, limit_extract),
}


def _problem(config: BenchConfig):
    table, labels = plant_on_device(config)
    return table, draw_pools(labels, ratio=HyperplaneConfig().pool_ratio, seed=config.seed), labels


def _probed(pools) -> np.ndarray:
    """Concepts with rows on both sides: small runs leave the rarest without any."""
    return np.array([k for k, p in enumerate(pools) if len(p.positives) and len(p.negatives)], np.int32)


def _support(config: BenchConfig, labels: LabelTable, mesh: Mesh) -> tuple[Support, int]:
    """Support images of every concept that has one, and how many distinct ones the concepts have, added up."""
    draw = draw_support(labels, shots=max(config.shots), trials=config.trials, seed=config.seed)
    drawn = np.flatnonzero(draw.counts.min(axis=1)).astype(np.int32)
    distinct = sum(len(np.unique(draw.images[k][draw.images[k] >= 0])) for k in drawn)
    return Support.of(draw, labels, drawn, mesh), distinct


def _forward(config: BenchConfig):
    """The jitted forward pass with its tokens, random parameters, and a batch of images on the device."""
    arch = FAMILIES["dino"].archs["vitb16"]
    side = config.image_size // arch.patch_size
    vit = ViTConfig(
        patch_size=arch.patch_size,
        width=arch.width,
        depth=arch.depth,
        num_heads=arch.num_heads,
        mlp_dim=4 * arch.width,
        grid=(side, side),
        resample="dino",
    )
    images = jax.device_put(random_images(config, max(config.batch_sizes)))
    pixels = jnp.zeros((1, config.image_size, config.image_size, 3))
    params = jax.jit(ViT(vit).init)(jax.random.key(config.seed), pixels)["params"]
    wanted = [(vit.depth - 1, token) for token in TOKENS]

    @jax.jit
    def forward(params, images):
        return capture_pixels(vit, Preprocess(), params, images, wanted, dtype=jnp.bfloat16)

    return forward, params, images
