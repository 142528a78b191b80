"""The report of one sweep, or of several compared, written again: `python -m experiments.report OUT [OUT2 ...]`."""

from collections.abc import Sequence

from absl import flags

from vitprobe_jax import cli
from vitprobe_jax.errors import InputError
from vitprobe_jax.report.page import write_report


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of this command."""
    flags.DEFINE_bool(
        "paper",
        False,
        "Set the published numbers beside those of the sweep, and say what forbids to take it for a reproduction.",
        flag_values=values,
    )


def main(argv: Sequence[str]) -> None:
    """Writes the report into the first of the folders that are the arguments, and says where it is."""
    if len(argv) < 2:
        raise InputError("a results folder is needed: python -m experiments.report OUT [OUT2 ...]")
    print(f"report: {write_report(argv[1:], paper=flags.FLAGS.paper)}")


if __name__ == "__main__":
    define_flags()
    cli.run(main)
