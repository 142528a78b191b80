"""Results folder of study 3 -> its report: one HTML page that needs no other file, no script and no network."""

from etils import epath

from vitprobe_jax.report.aggregation.paper import compare_with_paper
from vitprobe_jax.report.aggregation.parts import PARTS
from vitprobe_jax.report.aggregation.representations import title
from vitprobe_jax.report.measured.page import Study, write_study

AGGREGATION = Study(
    parts=PARTS,
    deciding=("top1_best", "map_best", "maxboxaccv2"),
    token="x2_raw",
    compare=compare_with_paper,
    template="aggregation/page_aggregation.html.j2",
    method_title=title,
)


def write_aggregation_report(folder: epath.PathLike) -> epath.Path:
    """Writes `report/index.html` and `report/figures/` into a results folder of study 3, see `write_study`."""
    return write_study(folder, AGGREGATION)
