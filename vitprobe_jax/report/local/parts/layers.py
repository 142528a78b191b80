"""Part layers: the IoU of each concept at every block (Fig. 3)."""

from collections import defaultdict
from collections.abc import Sequence

from matplotlib.lines import Line2D

from vitprobe_jax.report.figures import style
from vitprobe_jax.report.figures.illustration import Illustration, caption
from vitprobe_jax.report.local.concepts import by_pixels, concept_tables
from vitprobe_jax.report.local.methods import method_titles, methods_of, told_by
from vitprobe_jax.report.local.parts.patches import count_words, draw_words
from vitprobe_jax.report.measured import answers
from vitprobe_jax.report.measured.answers import Answer
from vitprobe_jax.report.measured.figures.lines import Line, Panel, line_figure
from vitprobe_jax.report.measured.figures.looks import MARKERS
from vitprobe_jax.report.measured.rows import PartTable, Row, values_by, variants_of
from vitprobe_jax.report.measured.tables import Column, Table, every_cell, number_table, variant_entries
from vitprobe_jax.report.measured.view import PartView, Sources, illustration
from vitprobe_jax.report.sentences import number

CONCEPTS = 6
"""Concepts of the figure, those with the most pixels."""
_MEAN = style.Mark("mean IoU", style.INK, marker="")


def view(part: PartTable, sources: Sources) -> PartView:
    """The part on one data set."""
    method = methods_of(part.rows("miou", layers="all"))[0]
    means = part.rows("miou", layers="all", method=method)
    concepts = part.rows("iou", layers="all", method=method)
    tables = [
        _best_table(means),
        _block_table(means),
        *concept_tables(_at_best(means, concepts), sources.looks, "IoU at each backbone's best block"),
        *(every_cell(part, "miou", "mIoU", method_titles, method=method) if len(part.tokens) > 1 else []),
    ]
    return PartView(_answer(means, method), [_figure(part, method, means, concepts, sources)], tables)


def _curves(rows: Sequence[Row]) -> dict[tuple[str, int], list[tuple[int, float]]]:
    """Blocks and mIoU, by variant."""
    curves = defaultdict(list)
    for (backbone, dropped, layer), value in values_by(rows, "backbone", "dropped", "layer").items():
        curves[backbone, dropped].append((layer, value))
    return {variant: sorted(own) for variant, own in curves.items()}


def _peak(curve: Sequence[tuple[int, float]]) -> tuple[int, float]:
    """The best block, the last of equals, and its mIoU."""
    return max(curve, key=lambda point: (point[1], point[0]))


def _at_best(means: Sequence[Row], concepts: Sequence[Row]) -> list[Row]:
    best = {variant: _peak(curve)[0] for variant, curve in _curves(means).items()}
    return [row for row in concepts if best.get((row.backbone, row.dropped)) == row.layer]


def _answer(means: Sequence[Row], method: str) -> Answer:
    curves, names = _curves(means), variants_of(means)
    best_rows = [row for row in means if _peak(curves[row.backbone, row.dropped])[0] == row.layer]
    found = answers.standings(best_rows)
    best = answers.leader(found)
    said = [answers.leads(found, f"Each at its best block, {told_by(method)}", "an mIoU")]
    plain = {names[variant]: curve for variant, curve in curves.items() if variant[1] == 0}
    early = {name: _peak(curve)[0] for name, curve in plain.items() if _peak(curve)[0] < curve[-1][0]}
    if not early:
        said.append("With all features, every backbone is best at its last block.")
    elif len(early) <= 3:
        each = ", ".join(f"{name} at block {block} of 0 to {plain[name][-1][0]}" for name, block in early.items())
        said.append(f"Best before the last block: {each}.")
    else:
        said.append(f"{len(early)} of {len(plain)} backbones are best before their last block.")
    block = _peak(curves[best.backbone, best.dropped])[0]
    return Answer(number(best.value), best.name, f"mIoU {told_by(method)} at block {block}", said)


def _figure(
    part: PartTable, method: str, means: Sequence[Row], concepts: Sequence[Row], sources: Sources
) -> Illustration:
    means, concepts = sources.looks.shown(means), sources.looks.shown(concepts)
    named = by_pixels(concepts)[:CONCEPTS]
    marks = {concept: style.Mark(concept[1], style.BACKBONE_COLOURS[i], MARKERS[i]) for i, concept in enumerate(named)}
    points = defaultdict(list)
    for row in concepts:
        points[row.backbone, row.dropped, (row.concept, row.name, row.category)].append((row.layer, row.value))
    panels = []
    for (backbone, dropped), curve in _curves(means).items():
        lines = [
            Line(mark.label, mark, "-", sorted(points[backbone, dropped, concept])) for concept, mark in marks.items()
        ]
        lines.append(Line(_MEAN.label, _MEAN, "-", curve, thick=True))
        panels.append(Panel(variants_of(means)[backbone, dropped], "block", "IoU", lines))
    keys = [style.points_key(mark, line=True) for mark in marks.values()]
    keys.append(Line2D([], [], color=style.INK, linewidth=2.4, label=_MEAN.label))
    bests = {
        f"{panel.title} block {_peak(panel.lines[-1].points)[0]}": _peak(panel.lines[-1].points)[1] for panel in panels
    }
    return illustration(
        part,
        "blocks",
        line_figure(panels, keys, columns=min(3, max(2, len(panels)))),
        title=f"IoU of concepts over the blocks, {told_by(method)}",
        caption=caption(
            f"{draw_words(means)}; {count_words(means)}. The {len(named)} concepts with the most of these pixels, and the "
            "mean over all. The final norm is applied at every block.",
            sources.looks.note,
            "Figure 3 of the paper.",
        ),
        alt=answers.numbers_in_words(bests, "Highest mIoU"),
    )


def _best_table(rows: Sequence[Row]) -> Table:
    curves = _curves(rows)
    values = {}
    for variant, curve in curves.items():
        block, best = _peak(curve)
        values |= {(*variant, "block"): float(block), (*variant, "best"): best, (*variant, "last"): curve[-1][1]}
    columns = [Column("Best block", "", 0), Column("mIoU there"), Column("mIoU at the last block")]
    places = [("block",), ("best",), ("last",)]
    return number_table("Best blocks", "Backbone", columns, variant_entries(rows, values, places))


def _block_table(rows: Sequence[Row]) -> Table:
    blocks = sorted({row.layer for row in rows})
    values = values_by(rows, "backbone", "dropped", "layer")
    columns = [Column(str(block)) for block in blocks]
    entries = variant_entries(rows, values, [(block,) for block in blocks])
    return number_table("mIoU at every block", "Backbone", columns, entries, folded=True)
