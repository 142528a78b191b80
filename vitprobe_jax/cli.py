"""How every command of the project starts and ends: flag files, one-line errors, exit codes."""

import sys
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path

from absl import app, flags, logging

from vitprobe_jax.errors import InputError


def run(main: Callable[[Sequence[str]], None], *, flagfile_package: str | None = None) -> None:
    """Parses the flags and calls `main(argv)`; never returns.

    Bad input (a flag that absl refuses, or an `InputError` from anywhere below) ends in one line on stderr and exit code
    2; Ctrl-C in one line and 130. Other exceptions are bugs and keep their traceback.

    Args:
        main: what to run, given the positional arguments (argv[0] is the program).
        flagfile_package: a package with `*.flags` files; a bare `--flagfile=NAME` that is no file here is looked up there.
    """

    def parse(argv: list[str]) -> list[str]:
        try:
            positional = flags.FLAGS(_resolve_flagfiles(argv, flagfile_package))
        except (flags.Error, InputError) as error:
            _fail(str(error))
        # absl would raise the default to INFO, where JAX tells of every backend it tries.
        if flags.FLAGS["verbosity"].using_default_value:
            flags.FLAGS.verbosity = logging.WARNING
        return positional

    def guarded(argv: Sequence[str]) -> None:
        try:
            main(argv)
        except InputError as error:
            _fail(str(error))
        except KeyboardInterrupt:
            _fail("interrupted; what was finished is kept", code=130)

    app.run(guarded, flags_parser=parse)


def _fail(message: str, code: int = 2):
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(code)


def _resolve_flagfiles(argv: list[str], package: str | None) -> list[str]:
    """`--flagfile=seg.flags` (or `--flagfile seg.flags`) with a bundled name becomes its full path."""
    resolved = list(argv)
    for i, argument in enumerate(resolved):
        name = argument.lstrip("-")
        if argument.startswith("-") and name.startswith("flagfile="):
            resolved[i] = "--flagfile=" + _find_flagfile(name.partition("=")[2], package)
        elif argument in ("-flagfile", "--flagfile") and i + 1 < len(resolved):
            resolved[i + 1] = _find_flagfile(resolved[i + 1], package)
    return resolved


def _find_flagfile(name: str, package: str | None) -> str:
    if Path(name).is_file():
        return name
    bundled = []
    if package is not None:
        folder = resources.files(package)
        bundled = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".flags"))
        if name in bundled:
            return str(folder / name)
    raise InputError(
        f"--flagfile: {name!r} is no file here, and none of the bundled ones ({', '.join(bundled) or 'none'})"
    )
