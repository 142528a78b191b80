"""`python -m checkpoints_convert --input=FILE --output=DIR`; `--list` shows what there is, `--download` fetches it."""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from checkpoints_convert.convert import AUTO, check_output, convert
from checkpoints_convert.download import download
from checkpoints_convert.listing import families_markdown, families_text, files_text
from vitprobe_jax import cli
from vitprobe_jax.backbones.families import FAMILIES
from vitprobe_jax.errors import InputError

_OF_INPUT = ("input", "output", "download", "cache_dir")
_OF_CONVERSION = ("container", "num_heads", "decoder_heads", "mean", "std", "eps", "name")


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of this command."""
    flags.DEFINE_enum(
        "family",
        AUTO,
        [AUTO, *FAMILIES],
        f"Pre-training family; {AUTO} recognises it by the keys of the file.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "arch",
        None,
        "Published checkpoint of --family, against which the file is checked; --list shows them. Unless given, the one of "
        "the file's sizes.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "container",
        None,
        "Which of several sets of weights in the file: teacher or student, target_encoder or encoder; the family's first "
        "choice unless given.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "input",
        None,
        "Official file (.pth, .pt, .tar, .pyth, .bin, .safetensors), or a Hugging Face folder.",
        flag_values=values,
    )
    flags.DEFINE_string("output", None, "Folder to write; must be new or empty.", flag_values=values)
    flags.DEFINE_integer(
        "num_heads",
        None,
        "Attention heads, for sizes that are not published; needed where neither the file nor its config.json tells them.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "decoder_heads",
        None,
        "Heads of MAE's decoder, for sizes that are not published.",
        lower_bound=1,
        flag_values=values,
    )
    for name, what in (("mean", "Mean"), ("std", "Standard deviation")):
        flags.DEFINE_list(
            name,
            None,
            f"{what} of the images, for red, green and blue in 0..1, as 0.5,0.5,0.5; that of the folder's config.json or "
            "preprocessor_config.json, else the family's, unless given.",
            flag_values=values,
        )
    flags.DEFINE_float(
        "eps",
        None,
        "Epsilon of every norm; that of the folder's config.json, else the family's, unless given.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "name", None, "Name in results; FAMILY_ARCH, or the folder's, unless given.", flag_values=values
    )
    flags.DEFINE_bool(
        "list",
        False,
        "Print the table of families, or with --family that of its published files, and end.",
        flag_values=values,
    )
    flags.DEFINE_bool("markdown", False, "Print --list's table of families in Markdown.", flag_values=values)
    flags.DEFINE_bool(
        "download",
        False,
        "Fetch the official file of --family and --arch, and convert it where --output is given.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "cache_dir",
        None,
        "Folder in which --download keeps files; vitprobe_jax/checkpoints in $XDG_CACHE_HOME or ~/.cache unless given.",
        flag_values=values,
    )


def main(argv: Sequence[str]) -> None:
    """Lists, downloads or converts, as the flags say."""
    if len(argv) > 1:
        raise InputError(f"{argv[1]!r}: not a flag; every argument is a --flag=value")
    values = flags.FLAGS
    if values.list:
        _refuse(
            values,
            ("arch", *_OF_INPUT, *_OF_CONVERSION),
            "--list prints a table and does nothing else; leave one of them out",
        )
        _print_list(values)
        return
    _refuse(values, ("markdown",), "is for the table of families; give --list too")
    if values.download:
        _refuse(values, ("input",), "--download fetches the file; leave one of them out")
        if values.output is None:
            _refuse(values, _OF_CONVERSION, "is for a conversion; give --output too, or leave it out")
        if values.output is not None:
            # Before gigabytes are fetched.
            check_output(Path(values.output).expanduser())
        source = _download(values)
        if values.output is None:
            print(f"fetched {source}; give it by --input, or --output=DIR with the same flags to convert it")
            return
    else:
        _refuse(values, ("cache_dir",), "is where --download keeps files; leave it out without that")
        for flag, mend in (
            ("input", "the official file or a Hugging Face folder, or --download with --family and --arch; see --list"),
            ("output", "the folder to write"),
        ):
            if not values[flag].value:
                raise InputError(f"--{flag}: is missing; give {mend}")
        source = Path(values.input).expanduser()
    spec = convert(
        source,
        Path(values.output).expanduser(),
        family=values.family,
        arch=values.arch,
        container=values.container,
        num_heads=values.num_heads,
        decoder_heads=values.decoder_heads,
        mean=_numbers("mean", values.mean),
        std=_numbers("std", values.std),
        eps=values.eps,
        name=values.name,
        log=print,
    )
    if values.family == AUTO:
        print(f"recognised as {spec.family}: {spec.objective}")


def _numbers(flag: str, words: Sequence[str] | None) -> list[float] | None:
    """The numbers of a flag that takes a list."""
    try:
        return None if words is None else [float(word) for word in words]
    except ValueError as error:
        raise InputError(f"--{flag}: {','.join(words)!r} is not three numbers; give them as 0.5,0.5,0.5") from error


def _refuse(values: flags.FlagValues, names: Sequence[str], why: str) -> None:
    """Refuses flags that would be without effect."""
    for name in names:
        if values[name].value not in (None, False):
            raise InputError(f"--{name}: {why}")


def _print_list(values: flags.FlagValues) -> None:
    if values.family == AUTO:
        print(families_markdown() if values.markdown else families_text())
        return
    _refuse(values, ("markdown",), "is for the table of families; leave it out, or --family")
    family = FAMILIES[values.family]
    print(f"{family.name}: {family.objective}, {family.paper}; {family.licence}; {family.page}\n")
    print(files_text(family))


def _download(values: flags.FlagValues) -> Path:
    """The official file of `--family` and `--arch`."""
    if values.family == AUTO:
        raise InputError(f"--download: of which --family? give one of {', '.join(FAMILIES)}")
    family = FAMILIES[values.family]
    if values.arch not in family.archs:
        which = "--arch is missing" if values.arch is None else f"--arch: {values.arch!r} is none of them"
        raise InputError(f"--download: {which}; give one of {', '.join(family.archs)}")
    arch = family.archs[values.arch]
    if not arch.url:
        raise InputError(
            f"--download: {arch.file} has no address that is open to all; get it from {family.page} and give it by "
            "--input=FILE"
        )
    cache_dir = None if values.cache_dir is None else Path(values.cache_dir).expanduser()
    return download(arch.url, cache_dir, sha256=arch.sha256, log=print)


if __name__ == "__main__":
    define_flags()
    cli.run(main)
