"""Official checkpoint -> Flax parameters in a folder: `backbone.json`, `params/` and, for MAE with one, `decoder/`."""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from flax.traverse_util import unflatten_dict

from checkpoints_convert.layouts import Leaf
from checkpoints_convert.matching import Match, match
from checkpoints_convert.sources import Source, open_source
from vitprobe_jax.backbones.config import BackboneSpec, DecoderConfig, ViTConfig
from vitprobe_jax.backbones.families import FAMILIES, Arch, Family
from vitprobe_jax.backbones.loading import save_backbone
from vitprobe_jax.errors import InputError

Params = Mapping[str, Any]


def convert(
    input: Path,
    output: Path,
    *,
    family: str,
    arch: str | None = None,
    num_heads: int | None = None,
    decoder_heads: int | None = None,
    name: str | None = None,
    log: Callable[[str], None] = logging.info,
) -> BackboneSpec:
    """Converts an official checkpoint; the output folder appears whole, or not at all.

    Sizes come from the file, head counts from `arch` or the arguments. Weights are stored in float32. LayerNorm's epsilon
    is the official 1e-6 for Hugging Face folders too, whose `config.json` says 1e-12.

    Args:
        input: a `.pth`, `.pt`, `.bin` or `.safetensors` file, or a Hugging Face folder.
        output: the folder to write; must not exist, or be empty.
        family: a key of `FAMILIES`.
        arch: a published size of the family, against which the file is checked.
        num_heads: attention heads, for sizes that are not published.
        decoder_heads: heads of MAE's decoder, likewise.
        name: how results call the backbone; `family_arch`, or the output folder's name, unless given.
        log: takes the lines that say what was written and what was left out.

    Returns:
        The record that `backbone.json` holds.

    Raises:
        InputError: an unknown or contradictory argument; an input that is missing, damaged, unsafe, of another family or
            size, or not whole (one error lists every missing, extra and mis-shaped key); an output that is not empty.
    """
    record = _look_up("--family", family, FAMILIES)
    sizes = None if arch is None else _look_up("--arch", arch, record.archs)
    num_heads = _heads("--num_heads", num_heads, sizes and sizes.num_heads, arch)
    decoder_heads = _heads("--decoder_heads", decoder_heads, sizes and sizes.decoder_heads, arch)
    if num_heads is None:
        raise InputError(f"--arch: give one of {', '.join(record.archs)}, or --num_heads for another size")
    name = name or (f"{family}_{arch}" if arch else output.resolve().name)
    if not re.fullmatch(r"\w[\w.+-]*", name):
        raise InputError(f"--name: {name!r} is no name for a backbone; use letters, digits, '_', '.', '+' and '-'")
    _check_output(output)

    with open_source(input) as source:
        found = _find(source, record, sizes, arch)
        _check_huggingface(source, record, num_heads, decoder_heads if found.decoder else None)
        config, decoder_config = _encoder_config(found, record, num_heads), _decoder_config(found, decoder_heads)
        params, decoder = _read(source.path, found)
        spec = BackboneSpec(
            name=name,
            family=family,
            objective=record.objective,
            config=config,
            preprocess=record.preprocess,
            decoder=decoder_config,
            source=input.resolve().name,
            sha256=source.sha256(),
        )
    spec = save_backbone(output, spec, params, decoder)

    c = spec.config
    log(
        f"wrote {output}: {name}, {c.depth} blocks of width {c.width}, {c.num_heads} heads, patches of {c.patch_size} px"
    )
    if spec.decoder:
        log(f"decoder: {spec.decoder.depth} blocks of width {spec.decoder.width}, {spec.decoder.num_heads} heads")
    groups = Counter(key.split(".")[0] for key in found.dropped)
    dropped = ", ".join(f"{group} ({count} tensors)" for group, count in groups.items())
    log(f"dropped: {dropped or 'nothing'}; not read: {', '.join(found.unread) or 'nothing'}")
    return spec


def _look_up(flag: str, value: str, table: Mapping[str, Any]) -> Any:
    if value not in table:
        raise InputError(f"{flag}: {value!r} is none of {', '.join(table)}")
    return table[value]


def _heads(flag: str, given: int | None, published: int | None, arch: str | None) -> int | None:
    if None not in (given, published) and given != published:
        raise InputError(f"{flag}={given} contradicts --arch={arch}, which has {published}; leave one of them out")
    return published if given is None else given


def _check_output(output: Path) -> None:
    try:
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise InputError(f"--output: {output} exists and is not an empty folder; name a new one")
    except OSError as error:
        raise InputError(f"--output: {output} cannot be used ({error}); name another folder") from error


