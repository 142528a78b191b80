"""What the statistics of attention cost: all blocks and heads of a ViT, beside the same forward without them.

The plain forward is that of the library, attention materialised, from pixels to output tokens; the other gives the
statistics beside the tokens. The rival is timm with hooks on its attention maps, which become statistics as one writes them
down in PyTorch, map by map. Weights are random, in DINO's official layout; the rival's statistics are compared with the
library's.
"""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from safetensors.numpy import load_file, save_file

from experiments.benchmarks import extract
from experiments.benchmarks.comparison import Comparison
from experiments.benchmarks.config import BenchConfig
from experiments.benchmarks.extract_rivals import load_timm, normalized_pixels, random_images
from experiments.benchmarks.timing import Work, measure
from vitprobe_jax.backbones.capture import capture, normalize
from vitprobe_jax.backbones.loading import load_backbone
from vitprobe_jax.features.attention_flow import AttentionFlow, flow_of_blocks
from vitprobe_jax.features.groups import in_groups, place
from vitprobe_jax.features.table import make_mesh

NEEDS = ("torch", "torchvision", "timm")
DEFAULTS: dict[str, int] = {}

FLOW = "flow.safetensors"
"""The library's statistics, in the folder of the weights."""
TOLERANCE = 2e-2
"""Largest difference of a statistic, relative to its range over images, blocks and heads. Random weights attend almost
evenly: entropies differ in the third digit, float32 in the seventh."""


def compare(config: BenchConfig) -> list[Comparison]:
    """Measures every arch and batch size; quality is the time over that of the plain forward."""
    return extract.compare_models(config, _compare_one)


def headline(comparisons: Sequence[Comparison]) -> tuple[str, float]:
    """How much of the time with statistics the plain forward takes, in the least favourable case; and the rival's factor."""
    plain, rival = (min(c.measurements[i].seconds / c.measurements[0].seconds for c in comparisons) for i in (1, 2))
    return f"timm / vitprobe_jax {rival:.2f}; plain forward / with statistics", plain


def _compare_one(config: BenchConfig, arch: str, batch_size: int, folder: Path) -> Comparison:
    contenders = {
        "vitprobe_jax, statistics": (prepare_library, folder, batch_size, True),
        "vitprobe_jax, plain": (prepare_library, folder, batch_size, False),
        "timm, hooks": (prepare_timm, folder, batch_size),
    }
    measured = measure(contenders, config)
    quality = {
        "images/s": [batch_size / m.seconds for m in measured],
        "time / plain": [m.seconds / measured[1].seconds for m in measured],
        "difference": [m.evidence for m in measured],
    }
    title = f"attention: {arch}, {config.image_size} px, batch {batch_size}, four statistics of every block and head"
    return Comparison(title, measured, quality)


def prepare_library(config: BenchConfig, folder: Path, batch_size: int, statistics: bool) -> Work:
    """One jitted call that gives output tokens; with statistics, it leaves them in the folder for the rival."""
    backbone, mesh = load_backbone(str(folder / "converted")), make_mesh(jax.local_devices()[:1])
    spec, depth = backbone.spec, backbone.spec.config.depth
    last, maps = (depth - 1, "x2_raw"), [(layer, "attn") for layer in range(depth)]

    def run(params, images):
        taken = capture(spec.config, params, normalize(images, spec.preprocess), [last, *maps])
        flow = flow_of_blocks([taken[cell] for cell in maps], spec.config) if statistics else None
        return taken[last], flow

    def save(result) -> None:
        if statistics:
            save_file({name: np.asarray(values) for name, values in result[1]._asdict().items()}, folder / FLOW)

    step, placed = jax.jit(in_groups(run, mesh)), place(backbone.params, random_images(config, batch_size), mesh)
    return Work(lambda: jax.block_until_ready(step(*placed)), save)


def prepare_timm(config: BenchConfig, folder: Path, batch_size: int) -> Work:
    """Timm's VisionTransformer with eager attention, every map reduced in a hook as soon as it is there."""
    torch, model, spec = load_timm(config, folder)
    flow = {name: [] for name in AttentionFlow._fields}

    def reduce(_, inputs, attn) -> None:
        patches = attn[:, :, 1:, 1:]
        patches = patches / patches.sum(-1, keepdim=True)
        of_cls = attn[:, :, 0, 1:]
        of_cls = of_cls / of_cls.sum(-1, keepdim=True)
        flow["cls_to_cls"].append(attn[:, :, 0, 0])
        flow["cls_entropy"].append(torch.special.entr(of_cls).sum(-1))
        flow["patch_to_itself"].append(patches.diagonal(dim1=-2, dim2=-1).mean(-1))
        flow["patch_entropy"].append(torch.special.entr(patches).sum(-1).mean(-1))

    for block in model.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(reduce)
    pixels = torch.from_numpy(random_images(config, batch_size))

    def run() -> dict:
        for of_blocks in flow.values():
            of_blocks.clear()
        with torch.inference_mode():
            model(normalized_pixels(torch, spec, pixels))
            return {name: torch.stack(of_blocks, 1) for name, of_blocks in flow.items()}

    def difference(found: dict) -> float:
        expected = load_file(folder / FLOW)
        off = max(float(np.abs(found[name].numpy() - own).max() / np.ptp(own)) for name, own in expected.items())
        if not off <= TOLERANCE:
            raise RuntimeError(f"timm's attention gives other statistics than the library's: difference {off:.2g}")
        return off

    return Work(run, difference)
