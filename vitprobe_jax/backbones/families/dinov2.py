"""DINOv2: self-distillation at scale (Oquab et al., 2024), with and without registers (Darcet et al., 2024)."""

import dataclasses

from vitprobe_jax.backbones.config import Architecture, Preprocess
from vitprobe_jax.backbones.families import huggingface
from vitprobe_jax.backbones.families.record import FACEBOOK, Arch, B, Family, KeyRules, L, S

_G = {"num_heads": 24, "width": 1536, "depth": 40}
_SIZES = {"vits14": S, "vitb14": B, "vitl14": L, "vitg14": _G}


def _arch(name: str, variant: str) -> Arch:
    file = f"dinov2_{name}{variant}_pretrain.pth"
    marks = (r".*register_tokens",) if variant else ()
    return Arch(patch_size=14, file=file, url=f"{FACEBOOK}/dinov2/dinov2_{name}/{file}", marks=marks, **_SIZES[name])


_WITHOUT = Architecture(layer_scale=True, resample="dino")
_WITH = Architecture(layer_scale=True, resample="bicubic_antialias", num_registers=4)

DINOV2 = Family(
    name="dinov2",
    objective="DINOv2 (self-distillation with masked patches, at scale)",
    paper="Oquab et al., 2024; registers: Darcet et al., 2024",
    data="LVD-142M",
    page="https://github.com/facebookresearch/dinov2",
    licence="Apache-2.0",
    archs={name: _arch(name, "") for name in _SIZES} | {f"{name}_reg4": _arch(name, "_reg4") for name in _SIZES},
    # The largest has SwiGLU.
    architectures=tuple(dataclasses.replace(kind, mlp=mlp) for mlp in ("gelu", "swiglu") for kind in (_WITHOUT, _WITH)),
    layouts=(
        KeyRules(drop=("mask_token", r"(?:dino|ibot)_head\..*")),
        *huggingface.dinov2(),
    ),
    containers=(None, "teacher"),
    # Trained last at 518 px, whence its grid of positions; evaluated at 224.
    preprocess=Preprocess(size=224),
    preprocess_source="dinov2/data/transforms.py",
    image_size=518,
)
