"""The report of a run, or of several sweeps compared, written again: `python -m experiments.report OUT [OUT2 ...]`."""

from collections.abc import Callable, Mapping, Sequence

from absl import flags
from etils import epath

from vitprobe_jax import cli
from vitprobe_jax.errors import InputError
from vitprobe_jax.report.aggregation.page import write_aggregation_report
from vitprobe_jax.report.local.page import write_local_report
from vitprobe_jax.report.page import write_report
from vitprobe_jax.report.sweeps import measured_study

_WRITERS: Mapping[str, Callable[[epath.PathLike], epath.Path]] = {
    "local": write_local_report,
    "aggregation": write_aggregation_report,
}
"""Of the studies whose results are measurements, which show one folder each; by the column `study`."""


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of this command."""
    flags.DEFINE_bool(
        "paper",
        False,
        "Set the published numbers beside those of the sweep, and say what forbids to take it for a reproduction. On the "
        "pages of the local and the aggregation study they always stand.",
        flag_values=values,
    )


def main(argv: Sequence[str]) -> None:
    """Writes the report into the first of the folders that are the arguments, and says where it is."""
    if len(argv) < 2:
        raise InputError("a results folder is needed: python -m experiments.report OUT [OUT2 ...]")
    print(f"report: {write_page(argv[1:], paper=flags.FLAGS.paper)}")


def write_page(folders: Sequence[str], *, paper: bool) -> epath.Path:
    """Writes the page of the study that the folders hold results of, told by their tables.

    Raises:
        InputError: folders of several studies, several of a study that shows one, or what the page's writer refuses.
    """
    studies = {folder: measured_study(folder, tuple(_WRITERS)) for folder in folders}
    measured = [folder for folder, study in studies.items() if study is not None]
    if not measured:
        return write_report(folders, paper=paper)
    first = measured[0]
    study = studies[first]
    for folder, other in studies.items():
        if other != study:
            raise InputError(
                f"{folder}: holds no results of the {study} study, as {first} does; a page shows one study: give them apart"
            )
    if len(folders) > 1:
        raise InputError(f"{folders[1]}: the page of the {study} study shows one results folder; give them one by one")
    return _WRITERS[study](first)


if __name__ == "__main__":
    define_flags()
    cli.run(main)
