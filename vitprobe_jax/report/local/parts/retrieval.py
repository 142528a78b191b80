"""Part retrieval: which patch the patch of a transformed image finds (Figs 5, 6 and 11, Table 3)."""

from collections.abc import Iterable, Mapping, Sequence

from vitprobe_jax.metrics.retrieval import OUTCOMES
from vitprobe_jax.report.figures.illustration import Illustration, caption, slug
from vitprobe_jax.report.figures.wording import capitalised
from vitprobe_jax.report.local.changes import changes
from vitprobe_jax.report.local.figures.stacks import Stack, stack_figure
from vitprobe_jax.report.local.methods import method_title, method_titles
from vitprobe_jax.report.local.parts.patches import PICTURED
from vitprobe_jax.report.local.statistics import statistics_tables
from vitprobe_jax.report.measured import answers
from vitprobe_jax.report.measured.answers import Answer
from vitprobe_jax.report.measured.figures.looks import Looks
from vitprobe_jax.report.measured.rows import PartTable, Row, values_by, variants_of
from vitprobe_jax.report.measured.tables import Column, Entry, Table, every_cell, number_table, variant_entries
from vitprobe_jax.report.measured.view import PartView, Sources, illustration
from vitprobe_jax.report.sentences import number

KINDS = ("shift", "rotation", "scale", "blur", "noise")
IDENTITY = "identity"
LABELS = {
    "same_patch": "the same patch",
    "same_fine": "its concept",
    "same_super": "its super category",
    "other_object": "another object",
    "background": "background",
}
COLOURS = dict(zip(OUTCOMES, ("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#808080"), strict=True))


FOUND = {"1-nn": "same_patch", "1-nn other images": "same_fine"}
"""What counts as found: with the patch's own image excluded, none can be the patch itself."""


def view(part: PartTable, sources: Sources) -> PartView:
    """The part on one data set."""
    rows, bounds = part.rows(*OUTCOMES), part.rows("upper_bound")
    by_method = {method: [row for row in rows if row.method == method] for method in FOUND}
    by_method = {method: own for method, own in by_method.items() if own}
    few = sources.looks.fewer(PICTURED)
    illustrations = [_figure(part, method, own, bounds, few) for method, own in by_method.items()]
    tables = [
        _found_table(by_method, bounds),
        *(_outcome_table(method, own) for method, own in by_method.items()),
        *(_level_table(method, own) for method, own in by_method.items()),
        *statistics_tables(part.rows("pixels", "patches")),
        *every_cell(part, "same_patch", "share of patches that find themselves", method_titles, method="1-nn"),
    ]
    return PartView(_answer(by_method), illustrations, tables)


def _answer(by_method: Mapping[str, Sequence[Row]]) -> Answer:
    said, card = [], None
    for method, rows in by_method.items():
        own = [row for row in rows if row.measure == FOUND[method]]
        changed = [row for row in own if row.setting != IDENTITY]
        over = "Over all transformations" if changed else "Without any transformation"
        found = answers.standings(changed or own)
        if "other" in method:
            said.append(
                answers.leads(found, f"{over}, in other images", "a share of patches that find their own concept")
            )
        else:
            lead = answers.leads(found, over, "a share of patches that find themselves")
            said.append(caption(lead, changes(found, "that share")))
        if card is None:
            best = answers.leader(found)
            card = number(best.value), best.name, f"share of patches that find {LABELS[FOUND[method]]}"
    return Answer(*card, said)


def _kinds(rows: Sequence[Row]) -> list[str]:
    present = {row.setting for row in rows}
    return [kind for kind in KINDS if kind in present] or [IDENTITY]


