"""Official checkpoint -> Flax parameters in a folder: `backbone.json`, `params/` and, for MAE with one, `decoder/`."""

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from flax.traverse_util import unflatten_dict

from checkpoints_convert.layouts import Part
from checkpoints_convert.leaves import Leaf, Sizes
from checkpoints_convert.matching import Match, match
from checkpoints_convert.recognition import candidates, either, holds, recognised
from checkpoints_convert.sources import Source, open_source
from checkpoints_convert.stated import Stated, describe, flag_values, overridden, prepared, stated_values
from checkpoints_convert.wrappers import CONTAINERS, forms
from vitprobe_jax.backbones.config import BackboneSpec, DecoderConfig, Preprocess, ViTConfig, sized
from vitprobe_jax.backbones.families import FAMILIES, Arch, Family
from vitprobe_jax.backbones.position import axial_periods
from vitprobe_jax.backbones.saving import StreamedArray, save_backbone
from vitprobe_jax.errors import InputError

AUTO = "auto"


def convert(
    input: Path,
    output: Path,
    *,
    family: str,
    arch: str | None = None,
    container: str | None = None,
    num_heads: int | None = None,
    decoder_heads: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    eps: float | None = None,
    name: str | None = None,
    log: Callable[[str], None] = logging.info,
) -> BackboneSpec:
    """Converts an official checkpoint; the output folder appears whole, or not at all.

    Sizes come from the file, head counts from its tensors or its `config.json`, else from `arch` (the published one of these
    sizes unless given) or the arguments. Weights are stored in float32, and read one after another. Image preparation and
    the epsilon of norms are those of the arguments, else what a folder of Hugging Face or timm states, else the family's.

    Args:
        input: a `.pth`, `.pt`, `.pth.tar`, `.pyth`, `.bin` or `.safetensors` file, or a Hugging Face folder.
        output: the folder to write; must not exist, or be empty.
        family: a key of `FAMILIES`, or `auto` to recognise the file by its keys.
        arch: a published size of the family, against which the file is checked.
        container: which of several sets of weights in the file (`teacher`, `student`; `target_encoder`, `encoder`;
            `state_dict_ema`, `state_dict`); the family's first choice unless given.
        num_heads: attention heads, for sizes that are not published.
        decoder_heads: heads of MAE's decoder, likewise.
        mean: mean of the images per RGB channel, for pixels in [0, 1]; replaces what the folder or the family says.
        std: standard deviation, likewise.
        eps: epsilon of every norm, likewise.
        name: how results call the backbone; `family_arch`, or the output folder's name, unless given.
        log: takes the lines that say what was written, what was left out, and where each setting comes from.

    Returns:
        The record that `backbone.json` holds.

    Raises:
        InputError: an unknown or contradictory argument; an input that is missing, damaged, unsafe, of another family or
            size, or not whole (one error lists every missing, extra and mis-shaped key); one that `auto` cannot tell; an
            output that is not empty.
    """
    record = None if family == AUTO else _look_up("--family", family, FAMILIES, AUTO)
    if arch is not None and record is None:
        raise InputError(f"--arch={arch}: say of which --family, or leave it out: {AUTO} takes it from the file")
    published = None if arch is None else _look_up("--arch", arch, record.archs)
    if published is not None:
        _contradicts("--num_heads", num_heads, published.num_heads, f"--arch={arch}")
        _contradicts("--decoder_heads", decoder_heads, published.decoder_heads, f"--arch={arch}")
    if name is not None:
        _check_name(name)
    check_output(output)
    given = flag_values(mean, std, eps)

    with open_source(input) as source:
        record = record or recognised(source)
        found = _find(source, record, published, arch, container)
        fitting = _fitting(found) if published is None else {arch: published}
        values = overridden(stated_values(source), given)
        heads = _heads(found, fitting, values.get("num_heads"), num_heads, published)
        norm_eps = values["layer_norm_eps"].value if "layer_norm_eps" in values else found.architecture.layer_norm_eps
        decoder = _decoder_config(found.decoder, fitting, decoder_heads, values.get("decoder_heads"), norm_eps)
        _check_huggingface(source, found, heads.value, values.get("num_heads"), decoder)
        if name is None:
            name = f"{record.name}_{arch}" if arch else output.resolve().name
            _check_name(name)
        bad: list[str] = []
        config = _encoder_config(found, heads.value, norm_eps)
        spec = BackboneSpec(
            name=name,
            family=record.name,
            objective=record.objective,
            config=config,
            preprocess=prepared(
                _preprocess(record, fitting), values, native_side=config.native_size[0], patch_size=config.patch_size
            ),
            decoder=decoder,
            source=input.resolve().name,
            sha256=source.sha256(),
        )
        positions, fits_positions = found.positions, found.fits_positions
        trees = [_tree(found, spec, leaves, bad) for leaves in (found.encoder_leaves(), found.decoder_leaves())]
        spec = save_backbone(output, spec, *trees, check=lambda: _refuse_bad(source.path, bad))

    c = spec.config
    log(
        f"wrote {output}: {name}, {record.name}, {c.depth} blocks of width {c.width}, {c.num_heads} heads, patches of "
        f"{c.patch_size} px"
    )
    if spec.decoder:
        log(f"decoder: {spec.decoder.depth} blocks of width {spec.decoder.width}, {spec.decoder.num_heads} heads")
    log(describe(spec, values, heads.origin))
    if not fits_positions:
        log(f"note: its position embedding ({positions}) is not of a kind that {record.name} has; --family decides")
    log(f"dropped: {_dropped(found) or 'nothing'}; not read: {', '.join(found.unread) or 'nothing'}")
    return spec


