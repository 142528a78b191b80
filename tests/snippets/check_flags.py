"""Parses the flags of many commands in one process: JSON on stdin, [[module, arguments], ...]; on stdout what went wrong.

Each command runs as itself (`runpy`), in a fork, with absl's `--only_check_args`, which ends it where its work would
begin. The modules that take long to import are imported once, before.
"""

import json
import os
import runpy
import sys
import tempfile
import traceback

import experiments.aggregate.run
import experiments.local.run
import experiments.sweep  # noqa: F401, what most commands import


def check(module: str, arguments: list[str]) -> str | None:
    """What the command said against its flags, or None."""
    with tempfile.TemporaryFile("w+") as said:
        if (child := os.fork()) == 0:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
            code: object = 1
            try:
                sys.argv = [module, *arguments, "--only_check_args"]
                # The same name for the package and for what runs it: runpy imports the one before the other.
                runpy.run_module(module, run_name="__main__", alter_sys=True)
                print("ended without parsing its flags")
            except SystemExit as stop:
                code = stop.code or 0
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code if isinstance(code, int) else 1)
        _, status = os.waitpid(child, 0)
        said.seek(0)
        return None if status == 0 else said.read()


def main() -> None:
    """Checks all commands of stdin."""
    wrong = {}
    for module, arguments in json.load(sys.stdin):
        if (message := check(module, arguments)) is not None:
            wrong[" ".join(["python -m", module, *arguments])] = message
    json.dump(wrong, sys.stdout)


if __name__ == "__main__":
    main()
