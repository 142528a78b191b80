"""What a checkpoint's folder says beside its tensors: image preparation, epsilon of norms, heads.

Read from timm's `config.json` (`pretrained_cfg`, `model_args`), from the `config.json` of transformers and from its
`preprocessor_config.json`. What neither a flag nor the folder says is the family's, and `describe` says which is which.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from checkpoints_convert.sources import Source
from vitprobe_jax.backbones.config import BackboneSpec, Preprocess
from vitprobe_jax.data.transforms import resized_side
from vitprobe_jax.errors import InputError

_FILTERS = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers in `preprocessor_config.json`."""


@dataclasses.dataclass(frozen=True)
class Stated:
    """A value with its origin.

    Attributes:
        value: what a field of `Preprocess`, an epsilon or a head count is set to.
        origin: the flag, or the file and its field.
    """

    value: Any
    origin: str


def stated_values(source: Source) -> dict[str, Stated]:
    """The values that a folder states, by name; none for a single file.

    The names are the fields of `Preprocess`, and `layer_norm_eps`, `num_heads` and `decoder_heads`.

    Raises:
        InputError: a value is of the wrong type or range, or asks for a preparation that is not supported.
    """
    path = source.path / "config.json"
    values = _model_values(path, source.config)
    timm = source.config.get("pretrained_cfg")
    if timm is None and "architecture" in source.config:
        # timm wrote both in one until its version 0.8.
        timm = source.config
    if isinstance(timm, Mapping):
        return values | _timm_values(path, timm)
    return values | _processor_values(source.path / "preprocessor_config.json", source.preprocessor)


def flag_values(mean: Sequence[float] | None, std: Sequence[float] | None, eps: float | None) -> dict[str, Stated]:
    """The values of `--mean`, `--std` and `--eps` that are given, checked like those of a file."""
    values = {}
    if mean is not None:
        values["mean"] = Stated(_three("--mean", mean), "--mean")
    if std is not None:
        values["std"] = Stated(_three("--std", std, positive=True), "--std")
    if eps is not None:
        values["layer_norm_eps"] = Stated(_positive("--eps", eps), "--eps")
    return values


def overridden(stated: Mapping[str, Stated], given: Mapping[str, Stated]) -> dict[str, Stated]:
    """What a folder states with the values of flags in its place; their origins name what they replace."""
    values = dict(stated)
    for name, flag in given.items():
        other = stated.get(name)
        if other is not None and other.value != flag.value:
            flag = Stated(flag.value, f"{flag.origin}, instead of {_numbers(other.value)} in {other.origin}")
        values[name] = flag
    return values


def prepared(family: Preprocess, values: Mapping[str, Stated], *, native_side: int, patch_size: int) -> Preprocess:
    """A family's image preparation with the values that were stated.

    Args:
        family: the preparation of the official checkpoint.
        values: what flags and the folder state.
        native_side: side of the native grid, in pixels.
        patch_size: side of a patch, in pixels.

    Raises:
        InputError: patches do not divide the stated size.
    """
    fields = {field.name for field in dataclasses.fields(Preprocess)}
    changes = {name: stated.value for name, stated in values.items() if name in fields}
    if "size" in changes:
        if changes["size"] % patch_size:
            raise InputError(
                f"{values['size'].origin} is {changes['size']} px, which patches of {patch_size} px do not divide"
            )
        changes["size"] = None if changes["size"] == native_side else changes["size"]
    if "resize_ratio" in changes:
        changes = {"whole_from": None} | changes
    return dataclasses.replace(family, **changes)


