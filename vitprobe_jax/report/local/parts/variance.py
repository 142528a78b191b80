"""Part variance: the spectrum of the features' variances, and what leaving out the highest ones does (Fig. 2)."""

import statistics
from collections import defaultdict
from collections.abc import Sequence

from vitprobe_jax.report.figures.illustration import Illustration, caption
from vitprobe_jax.report.local import answers
from vitprobe_jax.report.local.answers import Answer
from vitprobe_jax.report.local.figures.lines import Line, Panel, line_figure
from vitprobe_jax.report.local.parts.patches import count_words, draw_words, main_methods
from vitprobe_jax.report.local.parts.view import PartView, Sources, illustration
from vitprobe_jax.report.local.rows import PartTable, Row, backbones_of, method_title, methods_of, values_by
from vitprobe_jax.report.local.tables import Column, Entry, Table, number_table
from vitprobe_jax.report.sentences import listed, number

_TOP = 10
_SPELLED_OUT = 3


def view(part: PartTable, sources: Sources) -> PartView:
    """The part on one data set."""
    spectrum = part.rows("variance")
    curves = part.rows("miou", setting="removed")
    overlaps = part.rows("overlap")
    tables = [*_curve_tables(curves), *_overlap_tables(overlaps), *_spectrum_tables(spectrum)]
    figure = [_figure(part, spectrum, curves, sources)] if spectrum or curves else []
    return PartView(_answer(spectrum, curves, overlaps), figure, tables)


def _answer(spectrum: Sequence[Row], curves: Sequence[Row], overlaps: Sequence[Row]) -> Answer:
    said, value, holder, what = [], "", "", ""
    for method in main_methods(curves):
        gains = {backbone: _best(own) for backbone, own in _curves(curves, method).items()}
        backbone, (removed, first, best) = max(gains.items(), key=lambda one: one[1][2] - one[1][1])
        by = method_title(method) if "nn" in method else "a linear probe"
        if removed:
            said.append(
                f"By {by}, {backbone} gains most from leaving out features of high variance: its mIoU is {number(first)} "
                f"with all of them and {number(best)} without the top {removed}, its best."
            )
        else:
            said.append(f"By {by}, no backbone gains from leaving out features of high variance.")
        if not value:
            what = f"mIoU by {by}: from all features to the best choice of them"
            value, holder = f"{number(first)} to {number(best)}", backbone
    ratios = {name: highest / median for name, (highest, _, median, _) in _spectra(spectrum).items() if median > 0}
    if ratios:
        ranked = sorted(ratios, key=lambda name: -ratios[name])
        named = ranked if len(ranked) <= _SPELLED_OUT else [ranked[0], ranked[-1]]
        each = listed([f"{_times(ratios[name])} in {name}" for name in named])
        said.append(f"The highest variance of a feature is {each} the median.")
        if not value:
            value, holder, what = _times(ratios[ranked[0]]), ranked[0], "highest variance over the median"
    shared = [row for row in overlaps if row.setting == "other data set"]
    if shared:
        low = min(shared, key=lambda row: row.value)
        at_least = "" if len(shared) == 1 else "at least "
        said.append(
            f"Data sets agree on which they are: {at_least}{round(low.value * low.dropped)} of the top {low.dropped} are "
            f"the same ({low.backbone}, {low.dataset} and {low.name})."
        )
    return Answer(value, holder, what, said)


def _times(ratio: float) -> str:
    return f"{ratio:,.3g} times" if ratio < 100 else f"{ratio:,.0f} times"


def _curves(rows: Sequence[Row], method: str) -> dict[str, list[tuple[int, float]]]:
    """By backbone, numbers of features that are left out, ascending, and the mIoU."""
    curves = defaultdict(list)
    for (backbone, dropped), value in values_by(
        [row for row in rows if row.method == method], "backbone", "dropped"
    ).items():
        curves[backbone].append((dropped, value))
    return {backbone: sorted(own) for backbone, own in curves.items()}


def _best(curve: Sequence[tuple[int, float]]) -> tuple[int, float, float]:
    """How many to leave out for the highest mIoU, the fewest of equals; the mIoU with the most features, and the highest."""
    removed, best = max(curve, key=lambda point: (point[1], -point[0]))
    return removed, curve[0][1], best


def _spectra(rows: Sequence[Row]) -> dict[str, tuple[float, float, float, float]]:
    """By backbone: the highest variance, that of rank `_TOP`, the median, and the share of the top ones in the sum."""
    variances = defaultdict(list)
    for row in rows:
        variances[row.backbone].append(row.value)
    found = {}
    for backbone, own in variances.items():
        own.sort(reverse=True)
        share = sum(own[:_TOP]) / sum(own) if sum(own) > 0 else 0.0
        found[backbone] = own[0], own[min(_TOP, len(own)) - 1], statistics.median(own), share
    return found