def _look_up(flag: str, value: str, table: Mapping[str, Any], *more: str) -> Any:
    if value not in table:
        raise InputError(f"{flag}: {value!r} is none of {', '.join((*more, *table))}")
    return table[value]


def _contradicts(flag: str, given: int | None, published: int | None, source: str) -> None:
    if None not in (given, published) and given != published:
        raise InputError(f"{flag}={given} contradicts {source}, which has {published}; leave one of them out")


def _check_name(name: str) -> None:
    if not re.fullmatch(r"\w[\w.+-]*", name):
        raise InputError(f"--name: {name!r} is no name for a backbone; use letters, digits, '_', '.', '+' and '-'")


def check_output(output: Path) -> None:
    """Refuses, with an `InputError`, a folder that cannot be written: one that is there and not empty."""
    try:
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise InputError(f"--output: {output} exists and is not an empty folder; name a new one")
    except OSError as error:
        raise InputError(f"--output: {output} cannot be used ({error}); name another folder") from error


def _find(source: Source, family: Family, arch: Arch | None, arch_name: str | None, container: str | None) -> Match:
    """The weights of the family in a checkpoint that holds all of them and nothing else, in the sizes of `arch`."""
    named = [place for place in dict.fromkeys((*family.containers, *CONTAINERS)) if place]
    if container is not None and container not in named:
        raise InputError(f"--container: {container!r} is none of {', '.join(named)}")
    found = match(source.contents, family, container)
    if found is None or not found.fits:
        others = [other.family.name for other in candidates(source)]
        if others and family.name not in others:
            said = f"a checkpoint of {' or '.join(others)}, not of {family.name}; give {either(others)}"
            raise InputError(f"{source.path}: {said}")
    if found is None:
        where = f" under {container!r}" if container else ""
        raise InputError(
            f"{source.path}: no weights of {family.name} in it{where} ({holds(source)}); "
            "give an official checkpoint of the family"
        )
    problems = list(found.problems)
    if arch is not None:
        problems = _other_sizes(found, arch) + problems
    if problems:
        wanted = family.name if arch_name is None else f"{family.name} {arch_name}"
        fitting = [] if found.problems else list(_fitting(found))
        mend = f"give --arch={fitting[0]}" if fitting else "give the official file, downloaded whole"
        raise InputError(f"{source.path}: no {wanted} checkpoint: {'; '.join(problems)}; {mend}")
    return found


