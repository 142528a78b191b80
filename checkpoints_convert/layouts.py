"""How a ViT's tensors are called: in official files, in Hugging Face's, and in our Flax tree.

A *module* is an official name with `{}` for the block number, `blocks.{}.attn.qkv`. A layout says which names of a file
make up each module: one, or query, key and value to be stacked.
"""

import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping

from vitprobe_jax.backbones.families import Family

_BLOCK = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
_ENCODER = ("cls_token", "pos_embed", "patch_embed.proj", "norm", *(f"blocks.{{}}.{part}" for part in _BLOCK))
_DECODER = (
    *("mask_token", "decoder_embed", "decoder_pos_embed", "decoder_norm", "decoder_pred"),
    *(f"decoder_blocks.{{}}.{part}" for part in _BLOCK),
)

Shape = tuple[int | None, ...]
"""Sizes of a tensor; None where the file leaves one unknown."""


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One parameter.

    Attributes:
        module: official name with `{}` for the block number.
        shape: of the official tensor.
        parameter: `weight` or `bias`; empty where the module is itself a parameter.
        block: the block number, for parameters of blocks.
    """

    module: str
    shape: Shape
    parameter: str = ""
    block: int | None = None

    @property
    def path(self) -> tuple[str, ...]:
        """Where it stands in the Flax tree of the encoder or the decoder."""
        module = self.module.removeprefix("decoder_").replace("blocks.{}", f"blocks_{self.block}")
        parts = ("patch_embed",) if module == "patch_embed.proj" else tuple(module.split("."))
        if not self.parameter:
            return parts
        weight = "scale" if len(self.shape) == 1 else "kernel"
        return (*parts, weight if self.parameter == "weight" else "bias")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of an encoder or a decoder, as a file tells them; None where the telling tensors are missing."""

    width: int
    depth: int
    mlp_dim: int | None
    patch_size: int | None
    tokens: int | None


def encoder_leaves(sizes: Sizes) -> Iterator[Leaf]:
    """Every parameter of an encoder with [CLS] and a position embedding of `sizes.tokens` rows."""
    yield Leaf("cls_token", (1, 1, sizes.width))
    yield Leaf("pos_embed", (1, sizes.tokens, sizes.width))
    yield from _module("patch_embed.proj", (sizes.width, 3, sizes.patch_size, sizes.patch_size))
    yield from _blocks("blocks", sizes)
    yield from _module("norm", (sizes.width,))


def decoder_leaves(sizes: Sizes, *, encoder_width: int) -> Iterator[Leaf]:
    """Every parameter of MAE's decoder."""
    yield Leaf("mask_token", (1, 1, sizes.width))
    yield Leaf("decoder_pos_embed", (1, sizes.tokens, sizes.width))
    yield from _module("decoder_embed", (sizes.width, encoder_width))
    yield from _blocks("decoder_blocks", sizes)
    yield from _module("decoder_norm", (sizes.width,))
    yield from _module("decoder_pred", (sizes.patch_size and sizes.patch_size**2 * 3, sizes.width))


def _blocks(name: str, sizes: Sizes) -> Iterator[Leaf]:
    width, hidden = sizes.width, sizes.mlp_dim
    shapes = ((width,), (3 * width, width), (width, width), (width,), (hidden, width), (width, hidden))
    for block in range(sizes.depth):
        for part, shape in zip(_BLOCK, shapes, strict=True):
            yield from _module(f"{name}.{{}}.{part}", shape, block)


def _module(module: str, shape: Shape, block: int | None = None) -> Iterator[Leaf]:
    yield Leaf(module, shape, "weight", block)
    yield Leaf(module, shape[:1], "bias", block)


