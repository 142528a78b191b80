"""The six tokens of the last block of a ViT, against timm and transformers with forward hooks, on the same weights.

Weights are random, in DINO's official layout, brought to the library by `checkpoints_convert`. Every rival's tokens are
compared with the library's before the repeats are timed.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float
from safetensors.numpy import save_file

from checkpoints_convert import convert
from experiments.benchmarks.comparison import Comparison
from experiments.benchmarks.config import BenchConfig
from experiments.benchmarks.extract_rivals import prepare_timm, prepare_transformers, random_images
from experiments.benchmarks.timing import Work, measure
from vitprobe_jax.backbones.families import FAMILIES, Arch
from vitprobe_jax.backbones.loading import load_backbone
from vitprobe_jax.errors import InputError
from vitprobe_jax.types import TOKENS

NEEDS = ("torch", "torchvision", "timm", "transformers")
DEFAULTS: dict[str, int] = {}
MLP_RATIO = 4


def compare(config: BenchConfig) -> list[Comparison]:
    """Measures every arch and batch size; quality is the largest relative difference from the library's tokens."""
    return compare_models(config, _compare_one)


def compare_models(
    config: BenchConfig, compare_one: Callable[[BenchConfig, str, int, Path], Comparison]
) -> list[Comparison]:
    """One comparison for every arch and batch size, each told a folder with the official weights and the converted ones."""
    published = FAMILIES["dino"].archs
    for arch in config.archs:
        if arch not in published:
            raise InputError(f"--archs: {arch!r} is none of {', '.join(published)}")
        if config.image_size % published[arch].patch_size:
            raise InputError(f"--image_size={config.image_size}: not a multiple of the patches of {arch}; give another")
    comparisons = []
    for arch in config.archs:
        with tempfile.TemporaryDirectory() as folder:
            official = Path(folder) / "official.safetensors"
            save_file(official_weights(published[arch], config.image_size, config.seed), official)
            convert(official, Path(folder) / "converted", family="dino", arch=arch)
            comparisons += [compare_one(config, arch, size, Path(folder)) for size in config.batch_sizes]
    return comparisons


def _compare_one(config: BenchConfig, arch: str, batch_size: int, folder: Path) -> Comparison:
    case = (folder, batch_size)
    contenders = {
        "vitprobe_jax": (prepare_library, *case),
        "timm, hooks": (prepare_timm, *case),
        "transformers, fused": (prepare_transformers, *case, "sdpa"),
        "transformers, eager": (prepare_transformers, *case, "eager"),
    }
    measured = measure(contenders, config)
    quality = {
        "images/s": [batch_size / m.seconds for m in measured],
        "difference": [m.evidence for m in measured],
    }
    title = f"extract: {arch}, {config.image_size} px, batch {batch_size}, {', '.join(TOKENS)} of the last block"
    return Comparison(title, measured, quality)


def official_weights(arch: Arch, image_size: int, seed: int) -> dict[str, Float[np.ndarray, "..."]]:
    """Random weights under the official names; LayerNorm scales and biases are random too, so that each one shows."""
    rng = np.random.default_rng([seed, 2])
    D, M = arch.width, MLP_RATIO * arch.width
    tokens = 1 + (image_size // arch.patch_size) ** 2
    matrices = {"attn.qkv": (3 * D, D), "attn.proj": (D, D), "mlp.fc1": (M, D), "mlp.fc2": (D, M)}
    shapes = {f"blocks.{i}.{name}": shape for i in range(arch.depth) for name, shape in matrices.items()}
    shapes["patch_embed.proj"] = (D, 3, arch.patch_size, arch.patch_size)
    norms = [f"blocks.{i}.{name}" for i in range(arch.depth) for name in ("norm1", "norm2")] + ["norm"]

    def normal(*shape: int) -> np.ndarray:
        return 0.02 * rng.standard_normal(shape, dtype=np.float32)

    state = {"cls_token": normal(1, 1, D), "pos_embed": normal(1, tokens, D)}
    for name, shape in shapes.items():
        state |= {f"{name}.weight": normal(*shape), f"{name}.bias": normal(shape[0])}
    for name in norms:
        state |= {f"{name}.weight": 1 + normal(D), f"{name}.bias": normal(D)}
    return state


def prepare_library(config: BenchConfig, folder: Path, batch_size: int) -> Work:
    """One jitted call; leaves its tokens in the folder for the rivals to be compared with."""
    backbone = load_backbone(str(folder / "converted"))
    images = jax.device_put(random_images(config, batch_size))
    wanted = [(backbone.spec.config.depth - 1, token) for token in TOKENS]

    def save(tokens) -> None:
        save_file({token: np.asarray(values) for (_, token), values in tokens.items()}, folder / "tokens.safetensors")

    return Work(lambda: jax.block_until_ready(backbone.tokens(images, wanted)), save)