def _figure(part: PartTable, method: str, rows: Sequence[Row], bounds: Sequence[Row], looks: Looks) -> Illustration:
    rows = looks.shown(rows)
    shares = values_by(rows, "backbone", "dropped", "setting", "level", "measure")
    limits = values_by([row for row in bounds if row.method == method], "backbone", "dropped", "setting", "level")
    present = [measure for measure in OUTCOMES if any(row.measure == measure and row.value for row in rows)]
    grid = {}
    for variant, name in variants_of(rows).items():
        own = [row for row in rows if (row.backbone, row.dropped) == variant]
        grid[name] = {kind: _stack(variant, kind, own, present, shares, limits) for kind in _kinds(own)}
    excluded = "; the patches of its own image do not count" if "other" in method else ""
    alt = {f"{row.variant} {row.setting} {row.level:g}": row.value for row in rows if row.measure == FOUND[method]}
    return illustration(
        part,
        slug(method),
        stack_figure(grid, {measure: COLOURS[measure] for measure in present}, LABELS),
        title=f"What patches of transformed images find, by {method_title(method)}",
        caption=caption(
            f"Shares of {_asking(rows)} patches of the transformed images, all that show an object: the nearest of all "
            "original patches is the one that holds the patch's centre (the same patch), another one of its concept, and so "
            f"on{excluded}. The first bar (=) is of "
            "untransformed images. Shifts are in pixels along both axes, rotations in degrees, blur by the side of its "
            "kernel, noise by its deviation.",
            "Upper bound: the share whose centre lies within the original image." if limits else "",
            looks.note,
            "Figure 6 of the paper." if "other" in method else "Figures 5 and 11 of the paper.",
        ),
        alt=answers.numbers_in_words(alt, f"Shares that find {LABELS[FOUND[method]]}"),
    )


def _asking(rows: Sequence[Row]) -> str:
    """How many patches ask, which differs from level to level."""
    counts = {row.count for row in rows}
    return f"{min(counts):,}" if len(counts) == 1 else f"{min(counts):,} to {max(counts):,}"


def _stack(variant, kind, rows, present, shares, limits) -> Stack:
    """The shares of one variant under one kind of transformation, the untransformed images first."""
    levels = sorted({row.level for row in rows if row.setting == kind})
    places = [(IDENTITY, row.level) for row in rows if row.setting == IDENTITY][:1] if kind != IDENTITY else []
    places += [(kind, level) for level in levels]
    values = {measure: [shares.get((*variant, *place, measure), 0.0) for place in places] for measure in present}
    bound = [limits[*variant, *place] for place in places if (*variant, *place) in limits]
    ticks = ["=" if setting == IDENTITY else f"{level:g}".removeprefix("0") or "0" for setting, level in places]
    return Stack(ticks, values, bound if len(bound) == len(places) else ())


def _found_table(by_method: Mapping[str, Sequence[Row]], bounds: Sequence[Row]) -> Table:
    settings, entries = _settings(row for own in by_method.values() for row in own), []
    for method, rows in by_method.items():
        own = [row for row in rows if row.measure == FOUND[method]]
        values = values_by(own, "backbone", "dropped", "setting")
        group = capitalised(LABELS[FOUND[method]]) + (", own image excluded" if "other" in method else "")
        entries += variant_entries(own, values, [(setting,) for setting in settings], group)
        limits = values_by([row for row in bounds if row.method == method], "setting")
        if limits:
            # A bound is no contender, as a control is none.
            numbers = [limits.get((setting,)) for setting in settings]
            entries.append(Entry("upper bound", numbers, untrained=True, group=group, label_is_name=False))
    columns = [Column("none" if setting == IDENTITY else setting) for setting in settings]
    note = "Shares of the asking patches, means over the levels of each kind of transformation."
    return number_table("What is found again", "Backbone", columns, entries, note=note, best_in_group=True)


def _outcome_table(method: str, rows: Sequence[Row]) -> Table:
    settings, entries = _settings(rows), []
    for measure in OUTCOMES:
        own = [row for row in rows if row.measure == measure]
        values, places = values_by(own, "backbone", "dropped", "setting"), [(setting,) for setting in settings]
        entries += variant_entries(own, values, places, capitalised(LABELS[measure]))
    # Of most outcomes neither more nor less is better.
    columns = [Column("none" if setting == IDENTITY else setting, "") for setting in settings]
    return number_table(f"All that is found, by {method_title(method)}", "Backbone", columns, entries, folded=True)


def _settings(rows: Iterable[Row]) -> list[str]:
    present = {row.setting for row in rows}
    return [kind for kind in (IDENTITY, *KINDS) if kind in present]


def _level_table(method: str, rows: Sequence[Row]) -> Table:
    measure = FOUND[method]
    own = [row for row in rows if row.measure == measure]
    places = [
        (kind, level) for kind in _settings(rows) for level in sorted({row.level for row in own if row.setting == kind})
    ]
    values = values_by(own, "backbone", "dropped", "setting", "level")
    columns = [Column("none" if kind == IDENTITY else f"{kind} {level:g}") for kind, level in places]
    title = f"Share that finds {LABELS[measure]} at every level, by {method_title(method)}"
    return number_table(title, "Backbone", columns, variant_entries(own, values, places), folded=True)
