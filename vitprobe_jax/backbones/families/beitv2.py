"""BEiT v2: masked prediction of a tokenizer's codes (Peng et al., 2022), pre-trained and fine-tuned.

Its layout is SimMIM's too: query and value have biases of their own, keys none; LayerScale goes by `gamma_1`, `gamma_2`.
"""

from vitprobe_jax.backbones.config import Architecture
from vitprobe_jax.backbones.families import huggingface
from vitprobe_jax.backbones.families.record import IMAGENET_1K, Arch, B, Family, KeyRules

_NAMES = {
    "blocks.{}.attn.qkv.bias": ("blocks.{}.attn.q_bias", None, "blocks.{}.attn.v_bias"),
    "blocks.{}.ls1": "blocks.{}.gamma_1",
    "blocks.{}.ls2": "blocks.{}.gamma_2",
}
_INDEX = r".*relative_position_index"

PRETRAINED = (Architecture(positions="none", relative_bias="shared", layer_scale=True),)
FINETUNED = (Architecture(positions="none", relative_bias="per_block", layer_scale=True, pool="patches_then_norm"),)


def pretrained_rules(*, prefixes: tuple[str, ...] = ("",), drop: tuple[str, ...], marks: tuple[str, ...]) -> KeyRules:
    """One relative table for all blocks, a final norm, a mask token."""
    return KeyRules(names=_NAMES, prefixes=prefixes, drop=(_INDEX, "mask_token", *drop), marks=marks)


def finetuned_rules() -> KeyRules:
    """A relative table a block; the norm comes after the patches' mean."""
    return KeyRules(names=_NAMES | {"norm": "fc_norm"}, drop=(_INDEX, r"head\..*"))


# The copies that timm's authors keep; the addresses of the official page carry access keys that expire.
_MIRROR = "https://github.com/addf400/files/releases/download/BEiT-v2"


def _arch(file: str, **more) -> Arch:
    return Arch(patch_size=16, file=file, url=f"{_MIRROR}/{file}", **B, **more)


_PAGE = {
    "paper": "Peng et al., 2022",
    "page": "https://github.com/microsoft/unilm/tree/master/beit2",
    "licence": "MIT",
    "containers": ("model", "module"),
}

BEITV2 = Family(
    name="beitv2",
    objective="BEiT v2 (masked prediction of semantic codes)",
    **_PAGE,
    data=IMAGENET_1K,
    archs={"vitb16": _arch("beitv2_base_patch16_224_pt1k.pth")},
    architectures=PRETRAINED,
    layouts=(
        pretrained_rules(drop=(r"lm_head\..*", r"cls_pt_.*"), marks=(r"lm_head\..*",)),
        *huggingface.beit(),
    ),
)

BEITV2_FINETUNED = Family(
    name="beitv2_finetuned",
    objective="BEiT v2, fine-tuned on labels",
    **_PAGE,
    data="ImageNet-1k, then labels of ImageNet-21k or 1k",
    archs={
        "vitb16_ft21k": _arch("beitv2_base_patch16_224_pt1k_ft21k.pth"),
        "vitb16_ft1k": _arch("beitv2_base_patch16_224_pt1k_ft1k.pth"),
        "vitb16_ft21kto1k": _arch("beitv2_base_patch16_224_pt1k_ft21kto1k.pth"),
    },
    architectures=FINETUNED,
    layouts=(finetuned_rules(), *huggingface.beit(finetuned=True)),
)
