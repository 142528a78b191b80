"""Every parameter of an encoder or decoder, with the shape that official files give it."""

import dataclasses
from collections.abc import Iterator

from vitprobe_jax.backbones.config import Architecture, BlockTraits

Shape = tuple[int | None, ...]
"""Sizes of a tensor; None where the file leaves one unknown."""


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One parameter.

    Attributes:
        name: its place in the Flax tree with `{}` for the block number; of a map's weight or bias, the map's.
        shape: of the official tensor: [out, in] for linear maps, [out, in, rows, columns] for convolutions.
        parameter: `weight` or `bias`; empty where the name is itself a parameter's.
        block: the block number, for parameters of blocks.
    """

    name: str
    shape: Shape
    parameter: str = ""
    block: int | None = None

    @property
    def key(self) -> str:
        """Name and parameter, as key rules may list them."""
        return f"{self.name}.{self.parameter}" if self.parameter else self.name

    @property
    def path(self) -> tuple[str, ...]:
        """Where it stands in the Flax tree of the encoder or the decoder."""
        name = self.name.removeprefix("decoder.").replace("blocks.{}", f"blocks_{self.block}")
        parts = tuple(name.split("."))
        if not self.parameter:
            return parts
        weight = "scale" if len(self.shape) == 1 else "kernel"
        return (*parts, weight if self.parameter == "weight" else "bias")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of an encoder or a decoder, as a file tells them; None where the telling tensors are missing.

    Attributes:
        tokens: rows of the position embedding.
        offsets: rows of a relative table.
        num_heads: heads, where a tensor tells: columns of a relative table, or the width over that of RoPE's frequencies
            or periods.
    """

    width: int
    depth: int
    mlp_dim: int | None
    patch_size: int | None
    tokens: int | None = None
    offsets: int | None = None
    num_heads: int | None = None


def encoder_leaves(sizes: Sizes, architecture: Architecture) -> Iterator[Leaf]:
    """Every parameter of an encoder."""
    a, width = architecture, sizes.width
    if a.class_token:
        yield Leaf("cls_token", (1, 1, width))
    if a.num_registers:
        yield Leaf("registers", (1, a.num_registers, width))
    if a.positions == "learned":
        yield Leaf("pos_embed", (1, sizes.tokens, width))
    if a.relative_bias == "shared":
        yield Leaf("rel_pos_bias", (sizes.offsets, sizes.num_heads))
    if a.rope == "axial":
        yield Leaf("rope_periods", (sizes.num_heads and width // sizes.num_heads // 4,))
    yield from _map("patch_embed", (width, 3, sizes.patch_size, sizes.patch_size))
    for block in range(sizes.depth):
        yield from _block("blocks.{}", sizes, a, block=block)
    if a.final_norm_affine:
        yield from _norm("norm", width, a)
    if a.pool == "predictor":
        yield Leaf("predictor_token", (1, width))
        yield from _block("predictor", sizes, a, crossed=True)


def decoder_leaves(sizes: Sizes, *, encoder_width: int) -> Iterator[Leaf]:
    """Every parameter of MAE's decoder."""
    plain = BlockTraits()
    yield Leaf("decoder.mask_token", (1, 1, sizes.width))
    yield Leaf("decoder.pos_embed", (1, sizes.tokens, sizes.width))
    yield from _map("decoder.embed", (sizes.width, encoder_width))
    for block in range(sizes.depth):
        yield from _block("decoder.blocks.{}", sizes, plain, block=block)
    yield from _norm("decoder.norm", sizes.width, plain)
    yield from _map("decoder.pred", (sizes.patch_size and sizes.patch_size**2 * 3, sizes.width))


def _block(
    name: str, sizes: Sizes, traits: BlockTraits, *, block: int | None = None, crossed: bool = False
) -> Iterator[Leaf]:
    """A block's parameters; where `crossed`, its attention is to a context, with query apart from key and value."""
    width, hidden = sizes.width, sizes.mlp_dim
    doubled = hidden and 2 * hidden
    head_dim = sizes.num_heads and width // sizes.num_heads
    attention = {"q": width, "kv": 2 * width} if crossed else {"qkv": 3 * width}
    mlp = {
        "gelu": {"fc1": (hidden, width), "fc2": (width, hidden)},
        "swiglu": {"w12": (doubled, width), "w3": (width, hidden)},
    }[traits.mlp]
    yield from _norm(f"{name}.norm1", width, traits, block)
    for part, size in attention.items():
        yield from _map(f"{name}.attn.{part}", (size, width), block, bias=traits.bias)
    if traits.rope == "stored":
        yield Leaf(f"{name}.attn.rope_frequencies", (2, head_dim), block=block)
    if traits.relative_bias == "per_block":
        yield Leaf(f"{name}.attn.rel_pos_bias", (sizes.offsets, sizes.num_heads), block=block)
    yield from _map(f"{name}.attn.proj", (width, width), block, bias=traits.bias)
    if traits.layer_scale:
        yield Leaf(f"{name}.ls1", (width,), block=block)
        yield Leaf(f"{name}.ls2", (width,), block=block)
    yield from _norm(f"{name}.norm2", width, traits, block)
    for part, shape in mlp.items():
        yield from _map(f"{name}.mlp.{part}", shape, block, bias=traits.bias)


def _norm(name: str, width: int, traits: BlockTraits, block: int | None = None) -> Iterator[Leaf]:
    return _map(name, (width,), block, bias=traits.norm == "layer_norm")


def _map(name: str, shape: Shape, block: int | None = None, *, bias: bool = True) -> Iterator[Leaf]:
    yield Leaf(name, shape, "weight", block)
    if bias:
        yield Leaf(name, shape[:1], "bias", block)
