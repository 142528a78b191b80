"""Finds a family's weights in an open checkpoint and compares them, key by key, with what its architecture needs."""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from checkpoints_convert.layouts import Layout, layouts
from checkpoints_convert.lazy import LazyTensor
from checkpoints_convert.leaves import Leaf, Shape, Sizes, decoder_leaves, encoder_leaves
from checkpoints_convert.sources import Source
from vitprobe_jax.backbones.config import Architecture
from vitprobe_jax.backbones.families import FAMILIES, Family
from vitprobe_jax.errors import InputError

# Above this, block numbers are folded into ranges, so that a list stays complete and readable.
_VERBATIM = 20


@dataclasses.dataclass(frozen=True)
class Match:
    """What a checkpoint holds of a family.

    Attributes:
        family: the record.
        container: key under which the weights stand; None for the top level.
        layout: how its keys are called.
        architecture: of those of the family, the one that fits best.
        tensors: the weights by the file's keys.
        encoder: the encoder's sizes.
        decoder: the decoder's, where the file has one.
        dropped: keys that belong to no encoder or decoder.
        unread: entries of the file beside the weights.
        problems: what is missing, extra and mis-shaped, in words; empty for a whole checkpoint.
    """

    family: Family
    container: str | None
    layout: Layout
    architecture: Architecture
    tensors: Mapping[str, LazyTensor]
    encoder: Sizes
    decoder: Sizes | None
    dropped: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def num_problems(self) -> int:
        """How many keys the problems name; a folded range of blocks counts once."""
        return sum(re.sub(r"\([^)]*\)", "", problem).count(", ") + 1 for problem in self.problems)

    def encoder_leaves(self) -> Iterable[Leaf]:
        return encoder_leaves(self.encoder, self.architecture)

    def decoder_leaves(self) -> Iterable[Leaf]:
        return () if self.decoder is None else decoder_leaves(self.decoder, encoder_width=self.encoder.width)

    @property
    def grid(self) -> tuple[int, int]:
        """The native patch grid, from the position embedding or the relative tables, else from the training images."""
        side = _side(self.encoder, self.architecture)
        side = self.family.image_size // self.encoder.patch_size if side is None else int(side)
        return side, side

    def fits_positions(self) -> bool:
        """Whether the position embedding is of the family's kind: fixed ones hold zeros for [CLS], no learned one does."""
        a = self.architecture
        if a.positions != "learned" or not a.class_token or self.family.fixed_positions is None:
            return True
        (part,) = self.layout.parts(Leaf("pos_embed", ()))
        return self.family.fixed_positions != bool(np.any(self.read(part.key)[0, 0]))

    def read(self, key: str) -> np.ndarray:
        """The values of a tensor.

        Raises:
            InputError: the file is damaged there; the line ends with the key, which a torch file's own entries do not say.
        """
        try:
            return self.tensors[key].read()
        except InputError as error:
            raise InputError(f"{error} (the tensor is {key})") from error


def match(contents: Mapping[Any, Any], family: Family, container: str | None = None) -> Match | None:
    """Compares a checkpoint with a family; None where it holds no block of a ViT under the family's names.

    Args:
        contents: top level of the file.
        family: the record.
        container: where to look, of the family's containers; in all of them, and at the top level, unless given.
    """
    place, tensors, unread = _weights(contents, family, container)
    known: dict[str, tuple[str, int | None]] = {}
    for candidate in layouts(family):
        found = {key: module for key in tensors if (module := candidate.module(key))}
        if len(found) > len(known):
            layout, known = candidate, found
    if not known:
        return None
    encoder = _sizes("blocks.{}", known, tensors)
    if encoder is None:
        return None
    decoder = None
    if any(name.startswith("decoder.") for name, _ in known.values()):
        decoder = _sizes("decoder.blocks.{}", known, tensors, encoder)
    fits = [
        _compared(Match(family, place, layout, architecture, tensors, encoder, decoder, unread=unread))
        for architecture in family.architectures
    ]
    return min(fits, key=lambda found: found.num_problems)


def recognise(source: Source) -> list[Match]:
    """The families whose checkpoint a file is, whole, by its keys; more than one where they call all tensors alike.

    What decides beside names and shapes: the container, the model type of a Hugging Face folder, keys that only one family
    has, and whether positions are fixed or learned. A file without container is of any family that calls its tensors so:
    weights are often saved again without it.
    """
    found = []
    for family in FAMILIES.values():
        candidate = match(source.contents, family)
        if candidate is None or candidate.problems:
            continue
        types = candidate.layout.rules.model_types
        if source.config and types and source.config.get("model_type") not in types:
            continue
        if candidate.layout.marked(iter(candidate.tensors)) and candidate.fits_positions():
            found.append(candidate)
    return found


def _compared(found: Match) -> Match:
    expected = _expected(found)
    rest = [key for key in found.tensors if key not in expected]
    dropped = tuple(key for key in rest if found.layout.drops(key))
    extra = [key for key in rest if key not in dropped]
    return dataclasses.replace(found, dropped=dropped, problems=tuple(_problems(found, expected, extra)))


def _weights(
    contents: Mapping[Any, Any], family: Family, container: str | None
) -> tuple[str | None, dict[str, LazyTensor], tuple[str, ...]]:
    """Where the weights are, the tensors there, and the names of what stays unread.

    That is the first container of the family that has some; last comes the top level.
    """
    for place in (container,) if container else (*family.containers, None):
        inner = contents if place is None else contents.get(place)
        if isinstance(inner, Mapping):
            tensors = {
                key: value for key, value in inner.items() if isinstance(key, str) and isinstance(value, LazyTensor)
            }
            if tensors:
                unread = [key for key in contents if key != place and key not in tensors]
                return place, tensors, tuple(map(str, unread))
    return None, {}, ()


