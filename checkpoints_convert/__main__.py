"""`python -m checkpoints_convert --family=dino --arch=vits16 --input=FILE --output=DIR`."""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from checkpoints_convert.convert import convert
from vitprobe_jax import cli
from vitprobe_jax.backbones.families import FAMILIES
from vitprobe_jax.errors import InputError

_ARCHS = "; ".join(f"{name}: {', '.join(family.archs)}" for name, family in FAMILIES.items())

_FAMILY = flags.DEFINE_enum("family", None, list(FAMILIES), "Pre-training family.", required=True)
_ARCH = flags.DEFINE_string("arch", None, f"Published size ({_ARCHS}); may be left out where --num_heads is given.")
_INPUT = flags.DEFINE_string(
    "input", None, "Official .pth, .pt, .bin or .safetensors file, or a Hugging Face folder.", required=True
)
_OUTPUT = flags.DEFINE_string("output", None, "Folder to write; must be new or empty.", required=True)
_NUM_HEADS = flags.DEFINE_integer("num_heads", None, "Attention heads, for a size without --arch.", lower_bound=1)
_DECODER_HEADS = flags.DEFINE_integer(
    "decoder_heads", None, "Heads of MAE's decoder, for a size without --arch.", lower_bound=1
)
_NAME = flags.DEFINE_string("name", None, "Name in results; FAMILY_ARCH, or the folder's, unless given.")


def main(argv: Sequence[str]) -> None:
    """Converts one checkpoint and says what was written and what was left out."""
    if len(argv) > 1:
        raise InputError(f"{argv[1]!r}: not a flag; every argument is a --flag=value")
    convert(
        Path(_INPUT.value).expanduser(),
        Path(_OUTPUT.value).expanduser(),
        family=_FAMILY.value,
        arch=_ARCH.value,
        num_heads=_NUM_HEADS.value,
        decoder_heads=_DECODER_HEADS.value,
        name=_NAME.value,
        log=print,
    )


if __name__ == "__main__":
    cli.run(main)