def _other_sizes(found: Match, arch: Arch) -> list[str]:
    """In words, what tells a file from a published one: sizes, and keys that only one of that size has."""
    sizes = found.encoder
    different = [
        f"{field} {getattr(sizes, field)} instead of {getattr(arch, field)}"
        for field in ("width", "depth", "patch_size", "num_heads")
        if getattr(sizes, field) not in (None, getattr(arch, field))
    ]
    marks = {mark for other in found.family.archs.values() for mark in other.marks}
    present = {mark for mark in marks if any(re.fullmatch(mark, key) for key in found.tensors)}
    different += [f"without {_plain(mark)}" for mark in sorted(set(arch.marks) - present)]
    return different + [f"with {_plain(mark)}" for mark in sorted(present - set(arch.marks))]


def _plain(mark: str) -> str:
    return mark.replace("\\.", ".").replace(".*", "").rstrip(".")


def _fitting(found: Match) -> dict[str, Arch]:
    """The published archs whose checkpoint a file may be."""
    return {name: arch for name, arch in found.family.archs.items() if not _other_sizes(found, arch)}


def _heads(
    found: Match, fitting: Mapping[str, Arch], stated: Stated | None, given: int | None, published: Arch | None
) -> Stated:
    told = found.encoder.num_heads
    _contradicts("--num_heads", given, told, "the file")
    if given:
        return Stated(given, "--num_heads")
    if told:
        return Stated(told, "the file's tensors")
    if stated is not None and published is None:
        return stated
    heads = {arch.num_heads for arch in fitting.values()}
    if len(heads) != 1:
        raise InputError(f"--arch: give one of {', '.join(found.family.archs)}, or --num_heads for another size")
    return Stated(heads.pop(), f"{found.family.name} {' or '.join(fitting)}")


def _decoder_config(
    sizes: Sizes | None, fitting: Mapping[str, Arch], given: int | None, stated: Stated | None, eps: float
) -> DecoderConfig | None:
    if sizes is None:
        return None
    heads = {given} if given else {arch.decoder_heads for arch in fitting.values()} - {None}
    if not heads and stated is not None:
        heads = {stated.value}
    if len(heads) != 1:
        raise InputError("--decoder_heads: the file holds a decoder; give its head count")
    return DecoderConfig(
        width=sizes.width, depth=sizes.depth, num_heads=heads.pop(), mlp_dim=sizes.mlp_dim, layer_norm_eps=eps
    )


def _check_huggingface(
    source: Source, found: Match, num_heads: int, stated_heads: Stated | None, decoder: DecoderConfig | None
) -> None:
    """What a `config.json` says and the tensors cannot: it must not contradict the family and the head counts."""
    if stated_heads is not None and stated_heads.value != num_heads:
        raise InputError(
            f"{source.path / stated_heads.origin} is {stated_heads.value}, where {found.family.name} has {num_heads}; "
            "give the family, arch and heads of this model"
        )
    wanted = {
        "model_type": found.layout.rules.model_types or tuple(_model_types(found.family)),
        "hidden_act": ("gelu",),
        **({} if decoder is None else {"decoder_num_attention_heads": (decoder.num_heads,)}),
        **({"rope_theta": (found.architecture.rope_base,)} if found.architecture.rope == "axial" else {}),
    }
    for field, values in wanted.items():
        if values and field in source.config and source.config[field] not in values:
            raise InputError(
                f"{source.path / 'config.json'}: {field} is {source.config[field]!r}, where {found.family.name} has "
                f"{' or '.join(map(repr, values))}; give the family, arch and heads of this model"
            )


def _model_types(family: Family) -> set[str]:
    return {kind for rules in family.layouts for kind in rules.model_types}


