"""One record a family: its architectures, its image preparation, how its official files are laid out.

A new family is a record here and a test. `checkpoints_convert` reads the layout fields, the library reads the rest.
"""

import dataclasses

from vitprobe_jax.backbones.config import Preprocess, Resample


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arch:
    """One published size of a family. Width, depth and MLP size are read from the file; these are what it cannot tell.

    Attributes:
        num_heads: attention heads.
        patch_size: expected patch side in pixels; a file with another one is refused.
        width: expected feature size; a file with another one is refused.
        depth: expected number of blocks; a file with another one is refused.
        decoder_heads: heads of MAE's decoder.
    """

    num_heads: int
    patch_size: int
    width: int
    depth: int
    decoder_heads: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """A pre-training family.

    Attributes:
        name: as in `--family`.
        objective: the pre-training objective in words.
        archs: published sizes by the name of `--arch`.
        preprocess: image preparation at evaluation.
        resample: rule for position grids other than the native one.
        containers: keys under which a checkpoint file may hold the weights, in order of preference; a file may also hold
            them flat.
        prefixes: key prefixes to strip, the longest that all kept keys share.
        drop: regular expressions of keys that are no part of the encoder or decoder (projection heads).
        huggingface: values of `model_type` in the `config.json` of its Hugging Face folders.
        licence: of the official weights.
    """

    name: str
    objective: str
    archs: dict[str, Arch]
    preprocess: Preprocess = dataclasses.field(default_factory=Preprocess)
    resample: Resample
    containers: tuple[str, ...]
    prefixes: tuple[str, ...]
    drop: tuple[str, ...]
    huggingface: tuple[str, ...]
    licence: str


_S, _B = {"num_heads": 6, "width": 384, "depth": 12}, {"num_heads": 12, "width": 768, "depth": 12}

FAMILIES: dict[str, Family] = {
    "dino": Family(
        name="dino",
        objective="DINO (self-distillation)",
        archs={
            "vits16": Arch(patch_size=16, **_S),
            "vits8": Arch(patch_size=8, **_S),
            "vitb16": Arch(patch_size=16, **_B),
            "vitb8": Arch(patch_size=8, **_B),
        },
        resample="dino",
        containers=("teacher", "student"),
        prefixes=("module.backbone.", "backbone.", "module."),
        drop=(r"head\..*",),
        huggingface=("vit",),
        licence="Apache-2.0",
    ),
    "mae": Family(
        name="mae",
        objective="MAE (masked pixel reconstruction)",
        archs={
            "vitb16": Arch(patch_size=16, decoder_heads=16, **_B),
            "vitl16": Arch(patch_size=16, num_heads=16, width=1024, depth=24, decoder_heads=16),
            "vith14": Arch(patch_size=14, num_heads=16, width=1280, depth=32, decoder_heads=16),
        },
        resample="bicubic",
        containers=("model",),
        prefixes=("module.",),
        drop=(),
        huggingface=("vit_mae", "vit"),
        licence="CC-BY-NC-4.0",
    ),
}
