"""DINO: self-distillation with no labels (Caron et al., ICCV 2021)."""

from vitprobe_jax.backbones.config import Architecture
from vitprobe_jax.backbones.families import huggingface
from vitprobe_jax.backbones.families.record import FACEBOOK, IMAGENET_1K, Arch, B, Family, KeyRules, S


def _arch(name: str, patch_size: int, sizes: dict) -> Arch:
    folder = f"dino_{name}{patch_size}_pretrain"
    return Arch(patch_size=patch_size, file=f"{folder}.pth", url=f"{FACEBOOK}/dino/{folder}/{folder}.pth", **sizes)


DINO = Family(
    name="dino",
    objective="DINO (self-distillation)",
    paper="Caron et al., ICCV 2021",
    data=IMAGENET_1K,
    page="https://github.com/facebookresearch/dino",
    licence="Apache-2.0",
    archs={
        "vits16": _arch("deitsmall", 16, S),
        "vits8": _arch("deitsmall", 8, S),
        "vitb16": _arch("vitbase", 16, B),
        "vitb8": _arch("vitbase", 8, B),
    },
    architectures=(Architecture(resample="dino"),),
    layouts=(
        KeyRules(drop=(r"head\.(?:mlp|last_layer)\..*",), marks=(r"head\.last_layer\..*",)),
        *huggingface.vit("vit"),
    ),
    containers=(None, "teacher", "student"),
    preprocess_source="eval_knn.py",
)