def _find(source: Source, family: Family, arch: Arch | None, arch_name: str | None) -> Match:
    """The weights of the family in a checkpoint that holds all of them and nothing else, in the sizes of `arch`."""
    found = match(source.contents, family)
    if found is None or found.problems:
        others = [name for name, other in FAMILIES.items() if other is not family and _is_whole(source, other)]
        if others:
            raise InputError(
                f"{source.path}: a checkpoint of {others[0]}, not of {family.name}; give --family={others[0]}"
            )
    if found is None:
        holds = ", ".join(map(str, list(source.contents)[:5])) or "nothing"
        raise InputError(
            f"{source.path}: no weights of {family.name} in it (it holds {holds}{', ...' * (len(source.contents) > 5)}); "
            "give an official checkpoint of the family"
        )
    problems = list(found.problems)
    if arch is not None:
        problems = _other_sizes(found, arch) + problems
    if problems:
        wanted = family.name if arch_name is None else f"{family.name} {arch_name}"
        fitting = [
            name for name, other in family.archs.items() if not found.problems and not _other_sizes(found, other)
        ]
        mend = f"give --arch={fitting[0]}" if fitting else "give the official file, downloaded whole"
        raise InputError(f"{source.path}: not a {wanted} checkpoint: {'; '.join(problems)}; {mend}")
    return found


def _is_whole(source: Source, family: Family) -> bool:
    found = match(source.contents, family)
    return found is not None and not found.problems


def _other_sizes(found: Match, arch: Arch) -> list[str]:
    """In words, the sizes in which a file differs from a published one."""
    sizes = found.encoder
    return [
        f"{field} {getattr(sizes, field)} instead of {getattr(arch, field)}"
        for field in ("width", "depth", "patch_size")
        if getattr(sizes, field) not in (None, getattr(arch, field))
    ]


def _check_huggingface(source: Source, family: Family, num_heads: int, decoder_heads: int | None) -> None:
    """What a `config.json` says and the tensors cannot: it must not contradict the family and the head counts."""
    wanted = {
        "model_type": family.huggingface,
        "hidden_act": ("gelu",),
        "num_attention_heads": (num_heads,),
        **({} if decoder_heads is None else {"decoder_num_attention_heads": (decoder_heads,)}),
    }
    for field, values in wanted.items():
        if field in source.config and source.config[field] not in values:
            raise InputError(
                f"{source.path / 'config.json'}: {field} is {source.config[field]!r}, but the flags say "
                f"{' or '.join(map(repr, values))}; give the family, arch and heads of this model"
            )


def _encoder_config(found: Match, family: Family, num_heads: int) -> ViTConfig:
    sizes = found.encoder
    side = math.isqrt(sizes.tokens - 1)
    return ViTConfig(
        patch_size=sizes.patch_size,
        width=sizes.width,
        depth=sizes.depth,
        num_heads=num_heads,
        mlp_dim=sizes.mlp_dim,
        grid=(side, side),
        resample=family.resample,
    )


def _decoder_config(found: Match, num_heads: int | None) -> DecoderConfig | None:
    sizes = found.decoder
    if sizes is None:
        return None
    if num_heads is None:
        raise InputError("--decoder_heads: the file holds a decoder; give its head count")
    return DecoderConfig(width=sizes.width, depth=sizes.depth, num_heads=num_heads, mlp_dim=sizes.mlp_dim)


def _read(path: Path, found: Match) -> tuple[Params, Params]:
    """The parameter trees of the encoder and the decoder, in float32; the latter is empty without a decoder."""
    bad: list[str] = []

    def tree(leaves: Iterable[Leaf]) -> Params:
        flat = {}
        for leaf in leaves:
            keys = found.layout.keys(leaf)
            with np.errstate(over="ignore"):  # What float32 cannot hold becomes infinite, and is refused below.
                parts = [found.tensors[key].read().astype(np.float32) for key in keys]
            bad.extend(key for key, part in zip(keys, parts, strict=True) if not np.isfinite(part).all())
            flat[leaf.path] = _flax_order(np.concatenate(parts) if len(parts) > 1 else parts[0])
        return unflatten_dict(flat)

    params, decoder = tree(found.encoder_leaves()), tree(found.decoder_leaves())
    if bad:
        raise InputError(f"{path}: not finite in float32: {', '.join(bad)}; give the official file")
    return params, decoder


def _flax_order(weight: np.ndarray) -> np.ndarray:
    """A linear map [out, in] becomes [in, out], a convolution [out, in, h, w] becomes [h, w, in, out]."""
    axes = {2: (1, 0), 4: (2, 3, 1, 0)}.get(weight.ndim)
    return weight if axes is None else np.ascontiguousarray(weight.transpose(axes))
