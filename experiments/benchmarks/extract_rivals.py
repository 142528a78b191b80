"""timm's and transformers' ViTs with forward hooks on the last block: the rivals of `extract`.

The tokens of their first call are compared with the library's before any repeat is timed.
"""

import functools
import re
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from safetensors.numpy import load_file

from experiments.benchmarks.config import BenchConfig
from experiments.benchmarks.timing import Work
from vitprobe_jax.backbones.config import BackboneSpec
from vitprobe_jax.backbones.loading import read_spec
from vitprobe_jax.types import TOKENS

TOLERANCE = 2e-3
"""Largest difference of a token's feature, relative to the token's largest: float32 through 12 blocks gives 1e-5."""


def random_images(config: BenchConfig, batch_size: int) -> UInt8[np.ndarray, "B height width 3"]:
    """The same images for every contender."""
    side = config.image_size
    return np.random.default_rng([config.seed, 3]).integers(0, 256, (batch_size, side, side, 3), np.uint8)


def prepare_timm(config: BenchConfig, folder: Path, batch_size: int) -> Work:
    """Timm's VisionTransformer with its fused attention."""
    torch, model, spec = load_timm(config, folder)
    block, kept = model.blocks[-1], {}
    block.attn.qkv.register_forward_hook(
        lambda _, inputs, output: kept.update(zip("qkv", output.chunk(3, -1), strict=True))
    )
    block.norm2.register_forward_hook(lambda _, inputs, output: kept.update(x1=inputs[0], xn=output))
    model.norm.register_forward_hook(lambda _, inputs, output: kept.update(x2=output))
    return _torch_work(torch, model, kept, spec, random_images(config, batch_size), folder)


def load_timm(config: BenchConfig, folder: Path) -> tuple[Any, Any, BackboneSpec]:
    """Torch itself, timm's VisionTransformer with the official weights of the folder, and the library's record of them."""
    from experiments.benchmarks import torch_ops  # noqa: F401  Before timm.

    # isort: split
    import torch
    from timm.models.vision_transformer import VisionTransformer

    spec, state = read_spec(folder / "converted"), _state(torch, folder)
    c = spec.config
    model = VisionTransformer(
        img_size=config.image_size,
        patch_size=c.patch_size,
        embed_dim=c.width,
        depth=c.depth,
        num_heads=c.num_heads,
        mlp_ratio=c.mlp_dim / c.width,
        norm_layer=functools.partial(torch.nn.LayerNorm, eps=c.layer_norm_eps),
        num_classes=0,
        global_pool="",
    )
    model.load_state_dict(state)
    return torch, model.eval(), spec


def normalized_pixels(torch: Any, spec: BackboneSpec, pixels: Any) -> Any:
    """Pixels in 0..255 as a torch model expects them, channels first."""
    mean, std = torch.tensor(spec.preprocess.mean), torch.tensor(spec.preprocess.std)
    return ((pixels.float() / 255 - mean) / std).permute(0, 3, 1, 2)


def prepare_transformers(config: BenchConfig, folder: Path, batch_size: int, attention: str) -> Work:
    """Transformers' ViTModel with fused (`sdpa`) or `eager` attention."""
    from experiments.benchmarks import torch_ops  # noqa: F401  Before transformers.

    # isort: split
    import torch
    from transformers import ViTConfig, ViTModel

    spec, state = read_spec(folder / "converted"), _state(torch, folder)
    c = spec.config
    sizes = ViTConfig(
        image_size=config.image_size,
        patch_size=c.patch_size,
        hidden_size=c.width,
        num_hidden_layers=c.depth,
        num_attention_heads=c.num_heads,
        intermediate_size=c.mlp_dim,
        layer_norm_eps=c.layer_norm_eps,
        attn_implementation=attention,
    )
    model = ViTModel(sizes, add_pooling_layer=False)
    model.load_state_dict(_transformers_state(state))
    layer, kept = model.layers[-1], {}
    for name in "qkv":
        projection = getattr(layer.attention, f"{name}_proj")
        projection.register_forward_hook(lambda _, inputs, output, name=name: kept.update({name: output}))
    layer.layernorm_after.register_forward_hook(lambda _, inputs, output: kept.update(x1=inputs[0], xn=output))
    model.layernorm.register_forward_hook(lambda _, inputs, output: kept.update(x2=output))
    return _torch_work(torch, model, kept, spec, random_images(config, batch_size), folder)


def _state(torch, folder: Path) -> dict:
    return {name: torch.from_numpy(tensor) for name, tensor in load_file(folder / "official.safetensors").items()}


_TRANSFORMERS_NAMES = (
    (r"^(cls_token)", r"embeddings.\1"),
    (r"^pos_embed", "embeddings.position_embeddings"),
    (r"^patch_embed\.proj", "embeddings.patch_embeddings.projection"),
    (r"^blocks", "layers"),
    (r"^norm", "layernorm"),
    (r"\.norm1", ".layernorm_before"),
    (r"\.norm2", ".layernorm_after"),
    (r"attn\.proj", "attention.o_proj"),
    (r"attn\.([qkv])\.", r"attention.\1_proj."),
)


def _transformers_state(state: dict) -> dict:
    renamed = {}
    for official, tensor in state.items():
        parts = {official: tensor}
        if ".qkv." in official:
            parts = {official.replace("qkv", part): t for part, t in zip("qkv", tensor.chunk(3), strict=True)}
        for name, part in parts.items():
            for pattern, replacement in _TRANSFORMERS_NAMES:
                name = re.sub(pattern, replacement, name)
            renamed[name] = part
    return renamed


def _torch_work(torch, model, kept: dict, spec: BackboneSpec, images: np.ndarray, folder: Path) -> Work:
    """The forward pass from pixels in 0..255 to the kept tokens; its evidence is their difference from the library's."""
    model.eval()
    pixels = torch.from_numpy(images)

    def run() -> dict:
        with torch.inference_mode():
            model(normalized_pixels(torch, spec, pixels))
        return {token: kept[token] for token in TOKENS}

    def difference(tokens: dict) -> float:
        expected = load_file(folder / "tokens.safetensors")
        off = max(float(np.abs(tokens[t].numpy() - expected[t]).max() / np.abs(expected[t]).max()) for t in TOKENS)
        if not off <= TOLERANCE:
            raise RuntimeError(f"{type(model).__name__} gives other tokens than the library: difference {off:.2g}")
        return off

    return Work(run, difference)
