"""MoCo v3: momentum contrast (Chen et al., ICCV 2021)."""

from vitprobe_jax.backbones.config import Architecture, Preprocess
from vitprobe_jax.backbones.families.record import CLASSIFIER, FACEBOOK, IMAGENET_1K, Arch, B, Family, KeyRules, S


def _arch(size: str, sizes: dict) -> Arch:
    name = f"vit-{size}-300ep"
    return Arch(patch_size=16, file=f"{name}.pth.tar", url=f"{FACEBOOK}/moco-v3/{name}/{name}.pth.tar", **sizes)


MOCOV3 = Family(
    name="mocov3",
    objective="MoCo v3 (momentum contrast)",
    paper="Chen et al., ICCV 2021",
    data=IMAGENET_1K,
    page="https://github.com/facebookresearch/moco-v3",
    licence="CC-BY-NC-4.0",
    # Its ViT-S has twelve heads.
    archs={"vits16": _arch("s", {**S, "num_heads": 12}), "vitb16": _arch("b", B)},
    architectures=(Architecture(resample="bicubic"),),
    layouts=(
        KeyRules(prefix="base_encoder.", drop=(r"head\..*", r"momentum_encoder\..*", r"predictor\..*")),
        # What facebookresearch/moco-v3 makes of it: convert_to_deit.py [`model`], and main_lincls.py with its classifier.
        KeyRules(drop=(CLASSIFIER,)),
    ),
    containers=("state_dict", "model"),
    position_kinds=("sincos_rows_first",),
    # Resize(256) without a filter is torchvision's bilinear.
    preprocess=Preprocess(interpolation="bilinear"),
    preprocess_source="main_lincls.py",
)
