"""Part untrained: aggregation by weights that need no training, beside learned ones (Table 6, Figs 7 and 9)."""

from collections.abc import Sequence

import numpy as np

from vitprobe_jax.report.aggregation.figures.divergences import divergence_figure
from vitprobe_jax.report.aggregation.figures.overlays import overlay_figure
from vitprobe_jax.report.aggregation.parts.comparing import (
    SCORES,
    SHORT,
    backbone_labels,
    by_representation,
    change_sentence,
    highest,
    leading_sentence,
    numbers_of,
    score_of,
    winner_sentence,
    with_deviation,
    with_interval,
)
from vitprobe_jax.report.aggregation.pictures import are_maps, names_of, representations_of, weights_of
from vitprobe_jax.report.aggregation.representations import REFERENCE, in_order, title, titles
from vitprobe_jax.report.figures.illustration import Illustration, caption, slug
from vitprobe_jax.report.measured.answers import Answer, numbers_in_words
from vitprobe_jax.report.measured.figures.dots import dot_figure
from vitprobe_jax.report.measured.rows import PartTable, Row, backbones_of
from vitprobe_jax.report.measured.tables import Column, Entry, Table, every_cell, number_table
from vitprobe_jax.report.measured.view import PartView, Sources, illustration
from vitprobe_jax.report.sentences import count, number

PICTURED = 4
"""Backbones whose maps are shown at most: each takes a figure of its own."""


def view(part: PartTable, sources: Sources) -> PartView:
    """The part on one data set."""
    score = score_of(part)
    best, entropies, divergences = part.rows(f"{score}_best"), part.rows("weights_entropy"), part.rows("kl")
    figures = [_scores_figure(part, score, best, entropies), *_divergence_figure(part, divergences, sources)]
    figures += [
        one for backbone in sources.looks.fewer(PICTURED).marks if (one := _maps_figure(part, backbone, sources))
    ]
    tables = [
        by_representation(
            f"{SHORT[score]} and entropy by aggregation",
            {Column(SHORT[score]): best, Column("Entropy, nats", ""): entropies},
            note="At the best rate; entropies with deviations over held-out images. Table 6 of the paper.",
            best_in_group=True,
        ),
        *_divergence_table(divergences),
        *every_cell(part, f"{score}_best", f"{SHORT[score]} at the best rate", titles),
    ]
    return PartView(_answer(score, best, entropies), figures, tables)


def _answer(score: str, best: Sequence[Row], entropies: Sequence[Row]) -> Answer:
    what, said = SCORES[score], []
    if best:
        said += [leading_sentence(best, what), change_sentence(best, "cls_attention", REFERENCE, what)]
        said += [change_sentence(best, "mean", "cls_attention", what), winner_sentence(best)]
    if entropies:
        low = min([row for row in entropies if not row.untrained] or entropies, key=lambda row: row.value)
        said.append(
            f"The most selective weights are those of {title(low.method)} of {low.backbone}, with an entropy of "
            f"{number(low.value)}."
        )
    said = [one for one in said if one]
    if best:
        top = highest(best)
        return Answer(number(top.value), top.backbone, f"{what} by {title(top.method)}", said)
    return Answer(number(low.value), low.backbone, f"lowest entropy, {title(low.method)}, nats", said)


def _scores_figure(part: PartTable, score: str, best: Sequence[Row], entropies: Sequence[Row]) -> Illustration:
    label = SHORT[score]
    panels, xlabels = {}, {}
    if best:
        panels["Classifiers"] = numbers_of(best, with_deviation)
        xlabels["Classifiers"] = label
    if entropies:
        panels["Weights"] = numbers_of(entropies, with_interval)
        xlabels["Weights"] = "entropy, nats"
    rows = [*best, *entropies]
    values = {f"{row.backbone} by {title(row.method)}": row.value for row in best}
    return illustration(
        part,
        "scores",
        dot_figure(panels, list(backbone_labels(rows).values()), list(titles(rows).values()), xlabels),
        title=f"{label} and entropy of the weights" if best else "Entropy of the weights",
        caption=caption(
            f"Over {count(max(row.count for row in rows), 'held-out image')}.",
            "Lines of entropies: 95% intervals of the mean over images." if entropies else "",
            "Table 6 of the paper.",
        ),
        alt=numbers_in_words(values or {f"{row.backbone}, {title(row.method)}": row.value for row in entropies}, label),
    )


def _matrices(rows: Sequence[Row]) -> tuple[list[str], dict[str, np.ndarray]]:
    """Representations, and of each backbone the divergences between them; nan where there is none."""
    names = in_order([*(row.method for row in rows), *(row.name for row in rows)])
    places = {name: i for i, name in enumerate(names)}
    found = {backbone: np.full((len(names), len(names)), np.nan) for backbone in backbones_of(rows)}
    for row in rows:
        found[row.backbone][places[row.method], places[row.name]] = row.value
    return names, found


def _divergence_figure(part: PartTable, rows: Sequence[Row], sources: Sources) -> list[Illustration]:
    shown = sources.looks.shown(rows)
    if not shown:
        return []
    names, matrices = _matrices(shown)
    panels = {sources.looks.marks[backbone].label: values for backbone, values in matrices.items()}
    said = {
        f"{row.backbone}, {title(row.method)} from {title(row.name)}": row.value
        for row in shown
        if row.method == REFERENCE and row.name != REFERENCE
    } or {f"{row.backbone}, {title(row.method)} from {title(row.name)}": row.value for row in shown}
    return [
        illustration(
            part,
            "kl",
            divergence_figure(panels, [title(name) for name in names]),
            title="How far weights are from each other",
            caption=caption(
                "KL divergence of the weights of a line from those of a column, which bear the lines' numbers; mean over "
                f"{count(max(row.count for row in shown), 'held-out image')}.",
                "Empty: the backbone has no such weights."
                if any(np.isnan(own).any() for own in panels.values())
                else "",
                sources.looks.note,
                "Figure 7 of the paper.",
            ),
            alt=numbers_in_words(said, "KL divergences"),
        )
    ]


def _divergence_table(rows: Sequence[Row]) -> list[Table]:
    if not rows:
        return []
    names, matrices = _matrices(rows)
    untrained = {row.backbone: row.untrained for row in rows}
    entries = [
        Entry(
            title(name),
            [None if np.isnan(value) else float(value) for value in line],
            backbone,
            untrained[backbone],
            backbone,
            label_is_name=False,
        )
        for backbone, values in matrices.items()
        for name, line in zip(names, values, strict=True)
        if not np.isnan(line).all()
    ]
    columns = [Column(f"from {title(name)}", "") for name in names]
    return [number_table("KL divergences of weights", "Weights", columns, entries, folded=True)]


def _maps_figure(part: PartTable, backbone: str, sources: Sources) -> Illustration | None:
    """The first held-out images under each aggregation's weights; None without pictures."""
    arrays = sources.pictures(part, backbone, are_maps)
    # Equal weights are no picture.
    names = [name for name in in_order(representations_of(arrays)) if name != "mean"]
    if not names:
        return None
    entropies = {title(row.method): row.value for row in part.rows("weights_entropy", backbone=backbone)}
    return illustration(
        part,
        f"maps_{slug(backbone)}",
        overlay_figure(
            arrays["images"], {title(name): weights_of(arrays, name) for name in names}, names=names_of(arrays)
        ),
        title=f"What {backbone} weights",
        caption="The first held-out images. Each map is bright where its own weights are largest. Figure 9 of the paper.",
        alt=numbers_in_words(entropies, "On photographs. Entropies of the weights over all images"),
        photographs=True,
    )
