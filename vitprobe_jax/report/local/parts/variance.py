"""Part variance: the spectrum of the features' variances, and what leaving out the highest ones does (Fig. 2)."""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence

from vitprobe_jax.report.figures.illustration import Illustration, caption
from vitprobe_jax.report.figures.wording import capitalised
from vitprobe_jax.report.local.methods import method_title, methods_of, told_by
from vitprobe_jax.report.local.parts.patches import count_words, draw_words, main_methods
from vitprobe_jax.report.measured import answers
from vitprobe_jax.report.measured.answers import Answer
from vitprobe_jax.report.measured.figures.lines import Line, Panel, line_figure
from vitprobe_jax.report.measured.rows import PartTable, Row, backbones_of, values_by
from vitprobe_jax.report.measured.tables import Column, Entry, Table, number_table
from vitprobe_jax.report.measured.view import PartView, Sources, illustration
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
    ratios = {name: highest / median for name, (highest, _, median, _) in _spectra(spectrum).items() if median > 0}
    said = [_gain_sentence(curves, method) for method in main_methods(curves)]
    said += [one for one in (_ratio_sentence(ratios), _overlap_sentence(overlaps)) if one]
    if curves:
        method = main_methods(curves)[0]
        backbone, removed, first, best = _most_gained(curves, method)
        what = f"mIoU {told_by(method)} gained without the top {removed}" if removed else "mIoU gained, at most"
        return Answer(f"+{number(best - first)}", backbone, what, said)
    name = max(ratios, key=ratios.get, default="")
    return Answer(_times(ratios[name]) if name else "", name, "highest variance of a feature over the median", said)


def _most_gained(curves: Sequence[Row], method: str) -> tuple[str, int, float, float]:
    """The backbone, trained if there is any, that gains most; how many to leave out, and the mIoU before and after."""
    trained = [row for row in curves if not row.untrained] or curves
    bests = {backbone: _best(curve) for backbone, curve in _curves(trained, method).items()}
    backbone = max(bests, key=lambda name: bests[name][2] - bests[name][1])
    return backbone, *bests[backbone]


def _gain_sentence(curves: Sequence[Row], method: str) -> str:
    backbone, removed, first, best = _most_gained(curves, method)
    by = capitalised(told_by(method))
    if not removed:
        return f"{by}, leaving out features of high variance helps no backbone."
    most = " most" if len(backbones_of(curves)) > 1 else ""
    return (
        f"{by}, leaving out features of high variance helps {backbone}{most}: its mIoU is {number(first)} with all of them "
        f"and {number(best)} without the top {removed}, its best."
    )


def _ratio_sentence(ratios: Mapping[str, float]) -> str:
    ranked = sorted(ratios, key=lambda name: -ratios[name])
    if not ranked:
        return ""
    first, *others = ranked if len(ranked) <= _SPELLED_OUT else [ranked[0], ranked[-1]]
    each = [f"{_times(ratios[first])} the median in {first}", *(f"{_times(ratios[name])} in {name}" for name in others)]
    return f"The highest variance of a feature is {listed(each)}."


def _overlap_sentence(overlaps: Sequence[Row]) -> str:
    shared = [row for row in overlaps if row.setting == "other data set"]
    if not shared:
        return ""
    low = min(shared, key=lambda row: row.value)
    at_least = "" if len(shared) == 1 else "at least "
    return (
        f"Data sets agree on which they are: {at_least}{round(low.value * low.dropped)} of the top {low.dropped} are the "
        f"same ({low.backbone}, {low.dataset} and {low.name})."
    )


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
        said.append(answers.numbers_in_words(bests, f"Best mIoU {told_by(method)}"))
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
            summary.append(Entry(backbone, [first, best, float(removed), values.get(200)], **of))
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
    columns = [Column(f"Of the top {dropped}, with {name or 'BatchNorm'}", "", 0) for dropped, _, name in others]
    note = (
        "Of the features of highest variance, how many are the same by another data set (Section 6 of the paper), or by the "
        "running variance of a linear probe's BatchNorm, which only sees patches that carry a concept. The latter is not in "
        "the paper; its neighbours among normalised features are 1-NN after BatchNorm in part patches."
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
