"""How every command of the project starts and ends: flag files, one-line errors, exit codes, Ctrl-C."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path

from absl import app, flags, logging

from vitprobe_jax.errors import InputError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopError(RuntimeError):
    """The run has to end, by no fault of its input. The message is one line for the user; exit code 1."""


def run(
    main: Callable[[Sequence[str]], None], *, flagfile_package: str | None = None, interrupted: str | None = None
) -> None:
    """Parses the flags and calls `main(argv)`; never returns.

    Bad input (a flag that absl refuses, or an `InputError` from anywhere below) ends in one line on stderr and exit code
    2, a `StopError` in one line and 1, Ctrl-C in one line and 130. Other exceptions are bugs and keep their traceback.

    Args:
        main: what to run, given the positional arguments (argv[0] is the program).
        flagfile_package: a package with `*.flags` files; a bare `--flagfile=NAME` that is no file here is looked up there.
        interrupted: for a command that can be ended anywhere, since all its files are written whole: what it says then, how
            to go on. Ctrl-C and SIGTERM (143) end it at once. Other commands get Python's KeyboardInterrupt, which
            waits for what is being computed, and tidy up.
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
        if interrupted is not None:
            _end_on_signals(interrupted)
        try:
            main(argv)
            sys.stdout.flush()
        except BrokenPipeError:
            # Who reads has seen enough, as `head` does; what is left in the buffer must not be tried again on the way out.
            os._exit(128 + signal.SIGPIPE)
        except InputError as error:
            if main.__module__ == "__main__" and interrupted is None:
                # As a program of its own: on the way out, threads of libraries that have just begun may abort the process.
                _end(_line(str(error)), 2)
            _fail(str(error))
        except KeyboardInterrupt:
            _end("error: interrupted", 128 + signal.SIGINT)
        except StopError as error:
            # Not by sys.exit: on the way out JAX would wait for processes that are gone.
            _end(f"error: {error}", 1)

    app.run(guarded, flags_parser=parse)


def _end_on_signals(message: str) -> None:
    """Ends the process within a moment of SIGINT or SIGTERM, whatever it is in.

    Python runs its handlers between two instructions of the main thread, and a compiled fit may be one that takes minutes.
    The number of the signal is written to a pipe at once, though, and a thread waits there.
    """

    def wait() -> None:
        while (number := os.read(read, 1)[0]) not in _SIGNALS:
            pass
        _end(f"error: {message}", 128 + number)

    # Python's tracker of shared memory, a process of its own, frees what the workers leave then, but would complain of it.
    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker:UserWarning")
    read, write = os.pipe()
    os.set_blocking(write, False)
    for number in _SIGNALS:
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    threading.Thread(target=wait, daemon=True).start()


def _end(message: str, code: int) -> None:
    """Ends the process here and now, its worker processes too."""
    for child in multiprocessing.active_children():
        child.kill()
    print(message, file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(code)


def _fail(message: str):
    print(_line(message), file=sys.stderr)
    sys.exit(2)


def _line(message: str) -> str:
    return "error: " + " ".join(message.split())


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
