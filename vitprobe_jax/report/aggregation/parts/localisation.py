"""Part localisation: boxes around what maps of weights find (Table 8, Fig. 8)."""

from collections.abc import Sequence

import numpy as np

from vitprobe_jax.report.aggregation.figures.overlays import overlay_figure
from vitprobe_jax.report.aggregation.parts.comparing import (
    backbone_labels,
    by_representation,
    change_sentence,
    crossed_table,
    highest,
    leading_sentence,
    numbers_of,
    winner_sentence,
)
from vitprobe_jax.report.aggregation.parts.untrained import PICTURED
from vitprobe_jax.report.aggregation.pictures import are_maps, boxes_of, names_of, representations_of, weights_of
from vitprobe_jax.report.aggregation.representations import REFERENCE, in_order, title, titles
from vitprobe_jax.report.figures.illustration import Illustration, caption, slug
from vitprobe_jax.report.measured.answers import Answer, numbers_in_words
from vitprobe_jax.report.measured.figures.dots import dot_figure
from vitprobe_jax.report.measured.figures.lines import line_figure, over
from vitprobe_jax.report.measured.rows import PartTable, Row
from vitprobe_jax.report.measured.tables import Column, Table, every_cell
from vitprobe_jax.report.measured.view import PartView, Sources, illustration
from vitprobe_jax.report.sentences import count, number

BOXES = {
    "Boxes of all bright parts": ("maxboxaccv2", "maxboxacc"),
    "Box of the largest bright part": ("largest_box", "largest_box_iou"),
}
"""Whose boxes count, with the measures: the mean over overlaps and the score at each. The first is MaxBoxAccV2."""
_SCORE = "MaxBoxAccV2"


def view(part: PartTable, sources: Sources) -> PartView:
    """The part on one data set."""
    found = {text: rows for text, (mean, _) in BOXES.items() if (rows := part.rows(mean))}
    levels = {text: rows for text, (_, by_iou) in BOXES.items() if (rows := part.rows(by_iou, setting="iou"))}
    main = part.rows("maxboxaccv2")
    figures = [_scores_figure(part, found), *_levels_figure(part, levels, sources)]
    figures += [
        one for backbone in sources.looks.fewer(PICTURED).marks if (one := _boxes_figure(part, backbone, main, sources))
    ]
    note = (
        "The share of images with a box that has an IoU of 0.3, 0.5 and 0.7 or more with an annotated one, each at its best "
        "threshold of the map, and the mean of the three. MaxBoxAccV2 (Table 8 of the paper) counts the boxes of all bright "
        "parts; the box of the largest one alone is stricter. Bold: the best of each backbone."
    )
    tables = [
        crossed_table("Localisation by map", found, note=note),
        *(_levels_table(text, rows) for text, rows in levels.items()),
        *every_cell(part, "maxboxaccv2", _SCORE, titles),
    ]
    return PartView(_answer(main), figures, tables)


def _answer(rows: Sequence[Row]) -> Answer:
    said = [
        leading_sentence(rows, _SCORE),
        change_sentence(rows, "cls_attention", REFERENCE, _SCORE),
        winner_sentence(rows),
    ]
    top = highest(rows)
    return Answer(number(top.value), top.backbone, f"{_SCORE} by {title(top.method)}", [one for one in said if one])


def _scores_figure(part: PartTable, found: dict[str, Sequence[Row]]) -> Illustration:
    panels = {text: numbers_of(rows, lambda row: row.value) for text, rows in found.items()}
    rows = [row for own in found.values() for row in own]
    first = next(iter(found.values()))
    return illustration(
        part,
        "scores",
        dot_figure(
            panels,
            list(backbone_labels(rows).values()),
            list(titles(rows).values()),
            dict.fromkeys(panels, "mean over IoUs"),
        ),
        title="Localisation by backbone and map",
        caption=caption(
            f"Over {count(max(row.count for row in rows), 'image')} with annotated boxes.",
            "With the boxes of all bright parts it is MaxBoxAccV2, Table 8 of the paper.",
        ),
        alt=numbers_in_words({f"{row.backbone} by {title(row.method)}": row.value for row in first}, _SCORE),
    )


def _levels_figure(part: PartTable, levels: dict[str, Sequence[Row]], sources: Sources) -> list[Illustration]:
    rows = sources.looks.shown(next(iter(levels.values()), []))
    if not rows:
        return []
    order = sorted({row.level for row in rows})
    panels = [
        over(
            [row for row in rows if row.method == name],
            sources.looks,
            title=text,
            xlabel="IoU or more",
            ylabel="share of images",
            field="level",
            order=order,
            drops=[0],
        )
        for name, text in titles(rows).items()
    ]
    said = {f"{row.backbone} by {title(row.method)} at {row.level:g}": row.value for row in rows}
    return [
        illustration(
            part,
            "levels",
            line_figure(panels, sources.looks.keys(rows, variants=False)),
            title="How well boxes fit",
            caption=caption(f"{next(iter(levels))}, each IoU at its own best threshold.", sources.looks.note),
            alt=numbers_in_words(said, "Shares of images"),
        )
    ]


def _levels_table(text: str, rows: Sequence[Row]) -> Table:
    levels = sorted({row.level for row in rows})
    columns = {Column(f"IoU {level:g}"): [row for row in rows if row.level == level] for level in levels}
    return by_representation(f"By IoU: {text.lower()}", columns, folded=True, best_in_group=True)


def _boxes_figure(part: PartTable, backbone: str, rows: Sequence[Row], sources: Sources) -> Illustration | None:
    """The first images with their annotated boxes and those of each map; None without pictures."""
    arrays = sources.pictures(part, backbone, are_maps)
    names = in_order(representations_of(arrays))
    if not names:
        return None
    truth = arrays.get("truth", np.zeros((0, 5), np.float32))
    boxes = {title(name): own for name in names if (own := boxes_of(arrays, name)) is not None}
    return illustration(
        part,
        f"boxes_{slug(backbone)}",
        overlay_figure(
            arrays["images"],
            {title(name): weights_of(arrays, name) for name in names},
            names=names_of(arrays),
            truth=[truth[truth[:, 0] == i, 1:] for i in range(len(arrays["images"]))] if len(truth) else (),
            boxes=boxes,
        ),
        title=f"What maps of {backbone} find",
        caption=caption(
            "The first images with annotated boxes; each map is bright where its own weights are largest.",
            "Its box is that of the largest bright part, at the best threshold for an IoU of 0.5." if boxes else "",
            "Figure 8 of the paper.",
        ),
        alt=numbers_in_words(
            {title(row.method): row.value for row in rows if row.backbone == backbone},
            f"On photographs. {_SCORE} over all images",
        ),
        photographs=True,
    )