def _encoder_config(found: Match, num_heads: int, eps: float) -> ViTConfig:
    sizes = found.encoder
    return sized(
        dataclasses.replace(found.architecture, layer_norm_eps=eps),
        patch_size=sizes.patch_size,
        width=sizes.width,
        depth=sizes.depth,
        num_heads=num_heads,
        mlp_dim=sizes.mlp_dim,
        grid=found.grid,
    )


def _preprocess(family: Family, fitting: Mapping[str, Arch]) -> Preprocess:
    special = {arch.preprocess for arch in fitting.values()} - {None}
    return special.pop() if len(special) == 1 else family.preprocess


def _tree(found: Match, spec: BackboneSpec, leaves: Iterable[Leaf], bad: list[str]) -> dict:
    """The parameters of an encoder or a decoder, each read when asked for; keys that are not finite go to `bad`."""

    def streamed(leaf: Leaf) -> StreamedArray:
        parts = found.layout.parts(leaf)
        if not parts:
            value = _initial(leaf, spec.config)
            return StreamedArray(leaf.path, value.shape, value.dtype, lambda: value)
        shapes = [found.tensors[part.key].shape for part in parts if part.key is not None]
        rows = sum(shape[0] for shape in shapes) * len(parts) // len(shapes)
        axes = _flax_axes(leaf, len(shapes[0]))
        shape = tuple((rows, *shapes[0][1:])[axis] for axis in axes)
        return StreamedArray(leaf.path, shape, np.dtype(np.float32), lambda: _read(found, parts, axes, bad))

    return unflatten_dict({leaf.path: streamed(leaf) for leaf in leaves})


def _initial(leaf: Leaf, config: ViTConfig) -> np.ndarray:
    """A parameter that the file leaves out, as the model starts it."""
    return {"rope_periods": axial_periods(config.width // config.num_heads, config.rope_base)}[leaf.name]


def _read(found: Match, parts: tuple[Part, ...], axes: tuple[int, ...], bad: list[str]) -> np.ndarray:
    values = []
    with np.errstate(over="ignore"):  # What float32 cannot hold becomes infinite, and is refused.
        for part in parts:
            if part.key is None:
                values.append(None)
                continue
            value = found.read(part.key).astype(np.float32)
            if part.mask is not None:
                mask = found.read(part.mask).astype(np.float32)
                value = np.where(mask == 0, np.float32(0), value * mask)
            if not np.isfinite(value).all():
                bad.append(part.key)
            values.append(value)
    some = next(value for value in values if value is not None)
    values = [np.zeros_like(some) if value is None else value for value in values]
    whole = np.concatenate(values) if len(values) > 1 else values[0]
    return np.ascontiguousarray(whole.transpose(axes))


def _flax_axes(leaf: Leaf, rank: int) -> tuple[int, ...]:
    """A linear map [out, in] becomes [in, out], a convolution [out, in, h, w] becomes [h, w, in, out]."""
    as_it_is = tuple(range(rank))
    return {2: (1, 0), 4: (2, 3, 1, 0)}.get(rank, as_it_is) if leaf.parameter == "weight" else as_it_is


def _refuse_bad(path: Path, bad: list[str]) -> None:
    if bad:
        raise InputError(f"{path}: not finite in float32: {', '.join(bad)}; give the official file")


def _dropped(found: Match) -> str:
    """Keys that were left out, by their first part where nothing else begins so, else by all but their numbers."""
    prefix = found.layout.prefix
    kept = {key.removeprefix(prefix).split(".")[0] for key in found.tensors.keys() - set(found.dropped)}

    def group(key: str) -> str:
        name = key.removeprefix(prefix) if key.startswith(prefix) else list(forms(key))[-1]
        first = name.split(".")[0]
        return re.sub(r"(?<=\.)\d+(?=\.)", "*", name) if first in kept else first

    groups = Counter(map(group, found.dropped))
    return ", ".join(f"{name} ({count} tensor{'s' * (count > 1)})" for name, count in groups.items())
