"""ViTs trained on labels: torchvision's, DeiT (Touvron et al., ICML 2021) and timm's AugReg (Steiner et al., TMLR 2022)."""

from vitprobe_jax.backbones.config import Architecture, Preprocess
from vitprobe_jax.backbones.families import huggingface
from vitprobe_jax.backbones.families.record import CLASSIFIER, FACEBOOK, IMAGENET_1K, Arch, B, Family, KeyRules, L, S

_LAYER = "encoder.layers.encoder_layer_{}"


def _torchvision(fc1: str, fc2: str) -> KeyRules:
    return KeyRules(
        names={
            "cls_token": "class_token",
            "pos_embed": "encoder.pos_embedding",
            "patch_embed": "conv_proj",
            "norm": "encoder.ln",
            "blocks.{}.norm1": f"{_LAYER}.ln_1",
            "blocks.{}.norm2": f"{_LAYER}.ln_2",
            "blocks.{}.attn.qkv.weight": f"{_LAYER}.self_attention.in_proj_weight",
            "blocks.{}.attn.qkv.bias": f"{_LAYER}.self_attention.in_proj_bias",
            "blocks.{}.attn.proj": f"{_LAYER}.self_attention.out_proj",
            "blocks.{}.mlp.fc1": f"{_LAYER}.mlp.{fc1}",
            "blocks.{}.mlp.fc2": f"{_LAYER}.mlp.{fc2}",
        },
        drop=(r"heads\..*",),
    )


def _published(name: str, patch_size: int, digits: str, sizes: dict, **more) -> Arch:
    file = f"vit_{name}-{digits}.pth"
    url = f"https://download.pytorch.org/models/{file}"
    return Arch(patch_size=patch_size, file=file, url=url, sha256=digits, **sizes, **more)


TORCHVISION = Family(
    name="torchvision",
    objective="supervised (torchvision)",
    paper="torchvision's training recipe",
    data=IMAGENET_1K,
    page="https://docs.pytorch.org/vision/stable/models/vision_transformer.html",
    licence="BSD-3-Clause",
    archs={
        "vitb16": _published("b_16", 16, "c867db91", B),
        "vitb32": _published("b_32", 32, "d86f8d99", B),
        "vitl16": _published(
            "l_16", 16, "852ce7e3", L, preprocess=Preprocess(interpolation="bilinear", resize_ratio=242 / 224)
        ),
        "vitl32": _published("l_32", 32, "c7638314", L),
    },
    architectures=(Architecture(resample="bicubic_aligned"),),
    layouts=(_torchvision("0", "3"), _torchvision("linear_1", "linear_2")),
    preprocess=Preprocess(interpolation="bilinear"),
    preprocess_source="torchvision/models/vision_transformer.py",
)


def _deit(name: str, digits: str, sizes: dict) -> Arch:
    file = f"deit_{name}_patch16_224-{digits}.pth"
    return Arch(patch_size=16, file=file, url=f"{FACEBOOK}/deit/{file}", sha256=digits, **sizes)


_DEIT = {
    "paper": "Touvron et al., ICML 2021",
    "data": IMAGENET_1K,
    "page": "https://github.com/facebookresearch/deit",
    "licence": "Apache-2.0",
    "containers": ("model",),
    "preprocess_source": "datasets.py",
}

DEIT = Family(
    name="deit",
    objective="supervised (DeiT)",
    **_DEIT,
    archs={"vits16": _deit("small", "cd65a155", S), "vitb16": _deit("base", "b5f2ef4d", B)},
    architectures=(Architecture(resample="bicubic"),),
    layouts=(KeyRules(drop=(CLASSIFIER,)), *huggingface.vit("vit")),
)

DEIT_DISTILLED = Family(
    name="deit_distilled",
    objective="supervised, with distillation (DeiT)",
    **_DEIT,
    archs={
        "vits16": _deit("small_distilled", "649709d9", S),
        "vitb16": _deit("base_distilled", "df68dfff", B),
    },
    # The distillation token has a place in the position embedding, and is no patch: a register.
    architectures=(Architecture(resample="bicubic", num_registers=1, register_positions=True),),
    layouts=(
        KeyRules(names={"registers": "dist_token"}, drop=(CLASSIFIER, r"head_dist\..*")),
        *huggingface.deit(),
    ),
)


def _augreg(name: str, patch_size: int, sizes: dict) -> Arch:
    folder = f"vit_{name}_patch{patch_size}_224.augreg_in21k_ft_in1k"
    url = f"https://huggingface.co/timm/{folder}/resolve/main/model.safetensors"
    return Arch(patch_size=patch_size, file=f"{folder}/model.safetensors", url=url, **sizes)


AUGREG = Family(
    name="augreg",
    objective="supervised (AugReg)",
    paper="Steiner et al., TMLR 2022",
    data="ImageNet-21k, then ImageNet-1k",
    page="https://github.com/huggingface/pytorch-image-models",
    licence="Apache-2.0",
    archs={
        "vits16": _augreg("small", 16, S),
        "vitb16": _augreg("base", 16, B),
        "vitb8": _augreg("base", 8, B),
        "vitl16": _augreg("large", 16, L),
    },
    architectures=(Architecture(resample="bicubic_antialias"),),
    layouts=(KeyRules(drop=(CLASSIFIER,)), *huggingface.vit("vit")),
    preprocess=Preprocess(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), resize_ratio=1 / 0.9),
    preprocess_source="timm/data/transforms_factory.py",
)
