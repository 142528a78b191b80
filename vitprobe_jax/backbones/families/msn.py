"""MSN: masked Siamese networks (Assran et al., ECCV 2022)."""

from vitprobe_jax.backbones.config import Architecture, Preprocess
from vitprobe_jax.backbones.families import huggingface
from vitprobe_jax.backbones.families.record import FACEBOOK, IMAGENET_1K, Arch, B, Family, KeyRules, L, S


def _arch(name: str, patch_size: int, sizes: dict) -> Arch:
    file = f"{name}.pth.tar"
    return Arch(patch_size=patch_size, file=file, url=f"{FACEBOOK}/msn/{file}", **sizes)


MSN = Family(
    name="msn",
    objective="MSN (masked Siamese networks)",
    paper="Assran et al., ECCV 2022",
    data=IMAGENET_1K,
    page="https://github.com/facebookresearch/msn",
    licence="CC-BY-NC-4.0",
    archs={
        "vits16": _arch("vits16_800ep", 16, S),
        "vitb16": _arch("vitb16_600ep", 16, B),
        "vitl16": _arch("vitl16_600ep", 16, L),
        "vitb4": _arch("vitb4_300ep", 4, B),
        "vitl7": _arch("vitl7_200ep", 7, L),
    },
    architectures=(Architecture(resample="bicubic"),),
    layouts=(
        KeyRules(drop=(r"fc\..*", r"pred\..*"), marks=(r"fc\..*",)),
        *huggingface.vit("vit_msn"),
    ),
    # The exponential average is what the authors evaluate.
    containers=("target_encoder", "encoder"),
    # Resize(256) without a filter is torchvision's bilinear.
    preprocess=Preprocess(interpolation="bilinear"),
    preprocess_source="logistic_eval.py",
)
