"""Results folder of study 2 -> its report: one HTML page that needs no other file, no script and no network."""

import dataclasses
from collections.abc import Mapping, Sequence

from etils import epath
from markupsafe import Markup

from vitprobe_jax.backbones.untrained import OBJECTIVE as UNTRAINED
from vitprobe_jax.metrics.measurements import MEASUREMENTS
from vitprobe_jax.report.document import Picture, asset, distinct, environment, run_view, write_page
from vitprobe_jax.report.figures.illustration import slug, with_own_names
from vitprobe_jax.report.local.figures.looks import Looks
from vitprobe_jax.report.local.paper import PaperComparison, PaperRow, compare_with_paper
from vitprobe_jax.report.local.parts import VIEWS, PartView, Sources
from vitprobe_jax.report.local.rows import TITLES, PartTable, part_tables
from vitprobe_jax.report.local.skipped import Skipped, skipped_numbers
from vitprobe_jax.report.sweeps import Results, read_results
from vitprobe_jax.types import ALL_TOKENS

ASKED = {
    "patches": "Every patch of held-out images is told by its nearest patches of a small training draw, or by a linear "
    "probe.",
    "variance": "A few features vary far more than the others. What do distances between patches gain without them?",
    "corruptions": "Training patches are clean; the held-out images are blurred or noisy.",
    "retrieval": "An image is moved, turned, scaled, blurred or made noisy: which patch of the original images is nearest "
    "to each of its patches?",
    "tracking": "Boxes are annotated. Is an object's nearest object some frames later the same one?",
    "reconstruction": "MAE's decoder is given tokens without the features of highest, or of lowest, variance.",
    "context": "Each concept's share of the image is predicted from the patch in its middle.",
    "layers": "Patches are told by their nearest ones, block after block.",
    "scale": "Whole images are told by their nearest ones, seen from ever farther off.",
}
"""What each part asks, in a sentence."""


@dataclasses.dataclass(frozen=True)
class Study:
    """One part on one data set as the page shows it.

    Attributes:
        anchor: of its heading.
        part: its name.
        dataset: the data set's.
        view: figures and tables; None where everything was skipped.
        pictures: the figures, drawn.
        paper: published numbers beside the run's.
        skipped: what could not be measured.
    """

    anchor: str
    part: str
    dataset: str
    view: PartView | None
    pictures: Sequence[Picture]
    paper: Sequence[PaperRow]
    skipped: Sequence[Skipped]


def write_local_report(folder: epath.PathLike) -> epath.Path:
    """Writes `report/index.html` and `report/figures/` into a results folder of study 2; returns the path of the page.

    Published numbers stand beside those of the run wherever there are any. Figures of an earlier report go, see
    `document.write_page`.

    Raises:
        InputError: the folder, its results, `config.json`, `run.json` or pictures are missing or unreadable, or it is not
            writable.
    """
    (results,) = read_results([folder], MEASUREMENTS)
    parts = part_tables(results.table)
    paper = compare_with_paper(parts, results.config)
    studies = _studies(parts, paper, Sources(Looks.of(results.table), folder), results.label)
    pictures = [picture for study in studies for picture in study.pictures]
    return write_page(folder, _render(results, studies, paper), pictures)


def _studies(parts: Sequence[PartTable], paper: PaperComparison, sources: Sources, label: str) -> list[Study]:
    views = [VIEWS[part.part](part, sources) if part.has_numbers else None for part in parts]
    named = iter(with_own_names(one for view in views if view for one in view.illustrations))
    anchors: dict[str, int] = {}
    studies = []
    for part, view in zip(parts, views, strict=True):
        own = [next(named) for _ in view.illustrations] if view else []
        anchor = f"{part.part}-{slug(part.dataset)}"
        anchors[anchor] = anchors.get(anchor, 0) + 1
        studies.append(
            Study(
                anchor=anchor if anchors[anchor] == 1 else f"{anchor}-{anchors[anchor]}",
                part=part.part,
                dataset=part.dataset,
                view=view,
                pictures=[Picture.of(one, one.name, label) for one in own],
                paper=[row for row in paper.rows if (row.part, row.dataset) == (part.part, part.dataset)],
                skipped=skipped_numbers(part),
            )
        )
    return studies


def _render(results: Results, studies: Sequence[Study], paper: PaperComparison) -> str:
    table = results.table
    columns = ["backbone", "objective"]
    named = table.select(columns).group_by(columns, use_threads=False).aggregate([]).to_pylist()
    objectives = {row["backbone"]: row["objective"] for row in named}
    return (
        environment()
        .get_template("local/page_local.html.j2")
        .render(
            sweeps=[run_view(results.label, results.config, results.run)],
            several=False,
            datasets=distinct(table, "dataset"),
            backbones=list(objectives),
            controls=[name for name, objective in objectives.items() if objective == UNTRAINED],
            untrained=UNTRAINED,
            tokens=[token for token in ALL_TOKENS if token in distinct(table, "token")],
            parts=_by_part(studies),
            titles=TITLES,
            asked=ASKED,
            paper=paper,
            style=Markup(asset("page.css")),
        )
    )


def _by_part(studies: Sequence[Study]) -> Mapping[str, list[Study]]:
    parts: dict[str, list[Study]] = {}
    for study in studies:
        parts.setdefault(study.part, []).append(study)
    return parts
