"""DINOv3 against transformers' DINOv3ViTModel."""

import functools
from pathlib import Path

import numpy as np
import torch

# Must come before transformers.
from experiments.benchmarks import torch_ops  # noqa: F401

# isort: split
from transformers import DINOv3ViTConfig, DINOv3ViTModel
from transformers.models.dinov3_vit.modeling_dinov3_vit import apply_rotary_pos_emb

from tests.zoo import weights
from tests.zoo.specimen import Sizes, Specimen, StateDict, Traced
from tests.zoo.tracing import Trace, class_token, to_torch
from tests.zoo.transformers_layers import filled, keep_layers, renamed
from tests.zoo.vit_models import transformers_sizes

EPSILON = 1e-5
REGISTERS = 4
NAMES = {
    r"^(cls_token|mask_token)$": r"embeddings.\1",
    r"^storage_tokens$": "embeddings.register_tokens",
    r"^patch_embed\.proj\.": "embeddings.patch_embeddings.",
    r"^blocks\.": "model.layer.",
    r"\.ls([12])\.gamma$": r".layer_scale\1.lambda1",
    r"\.attn\.proj\.": ".attention.o_proj.",
    r"\.attn\.([qkv])\.": r".attention.\1_proj.",
    r"\.mlp\.fc1\.": ".mlp.up_proj.",
    r"\.mlp\.fc2\.": ".mlp.down_proj.",
}


def write(path: Path, sizes: Sizes, seed: int, *, satellite: bool) -> StateDict:
    """A released backbone: flat. The satellite one has a second norm, for the local crops of its training.

    The file says nothing of the native grid: nothing in it depends on the image's size. Its biases of the keys are not
    zero, its `bias_mask` is there.
    """
    generator = weights.seeded(seed + 1)
    state = weights.plain(sizes, seed) | {
        "mask_token": weights.token((1, 1, sizes.width), generator),
        "storage_tokens": weights.token((1, REGISTERS, sizes.width), generator),
        "rope_embed.periods": periods(sizes),
    }
    del state["pos_embed"]
    for i in range(sizes.depth):
        mask = torch.ones(3, sizes.width)
        mask[1] = 0
        state[f"blocks.{i}.attn.qkv.bias_mask"] = mask.flatten()
        for scale in ("ls1", "ls2"):
            state |= weights.scale(f"blocks.{i}.{scale}.gamma", sizes.width, generator)
    if satellite:
        state |= weights.norm("local_cls_norm", sizes.width, generator)
    torch.save(state, path)
    return state


def periods(sizes: Sizes) -> torch.Tensor:
    """Of the rotation, [head_dim / 4]: from 1 towards the base, 100."""
    quarter = sizes.width // sizes.num_heads // 4
    return 100.0 ** (torch.arange(quarter) / quarter)


def trace(state: StateDict, sizes: Sizes, images: np.ndarray) -> Traced:
    """All intermediates, and q and k as rotated by transformers' own function."""
    used = {key: value for key, value in state.items() if not key.startswith(("rope_embed.", "local_cls_norm."))}
    for i in range(sizes.depth):
        bias = f"blocks.{i}.attn.qkv.bias"
        used[bias] = state[bias] * used.pop(f"{bias}_mask")
    config = DINOv3ViTConfig(
        image_size=images.shape[1:3],
        patch_size=sizes.patch_size,
        num_register_tokens=REGISTERS,
        key_bias=True,
        **transformers_sizes(sizes, EPSILON),
    )
    model = filled(functools.partial(DINOv3ViTModel, config), renamed(used, NAMES))
    # The official model takes its periods from the file; transformers has a formula for them, and no key.
    model.rope_embeddings.inv_freq = 1 / state["rope_embed.periods"]
    traced = Trace()
    keep_layers(traced, model.model.layer, second_norm="norm2")
    found = class_token(traced.run(model, images, model.norm), sizes.depth)
    waves = model.rope_embeddings(to_torch(images))
    for i in range(sizes.depth):
        heads = (torch.from_numpy(found[i, name]).unflatten(-1, (sizes.num_heads, -1)).transpose(1, 2) for name in "qk")
        for name, turned in zip("qk", apply_rotary_pos_emb(*heads, *waves), strict=True):
            found[i, f"{name}_rotated"] = turned.transpose(1, 2).flatten(2).numpy()
    return found


SPECIMENS = (
    Specimen(
        name="dinov3",
        family="dinov3",
        tiny=Sizes(width=36, depth=2, num_heads=3, patch_size=4, grid=5, mlp_dim=100),
        arch="vits16",
        full=Sizes(width=384, depth=12, num_heads=6, patch_size=16, grid=14, mlp_dim=1536),
        file="dinov3_vits16_pretrain_lvd1689m-08c60483.pth",
        write=functools.partial(write, satellite=False),
        trace=trace,
        oracle="transformers DINOv3ViTModel",
        epsilon=EPSILON,
    ),
    Specimen(
        name="dinov3_satellite",
        family="dinov3",
        tiny=Sizes(width=40, depth=2, num_heads=5, patch_size=4, grid=4, mlp_dim=88),
        arch=None,
        full=None,
        file="dinov3_vitl16_pretrain_sat493m-eadcf0ff.pth",
        write=functools.partial(write, satellite=True),
        trace=trace,
        oracle="transformers DINOv3ViTModel",
        epsilon=EPSILON,
    ),
)
