"""`python -m tests.zoo parity` prints the table of differences, `python -m tests.zoo checkpoints` writes small backbones."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
from absl import flags

from tests.zoo import SPECIMENS, parity
from tests.zoo.conversion import convert_into
from tests.zoo.specimen import Sizes, Specimen
from vitprobe_jax import cli
from vitprobe_jax.backbones.families import FAMILIES
from vitprobe_jax.errors import InputError

_FAMILIES = flags.DEFINE_list("families", None, "Families to take; all unless given.")
_FULL = flags.DEFINE_bool("full", False, "parity: the published size of every family: a quarter of an hour, 9 GB.")
_MARKDOWN = flags.DEFINE_bool("markdown", False, "parity: print the table as Markdown.")
_WRITE = flags.DEFINE_string("write", None, "parity: page whose table is renewed.")
_OUTPUT = flags.DEFINE_string("output", None, "checkpoints: folder to write.")
_NAMES = flags.DEFINE_list("names", None, "checkpoints: specimens, as mae_decoder; one a family unless given.")
_WIDTH = flags.DEFINE_integer("width", None, "checkpoints: features, a multiple of 64; tiny unless given.")
_DEPTH = flags.DEFINE_integer("depth", 4, "checkpoints: blocks beside --width; 14 x 14 patches of 16 pixels.")


def main(argv: Sequence[str]) -> None:
    """Runs one of the two commands."""
    # An accelerator rounds the inputs of a matmul.
    jax.config.update("jax_platforms", "cpu")
    unknown = set(_FAMILIES.value or ()) - set(FAMILIES)
    if unknown:
        raise InputError(f"--families: {', '.join(sorted(unknown))} is none of {', '.join(FAMILIES)}")
    specimens = [
        specimen for specimen in SPECIMENS.values() if _FAMILIES.value is None or specimen.family in _FAMILIES.value
    ]
    if argv[1:] == ["parity"]:
        print_parity(specimens)
    elif argv[1:] == ["checkpoints"]:
        write_checkpoints(specimens)
    else:
        raise InputError(f"{' '.join(argv[1:]) or 'no command'}: say parity or checkpoints")


def print_parity(specimens: Sequence[Specimen]) -> None:
    """Prints the table line by line, as it comes; fills the section of a page at the end."""
    page = None if _WRITE.value is None else Path(_WRITE.value)
    if page is not None:
        parity.filled(page, [])  # Refused at once where it cannot be.
    print(parity.header(markdown=_MARKDOWN.value), flush=True)
    rows = []
    for row in parity.rows(specimens, full=_FULL.value):
        print(parity.line(row, markdown=_MARKDOWN.value), flush=True)
        rows.append(row)
    print(f"\n{parity.note()}")
    if page is not None:
        page.write_text(parity.filled(page, [parity.line(row, markdown=True) for row in rows]))


def write_checkpoints(specimens: Sequence[Specimen]) -> None:
    """Writes and converts the first specimen of every family, or those of --names, and prints what --backbones takes."""
    if _OUTPUT.value is None:
        raise InputError("--output: name the folder to write")
    folder = Path(_OUTPUT.value)
    chosen = list({specimen.family: specimen for specimen in reversed(specimens)}.values())[::-1]
    if _NAMES.value is not None:
        unknown = set(_NAMES.value) - set(SPECIMENS)
        if unknown:
            raise InputError(f"--names: {', '.join(sorted(unknown))} is none of {', '.join(SPECIMENS)}")
        chosen = [SPECIMENS[name] for name in _NAMES.value]
    for specimen in chosen:
        convert_into(folder, specimen if _WIDTH.value is None else _of_width(specimen, _WIDTH.value, _DEPTH.value))
    print(",".join(str(folder / specimen.name) for specimen in chosen))


def _of_width(specimen: Specimen, width: int, depth: int) -> Specimen:
    """The specimen with other tiny sizes: those of a small published model but for its width and depth."""
    if width < 64 or width % 64 or depth < 1:
        raise InputError(f"--width={width} --depth={depth}: give a multiple of 64 and a number of blocks")
    sizes = Sizes(width=width, depth=depth, num_heads=width // 64, patch_size=16, grid=14, mlp_dim=4 * width)
    return dataclasses.replace(specimen, tiny=sizes)


if __name__ == "__main__":
    cli.run(main)
