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
from checkpoints_convert.pickle_data import Skipped
from checkpoints_convert.wrappers import places, prefixes, without_wrappers
from vitprobe_jax.backbones.config import Architecture
from vitprobe_jax.backbones.families import Family
from vitprobe_jax.backbones.families.record import PositionKind
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
        tensors: the weights by the file's keys, without what wrappers put inside them.
        encoder: the encoder's sizes.
        decoder: the decoder's, where the file has one.
        dropped: keys that belong to no encoder or decoder.
        unread: entries of the file beside the weights, with the class of those that hold no tensors.
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

    @property
    def positions(self) -> PositionKind | None:
        """The kind of the stored position embedding; None without one."""
        key = self.layout.prefix + "pos_embed"
        if self.architecture.positions == "learned":
            (part,) = self.layout.parts(Leaf("pos_embed", ()))
            key = part.key
        if key not in self.tensors or len(self.tensors[key].shape) != 3:
            return None
        return _position_kind(self.read(key)[0].astype(np.float32), self.architecture.num_prefix_positions)

    @property
    def marked(self) -> bool:
        """Whether the file holds what only this family has."""
        marks = self.layout.rules.marks
        return bool(marks) and self.layout.has_all(marks, self.tensors)

    @property
    def recognised(self) -> bool:
        """Whether the file may be of this family by all that it tells."""
        return self.fits and (self.marked or (self.has_needed and self.fits_positions))

    @property
    def fits(self) -> bool:
        """Whether the keys and shapes are those of the family."""
        return not self.problems

    @property
    def has_needed(self) -> bool:
        return self.layout.has_all(self.layout.rules.needs, self.tensors)

    @property
    def fits_positions(self) -> bool:
        """Whether the position embedding is of a kind that the family has, as far as the file is not Hugging Face's."""
        if self.layout.rules.model_types and not self.architecture.class_token:
            return True  # Their model type says more.
        kind = self.positions
        return kind is None or kind in self.family.position_kinds

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
        container: where to look; unless given, in every known container and at the top level, those of the family first.
    """
    for place in (container,) if container else places(contents, family.containers):
        tensors, unread = _weights(contents, place)
        if tensors and (found := _best(family, place, tensors, unread)) is not None:
            return found
    return None


def _best(
    family: Family, place: str | None, tensors: Mapping[str, LazyTensor], unread: tuple[str, ...]
) -> Match | None:
    """The layout that knows most of the keys; among equals, and its architectures, the one with fewest problems."""
    knowing: list[tuple[Layout, dict[str, tuple[str, int | None]]]] = []
    for layout in layouts(family, prefixes(tensors)):
        known = {key: module for key in tensors if (module := layout.module(key))}
        most = len(knowing[0][1]) if knowing else 1
        if len(known) > most:
            knowing = []
        if len(known) >= most:
            knowing.append((layout, known))
    fits = []
    for layout, known in knowing:
        encoder = _sizes("blocks.{}", known, tensors)
        if encoder is None:
            continue
        decoder = None
        if any(name.startswith("decoder.") for name, _ in known.values()):
            decoder = _sizes("decoder.blocks.{}", known, tensors, encoder)
        for architecture in layout.rules.architectures or family.architectures:
            found = Match(family, place, layout, architecture, tensors, encoder, decoder, unread=unread)
            fits.append(_compared(found))
    return min(fits, key=lambda found: found.num_problems, default=None)


def _position_kind(values: np.ndarray, num_prefix: int) -> PositionKind:
    """What a position embedding [prefix + patches, D] is: fixed ones have zeros for [CLS], and halves that know one axis.

    The authors of MoCo v3 (vits.py) number columns as others number rows: the first half of its features stays the same
    along a row, that of MAE (util/pos_embed.py) along a column. Resampled ones keep this, but for rounding.
    """
    prefix, patches = values[:num_prefix], values[num_prefix:]
    side = math.isqrt(len(patches))
    if np.any(prefix) or side * side != len(patches) or side < 2:
        return "learned"
    first = patches.reshape(side, side, -1)[..., : values.shape[1] // 2]
    of_rows, of_columns = (float(np.ptp(first, axis=axis).max()) for axis in (1, 0))
    if max(of_rows, of_columns) == 0:
        return "sincos"
    small = 0.02 * max(of_rows, of_columns)
    return "sincos" if of_columns <= small else "sincos_rows_first" if of_rows <= small else "learned"


def _compared(found: Match) -> Match:
    expected = _expected(found)
    rest = [key for key in found.tensors if key not in expected]
    dropped = tuple(key for key in rest if found.layout.drops(key))
    extra = [key for key in rest if key not in dropped]
    return dataclasses.replace(found, dropped=dropped, problems=tuple(_problems(found, expected, extra)))


def _weights(contents: Mapping[Any, Any], place: str | None) -> tuple[dict[str, LazyTensor], tuple[str, ...]]:
    """The tensors at a place, and the names of what stays unread beside them."""
    inner = contents if place is None else contents.get(place)
    if not isinstance(inner, Mapping):
        return {}, ()
    found = {key: value for key, value in inner.items() if isinstance(key, str) and isinstance(value, LazyTensor)}
    plain = without_wrappers(found)
    unread = [
        f"{key} ({value.kind})" if isinstance(value, Skipped) else str(key)
        for key, value in contents.items()
        if key != place and key not in found
    ]
    return {plain[key]: value for key, value in found.items()}, tuple(unread)


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
