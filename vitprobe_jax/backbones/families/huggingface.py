"""How Hugging Face folders call the tensors of each model type, as transformers 4 and 5 write them."""

from collections.abc import Mapping

from vitprobe_jax.backbones.families.record import KeyRules, Names

_BLOCK_4 = {
    "norm1": "layernorm_before",
    "attn.qkv": ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
    "attn.proj": "attention.output.dense",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
_BLOCK_5 = {
    "norm1": "layernorm_before",
    "attn.qkv": ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    "attn.proj": "attention.o_proj",
    "norm2": "layernorm_after",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_EMBEDDINGS = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
}
_DECODER = {
    "decoder.mask_token": "decoder.mask_token",
    "decoder.pos_embed": "decoder.decoder_pos_embed",
    **{f"decoder.{name}": f"decoder.decoder_{name}" for name in ("embed", "norm", "pred")},
}


def _blocks(ours: str, theirs: str, parts: Mapping[str, Names]) -> dict[str, Names]:
    """Names of a block's maps, under the file's name of blocks."""

    def full(name: str | None) -> str | None:
        return None if name is None else f"{theirs}.{{}}.{name}"

    return {
        f"{ours}.{{}}.{part}": full(name) if isinstance(name, str) else tuple(map(full, name))
        for part, name in parts.items()
    }


def _prefixed(prefix: str, names: Mapping[str, Names]) -> dict[str, Names]:
    def full(name: str | None) -> str | None:
        return None if name is None else prefix + name

    return {ours: full(name) if isinstance(name, str) else tuple(map(full, name)) for ours, name in names.items()}


_HEADS = (r"(?:\w+\.)?pooler\..*", r"(?:\w+_)?classifier\..*", r"(?:\w+\.)?embeddings\.mask_token", r"lm_head\..*")
# transformers 4; transformers 5 in memory; and what transformers 5 writes: the keys of 4, except that its renaming rule
# turns `decoder_layers` into `decoder_encoder.layer` on the way.
_STYLES = (
    (_BLOCK_4, "encoder.layer", "decoder.decoder_layers"),
    (_BLOCK_5, "layers", "decoder.decoder_layers"),
    (_BLOCK_4, "encoder.layer", "decoder.decoder_encoder.layer"),
)


def vit(*model_types: str, prefix: str = "vit.", decoder: bool = False, **more: Names) -> tuple[KeyRules, ...]:
    """ViT and its like, bare or under the prefix of a model with a head; ViTMAE with its decoder.

    Args:
        model_types: of the `config.json`.
        prefix: of a model with a head.
        decoder: whether MAE's decoder may be there.
        **more: further names of the embeddings.
    """
    return tuple(
        KeyRules(
            names=_prefixed(head, _EMBEDDINGS | more | _blocks("blocks", blocks, parts))
            | (_DECODER | _blocks("decoder.blocks", decoder_blocks, parts) if decoder else {}),
            drop=_HEADS,
            model_types=model_types,
        )
        for head in ("", prefix)
        for parts, blocks, decoder_blocks in _STYLES[: 3 if decoder else 2]
    )


def ijepa() -> tuple[KeyRules, ...]:
    """IJepaModel: a ViT without [CLS]."""
    return vit("ijepa", prefix="ijepa.")


def deit() -> tuple[KeyRules, ...]:
    """DeiTModel: a ViT with a distillation token."""
    return vit("deit", prefix="deit.", registers="embeddings.distillation_token")


_LAYER_SCALE = {"ls1": "layer_scale1.lambda1", "ls2": "layer_scale2.lambda1"}
_DINOV2 = {"norm1": "norm1", "norm2": "norm2", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2", **_LAYER_SCALE}


def dinov2() -> tuple[KeyRules, ...]:
    """Dinov2Model and Dinov2WithRegistersModel; the largest with SwiGLU."""
    attention = {part: _BLOCK_4[part] for part in ("attn.qkv", "attn.proj")}
    in_memory = {part: _BLOCK_5[part] for part in ("attn.qkv", "attn.proj")}
    stored = {"mlp.w12": "mlp.weights_in", "mlp.w3": "mlp.weights_out"}
    split = {"mlp.w12": ("mlp.gate_proj", "mlp.up_proj"), "mlp.w3": "mlp.down_proj"}
    embeddings = _EMBEDDINGS | {"registers": "embeddings.register_tokens"}
    return tuple(
        KeyRules(
            names=_prefixed(prefix, embeddings | _blocks("blocks", "encoder.layer", _DINOV2 | style)),
            drop=_HEADS,
            model_types=("dinov2", "dinov2_with_registers"),
        )
        for prefix in ("", "dinov2.", "dinov2_with_registers.")
        for style in (attention | stored, in_memory | split)
    )


def dinov3() -> tuple[KeyRules, ...]:
    """DINOv3ViTModel; keys have no bias."""
    parts = {
        **{"norm1": "norm1", "norm2": "norm2", "mlp.fc1": "mlp.up_proj", "mlp.fc2": "mlp.down_proj"},
        "attn.qkv": ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
        "attn.qkv.bias": ("attention.q_proj.bias", None, "attention.v_proj.bias"),
        "attn.proj": "attention.o_proj",
        **_LAYER_SCALE,
    }
    embeddings = {
        "cls_token": "embeddings.cls_token",
        "registers": "embeddings.register_tokens",
        "patch_embed": "embeddings.patch_embeddings",
        "norm": "norm",
        "rope_periods": (),
    }
    return tuple(
        KeyRules(names=embeddings | _blocks("blocks", blocks, parts), drop=_HEADS, model_types=("dinov3_vit",))
        for blocks in ("layer", "model.layer")
    )


def beit(*, finetuned: bool = False) -> tuple[KeyRules, ...]:
    """BeitModel, BeitForMaskedImageModeling (its norm stands outside the prefix) and BeitForImageClassification.

    Args:
        finetuned: a relative table a block, and a norm after the mean.
    """
    rules = []
    for prefix in ("", "beit."):
        for parts, blocks, shared in (
            (_BLOCK_4, "encoder.layer", "encoder.relative_position_bias"),
            (_BLOCK_5, "layers", "shared_position_bias"),
        ):
            query, _, value = parts["attn.qkv"]
            own = "relative_position_bias" if parts is _BLOCK_5 else "attention.attention.relative_position_bias"
            parts = parts | {
                "attn.qkv.bias": (f"{query}.bias", None, f"{value}.bias"),
                "attn.rel_pos_bias": f"{own}.relative_position_bias_table",
                "ls1": "lambda_1",
                "ls2": "lambda_2",
            }
            names = _prefixed(prefix, _EMBEDDINGS | _blocks("blocks", blocks, parts))
            names["rel_pos_bias"] = f"{prefix}{shared}.relative_position_bias_table"
            names["norm"] = f"{prefix}pooler.layernorm" if finetuned else "layernorm"
            drop = (r".*relative_position_index", *_HEADS)
            rules.append(KeyRules(names=names, drop=drop, model_types=("beit",)))
    return tuple(rules)
