"""The report of a run, or of several sweeps compared, written again: `python -m experiments.report OUT [OUT2 ...]`."""

from collections.abc import Sequence

from absl import flags
from etils import epath

from vitprobe_jax import cli
from vitprobe_jax.errors import InputError
from vitprobe_jax.metrics.measurements import MEASUREMENTS
from vitprobe_jax.report.local.page import write_local_report
from vitprobe_jax.report.page import write_report
from vitprobe_jax.report.sweeps import holds


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of this command."""
    flags.DEFINE_bool(
        "paper",
        False,
        "Set the published numbers beside those of the sweep, and say what forbids to take it for a reproduction. On the "
        "page of the local study they always stand.",
        flag_values=values,
    )


def main(argv: Sequence[str]) -> None:
    """Writes the report into the first of the folders that are the arguments, and says where it is."""
    if len(argv) < 2:
        raise InputError("a results folder is needed: python -m experiments.report OUT [OUT2 ...]")
    print(f"report: {write_page(argv[1:], paper=flags.FLAGS.paper)}")


def write_page(folders: Sequence[str], *, paper: bool) -> epath.Path:
    """Writes the page of the study that the folders hold results of, told by the columns of their tables.

    Raises:
        InputError: folders of both studies, several of the local one, or what the page's writer refuses.
    """
    local = [folder for folder in folders if holds(folder, MEASUREMENTS)]
    if not local:
        return write_report(folders, paper=paper)
    others = [folder for folder in folders if folder not in local]
    if others:
        raise InputError(
            f"{others[0]}: holds no results of the local study, as {local[0]} does; a page shows one study: give them apart"
        )
    if len(local) > 1:
        raise InputError(f"{local[1]}: the page of the local study shows one results folder; give them one by one")
    return write_local_report(local[0])


if __name__ == "__main__":
    define_flags()
    cli.run(main)
