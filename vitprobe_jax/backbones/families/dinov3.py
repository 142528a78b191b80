"""DINOv3: self-distillation with RoPE and registers (Siméoni et al., 2025)."""

from vitprobe_jax.backbones.config import Architecture, Preprocess
from vitprobe_jax.backbones.families import huggingface
from vitprobe_jax.backbones.families.record import Arch, B, Family, KeyRules, L, S


def _arch(name: str, data: str, digits: str, sizes: dict, **more) -> Arch:
    file = f"dinov3_{name}_pretrain_{data.lower().replace('-', '')}-{digits}.pth"
    return Arch(patch_size=16, file=file, sha256=digits, data=data, **sizes, **more)


DINOV3 = Family(
    name="dinov3",
    objective="DINOv3 (self-distillation with masked patches and Gram anchoring)",
    paper="Siméoni et al., 2025",
    data="LVD-1689M or SAT-493M",
    page="https://github.com/facebookresearch/dinov3",
    licence="DINOv3 License",
    archs={
        "vits16": _arch("vits16", "LVD-1689M", "08c60483", S),
        "vitb16": _arch("vitb16", "LVD-1689M", "73cec8be", B),
        "vitl16": _arch("vitl16", "LVD-1689M", "8aa4cbdd", L),
        "vitl16_sat": _arch(
            "vitl16",
            "SAT-493M",
            "eadcf0ff",
            L,
            marks=(r"local_cls_norm\..*",),
            preprocess=Preprocess(mean=(0.430, 0.411, 0.296), std=(0.213, 0.156, 0.143)),
        ),
    },
    architectures=(
        Architecture(num_registers=4, positions="none", rope="axial", layer_scale=True, layer_norm_eps=1e-5),
    ),
    layouts=(
        KeyRules(
            # The periods are rounded to bfloat16 in the official files, and not in Hugging Face's, which leave them out.
            names={"registers": "storage_tokens", "rope_periods": "rope_embed.periods"},
            masks={"blocks.{}.attn.qkv.bias": "blocks.{}.attn.qkv.bias_mask"},
            drop=("mask_token", r"local_cls_norm\..*", r"(?:dino|ibot)_head\..*"),
        ),
        *huggingface.dinov3(),
    ),
    # facebookresearch/dinov3, train/train.py, saves its evaluated teacher so.
    containers=(None, "teacher"),
    preprocess_source="dinov3/data/transforms.py",
)
