"""The whole road of a specimen: random weights -> official file -> converted folder -> backbone."""

import dataclasses
from pathlib import Path

from checkpoints_convert import convert
from tests.zoo.specimen import Sizes, Specimen, StateDict
from vitprobe_jax.backbones.loading import Backbone, load_backbone


@dataclasses.dataclass(frozen=True)
class Converted:
    """A specimen that was converted.

    Attributes:
        specimen: which.
        sizes: its tiny ones or its full ones.
        folder: what the converter wrote.
        backbone: what the library loads from it.
        state: the tensors of the official file, for the oracle.
    """

    specimen: Specimen
    sizes: Sizes
    folder: Path
    backbone: Backbone
    state: StateDict


def convert_specimen(
    specimen: Specimen, file: Path, output: Path, *, full: bool = False, keep_file: bool = True, seed: int = 0
) -> Converted:
    """Writes the official file, converts it, and loads what came out.

    Args:
        specimen: which.
        file: where the official file is written.
        output: the converted folder; the backbone is called as it is.
        full: at the published size, checked against it, instead of the tiny one.
        keep_file: whether the official file stays.
        seed: of the weights.
    """
    sizes = specimen.full if full else specimen.tiny
    file.parent.mkdir(parents=True, exist_ok=True)
    state = specimen.write(file, sizes, seed)
    options = {"arch": specimen.arch} if full else {"num_heads": sizes.num_heads, **specimen.options}
    convert(file, output, family=specimen.family, name=output.name, **options)
    if not keep_file:
        file.unlink()
    return Converted(specimen, sizes, output, load_backbone(str(output)), state)


def convert_into(folder: Path, specimen: Specimen, **options) -> Converted:
    """The same into `folder/NAME`, NAME the specimen's, with the official file in `folder/official/NAME`."""
    file = folder / "official" / specimen.name / specimen.file
    return convert_specimen(specimen, file, folder / specimen.name, **options)
