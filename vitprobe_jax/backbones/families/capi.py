"""CAPI: masked prediction of online clusters (Darcet et al., 2025); registers, RoPE with stored frequencies, no [CLS]."""

from collections.abc import Mapping

from vitprobe_jax.backbones.config import Architecture
from vitprobe_jax.backbones.families.record import FACEBOOK, IMAGENET_1K, IMAGENET_22K, Arch, Family, KeyRules, L, Names

_BLOCK = {
    "norm1": "residual1.norm",
    "attn.proj": "residual1.fn.proj",
    "attn.rope_frequencies": "residual1.fn.rope.freqs",
    "norm2": "residual2.norm",
    "mlp.fc1": "residual2.fn.fc1",
    "mlp.fc2": "residual2.fn.fc2",
}
_SELF = {"attn.qkv": ("residual1.fn.q_proj", "residual1.fn.k_proj", "residual1.fn.v_proj")}
_CROSS = {"attn.q": "residual1.fn.q_proj", "attn.kv": ("residual1.fn.k_proj", "residual1.fn.v_proj")}


def _under(ours: str, theirs: str, attention: Mapping[str, Names]) -> dict[str, Names]:
    return {
        f"{ours}.{part}": f"{theirs}.{name}" if isinstance(name, str) else tuple(f"{theirs}.{n}" for n in name)
        for part, name in (_BLOCK | attention).items()
    }


def _arch(name: str, data: str) -> Arch:
    file = f"capi_vitl14_{name}.pth"
    return Arch(patch_size=14, file=file, url=f"{FACEBOOK}/capi/{file}", data=data, **L)


CAPI = Family(
    name="capi",
    objective="CAPI (masked prediction of online clusters)",
    paper="Darcet et al., 2025",
    data="LVD-142M, Places205, ImageNet-1k or 22k",
    page="https://github.com/facebookresearch/capi",
    licence="Apache-2.0",
    archs={
        "vitl14_lvd": _arch("lvd", "LVD-142M"),
        "vitl14_p205": _arch("p205", "Places205"),
        "vitl14_in1k": _arch("in1k", IMAGENET_1K),
        "vitl14_in22k": _arch("i22k", IMAGENET_22K),
    },
    architectures=(
        Architecture(
            class_token=False,
            num_registers=16,
            positions="none",
            rope="stored",
            norm="rms_norm",
            layer_norm_eps=1e-5,
            bias=False,
            final_norm_affine=False,
            pool="predictor",
        ),
    ),
    layouts=(
        KeyRules(
            names={
                "patch_embed": "patch_embed",
                "registers": "registers",
                "predictor_token": "mask_token",
                **_under("blocks.{}", "encoder.blocks.{}", _SELF),
                # Of the predictor its first block is kept: the global representation is made of it.
                **_under("predictor", "decoder.blocks.0", _CROSS),
            },
            drop=(r"decoder\.blocks\.[1-9]\d*\..*", r"head\..*"),
        ),
    ),
    preprocess_source="eval_classification.py",
)