def describe(spec: BackboneSpec, values: Mapping[str, Stated], heads_origin: str) -> str:
    """The image preparation, epsilon and heads of a backbone in one line, each value with its origin.

    Args:
        spec: the record that is written.
        values: what flags and the folder state; the rest is the family's.
        heads_origin: of the head count.
    """
    default = f"default of {spec.family}"

    def origin(*names: str) -> str:
        return ", ".join(dict.fromkeys(values[name].origin if name in values else default for name in names))

    preprocess, side = spec.preprocess, spec.image_size[0]
    resized = resized_side(side, preprocess.ratio_at((side, side)), preprocess.resize_rounding)
    parts = (
        f"mean {_numbers(preprocess.mean)} ({origin('mean')})",
        f"std {_numbers(preprocess.std)} ({origin('std')})",
        f"{'both sides' if preprocess.aspect == 'bent' else 'short side'} to {resized} px "
        f"({origin('resize_ratio', 'aspect')})",
        f"{preprocess.interpolation} ({origin('interpolation')})",
        f"centre of {side} px ({origin('size')})",
        f"epsilon {spec.config.layer_norm_eps:g} ({origin('layer_norm_eps')})",
        f"{spec.config.num_heads} heads ({heads_origin})",
    )
    return f"preprocessing and settings: {'; '.join(parts)}"


def _numbers(values: float | Sequence[float]) -> str:
    return " ".join(f"{value:.6g}" for value in (values if isinstance(values, Sequence) else [values]))


def _model_values(path: Path, config: Mapping[str, Any]) -> dict[str, Stated]:
    """Heads and epsilon; the latter is in transformers' files alone."""
    values = {}
    places = (
        ("num_heads", "num_attention_heads", config),
        ("num_heads", "model_args.num_heads", config.get("model_args")),
        ("decoder_heads", "decoder_num_attention_heads", config),
    )
    for name, place, holder in places:
        field = place.rpartition(".")[2]
        if isinstance(holder, Mapping) and holder.get(field) is not None:
            values[name] = Stated(_whole(f"{path}: {place}", holder[field]), f"config.json: {place}")
    if config.get("layer_norm_eps") is not None:
        eps = _positive(f"{path}: layer_norm_eps", config["layer_norm_eps"])
        values["layer_norm_eps"] = Stated(eps, "config.json: layer_norm_eps")
    return values


def _timm_values(path: Path, data: Mapping[str, Any]) -> dict[str, Stated]:
    """Reads `pretrained_cfg` as timm's `resolve_data_config` and `transforms_imagenet_eval` do."""

    def stated(name: str, value: Any) -> Stated:
        return Stated(value, f"config.json: {name}")

    values = {}
    given = {name: value for name, value in data.items() if value is not None}
    for name, positive in (("mean", False), ("std", True)):
        if name in given:
            values[name] = stated(name, _three(f"{path}: {name}", given[name], positive=positive))
    if "input_size" in given:
        sizes = given["input_size"]
        if not isinstance(sizes, list) or len(sizes) != 3:
            raise InputError(f"{path}: input_size is {sizes!r}, not channels, height and width; correct it")
        values["size"] = stated("input_size", _square(f"{path}: input_size", sizes[1:]))
    if "crop_pct" in given:
        share = _positive(f"{path}: crop_pct", given["crop_pct"])
        if share > 1:
            raise InputError(f"{path}: crop_pct is {share}; a crop larger than the resized image is not supported")
        values["resize_ratio"] = stated("crop_pct", 1 / share)
    if "crop_mode" in given:
        aspects = {"center": "kept", "squash": "bent"}
        if given["crop_mode"] not in aspects:
            raise InputError(f"{path}: crop_mode is {given['crop_mode']!r}; only center and squash are supported")
        values["aspect"] = stated("crop_mode", aspects[given["crop_mode"]])
    if "interpolation" in given:
        if given["interpolation"] not in _FILTERS.values():
            raise InputError(
                f"{path}: interpolation is {given['interpolation']!r}; only bilinear and bicubic are supported"
            )
        values["interpolation"] = stated("interpolation", given["interpolation"])
    return values


