"""The whole road in one call: random weights -> official file -> converted folder -> backbone."""

import dataclasses
from pathlib import Path

import torch

from checkpoints_convert import convert
from tests.backbones.oracles import StateDict
from tests.checkpoints_convert import official_files
from vitprobe_jax.backbones.loading import Backbone, load_backbone


@dataclasses.dataclass(frozen=True)
class Converted:
    """A converted folder, what the library loads from it, and the tensors of the official file."""

    folder: Path
    backbone: Backbone
    state: StateDict


def convert_random(
    folder: Path, family: str, *, arch: str | None = None, num_heads: int, decoder: dict | None = None, **sizes
) -> Converted:
    """Random weights of the family in its official layout; `decoder` and `sizes` as `official_files` takes them."""
    path = folder / f"{family}.pth"
    if family == "mae":
        state = official_files.write_mae(path, num_heads=num_heads, decoder=decoder, **sizes)
    else:
        state = official_files.write_dino(path, num_heads=num_heads, **sizes)
    decoder_heads = decoder and decoder["num_heads"]
    return _convert(path, state, family, arch=arch, num_heads=num_heads, decoder_heads=decoder_heads)


def convert_state(folder: Path, state: StateDict, family: str, *, num_heads: int) -> Converted:
    """The given official tensors, saved flat."""
    path = folder / f"{family}.pth"
    torch.save(state, path)
    return _convert(path, state, family, num_heads=num_heads)


def _convert(path: Path, state: StateDict, family: str, **options) -> Converted:
    output = path.with_suffix("")
    convert(path, output, family=family, **options)
    return Converted(output, load_backbone(str(output)), state)
