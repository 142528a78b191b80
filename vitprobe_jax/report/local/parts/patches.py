"""Part patches: what a patch shows, over sizes of the training draw, with pictures (Figs 1 and 13, Tables 2 and 5)."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from vitprobe_jax.report.figures.illustration import Illustration, caption, slug
from vitprobe_jax.report.local.changes import changes
from vitprobe_jax.report.local.concepts import concept_tables, ranked_concepts
from vitprobe_jax.report.local.figures.maps import NAMED, map_figure
from vitprobe_jax.report.local.methods import (
    is_probe,
    main_draw,
    method_title,
    method_titles,
    methods_of,
    shots_of,
    shots_title,
    told_by,
)
from vitprobe_jax.report.local.pictures import are_pictures
from vitprobe_jax.report.measured import answers
from vitprobe_jax.report.measured.answers import Answer
from vitprobe_jax.report.measured.figures.dots import dot_figure
from vitprobe_jax.report.measured.figures.lines import line_figure, over
from vitprobe_jax.report.measured.figures.looks import variants_note
from vitprobe_jax.report.measured.rows import (
    PartTable,
    Row,
    backbones_of,
    drops_of,
    features_title,
    values_by,
    variant_name,
    variants_of,
)
from vitprobe_jax.report.measured.tables import Column, Entry, Table, every_cell, number_table, variant_entries
from vitprobe_jax.report.measured.view import PartView, Sources, illustration
from vitprobe_jax.report.sentences import listed, number

PICTURED = 4
"""Backbones whose predictions are shown at most: each takes two lines of photographs."""
TILINGS = {"tiles": "tiles", "whole": "whole images"}


def view(part: PartTable, sources: Sources) -> PartView:
    """The part on one data set."""
    rows = part.rows("miou")
    tilings = [tiling for tiling in TILINGS if any(row.tiling == tiling for row in rows)]
    shown = [row for row in rows if row.tiling == tilings[0]]
    drawn = main_draw(part.dataset, shown)
    last = [row for row in shown if row.shots == drawn]
    few = dataclasses.replace(sources, looks=sources.looks.fewer(PICTURED))
    pictures = [one for method in main_methods(last) if (one := _predictions(part, few, last, method))]
    tables = [
        _sizes_table(shown, part.rows("pixel_accuracy", tiling=tilings[0], shots=drawn), drawn),
        *_tiling_table([row for row in rows if row.shots == drawn], tilings),
        *concept_tables(
            part.rows("iou", tiling=tilings[0], shots=drawn, method=methods_of(last)[0]),
            sources.looks,
            f"IoU {told_by(methods_of(last)[0])}, from {shots_title(drawn)}",
            folded=True,
        ),
        *every_cell(part, "miou", "mIoU", method_titles, tiling=tilings[0], shots=drawn),
    ]
    return PartView(_answer(last), [_sizes_figure(part, shown, sources), *pictures], tables)


def main_methods(rows: Sequence[Row]) -> list[str]:
    """The first search for neighbours and the first probe of some rows: those that sentences are about."""
    methods = methods_of(rows)
    probes = [method for method in methods if is_probe(method)]
    return [method for method in methods if not is_probe(method)][:1] + probes[:1]


def _answer(rows: Sequence[Row]) -> Answer:
    """Who leads by neighbours and by a linear probe, and what leaving out features changes of either."""
    sentences, best = [], None
    for method in main_methods(rows):
        found = answers.standings([row for row in rows if row.method == method])
        best = best or answers.leader(found)
        lead = answers.leads(found, f"From {shots_title(rows[0].shots)}, {told_by(method)}", "an mIoU")
        sentences.append(caption(lead, changes(found, "that mIoU")))
    return Answer(number(best.value), best.name, f"mIoU {told_by(main_methods(rows)[0])}", sentences)


def _sizes_table(rows: Sequence[Row], accuracies: Sequence[Row], main: int | None) -> Table:
    sizes, entries = shots_of(rows), []
    for method in methods_of(rows):
        own = [row for row in rows if row.method == method]
        values = values_by(own, "backbone", "dropped", "shots")
        exact = values_by([row for row in accuracies if row.method == method], "backbone", "dropped")
        values |= {(*place, "pixels"): value for place, value in exact.items()}
        entries += variant_entries(own, values, [(size,) for size in sizes] + [("pixels",)], method_title(method))
    drawn = [f"from {size or 'all'}" for size in sizes]
    columns = [Column(f"mIoU {one}") for one in drawn] + [Column(f"Pixel accuracy from {main or 'all'}")]
    note = (
        "From so many images of each city, class or kind of tile; held against every annotated pixel of the held-out "
        "images. Bold: the best of each method."
    )
    return number_table("mIoU by method", "Backbone", columns, entries, note=note, best_in_group=True)


def _tiling_table(rows: Sequence[Row], tilings: Sequence[str]) -> list[Table]:
    """Tiles beside whole images, where both were measured."""
    if len(tilings) < 2:
        return []
    entries = []
    for method in methods_of(rows):
        own = [row for row in rows if row.method == method]
        values = values_by(own, "backbone", "dropped", "tiling")
        for (backbone, dropped), name in variants_of(own).items():
            tiles, whole = (values.get((backbone, dropped, tiling)) for tiling in tilings)
            gain = None if tiles is None or whole is None else tiles - whole
            untrained = next(row.untrained for row in own if row.backbone == backbone)
            entries.append(Entry(name, [tiles, whole, gain], backbone, untrained, group=method_title(method)))
    columns = [Column("mIoU of tiles"), Column("mIoU of whole images"), Column("Tiles less whole", "")]
    note = "Whole images: resampled positions. Table 5 of the paper."
    return [number_table("Tiles or whole images", "Backbone", columns, entries, note=note, best_in_group=True)]


def _sizes_figure(part: PartTable, rows: Sequence[Row], sources: Sources) -> Illustration:
    sizes, methods = shots_of(rows), methods_of(rows)
    title = f"mIoU over the size of the training draw, {TILINGS[rows[0].tiling]}"
    if len(sizes) == 1:
        return _one_size_figure(part, rows)
    shown, drops = sources.looks.shown(rows), drops_of(rows)
    panels = [
        over(
            [row for row in shown if row.method == method],
            sources.looks,
            title=method_title(method),
            xlabel="images a group",
            ylabel="mIoU",
            field="shots",
            order=sizes,
            names=lambda size: str(size or "all"),
            drops=drops,
        )
        for method in methods
    ]
    last = {f"{row.variant} {told_by(row.method)}": row.value for row in shown if row.shots == sizes[-1]}
    return illustration(
        part,
        "sizes",
        line_figure(panels, sources.looks.keys(shown), columns=2 if len(panels) in (2, 4) else 3),
        title=title,
        caption=caption(
            f"{draw_words(rows)}; {count_words(rows)}.",
            variants_note(shown),
            sources.looks.note,
            "Figure 1 of the paper.",
        ),
        alt=answers.numbers_in_words(last, f"mIoU from {shots_title(sizes[-1])}"),
    )


def _one_size_figure(part: PartTable, rows: Sequence[Row]) -> Illustration:
    panels = {
        method_title(method): {
            (row.backbone, features_title(row.features, row.dropped)): row.value for row in rows if row.method == method
        }
        for method in methods_of(rows)
    }
    series = [features_title("without top", dropped) for dropped in drops_of(rows)]
    return illustration(
        part,
        "sizes",
        dot_figure(panels, backbones_of(rows), series, dict.fromkeys(panels, "mIoU")),
        title=f"mIoU from {shots_title(rows[0].shots)}, {TILINGS[rows[0].tiling]}",
        caption=f"{draw_words(rows)}; {count_words(rows)}. Figure 1 of the paper.",
        alt=answers.numbers_in_words({f"{row.variant} {told_by(row.method)}": row.value for row in rows}, "mIoU"),
    )


def draw_words(rows: Sequence[Row]) -> str:
    """What the training draw of some rows is, as a caption begins."""
    sizes = shots_of(rows)
    if sizes == [0]:
        return "Trained on all images"
    drawn = [str(size) if size else "all" for size in sizes]
    return f"Trained on the patches of {listed(drawn)} images of each city, class or kind of tile"


def count_words(rows: Sequence[Row]) -> str:
    """Over how much the numbers of some rows are."""
    return f"over {max(row.count for row in rows):,} held-out pixels"


def _predictions(part: PartTable, sources: Sources, rows: Sequence[Row], method: str) -> Illustration | None:
    """The first held-out images and what their pixels are taken for, variant under variant; None without pictures."""
    names, ranks = ranked_concepts(part)
    maps: dict[str, np.ndarray] = {}
    images = None
    for backbone in backbones_of(sources.looks.shown(rows)):
        pictures = sources.pictures(part, backbone, are_pictures)
        fitting = _fitting(pictures, images, len(names))
        if not fitting:
            continue
        images = pictures["image"]
        if "truth" in pictures:
            maps.setdefault("annotated", pictures["truth"])
        for dropped in drops_of(row for row in rows if row.backbone == backbone):
            taken = pictures.get(f"{method} without {dropped}")
            if taken is not None:
                maps[variant_name(backbone, "without top", dropped)] = taken
    if images is None:
        return None
    figure, present = map_figure(images, maps, names, ranks)
    unnamed = (
        f"The {len(present) - NAMED} concepts with the fewest pixels are not named." if len(present) > NAMED else ""
    )
    scores = {row.variant: row.value for row in sources.looks.shown(rows) if row.method == method}
    return illustration(
        part,
        f"predictions_{slug(method)}",
        figure,
        title=f"What patches are taken for {told_by(method)}",
        caption=caption(
            f"The first held-out images, from {shots_title(rows[0].shots)}; every pixel has the concept of its patch.",
            unnamed,
            sources.looks.note,
            "Figure 13 of the paper.",
        ),
        alt=answers.numbers_in_words(scores, "On photographs. mIoU of all held-out images"),
        photographs=True,
    )


def _fitting(pictures: Mapping[str, np.ndarray], images: np.ndarray | None, num_concepts: int) -> bool:
    """Whether pictures are there, of the same images as those before, and of the table's concepts."""
    if not pictures or (images is not None and pictures["image"].shape != images.shape):
        return False
    return all(array.max(initial=0) <= num_concepts for name, array in pictures.items() if name != "image")
