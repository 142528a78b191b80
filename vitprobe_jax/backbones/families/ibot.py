"""iBOT: self-distillation of [CLS] and of masked patches (Zhou et al., ICLR 2022)."""

from vitprobe_jax.backbones.config import Architecture
from vitprobe_jax.backbones.families import huggingface
from vitprobe_jax.backbones.families.record import IMAGENET_1K, IMAGENET_22K, Arch, B, Family, KeyRules, L, S

_FILE = "checkpoint_teacher.pth"

IBOT = Family(
    name="ibot",
    objective="iBOT (self-distillation with masked patches)",
    paper="Zhou et al., ICLR 2022",
    data="ImageNet-1k or 22k",
    page="https://github.com/bytedance/ibot",
    licence="Apache-2.0",
    archs={
        "vits16": Arch(patch_size=16, file=_FILE, data=IMAGENET_1K, **S),
        "vitb16": Arch(patch_size=16, file=_FILE, data=IMAGENET_1K, **B),
        "vitb16_in22k": Arch(patch_size=16, file="checkpoint_student.pth", data=IMAGENET_22K, **B),
        "vitl16": Arch(patch_size=16, file=_FILE, data=IMAGENET_1K, **L),
        "vitl16_in22k": Arch(patch_size=16, file="checkpoint_student.pth", data=IMAGENET_22K, **L),
    },
    architectures=(Architecture(resample="dino"),),
    layouts=(
        # bytedance/ibot: the student alone has the token (main_ibot.py); every head has a part for patches (models/head.py).
        KeyRules(
            drop=("masked_embed", r"head\.(?:mlp|last_layer|last_norm)2?\..*"),
            marks=(r"masked_embed|head\.(?:mlp|last_layer)2\..*",),
        ),
        *huggingface.vit("vit"),
    ),
    containers=("state_dict", "teacher", "student", None),
    preprocess_source="evaluation/eval_knn.py",
)
