"""BEiT: masked prediction of a tokenizer's codes, v1 (Bao et al., ICLR 2022) and v2 (Peng et al., 2022), pre-trained and
fine-tuned.

Their layout is SimMIM's too: query and value have biases of their own, keys none; LayerScale goes by `gamma_1`, `gamma_2`.
"""

from vitprobe_jax.backbones.config import Architecture, Preprocess
from vitprobe_jax.backbones.families import huggingface
from vitprobe_jax.backbones.families.record import CLASSIFIER, IMAGENET_1K, IMAGENET_22K, Arch, B, Family, KeyRules, L

_NAMES = {
    "blocks.{}.attn.qkv.bias": ("blocks.{}.attn.q_bias", None, "blocks.{}.attn.v_bias"),
    "blocks.{}.ls1": "blocks.{}.gamma_1",
    "blocks.{}.ls2": "blocks.{}.gamma_2",
}
_INDEX = r".*relative_position_index"

PRETRAINED = (Architecture(positions="none", relative_bias="shared", layer_scale=True),)
FINETUNED = (Architecture(positions="none", relative_bias="per_block", layer_scale=True, pool="patches_then_norm"),)


def pretrained_rules(*, drop: tuple[str, ...], marks: tuple[str, ...]) -> KeyRules:
    """One relative table for all blocks, a final norm, a mask token."""
    return KeyRules(names=_NAMES, drop=(_INDEX, "mask_token", *drop), marks=marks)


def finetuned_rules() -> KeyRules:
    """A relative table a block; the norm comes after the patches' mean."""
    return KeyRules(names=_NAMES | {"norm": "fc_norm"}, drop=(_INDEX, CLASSIFIER))


# The copies that timm's authors keep; the addresses of the official page carry access keys that expire.
_MIRROR = "https://github.com/addf400/files/releases/download/BEiT-v2"


_SIZES = {"vitb16": ("base", B), "vitl16": ("large", L)}


def _archs(version: str, stage: str, suffix: str, mirror: str = "") -> dict[str, Arch]:
    """Both sizes of a stage of training, by the name of `--arch`."""
    files = {name: f"{version}_{size}_patch16_224_{stage}.pth" for name, (size, _) in _SIZES.items()}
    return {
        f"{name}{suffix}": Arch(patch_size=16, file=file, url=mirror and f"{mirror}/{file}", **_SIZES[name][1])
        for name, file in files.items()
    }


_PAGE_1 = {
    "paper": "Bao et al., ICLR 2022",
    "page": "https://github.com/microsoft/unilm/tree/master/beit",
    "licence": "MIT",
    "containers": ("model", "module"),
    # microsoft/unilm, beit/README.md: both are 0.5 but for runs on ImageNet-1k alone, whose weights are not published.
    "preprocess": Preprocess(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), whole_from=384),
    "preprocess_source": "beit/datasets.py",
}

BEIT = Family(
    name="beit",
    objective="BEiT (masked prediction of DALL-E's codes)",
    **_PAGE_1,
    data=IMAGENET_22K,
    archs=_archs("beit", "pt22k", ""),
    architectures=PRETRAINED,
    # Nothing of its own: BEiT v2 trained without its [CLS] bottleneck has the same keys.
    layouts=(pretrained_rules(drop=(r"lm_head\..*",), marks=()), *huggingface.beit()),
)

BEIT_FINETUNED = Family(
    name="beit_finetuned",
    objective="BEiT, fine-tuned on labels",
    **_PAGE_1,
    data="ImageNet-22k, then its labels or those of ImageNet-1k",
    archs={
        name: arch
        for tuning in ("ft22k", "ft1k", "ft22kto1k")
        for name, arch in _archs("beit", f"pt22k_{tuning}", f"_{tuning}").items()
    },
    architectures=FINETUNED,
    layouts=(finetuned_rules(), *huggingface.beit(finetuned=True)),
)

_PAGE_2 = {
    "paper": "Peng et al., 2022",
    "page": "https://github.com/microsoft/unilm/tree/master/beit2",
    "licence": "MIT",
    "containers": ("model", "module"),
    # The evaluation keeps 256 / 224 below 384 px, and takes all of the short side from there on.
    "preprocess": Preprocess(whole_from=384),
    "preprocess_source": "beit2/datasets.py",
}

BEITV2 = Family(
    name="beitv2",
    objective="BEiT v2 (masked prediction of semantic codes)",
    **_PAGE_2,
    data=IMAGENET_1K,
    archs=_archs("beitv2", "pt1k", "", _MIRROR),
    architectures=PRETRAINED,
    layouts=(
        pretrained_rules(drop=(r"lm_head\..*", r"cls_pt_.*"), marks=(r"cls_pt_.*",)),
        *huggingface.beit(),
    ),
)

BEITV2_FINETUNED = Family(
    name="beitv2_finetuned",
    objective="BEiT v2, fine-tuned on labels",
    **_PAGE_2,
    data="ImageNet-1k, then labels of ImageNet-21k or 1k",
    archs={
        name: arch
        for tuning in ("ft21k", "ft1k", "ft21kto1k")
        for name, arch in _archs("beitv2", f"pt1k_{tuning}", f"_{tuning}", _MIRROR).items()
    },
    architectures=FINETUNED,
    layouts=(finetuned_rules(), *huggingface.beit(finetuned=True)),
)
