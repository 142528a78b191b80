"""Results folder of study 2 -> its report: one HTML page that needs no other file, no script and no network."""

from etils import epath

from vitprobe_jax.report.local.paper import compare_with_paper
from vitprobe_jax.report.local.parts import PARTS
from vitprobe_jax.report.measured.page import Study, write_study

LOCAL = Study(
    parts=PARTS,
    deciding=("miou", "same_instance", "accuracy", "same_patch", "mean_r2"),
    token="x2",
    compare=compare_with_paper,
    template="local/page_local.html.j2",
)


def write_local_report(folder: epath.PathLike) -> epath.Path:
    """Writes `report/index.html` and `report/figures/` into a results folder of study 2, see `write_study`."""
    return write_study(folder, LOCAL)
