"""Families with plain keys: one ViT with [CLS] and absolute positions, under a dozen containers and conventions."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import torch

from tests.zoo import plain_files as files
from tests.zoo.specimen import Sizes, Specimen, StateDict, Traced
from tests.zoo.tracing import PositionRule, patch_grid
from tests.zoo.vit_models import at_grid, trace_timm, trace_vit_model

GSD = 1.7
"""Metres a pixel of Scale-MAE's images."""

DECODER = {"width": 36, "depth": 2, "num_heads": 3, "mlp_dim": 60}
"""MAE's tiny decoder."""

_TINY = Sizes(width=40, depth=2, num_heads=5, patch_size=4, grid=5, mlp_dim=72)
_S16 = Sizes(width=384, depth=12, num_heads=6, patch_size=16, grid=14, mlp_dim=1536)
_B16 = Sizes(width=768, depth=12, num_heads=12, patch_size=16, grid=14, mlp_dim=3072)
_L16 = Sizes(width=1024, depth=24, num_heads=16, patch_size=16, grid=14, mlp_dim=4096)


def trace_encoder(state: StateDict, sizes: Sizes, images: np.ndarray, *, rule: PositionRule) -> Traced:
    """ViTModel with everything but a decoder, positions by the rule."""
    state = {key: value for key, value in state.items() if key != "mask_token" and not key.startswith("decoder_")}
    return trace_vit_model(at_grid(state, sizes, images, rule), sizes, images)


def trace_supervised(
    state: StateDict, sizes: Sizes, images: np.ndarray, *, rule: PositionRule, num_prefix: int = 1, **options
) -> Traced:
    """timm's VisionTransformer, positions by the rule; `options` as `trace_timm` takes them."""
    return trace_timm(at_grid(state, sizes, images, rule, num_prefix=num_prefix), sizes, images, **options)


def trace_maskfeat(state: StateDict, sizes: Sizes, images: np.ndarray) -> Traced:
    """ViTModel, which has its own last norm where MaskFeat's prediction head begins."""
    state = {key.replace("pred_head.transforms.0.0.", "norm."): value for key, value in state.items()}
    return trace_encoder(state, sizes, images, rule="bilinear")


def trace_scalemae(state: StateDict, sizes: Sizes, images: np.ndarray, gsd: float | Sequence[float] = GSD) -> Traced:
    """ViTModel with positions made for each image from its metres a pixel."""
    distances = torch.as_tensor(gsd, dtype=torch.float32).expand(len(images))
    positions = gsd_positions(sizes.width, patch_grid(images, sizes.patch_size), distances)
    return trace_vit_model(state | {"pos_embed": positions}, sizes, images)


