"""Results folder of a study of many parts -> its page: one HTML file that needs no other, no script and no network."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa
from etils import epath
from markupsafe import Markup

from vitprobe_jax.backbones.untrained import OBJECTIVE as UNTRAINED
from vitprobe_jax.metrics.measurements import MEASUREMENTS
from vitprobe_jax.report.document import Picture, asset, distinct, environment, run_view, write_page
from vitprobe_jax.report.figures.illustration import slug, with_own_names
from vitprobe_jax.report.measured.figures.looks import Looks
from vitprobe_jax.report.measured.paper import PaperComparison, PaperRow
from vitprobe_jax.report.measured.rows import PartTable, part_tables
from vitprobe_jax.report.measured.skipped import Skipped, skipped_numbers
from vitprobe_jax.report.measured.view import PartOfPage, PartView, Sources
from vitprobe_jax.report.sweeps import Results, read_results
from vitprobe_jax.types import ALL_TOKENS, Token


@dataclasses.dataclass(frozen=True)
class Study:
    """What makes the page of one study.

    Attributes:
        parts: by their names, in the page's order.
        deciding: measures that backbones are ranked by, see `Looks.of`.
        token: that is shown where several were measured.
        compare: sets published numbers beside those of a run, by its parts and its configuration, to which
            `backbone_files` is added: the file that each backbone was converted from.
        template: of the page, by its path among the report's; it extends `measured/page.html.j2`.
        method_title: what methods are called where numbers are skipped; None where the reason never hangs on the method.
    """

    parts: Mapping[str, PartOfPage]
    deciding: Sequence[str]
    token: Token
    compare: Callable[[Sequence[PartTable], Mapping], PaperComparison]
    template: str
    method_title: Callable[[str], str] | None = None

    def tables(self, table: pa.Table) -> list[PartTable]:
        """What each part measured on each data set."""
        return part_tables(table, {name: part.leading for name, part in self.parts.items()}, self.token)

    def sources(self, table: pa.Table, folder: epath.PathLike) -> Sources:
        """What parts are shown from beside their rows."""
        return Sources(Looks.of(table, self.deciding), folder)


@dataclasses.dataclass(frozen=True)
class Section:
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


def write_study(folder: epath.PathLike, study: Study) -> epath.Path:
    """Writes `report/index.html` and `report/figures/` into a results folder; returns the path of the page.

    Published numbers stand beside those of the run wherever there are any. Figures of an earlier report go, see
    `document.write_page`.

    Raises:
        InputError: the folder, its results, `config.json`, `run.json` or pictures are missing or unreadable, or it is not
            writable.
    """
    (results,) = read_results([folder], MEASUREMENTS)
    parts = study.tables(results.table)
    paper = study.compare(parts, {**results.config, "backbone_files": results.run.get("backbones") or {}})
    sections = _sections(study, parts, paper, study.sources(results.table, folder), results.label)
    pictures = [picture for section in sections for picture in section.pictures]
    return write_page(folder, _render(study, results, sections, paper), pictures)


def _sections(
    study: Study, parts: Sequence[PartTable], paper: PaperComparison, sources: Sources, label: str
) -> list[Section]:
    views = [study.parts[part.part].view(part, sources) if part.has_numbers else None for part in parts]
    named = iter(with_own_names(one for view in views if view for one in view.illustrations))
    anchors: dict[str, int] = {}
    sections = []
    for part, view in zip(parts, views, strict=True):
        own = [next(named) for _ in view.illustrations] if view else []
        anchor = f"{part.part}-{slug(part.dataset)}"
        anchors[anchor] = anchors.get(anchor, 0) + 1
        sections.append(
            Section(
                anchor=anchor if anchors[anchor] == 1 else f"{anchor}-{anchors[anchor]}",
                part=part.part,
                dataset=part.dataset,
                view=view,
                pictures=[Picture.of(one, one.name, label) for one in own],
                paper=[row for row in paper.rows if (row.part, row.dataset) == (part.part, part.dataset)],
                skipped=skipped_numbers(part, study.method_title),
            )
        )
    return sections


def _render(study: Study, results: Results, sections: Sequence[Section], paper: PaperComparison) -> str:
    table = results.table
    columns = ["backbone", "objective"]
    named = table.select(columns).group_by(columns, use_threads=False).aggregate([]).to_pylist()
    objectives = {row["backbone"]: row["objective"] for row in named}
    return (
        environment()
        .get_template(study.template)
        .render(
            sweeps=[run_view(results.label, results.config, results.run)],
            several=False,
            datasets=distinct(table, "dataset"),
            backbones=list(objectives),
            controls=[name for name, objective in objectives.items() if objective == UNTRAINED],
            untrained=UNTRAINED,
            tokens=[token for token in ALL_TOKENS if token in distinct(table, "token")],
            sections=_by_part(sections),
            parts=study.parts,
            paper=paper,
            style=Markup(asset("page.css")),
        )
    )


def _by_part(sections: Sequence[Section]) -> Mapping[str, list[Section]]:
    parts: dict[str, list[Section]] = {}
    for section in sections:
        parts.setdefault(section.part, []).append(section)
    return parts
