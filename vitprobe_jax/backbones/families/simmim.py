"""SimMIM: masked pixel regression (Xie et al., CVPR 2022), pre-trained and fine-tuned."""

from vitprobe_jax.backbones.families.beit import FINETUNED, PRETRAINED, finetuned_rules, pretrained_rules
from vitprobe_jax.backbones.families.record import IMAGENET_1K, Arch, B, Family

_PAGE = {
    "paper": "Xie et al., CVPR 2022",
    "data": IMAGENET_1K,
    "page": "https://github.com/microsoft/SimMIM",
    "licence": "MIT",
    "containers": ("model",),
    "preprocess_source": "data/data_finetune.py",
}

SIMMIM = Family(
    name="simmim",
    objective="SimMIM (masked pixel regression)",
    **_PAGE,
    archs={"vitb16": Arch(patch_size=16, file="simmim_pretrain__vit_base__img224__800ep.pth", **B)},
    architectures=PRETRAINED,
    layouts=(pretrained_rules(drop=(r"decoder\.0\..*",), marks=(r"decoder\.0\..*",)),),
)

SIMMIM_FINETUNED = Family(
    name="simmim_finetuned",
    objective="SimMIM, fine-tuned on ImageNet-1k labels",
    **_PAGE,
    archs={"vitb16": Arch(patch_size=16, file="simmim_finetune__vit_base__img224__800ep.pth", **B)},
    architectures=FINETUNED,
    layouts=(finetuned_rules(),),
)