def gsd_positions(width: int, grid: tuple[int, int], gsd: torch.Tensor) -> torch.Tensor:
    """Scale-MAE's positions [B, 1 + patches, width] for metres a pixel [B], in float32 as the official code: the place of
    a patch times `gsd`, its column in the first half, its row in the second; [CLS] zero."""
    frequency = 1 / 10000 ** (torch.arange(width // 4, dtype=torch.float32) / (width // 4))
    row, column = (axis.flatten() for axis in torch.meshgrid(*map(torch.arange, grid), indexing="ij"))
    angles = [torch.einsum("b,t,f->btf", gsd, place.float(), frequency) for place in (column, row)]
    waves = [wave(angle) for angle in angles for wave in (torch.sin, torch.cos)]
    return torch.nn.functional.pad(torch.cat(waves, dim=2), (0, 0, 1, 0))


SPECIMENS = (
    Specimen(
        name="dino",
        family="dino",
        tiny=_TINY,
        arch="vits16",
        full=_S16,
        file="checkpoint.pth",
        write=files.write_dino,
        trace=functools.partial(trace_encoder, rule="dino"),
        oracle="transformers ViTModel",
    ),
    Specimen(
        name="mae",
        family="mae",
        tiny=_TINY,
        arch="vitb16",
        full=_B16,
        file="checkpoint.pth",
        write=files.write_mae,
        trace=functools.partial(trace_encoder, rule="bicubic"),
        oracle="transformers ViTModel",
    ),
    Specimen(
        name="mae_decoder",
        family="mae",
        tiny=_TINY,
        arch=None,
        full=None,
        file="checkpoint.pth",
        write=functools.partial(files.write_mae, decoder=DECODER),
        trace=functools.partial(trace_encoder, rule="bicubic"),
        oracle="transformers ViTModel",
        options={"decoder_heads": DECODER["num_heads"]},
    ),
    Specimen(
        name="mae_finetuned",
        family="mae_finetuned",
        tiny=_TINY,
        arch="vitb16",
        full=_B16,
        file="checkpoint.pth",
        write=files.write_mae_finetuned,
        trace=functools.partial(trace_supervised, rule="bicubic", pool="avg"),
        oracle="timm VisionTransformer",
    ),
    Specimen(
        name="maskfeat",
        family="maskfeat",
        tiny=_TINY,
        arch="vitb16",
        full=_B16,
        file="checkpoint.pyth",
        write=functools.partial(files.write_maskfeat, split=False),
        trace=trace_maskfeat,
        oracle="transformers ViTModel",
    ),
    Specimen(
        name="maskfeat_split",
        family="maskfeat",
        tiny=_TINY,
        arch=None,
        full=None,
        file="checkpoint.pyth",
        write=functools.partial(files.write_maskfeat, split=True),
        trace=trace_maskfeat,
        oracle="transformers ViTModel",
    ),
    Specimen(
        name="mocov3",
        family="mocov3",
        tiny=_TINY,
        arch="vits16",
        full=dataclasses.replace(_S16, num_heads=12),
        file="checkpoint.pth.tar",
        write=files.write_mocov3,
        trace=functools.partial(trace_supervised, rule="bicubic"),
        oracle="timm VisionTransformer",
    ),
    Specimen(
        name="msn",
        family="msn",
        tiny=_TINY,
        arch="vits16",
        full=_S16,
        file="checkpoint.pth.tar",
        write=files.write_msn,
        trace=functools.partial(trace_encoder, rule="bicubic"),
        oracle="transformers ViTModel",
    ),
    Specimen(
        name="ibot",
        family="ibot",
        tiny=_TINY,
        arch="vits16",
        full=_S16,
        file="checkpoint.pth",
        write=files.write_ibot,
        trace=functools.partial(trace_encoder, rule="dino"),
        oracle="transformers ViTModel",
    ),
    Specimen(
        name="deit",
        family="deit",
        tiny=_TINY,
        arch="vits16",
        full=_S16,
        file="checkpoint.pth",
        write=files.write_deit,
        trace=functools.partial(trace_supervised, rule="bicubic"),
        oracle="timm VisionTransformer",
    ),
    Specimen(
        name="deit_distilled",
        family="deit_distilled",
        tiny=_TINY,
        arch="vits16",
        full=_S16,
        file="checkpoint.pth",
        write=files.write_deit_distilled,
        trace=functools.partial(trace_supervised, rule="bicubic", num_prefix=2, distilled=True),
        oracle="timm VisionTransformerDistilled",
    ),
    Specimen(
        name="augreg",
        family="augreg",
        tiny=_TINY,
        arch="vits16",
        full=_S16,
        file="model.safetensors",
        write=files.write_augreg,
        trace=functools.partial(trace_supervised, rule="bicubic_antialias"),
        oracle="timm VisionTransformer",
    ),
    Specimen(
        name="scalemae",
        family="scalemae",
        tiny=_TINY,
        arch="vitl16",
        full=_L16,
        file="checkpoint.pth",
        write=files.write_scalemae,
        trace=trace_scalemae,
        oracle="transformers ViTModel, positions of each image",
        gsd=GSD,
    ),
)
