"""Part tracking: whether the nearest object some frames later is the same one (Figs 7, 9 and 12)."""

from collections.abc import Sequence

from vitprobe_jax.report.figures.illustration import Illustration, caption
from vitprobe_jax.report.figures.wording import capitalised
from vitprobe_jax.report.local.changes import changes
from vitprobe_jax.report.local.methods import method_titles
from vitprobe_jax.report.local.parts.patches import TILINGS
from vitprobe_jax.report.measured import answers
from vitprobe_jax.report.measured.answers import Answer
from vitprobe_jax.report.measured.figures.lines import line_figure, mean_bound, over
from vitprobe_jax.report.measured.figures.looks import variants_note
from vitprobe_jax.report.measured.rows import PartTable, Row, drops_of, values_by
from vitprobe_jax.report.measured.tables import Column, Entry, Table, every_cell, number_table, variant_entries
from vitprobe_jax.report.measured.view import PartView, Sources, illustration
from vitprobe_jax.report.sentences import number

MEASURES = {"same_instance": "same object", "same_category": "same category"}
FAILED = "failed_same_category"


def view(part: PartTable, sources: Sources) -> PartView:
    """The part on one data set."""
    rows = part.rows(*MEASURES)
    bounds = part.rows("upper_bound")
    tables = [
        _gap_table(measure, [row for row in rows if row.measure == measure], bounds, folded=measure != "same_instance")
        for measure in MEASURES
    ]
    tables += _failed_table(part.rows(FAILED))
    cells = every_cell(part, "same_instance", "mean share of the same object over all gaps", method_titles)
    return PartView(_answer(rows), [_figure(part, rows, bounds, sources)], [*tables, *cells])


def _tilings(rows: Sequence[Row]) -> list[str]:
    present = {row.tiling for row in rows}
    return [tiling for tiling in TILINGS if tiling in present]


def _answer(rows: Sequence[Row]) -> Answer:
    gap = max(row.level for row in rows)
    far = [row for row in rows if row.level == gap and row.measure == "same_instance"]
    sentences, best = [], None
    for tiling in _tilings(far):
        found = answers.standings([row for row in far if row.tiling == tiling])
        best = best or answers.leader(found)
        where = f"{gap:g} frame{'' if gap == 1 else 's'} later, by patches of {TILINGS[tiling]}"
        lead = answers.leads(found, where, "a share of objects found again")
        sentences.append(caption(lead, changes(found, "that share")))
    what = f"share of objects found again {gap:g} frame{'' if gap == 1 else 's'} later"
    return Answer(number(best.value), best.name, what, sentences)


def _figure(part: PartTable, rows: Sequence[Row], bounds: Sequence[Row], sources: Sources) -> Illustration:
    shown = sources.looks.shown(rows)
    gaps, drops, panels = sorted({row.level for row in rows}), drops_of(shown), []
    for measure, label in MEASURES.items():
        for tiling in _tilings(rows):
            own = [row for row in shown if (row.measure, row.tiling) == (measure, tiling)]
            limit = [row for row in bounds if row.tiling == tiling] if measure == "same_instance" else []
            panels.append(
                over(
                    own,
                    sources.looks,
                    title=f"{label}, {TILINGS[tiling]}",
                    xlabel="gap in frames",
                    ylabel="share of objects",
                    field="level",
                    order=gaps,
                    drops=drops,
                    bound=mean_bound(limit, "level"),
                )
            )
    said = {
        f"{row.variant}, {row.tiling}": row.value
        for row in shown
        if row.measure == "same_instance" and row.level == gaps[-1]
    }
    return illustration(
        part,
        "gaps",
        line_figure(panels, sources.looks.keys(shown), columns=2),
        title="Objects found again, over the gap between frames",
        caption=caption(
            f"The nearest of all objects of the later frame, by features under their boxes (ROIAlign); of "
            f"{min(row.count for row in rows):,} objects or more. Upper bound: the share whose object is still there.",
            variants_note(shown),
            sources.looks.note,
            "Figures 7, 9 and 12 of the paper.",
        ),
        alt=answers.numbers_in_words(said, f"Share of the same object {gaps[-1]:g} frames later"),
    )


def _gap_table(measure: str, rows: Sequence[Row], bounds: Sequence[Row], *, folded: bool) -> Table:
    gaps, entries = sorted({row.level for row in rows}), []
    for tiling in _tilings(rows):
        own = [row for row in rows if row.tiling == tiling]
        values = values_by(own, "backbone", "dropped", "level")
        group = capitalised(TILINGS[tiling])
        entries += variant_entries(own, values, [(gap,) for gap in gaps], group)
        limits = values_by([row for row in bounds if row.tiling == tiling], "level")
        if measure == "same_instance" and limits:
            # A bound is no contender, as a control is none.
            values = [limits.get((gap,)) for gap in gaps]
            entries.append(Entry("upper bound", values, untrained=True, group=group, label_is_name=False))
    columns = _columns(gaps)
    title = f"Share of objects whose nearest one later is the {MEASURES[measure]}"
    return number_table(title, "Backbone", columns, entries, folded=folded, best_in_group=True)


def _failed_table(rows: Sequence[Row]) -> list[Table]:
    """How many of the failed matches have the right category, by gap and over all gaps; none where no match failed."""
    if not rows:
        return []
    gaps, entries = sorted({row.level for row in rows if row.level is not None}), []
    for tiling in _tilings(rows):
        own = [row for row in rows if row.tiling == tiling]
        values = values_by(own, "backbone", "dropped", "level")
        entries += variant_entries(own, values, [*((gap,) for gap in gaps), (None,)], capitalised(TILINGS[tiling]))
    title = "Share of failed matches whose nearest object is of the right category"
    note = (
        "A match fails if it is another object, whether or not the right one is still there (Section 5.3 of the paper)."
    )
    columns = [*_columns(gaps), Column("all gaps")]
    return [number_table(title, "Backbone", columns, entries, note=note, folded=True, best_in_group=True)]


def _columns(gaps: Sequence[float]) -> list[Column]:
    return [Column(f"{gap:g} frame{'' if gap == 1 else 's'}") for gap in gaps]