def _sizes(
    blocks: str,
    known: Mapping[str, tuple[str, int | None]],
    tensors: Mapping[str, LazyTensor],
    encoder: Sizes | None = None,
) -> Sizes | None:
    """Sizes by majority, so that one mis-shaped tensor does not make all others look wrong; None without any block."""

    def axis(names: tuple[str, ...], index: int, *, rank: int | None = None) -> int | None:
        sizes = Counter(
            tensors[key].shape[index]
            for key, (name, _) in known.items()
            if name in names and len(tensors[key].shape) > index and rank in (None, len(tensors[key].shape))
        )
        return sizes.most_common(1)[0][0] if sizes else None

    width = axis((f"{blocks}.norm1", f"{blocks}.norm2"), 0)
    if width is None:
        return None
    tables = ("rel_pos_bias", f"{blocks}.attn.rel_pos_bias")
    quarter = axis(("rope_periods",), 0, rank=1)
    head_dim = 4 * quarter if quarter else axis((f"{blocks}.attn.rope_frequencies",), 1, rank=2)
    # Of SwiGLU the map back tells: in some files gate and value stand apart.
    hidden = axis((f"{blocks}.mlp.w3",), 1, rank=2)
    return Sizes(
        width=width,
        depth=1 + max(block for name, block in known.values() if name.startswith(f"{blocks}.") and block is not None),
        mlp_dim=hidden or axis((f"{blocks}.mlp.fc1",), 0),
        patch_size=encoder.patch_size if encoder else axis(("patch_embed",), 3, rank=4),
        tokens=encoder.tokens if encoder else axis(("pos_embed",), 1, rank=3),
        offsets=axis(tables, 0, rank=2),
        num_heads=width // head_dim if head_dim else axis(tables, 1, rank=2),
    )


def _side(sizes: Sizes, architecture: Architecture) -> float | None:
    """The side of the native grid that stored positions tell, whole where they are square; None where none are stored."""
    if architecture.positions == "learned" and sizes.tokens is not None:
        return math.sqrt(max(sizes.tokens - architecture.num_prefix_positions, 0.25))
    if architecture.relative_bias != "none" and sizes.offsets is not None:
        return (math.sqrt(max(sizes.offsets - 3, 0)) + 1) / 2
    return None


def _expected(found: Match) -> dict[str, Shape]:
    """By the file's keys, the shape of every tensor that the sizes call for."""
    expected = {}
    for leaf in (*found.encoder_leaves(), *found.decoder_leaves()):
        parts, size = found.layout.parts(leaf), leaf.shape[0]
        shape = (size if size is None or not parts else size // len(parts), *leaf.shape[1:])
        for part in parts:
            expected |= {key: shape for key in (part.key, part.mask) if key is not None}
    return expected


def _problems(found: Match, expected: Mapping[str, Shape], extra: list[str]) -> Iterator[str]:
    missing = [key for key in expected if key not in found.tensors]
    wrong = []
    for key in expected.keys() & found.tensors.keys():
        tensor = found.tensors[key]
        if not _fits(tensor.shape, expected[key]):
            wrong.append(f"{key} {_text(tensor.shape)} instead of {_text(expected[key])}")
        elif not jnp.issubdtype(tensor.dtype, jnp.floating):
            wrong.append(f"{key} of {tensor.dtype} instead of floating point")
    side, sizes = _side(found.encoder, found.architecture), found.encoder
    if side is not None and (side < 1 or side != int(side)):
        if found.architecture.positions == "learned":
            before = found.architecture.num_prefix_positions
            wrong.append(f"{_grid_key(found)} with {sizes.tokens} rows instead of {before} + a square")
        else:
            wrong.append(f"{_grid_key(found)} with {sizes.offsets} rows instead of 3 + an odd square")
    if found.architecture.relative_bias != "none" and sizes.num_heads and sizes.width % sizes.num_heads:
        wrong.append(
            f"{_grid_key(found)} with {sizes.num_heads} columns, heads that do not divide the width {sizes.width}"
        )
    for word, entries in (("missing", missing), ("extra", extra), ("mis-shaped", sorted(wrong))):
        if entries:
            yield f"{word}: {', '.join(_fold(entries))}"


def _grid_key(found: Match) -> str:
    """The key of the tensor that tells the native grid: the position embedding, or the first relative table."""
    names = {"none": "pos_embed", "shared": "rel_pos_bias", "per_block": "blocks.{}.attn.rel_pos_bias"}
    (part,) = found.layout.parts(Leaf(names[found.architecture.relative_bias], (), block=0))
    return part.key


def _fits(shape: Shape, expected: Shape) -> bool:
    return len(shape) == len(expected) and all(
        size > 0 and wanted in (None, size) for size, wanted in zip(shape, expected, strict=True)
    )


def _text(shape: Shape) -> str:
    return "(" + ", ".join("?" if size is None else str(size) for size in shape) + ")"


def _fold(entries: list[str]) -> list[str]:
    """A long list with the first number of each entry folded: `blocks.{0-11}.norm1.bias`."""
    if len(entries) <= _VERBATIM:
        return entries
    folded: dict[tuple[str, str], list[str]] = {}
    for entry in entries:
        number = re.search(r"(?<=[._])\d+(?=\.)", entry)
        start, end = number.span() if number else (len(entry), len(entry))
        folded.setdefault((entry[:start], entry[end:]), []).append(entry[start:end])
    return [
        before + (numbers[0] if len(numbers) == 1 else "{" + _ranges(sorted(map(int, numbers))) + "}") + after
        for (before, after), numbers in folded.items()
    ]


def _ranges(numbers: list[int]) -> str:
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