def _processor_values(path: Path, data: Mapping[str, Any]) -> dict[str, Stated]:
    """Reads `preprocessor_config.json` as transformers' image processors do."""

    def stated(name: str, value: Any) -> Stated:
        return Stated(value, f"{path.name}: {name}")

    values = {}
    factor = data.get("rescale_factor", 1 / 255) if data.get("do_rescale", True) else 1.0
    scale = 255 * _positive(f"{path}: rescale_factor", factor)
    # Here pixels are in [0, 1]; a file with another factor says mean and deviation in its own unit.
    if not data.get("do_normalize", True):
        values["mean"] = stated("do_normalize", (0.0, 0.0, 0.0))
        values["std"] = stated("do_normalize", (1 / scale,) * 3)
    else:
        for name, positive in (("mean", False), ("std", True)):
            field = f"image_{name}"
            if data.get(field) is not None:
                three = _three(f"{path}: {field}", data[field], positive=positive)
                values[name] = stated(field, three if math.isclose(scale, 1) else tuple(x / scale for x in three))
    if data.get("resample") is not None:
        if data["resample"] not in _FILTERS:
            raise InputError(
                f"{path}: resample is {data['resample']!r}; only 2 (bilinear) and 3 (bicubic) are supported"
            )
        values["interpolation"] = stated("resample", _FILTERS[data["resample"]])
    if data.get("size") is not None:
        values |= _processor_geometry(path, data)
    return values


def _processor_geometry(path: Path, data: Mapping[str, Any]) -> dict[str, Stated]:
    if not data.get("do_resize", True):
        raise InputError(f"{path}: do_resize is false; only images that are resized to one size are supported")
    size = data["size"]
    kept = isinstance(size, Mapping) and "shortest_edge" in size
    if kept and size.get("longest_edge") is not None:
        raise InputError(f"{path}: size is {size!r}; a longest_edge is not supported")
    resized = _whole(f"{path}: size", size["shortest_edge"]) if kept else _square(f"{path}: size", size)
    if data.get("do_center_crop", data.get("crop_size") is not None):
        side, origin = _square(f"{path}: crop_size", data.get("crop_size")), "crop_size"
    elif kept:
        raise InputError(
            f"{path}: size is {size!r} without a crop, so that images differ in size; give a height and width"
        )
    else:
        side, origin = resized, "size"
    if side > resized:
        raise InputError(f"{path}: crop_size {side} is larger than size {resized}; padding is not supported")
    values = {
        "size": (origin, side),
        "resize_ratio": ("size", resized / side),
        "aspect": ("size", "kept" if kept else "bent"),
        # `center_crop` of transformers, which is not torchvision's.
        "crop_rounding": ("crop_size", "down"),
    }
    return {name: Stated(value, f"{path.name}: {field}") for name, (field, value) in values.items()}


def _square(named: str, value: Any) -> int:
    """The side of a square, from one number, [height, width] or a dict of these."""
    sides = [value.get("height"), value.get("width")] if isinstance(value, Mapping) else value
    sides = sides if isinstance(sides, list) else [sides]
    if len(sides) > 2 or len({_whole(named, side) for side in sides}) != 1:
        raise InputError(f"{named} is {value!r}; only a square is supported")
    return sides[0]


def _whole(named: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{named} is {value!r}, not a positive whole number; correct it")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _positive(named: str, value: Any) -> float:
    if not _is_number(value) or value <= 0:
        raise InputError(f"{named} is {value!r}, not a positive number; correct it")
    return float(value)


def _three(named: str, value: Any, *, positive: bool = False) -> tuple[float, float, float]:
    """A number for each of the channels; transformers also takes one for all."""
    values = [value] * 3 if _is_number(value) else value
    if not isinstance(values, list | tuple) or len(values) != 3 or not all(map(_is_number, values)):
        raise InputError(f"{named} is {value!r}, not three numbers; correct it")
    if positive and min(values) <= 0:
        raise InputError(f"{named} is {value!r}, not three positive numbers; correct it")
    return tuple(map(float, values))
