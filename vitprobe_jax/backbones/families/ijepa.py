"""I-JEPA: joint-embedding prediction (Assran et al., CVPR 2023); no [CLS] token."""

from vitprobe_jax.backbones.config import Architecture
from vitprobe_jax.backbones.families import huggingface
from vitprobe_jax.backbones.families.record import FACEBOOK, IMAGENET_1K, IMAGENET_22K, Arch, Family, H, KeyRules


def _arch(file: str, patch_size: int = 14, **more) -> Arch:
    return Arch(patch_size=patch_size, file=file, url=f"{FACEBOOK}/ijepa/{file}", **{**H, **more})


IJEPA = Family(
    name="ijepa",
    objective="I-JEPA (joint-embedding prediction)",
    paper="Assran et al., CVPR 2023",
    data=IMAGENET_1K,
    page="https://github.com/facebookresearch/ijepa",
    licence="CC-BY-NC-4.0",
    archs={
        "vith14": _arch("IN1K-vit.h.14-300e.pth.tar"),
        "vith14_in22k": _arch("IN22K-vit.h.14-900e.pth.tar", data=IMAGENET_22K),
        "vith16_448": _arch("IN1K-vit.h.16-448px-300e.pth.tar", patch_size=16),
        "vitg16": _arch(
            "IN22K-vit.g.16-600e.pth.tar", patch_size=16, data=IMAGENET_22K, num_heads=16, width=1408, depth=40
        ),
    },
    architectures=(Architecture(class_token=False, resample="bicubic", pool="patches"),),
    layouts=(KeyRules(), *huggingface.ijepa()),
    # The paper evaluates the target encoder (section 5).
    containers=("target_encoder", "encoder"),
    position_kinds=("sincos",),
)
