"""Finds a family's weights in an open checkpoint and compares them, key by key, with what the architecture needs."""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax.numpy as jnp

from checkpoints_convert.layouts import Layout, Leaf, Shape, Sizes, decoder_leaves, encoder_leaves, layouts
from checkpoints_convert.lazy import LazyTensor
from vitprobe_jax.backbones.families import Family

# Above this, block numbers are folded into ranges, so that a list stays complete and readable.
_VERBATIM = 20


@dataclasses.dataclass(frozen=True)
class Match:
    """What a checkpoint holds of a family.

    Attributes:
        layout: how its keys are called.
        tensors: the weights by the file's keys.
        encoder: the encoder's sizes.
        decoder: the decoder's, where the file has one.
        dropped: keys that belong to no encoder or decoder.
        unread: entries of the file beside the weights.
        problems: what is missing, extra and mis-shaped, in words; empty for a whole checkpoint.
    """

    layout: Layout
    tensors: Mapping[str, LazyTensor]
    encoder: Sizes
    decoder: Sizes | None
    dropped: tuple[str, ...]
    unread: tuple[str, ...]
    problems: tuple[str, ...]

    def encoder_leaves(self) -> Iterable[Leaf]:
        return encoder_leaves(self.encoder)

    def decoder_leaves(self) -> Iterable[Leaf]:
        return () if self.decoder is None else decoder_leaves(self.decoder, encoder_width=self.encoder.width)


def match(contents: Mapping[Any, Any], family: Family) -> Match | None:
    """Compares a checkpoint with a family; None where it holds no block of a ViT under the family's names."""
    tensors, unread = _weights(contents, family)
    layout, known = max(
        ((layout, {key: layout.parse(key) for key in tensors if layout.parse(key)}) for layout in layouts(family)),
        key=lambda candidate: len(candidate[1]),
    )
    shapes = {key: tensors[key].shape for key in known}
    encoder = _sizes("blocks", known, shapes, None)
    if encoder is None:
        return None
    decoder = None
    if any(module.startswith(("decoder_", "mask_token")) for module, _ in known.values()):
        decoder = _sizes("decoder_blocks", known, shapes, encoder)
    found = Match(layout, tensors, encoder, decoder, (), unread, ())
    expected = _expected(found)
    rest = [key for key in tensors if key not in expected]
    dropped = tuple(key for key in rest if re.fullmatch(layout.drop, key))
    extra = [key for key in rest if key not in dropped]
    return dataclasses.replace(found, dropped=dropped, problems=tuple(_problems(found, expected, extra)))


def _weights(contents: Mapping[Any, Any], family: Family) -> tuple[dict[str, LazyTensor], tuple[str, ...]]:
    """The tensors of the first container that has some, or of the top level; and the names of what stays unread."""
    for container in (*family.containers, None):
        inner = contents if container is None else contents.get(container)
        if isinstance(inner, Mapping):
            tensors = {
                key: value for key, value in inner.items() if isinstance(key, str) and isinstance(value, LazyTensor)
            }
            if tensors:
                unread = [key for key in contents if key != container and key not in tensors]
                return tensors, tuple(map(str, unread))
    return {}, ()


def _sizes(
    blocks: str,
    known: Mapping[str, tuple[str, int | None]],
    shapes: Mapping[str, Shape],
    encoder: Sizes | None,
) -> Sizes | None:
    """Sizes by majority, so that one mis-shaped tensor does not make all others look wrong; None without any block."""

    def first_axis(*parts: str) -> int | None:
        modules = {f"{blocks}.{{}}.{part}" for part in parts}
        sizes = Counter(shapes[key][0] for key, (module, _) in known.items() if module in modules and shapes[key])
        return sizes.most_common(1)[0][0] if sizes else None

    def axis(module: str, rank: int, index: int) -> int | None:
        shape = next(
            (shapes[key] for key, (name, _) in known.items() if name == module and len(shapes[key]) == rank), None
        )
        return None if shape is None else shape[index]

    width = first_axis("norm1", "norm2")
    if width is None:
        return None
    return Sizes(
        width=width,
        depth=1 + max(block for module, block in known.values() if module.startswith(f"{blocks}.")),
        mlp_dim=first_axis("mlp.fc1"),
        patch_size=encoder.patch_size if encoder else axis("patch_embed.proj", 4, 3),
        tokens=encoder.tokens if encoder else axis("pos_embed", 3, 1),
    )


def _expected(found: Match) -> dict[str, Shape]:
    """By the file's keys, the shape of every tensor that the sizes call for."""
    expected = {}
    for leaf in (*found.encoder_leaves(), *found.decoder_leaves()):
        keys = found.layout.keys(leaf)
        for key in keys:
            size = leaf.shape[0]
            expected[key] = (size if len(keys) == 1 else size // len(keys), *leaf.shape[1:])
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
    tokens = found.encoder.tokens
    if tokens is not None and (tokens < 2 or math.isqrt(tokens - 1) ** 2 != tokens - 1):
        wrong.append(f"the position embedding with {tokens} rows instead of 1 + a square")
    for word, entries in (("missing", missing), ("extra", extra), ("mis-shaped", sorted(wrong))):
        if entries:
            yield f"{word}: {', '.join(_fold(entries))}"


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
        number = re.search(r"(?<=\.)\d+(?=\.)", entry)
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