@dataclasses.dataclass(frozen=True)
class Layout:
    """One way to call the tensors of a ViT.

    Attributes:
        names: by module, the names whose tensors make it up, stacked along the first axis.
        drop: a regular expression of keys that belong to no encoder or decoder.
    """

    names: Mapping[str, tuple[str, ...]]
    drop: str

    def keys(self, leaf: Leaf) -> tuple[str, ...]:
        """The file's keys that make up a parameter."""
        suffix = f".{leaf.parameter}" if leaf.parameter else ""
        return tuple(name.format(leaf.block) + suffix for name in self.names[leaf.module])

    def parse(self, key: str) -> tuple[str, int | None] | None:
        """The module and block number of a file's key; None for a key of something else."""
        name = key.removesuffix(".weight").removesuffix(".bias")
        # Three digits: a wild number in a key must not make a model of a billion blocks.
        number = re.search(r"\.(\d{1,3})\.", name)
        if number:
            name = f"{name[: number.start()]}.{{}}.{name[number.end() :]}"
        module = self._modules.get(name)
        return None if module is None else (module, int(number[1]) if number else None)

    @functools.cached_property
    def _modules(self) -> dict[str, str]:
        return {name: module for module, names in self.names.items() for name in names}


def layouts(family: Family) -> list[Layout]:
    """Every layout in which a family's weights come: official under each prefix, and Hugging Face's."""
    prefixes = ("", *family.prefixes)
    strip = "|".join(map(re.escape, prefixes))
    drop = rf"(?:{strip})(?:{'|'.join(family.drop) or r'(?!)'})"
    modules = (*_ENCODER, *_DECODER) if has_decoder(family) else _ENCODER
    official = [Layout({module: (prefix + module,) for module in modules}, drop) for prefix in prefixes]
    return official + [
        Layout({module: names[module] for module in modules}, r"(?:vit\.)?pooler\..*|classifier\..*")
        for names in _HUGGINGFACE
    ]


def has_decoder(family: Family) -> bool:
    """Whether the family's files may hold a decoder."""
    return any(arch.decoder_heads is not None for arch in family.archs.values())


def _huggingface(
    prefix: str, block: dict[str, tuple[str, ...]], blocks: str, decoder_blocks: str
) -> dict[str, tuple[str, ...]]:
    return {
        "cls_token": (f"{prefix}embeddings.cls_token",),
        "pos_embed": (f"{prefix}embeddings.position_embeddings",),
        "patch_embed.proj": (f"{prefix}embeddings.patch_embeddings.projection",),
        "norm": (f"{prefix}layernorm",),
        "mask_token": ("decoder.mask_token",),
        **{
            name: (f"decoder.{name}",)
            for name in ("decoder_embed", "decoder_pos_embed", "decoder_norm", "decoder_pred")
        },
        **{f"blocks.{{}}.{part}": tuple(f"{prefix}{blocks}.{{}}.{n}" for n in names) for part, names in block.items()},
        **{
            f"decoder_blocks.{{}}.{part}": tuple(f"decoder.{decoder_blocks}.{{}}.{n}" for n in names)
            for part, names in block.items()
        },
    }


_BLOCK_4 = {
    "norm1": ("layernorm_before",),
    "attn.qkv": ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
    "attn.proj": ("attention.output.dense",),
    "norm2": ("layernorm_after",),
    "mlp.fc1": ("intermediate.dense",),
    "mlp.fc2": ("output.dense",),
}
_BLOCK_5 = {
    "norm1": ("layernorm_before",),
    "attn.qkv": ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    "attn.proj": ("attention.o_proj",),
    "norm2": ("layernorm_after",),
    "mlp.fc1": ("mlp.fc1",),
    "mlp.fc2": ("mlp.fc2",),
}
# transformers 4; transformers 5 in memory; and what transformers 5 writes: the keys of 4, except that its renaming rule
# turns `decoder_layers` into `decoder_encoder.layer` on the way.
_HUGGINGFACE = [
    _huggingface(prefix, *style)
    for prefix in ("", "vit.")
    for style in (
        (_BLOCK_4, "encoder.layer", "decoder_layers"),
        (_BLOCK_5, "layers", "decoder_layers"),
        (_BLOCK_4, "encoder.layer", "decoder_encoder.layer"),
    )
]
