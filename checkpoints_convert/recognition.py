"""Recognises the family of a checkpoint, and words the message where several fit or none."""

from collections.abc import Mapping, Sequence

from checkpoints_convert.lazy import LazyTensor
from checkpoints_convert.matching import Match, match
from checkpoints_convert.sources import Source
from checkpoints_convert.wrappers import WORDS, prefix_in_the_way
from vitprobe_jax.backbones.families import FAMILIES, Family
from vitprobe_jax.errors import InputError


def candidates(source: Source) -> list[Match]:
    """The families whose whole checkpoint a file may be; more than one where keys, shapes and positions cannot tell.

    A family whose marks the file holds leaves no room for others. The container tells nothing: weights are often saved again
    without it, or in another one.
    """
    found = []
    for family in FAMILIES.values():
        candidate = match(source.contents, family)
        if candidate is None or not candidate.recognised:
            continue
        types = candidate.layout.rules.model_types
        if source.config and types and source.config.get("model_type") not in types:
            continue
        found.append(candidate)
    return [candidate for candidate in found if candidate.marked] or found


def recognised(source: Source) -> Family:
    """The one family whose checkpoint a file is; where several fit, the one that published a file of this SHA-256.

    Raises:
        InputError: several families fit, or none.
    """
    found = candidates(source)
    if len(found) == 1:
        return found[0].family
    if found:
        if published := _published(source, [candidate.family for candidate in found]):
            return published
        names = [match.family.name for match in found]
        raise InputError(
            f"{source.path}: {' and '.join(names)} call all tensors alike, so its keys cannot tell; "
            f"give {either(names)}, as the page says where it is from"
        )
    others = [found for family in FAMILIES.values() if (found := match(source.contents, family)) is not None]
    if not others:
        raise InputError(
            f"{source.path}: no weights of any family in it ({holds(source)}); see --list for what is read"
        )
    nearest = min(others, key=lambda found: found.num_problems)
    if nearest.fits:
        raise InputError(
            f"{source.path}: the keys are those of {nearest.family.name}, but it lacks what tells that family from others; "
            f"give --family={nearest.family.name} if it is one"
        )
    raise InputError(
        f"{source.path}: of no known family; nearest to {nearest.family.name}, but {'; '.join(nearest.problems)}; "
        "give the official file"
    )


def _published(source: Source, families: Sequence[Family]) -> Family | None:
    """The family of which an official file has the hash of this one, as far as digits are published."""
    digits = {arch.sha256: family for family in families for arch in family.archs.values() if arch.sha256}
    if not digits:
        return None
    sha256 = source.sha256()
    return next((family for start, family in digits.items() if sha256.startswith(start)), None)


def either(families: Sequence[str]) -> str:
    """The flags that name one of these families."""
    return " or ".join(f"--family={name}" for name in families)


def holds(source: Source) -> str:
    """What a file holds: a few of its keys, those of the container with most tensors too, and the prefix in their way."""
    keys = list(source.contents)
    text = f"it holds {_few(keys)}"
    inner = {key: value for key, value in source.contents.items() if isinstance(value, Mapping)}
    place = max(inner, key=lambda key: len(_tensors(inner[key])), default=None)
    tensors = _tensors(source.contents)
    if place is not None and len(_tensors(inner[place])) > len(tensors):
        tensors = _tensors(inner[place])
        text += f"; under {place!r} {_few(tensors)}"
    prefix = prefix_in_the_way(tensors)
    if prefix:
        known = ", ".join(f"{word}." for word in WORDS)
        text += f"; its keys begin with {prefix!r}, where only {known} are taken off: save the encoder's own state_dict"
    return text


def _tensors(values: Mapping) -> list[str]:
    return [key for key, value in values.items() if isinstance(key, str) and isinstance(value, LazyTensor)]


def _few(keys: Sequence) -> str:
    return f"{', '.join(map(str, keys[:5])) or 'nothing'}{', ...' * (len(keys) > 5)}"
