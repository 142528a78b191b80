"""The report of a results folder, written again: `python -m experiments.report OUT`."""

from collections.abc import Sequence
from pathlib import Path

from vitprobe_jax import cli
from vitprobe_jax.errors import InputError
from vitprobe_jax.report.page import write_report


def main(argv: Sequence[str]) -> None:
    """Writes the report of the folder that is the only argument, and says where it is."""
    if len(argv) != 2:
        raise InputError(f"one results folder is needed, got {len(argv) - 1}: python -m experiments.report OUT")
    print(f"report: {write_report(Path(argv[1]))}")


if __name__ == "__main__":
    cli.run(main)
