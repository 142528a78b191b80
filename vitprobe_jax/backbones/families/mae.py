"""MAE: masked pixel reconstruction (He et al., CVPR 2022), pre-trained and fine-tuned."""

from vitprobe_jax.backbones.config import Architecture, Preprocess
from vitprobe_jax.backbones.families import huggingface
from vitprobe_jax.backbones.families.record import CLASSIFIER, FACEBOOK, IMAGENET_1K, Arch, B, Family, H, KeyRules, L

_SIZES = {"vitb16": (16, B, "base"), "vitl16": (16, L, "large"), "vith14": (14, H, "huge")}


def _arch(arch: str, folder: str, name: str, **more) -> Arch:
    patch_size, sizes, size = _SIZES[arch]
    file = f"{name}_{size}.pth"
    return Arch(patch_size=patch_size, file=file, url=f"{FACEBOOK}/mae/{folder}/{file}", **sizes, **more)


_PAGE = {
    "paper": "He et al., CVPR 2022",
    "data": IMAGENET_1K,
    "page": "https://github.com/facebookresearch/mae",
    "licence": "CC-BY-NC-4.0",
    "containers": ("model",),
}

MAE = Family(
    name="mae",
    objective="MAE (masked pixel reconstruction)",
    **_PAGE,
    archs={arch: _arch(arch, "pretrain", "mae_pretrain_vit", decoder_heads=16) for arch in _SIZES}
    | {f"{arch}_decoder": _arch(arch, "visualize", "mae_visualize_vit", decoder_heads=16) for arch in _SIZES},
    architectures=(Architecture(resample="bicubic"),),
    layouts=(
        KeyRules(
            names={
                "decoder.mask_token": "mask_token",
                "decoder.pos_embed": "decoder_pos_embed",
                "decoder.embed": "decoder_embed",
                "decoder.norm": "decoder_norm",
                "decoder.pred": "decoder_pred",
                **{
                    f"decoder.blocks.{{}}.{part}": f"decoder_blocks.{{}}.{part}"
                    for part in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
                },
            },
            # The classifier of main_linprobe.py, whose encoder stays as it was: a norm of the batch, and a linear map.
            drop=(r"head\.[01]\..*",),
        ),
        *huggingface.vit("vit_mae", "vit", decoder=True),
    ),
    position_kinds=("sincos",),
    preprocess_source="main_linprobe.py",
)

MAE_FINETUNED = Family(
    name="mae_finetuned",
    objective="MAE, fine-tuned on ImageNet-1k labels",
    **_PAGE,
    archs={arch: _arch(arch, "finetune", "mae_finetuned_vit") for arch in _SIZES},
    architectures=(Architecture(resample="bicubic", pool="patches_then_norm"),),
    layouts=(
        KeyRules(names={"norm": "fc_norm"}, drop=(CLASSIFIER,)),
        # main_finetune.py with --cls_token: the model's own norm, and its [CLS].
        KeyRules(drop=(CLASSIFIER,), needs=(CLASSIFIER,), architectures=(Architecture(resample="bicubic"),)),
    ),
    # They start as sine-cosine and are trained on.
    position_kinds=("learned", "sincos"),
    # Its evaluation keeps 256 / 224 up to 224 px, and takes all of the short side above.
    preprocess=Preprocess(whole_from=225),
    preprocess_source="util/datasets.py",
)
