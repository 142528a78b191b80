"""MaskFeat: masked prediction of HOG features (Wei et al., CVPR 2022)."""

from vitprobe_jax.backbones.config import Architecture
from vitprobe_jax.backbones.families.record import FACEBOOK, IMAGENET_1K, Arch, B, Family, KeyRules, L


def _arch(size: str, sizes: dict) -> Arch:
    file = f"in1k_VIT_{size}_MaskFeat_PT_epoch_01600.pyth"
    return Arch(patch_size=16, file=file, url=f"{FACEBOOK}/pyslowfast/masked_models/{file}", **sizes)


# The encoder ends without a norm; the head's own, right after the last block, takes its place.
_NORM = {"norm": "pred_head.transforms.0.0"}
_DROP = ("mask_token", r"hogs\..*", r"pred_head\.projections\..*")

MASKFEAT = Family(
    name="maskfeat",
    objective="MaskFeat (masked prediction of HOG)",
    paper="Wei et al., CVPR 2022",
    data=IMAGENET_1K,
    page="https://github.com/facebookresearch/SlowFast",
    licence="Apache-2.0",
    archs={"vitb16": _arch("B", B), "vitl16": _arch("L", L)},
    architectures=(Architecture(resample="bilinear"),),
    layouts=(
        KeyRules(names=_NORM, drop=_DROP),
        # The official code keeps query, key and value apart where its configuration says so.
        KeyRules(names=_NORM | {"blocks.{}.attn.qkv": tuple(f"blocks.{{}}.attn.{name}" for name in "qkv")}, drop=_DROP),
    ),
    containers=("model_state",),
    preprocess_source="slowfast/datasets/imagenet.py",
)