def _figure(part: PartTable, spectrum: Sequence[Row], curves: Sequence[Row], sources: Sources) -> Illustration:
    marks = sources.looks.marks
    panels, said = [], []
    if spectrum:
        points = defaultdict(list)
        for row in sources.looks.shown(spectrum):
            points[row.backbone].append((row.level, row.value))
        lines = [Line(name, marks[name], "-", sorted(own)) for name, own in points.items()]
        panels.append(Panel("variances, sorted", "rank", "variance", lines, logarithmic=True, markers=False))
        ratios = {name: own[0] / own[2] for name, own in _spectra(spectrum).items() if own[2] > 0}
        said.append(answers.numbers_in_words(ratios, "Highest variance over the median", decimals=1))
    shown = sources.looks.shown(curves)
    for method in methods_of(shown):
        lines = [Line(name, marks[name], "-", own) for name, own in _curves(shown, method).items()]
        panels.append(Panel(method_title(method), "features left out", "mIoU", lines, symlog=True))
        bests = {f"{name} without {_best(own)[0]}": _best(own)[2] for name, own in _curves(shown, method).items()}
        said.append(answers.numbers_in_words(bests, f"Best mIoU by {method_title(method)}"))
    how = f"{draw_words(curves)}; {count_words(curves)}." if curves else ""
    return illustration(
        part,
        "spectrum",
        line_figure(panels, sources.looks.keys([*sources.looks.shown(spectrum), *shown], variants=False)),
        title="Variances of the features, and mIoU without the highest ones",
        caption=caption(
            "Variances over the patches of the training draw; features are left out from the highest variance down.",
            how,
            sources.looks.note,
            "Figure 2 of the paper.",
        ),
        alt=" ".join(said),
    )


def _curve_tables(rows: Sequence[Row]) -> list[Table]:
    untrained = {row.backbone: row.untrained for row in rows}
    summary, every = [], []
    steps = sorted({row.dropped for row in rows})
    for method in methods_of(rows):
        for backbone, curve in _curves(rows, method).items():
            removed, first, best = _best(curve)
            of = {"backbone": backbone, "untrained": untrained[backbone], "group": method_title(method)}
            values = dict(curve)
            summary.append(Entry(backbone, [first, best, removed, values.get(200)], **of))
            every.append(Entry(backbone, [values.get(step) for step in steps], **of))
    if not summary:
        return []
    columns = [
        Column("All features"),
        Column("Best"),
        Column("Left out for the best", "", 0),
        Column("Without the top 200"),
    ]
    return [
        number_table("mIoU without the features of highest variance", "Backbone", columns, summary, best_in_group=True),
        number_table(
            "mIoU over the number of features left out",
            "Backbone",
            [Column(str(step)) for step in steps],
            every,
            folded=True,
            best_in_group=True,
        ),
    ]


def _overlap_tables(rows: Sequence[Row]) -> list[Table]:
    """How many of the top features are the same by another data set, and by BatchNorm's running variance."""
    others = dict.fromkeys((row.dropped, row.setting, row.name) for row in rows)
    if not others:
        return []
    shared = {key: value * key[1] for key, value in values_by(rows, "backbone", "dropped", "setting", "name").items()}
    untrained = {row.backbone: row.untrained for row in rows}
    entries = [
        Entry(backbone, [shared.get((backbone, *other)) for other in others], backbone, untrained[backbone])
        for backbone in backbones_of(rows)
    ]
    columns = [Column(f"of {dropped}, with {name or 'BatchNorm'}", "", 0) for dropped, _, name in others]
    note = (
        "Of the features of highest variance, how many are the same by another data set, or by the running variance of a "
        "linear probe's BatchNorm, which only sees patches that carry a concept. Section 6 of the paper."
    )
    return [number_table("The same top features", "Backbone", columns, entries, note=note)]


def _spectrum_tables(rows: Sequence[Row]) -> list[Table]:
    untrained = {row.backbone: row.untrained for row in rows}
    entries = [
        Entry(backbone, [highest, tenth, median, share], backbone, untrained[backbone])
        for backbone, (highest, tenth, median, share) in _spectra(rows).items()
    ]
    columns = [
        Column("Highest", "", 4),
        Column(f"{_TOP}th", "", 4),
        Column("Median", "", 4),
        Column(f"Share of the top {_TOP}", ""),
    ]
    return [number_table("Variances of the features", "Backbone", columns, entries, folded=True)] if entries else []
