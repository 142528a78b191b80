"""Key rules at work: which keys of a file make up a parameter, and what a key of the file is."""

import dataclasses
import functools
import re
from collections.abc import Iterable, Sequence

from checkpoints_convert.leaves import Leaf
from checkpoints_convert.wrappers import forms
from vitprobe_jax.backbones.families.record import PLAIN, Family, KeyRules


@dataclasses.dataclass(frozen=True)
class Part:
    """One tensor of a file in a parameter.

    Attributes:
        key: the file's; None for zeros of the size of the other parts.
        mask: key of a tensor that multiplies it.
    """

    key: str | None
    mask: str | None = None


@dataclasses.dataclass(frozen=True)
class Layout:
    """A family's key rules under one prefix.

    Attributes:
        rules: of the record.
        prefix: before every key: what wrappers add, and the prefix of the rules.
    """

    rules: KeyRules
    prefix: str

    def parts(self, leaf: Leaf) -> tuple[Part, ...]:
        """What makes up a parameter, stacked along the first axis."""
        named, names = self.names(leaf.key)
        suffix = "" if named == leaf.key else f".{leaf.parameter}"
        keys = (None if name is None else (self.prefix + name + suffix).format(leaf.block) for name in names)
        mask = self.rules.masks.get(leaf.key)
        mask = None if mask is None else (self.prefix + mask).format(leaf.block)
        return tuple(Part(None) if key is None else Part(key, mask) for key in keys)

    def module(self, key: str) -> tuple[str, int | None] | None:
        """What a key of the file belongs to, in our names, and its block; None for a key of something else."""
        if not key.startswith(self.prefix):
            return None
        ours = _ours(self.rules)
        for template, number in _templates(key.removeprefix(self.prefix)):
            if template in ours:
                return ours[template], number
        return None

    def drops(self, key: str) -> bool:
        """Whether a key is known to be no part of the encoder or decoder."""
        return self._any_of(self.rules.drop, key)

    def has_all(self, patterns: Sequence[str], keys: Iterable[str]) -> bool:
        """Whether each of the patterns is that of some key, prefix aside."""
        keys = list(keys)
        return all(any(self._any_of((pattern,), key) for key in keys) for pattern in patterns)

    def _any_of(self, patterns: Sequence[str], key: str) -> bool:
        pattern = "|".join(patterns) or r"(?!)"
        return any(re.fullmatch(pattern, name) for name in (*forms(key), key.removeprefix(self.prefix)))

    def names(self, key: str) -> tuple[str, tuple[str | None, ...]]:
        """The name under which the rules list a parameter, its own or its map's, and what the file calls that."""
        return _names(self.rules, key)


def _names(rules: KeyRules, key: str) -> tuple[str, tuple[str | None, ...]]:
    module = key.removesuffix(".weight").removesuffix(".bias")
    for table in (rules.names, PLAIN):
        for name in (key, module):
            if name in table:
                return name, (table[name],) if isinstance(table[name], str) else table[name]
    return module, (module,)


@functools.cache
def _ours(rules: KeyRules) -> dict[str, str]:
    """Our names by the file's, prefix aside, with `{}` for the block number, and without `.weight` and `.bias`."""
    ours = {
        *(name.removesuffix(".weight").removesuffix(".bias") for name in (*PLAIN, *rules.names)),
        *("cls_token", "pos_embed", "norm"),
        *(f"blocks.{{}}.{part}" for part in _BLOCK),
    }
    found = {}
    for name in ours:
        for key in (name, f"{name}.weight", f"{name}.bias"):
            for theirs in _names(rules, key)[1]:
                if theirs is not None:
                    found[theirs.removesuffix(".weight").removesuffix(".bias")] = name
    return found


_BLOCK = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2", "mlp.w12", "mlp.w3")


@functools.lru_cache(maxsize=1 << 14)
def _templates(key: str) -> tuple[tuple[str, int | None], ...]:
    """A key without `.weight` and `.bias`, as it is and with each number in it as the block number."""
    name = key.removesuffix(".weight").removesuffix(".bias")
    # Three digits: a wild number in a key must not make a model of a billion blocks.
    numbers = re.finditer(r"(?<=[._])\d{1,3}(?=\.)", name)
    return (name, None), *((f"{name[: n.start()]}{{}}{name[n.end() :]}", int(n[0])) for n in numbers)


def layouts(family: Family, wrappers: Sequence[str] = ("",)) -> list[Layout]:
    """Every layout in which a family's weights come, behind each of the wrappers' prefixes."""
    return [Layout(rules, wrapper + rules.prefix) for rules in family.layouts for wrapper in wrappers]
