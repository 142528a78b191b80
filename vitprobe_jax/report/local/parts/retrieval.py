"""Part retrieval: which patch the patch of a transformed image finds (Figs 5, 6 and 11)."""

from collections.abc import Sequence

from vitprobe_jax.metrics.retrieval import OUTCOMES
from vitprobe_jax.report.figures.illustration import Illustration, caption, slug
from vitprobe_jax.report.figures.wording import capitalised
from vitprobe_jax.report.local import answers
from vitprobe_jax.report.local.answers import Answer
from vitprobe_jax.report.local.figures.stacks import Stack, stack_figure
from vitprobe_jax.report.local.parts.view import PartView, Sources, illustration
from vitprobe_jax.report.local.rows import PartTable, Row, method_title, methods_of, values_by, variants_of
from vitprobe_jax.report.local.tables import Column, Entry, Table, every_cell, number_table, variant_entries
from vitprobe_jax.report.sentences import number

KINDS = ("shift", "rotation", "scale", "blur", "noise")
IDENTITY = "identity"
LABELS = {
    "same_patch": "the same patch",
    "same_fine": "its concept",
    "same_super": "its super category",
    "other_object": "another object",
    "background": "background",
    "left_frame": "left the frame",
}
COLOURS = dict(zip(OUTCOMES, ("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#808080", "#C8C8C8"), strict=True))


def view(part: PartTable, sources: Sources) -> PartView:
    """The part on one data set."""
    rows = part.rows(*OUTCOMES)
    bounds = part.rows("upper_bound")
    methods = methods_of(rows)
    illustrations = [_figure(part, method, rows, bounds, sources) for method in methods]
    tables = [_summary(method, [row for row in rows if row.method == method], bounds) for method in methods]
    tables += [_levels(method, [row for row in rows if row.method == method]) for method in methods]
    tables += every_cell(part, "same_patch", "share of patches that find themselves", method=methods[0])
    return PartView(_answer(rows, methods), illustrations, tables)


def _found(method: str) -> tuple[str, ...]:
    """The outcomes that count as found: with the own image excluded, none can be the patch itself."""
    return ("same_fine",) if "other" in method else ("same_patch",)


def _answer(rows: Sequence[Row], methods: Sequence[str]) -> Answer:
    said, best, what = [], None, ""
    for method in methods:
        changed = [row for row in rows if row.method == method and row.setting != IDENTITY]
        own = [row for row in changed if row.measure in _found(method)]
        if not own:
            continue
        found = answers.standings(own)
        if "other" in method:
            said.append(answers.leads(found, "Among the patches of other images", "a share that finds its own concept"))
        else:
            said.append(answers.leads(found, "Over all transformations", "a share of patches that find themselves"))
            said.append(answers.changes(found, "that share"))
        if best is None:
            best, what = answers.leader(found), LABELS[own[0].measure]
    if best is None:
        best, what = (
            answers.leader(answers.standings([row for row in rows if row.measure == rows[0].measure])),
            "untransformed",
        )
    return Answer(number(best.value), best.name, f"share of patches that find {what}", [text for text in said if text])


def _kinds(rows: Sequence[Row]) -> list[str]:
    present = {row.setting for row in rows}
    return [kind for kind in KINDS if kind in present] or [IDENTITY]


def _figure(part: PartTable, method: str, rows: Sequence[Row], bounds: Sequence[Row], sources: Sources) -> Illustration:
    rows = [row for row in sources.looks.shown(rows) if row.method == method]
    shares = values_by(rows, "backbone", "dropped", "setting", "level", "measure")
    limits = values_by([row for row in bounds if row.method == method], "backbone", "dropped", "setting", "level")
    present = [measure for measure in OUTCOMES if any(row.measure == measure and row.value for row in rows)]
    grid = {}
    for variant, name in variants_of(rows).items():
        own = [row for row in rows if (row.backbone, row.dropped) == variant]
        grid[name] = {kind: _stack(variant, kind, own, present, shares, limits) for kind in _kinds(own)}
    excluded = "; the patches of its own image do not count" if "other" in method else ""
    alt = {f"{row.variant} {row.setting} {row.level:g}": row.value for row in rows if row.measure in _found(method)}
    return illustration(
        part,
        slug(method),
        stack_figure(grid, {measure: COLOURS[measure] for measure in present}, LABELS),
        title=f"What patches of transformed images find, by {method_title(method)}",
        caption=caption(
            f"Shares of {max(row.count for row in rows):,} patches on annotated objects: the nearest of all original "
            f"patches is the patch itself, another one of its concept, and so on{excluded}. The first bar (=) is of "
            "untransformed images. Shifts are in pixels along both axes, rotations in degrees, blur and noise by their "
            "deviation.",
            "Upper bound: the share whose counterpart can be told at all." if limits else "",
            sources.looks.note,
            "Figure 11 of the paper." if "other" in method else "Figures 5 and 6 of the paper.",
        ),
        alt=answers.numbers_in_words(alt, f"Shares that find {LABELS[_found(method)[0]]}"),
    )


def _stack(variant, kind, rows, present, shares, limits) -> Stack:
    """The shares of one variant under one kind of transformation, the untransformed images first."""
    levels = sorted({row.level for row in rows if row.setting == kind})
    places = [(IDENTITY, row.level) for row in rows if row.setting == IDENTITY][:1] if kind != IDENTITY else []
    places += [(kind, level) for level in levels]
    values = {measure: [shares.get((*variant, *place, measure), 0.0) for place in places] for measure in present}
    bound = [limits[*variant, *place] for place in places if (*variant, *place) in limits]
    ticks = ["=" if setting == IDENTITY else f"{level:g}" for setting, level in places]
    return Stack(ticks, values, bound if len(bound) == len(places) else ())


def _summary(method: str, rows: Sequence[Row], bounds: Sequence[Row]) -> Table:
    entries = []
    for measure in OUTCOMES:
        own = [row for row in rows if row.measure == measure]
        if not any(row.value for row in own):
            continue
        values = values_by(own, "backbone", "dropped", "setting")
        entries += variant_entries(own, values, [(kind,) for kind in _settings(rows)], capitalised(LABELS[measure]))
    limits = values_by([row for row in bounds if row.method == method], "setting")
    if limits:
        entries.append(
            Entry(
                "any",
                [limits.get((kind,)) for kind in _settings(rows)],
                group="Upper bound of the same patch",
                label_is_name=False,
            )
        )
    # Of most outcomes neither more nor less is better.
    columns = [Column("none" if kind == IDENTITY else kind, "") for kind in _settings(rows)]
    note = "Shares of the asked patches, means over the levels of each kind of transformation."
    return number_table(f"What is found, by {method_title(method)}", "Backbone", columns, entries, note=note)


def _settings(rows: Sequence[Row]) -> list[str]:
    present = {row.setting for row in rows}
    return [kind for kind in (IDENTITY, *KINDS) if kind in present]


def _levels(method: str, rows: Sequence[Row]) -> Table:
    (measure,) = _found(method)
    own = [row for row in rows if row.measure == measure]
    places = [
        (kind, level) for kind in _settings(rows) for level in sorted({row.level for row in own if row.setting == kind})
    ]
    values = values_by(own, "backbone", "dropped", "setting", "level")
    columns = [Column("none" if kind == IDENTITY else f"{kind} {level:g}") for kind, level in places]
    title = f"Share that finds {LABELS[measure]} at every level, by {method_title(method)}"
    return number_table(title, "Backbone", columns, variant_entries(own, values, places), folded=True)
