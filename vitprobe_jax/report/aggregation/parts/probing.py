"""Part probing: linear classifiers on every representation (Tables 1, 5 and 7)."""

from collections.abc import Sequence

from vitprobe_jax.report.aggregation.parts.comparing import (
    SCORES,
    SHORT,
    backbone_labels,
    by_representation,
    change_sentence,
    crossed_table,
    highest,
    leading_sentence,
    numbers_of,
    score_of,
    winner_sentence,
    with_deviation,
)
from vitprobe_jax.report.aggregation.representations import ACTIVATIONS, REFERENCE, abmilp_shape, title, titles
from vitprobe_jax.report.figures.illustration import Illustration, caption
from vitprobe_jax.report.measured.answers import Answer, numbers_in_words
from vitprobe_jax.report.measured.figures.dots import dot_figure
from vitprobe_jax.report.measured.figures.lines import line_figure, over
from vitprobe_jax.report.measured.figures.looks import spread
from vitprobe_jax.report.measured.rows import PartTable, Row, backbones_of
from vitprobe_jax.report.measured.tables import Column, Entry, Table, every_cell, number_table
from vitprobe_jax.report.measured.view import PartView, Sources, illustration
from vitprobe_jax.report.sentences import count, number

_EPOCHS = 6  # columns of the table of losses


def view(part: PartTable, sources: Sources) -> PartView:
    """The part on one data set."""
    score = score_of(part)
    best, every, losses = part.rows(f"{score}_best"), part.rows(score, setting="rate"), _at_best(part)
    figures = [
        _best_figure(part, score, best),
        *_rates_figure(part, score, every, sources),
        *_losses_figure(part, losses, sources),
    ]
    deviations = "Deviations are those over seeds. " if any(row.deviation is not None for row in best) else ""
    note = f"Each at its best rate. {deviations}Bold: the best of each backbone. Tables 1 and 7 of the paper."
    depths = _depth_table(score, best)
    plain = [row for row in best if not depths or (abmilp_shape(row.method) or (1, ""))[0] == 1]
    tables = [
        crossed_table(f"{SHORT[score]} by representation", {"": plain}, note=note),
        *depths,
        *_rates_table(score, every),
        *_losses_table(losses),
        *every_cell(part, f"{score}_best", f"{SHORT[score]} at the best rate", titles),
    ]
    return PartView(_answer(score, best), figures, tables)


def _answer(score: str, best: Sequence[Row]) -> Answer:
    what = SCORES[score]
    said = [
        leading_sentence(best, what),
        *(change_sentence(best, before, REFERENCE, what) for before in ("cls", "mean")),
        winner_sentence(best),
    ]
    top = highest(best)
    return Answer(number(top.value), top.backbone, f"{what} by {title(top.method)}", [one for one in said if one])


def _at_best(part: PartTable) -> list[Row]:
    """Losses of each backbone and representation at its best rate."""
    rates = {
        (row.backbone, row.layer, row.token, row.method): f"{row.level:g}"
        for row in part.rows(f"{score_of(part)}_best")
        if row.level is not None
    }
    return [
        row
        for row in part.rows("loss", setting="epoch")
        if rates.get((row.backbone, row.layer, row.token, row.method)) == row.name
    ]


def _best_figure(part: PartTable, score: str, best: Sequence[Row]) -> Illustration:
    label, panel = SHORT[score], "At the best rate"
    several = any(row.deviation is not None for row in best)
    return illustration(
        part,
        "best",
        dot_figure(
            {panel: numbers_of(best, with_deviation)},
            list(backbone_labels(best).values()),
            list(titles(best).values()),
            {panel: label},
        ),
        title=f"{label} by backbone and representation",
        caption=caption(
            f"Over {count(max(row.count for row in best), 'held-out image')}.",
            "Lines: a standard deviation over seeds to either side." if several else "",
            "Tables 1, 5 and 7 of the paper.",
        ),
        alt=numbers_in_words({f"{row.backbone} by {title(row.method)}": row.value for row in best}, label),
    )


def _rates_figure(part: PartTable, score: str, every: Sequence[Row], sources: Sources) -> list[Illustration]:
    """How much hangs on the rate; nothing of a single one."""
    rates = sorted({row.level for row in every})
    if len(rates) < 2:
        return []
    shown = sources.looks.shown(every)
    panels = [
        over(
            [row for row in shown if row.method == name],
            sources.looks,
            title=text,
            xlabel="base rate",
            ylabel=SHORT[score],
            field="level",
            order=rates,
            drops=[0],
        )
        for name, text in titles(shown).items()
    ]
    ends = {
        f"{row.backbone} by {title(row.method)} at {row.level:g}": row.value
        for row in shown
        if row.level in (rates[0], rates[-1])
    }
    return [
        illustration(
            part,
            "rates",
            line_figure(panels, sources.looks.keys(shown, variants=False)),
            title=f"{SHORT[score]} over the base rate",
            caption=caption("Means over seeds.", sources.looks.note),
            alt=numbers_in_words(ends, f"{SHORT[score]} at the lowest and the highest rate"),
        )
    ]


def _losses_figure(part: PartTable, losses: Sequence[Row], sources: Sources) -> list[Illustration]:
    """How training went; nothing of a single epoch."""
    shown = sources.looks.shown(losses)
    epochs = sorted({row.level for row in shown})
    if len(epochs) < 2:
        return []
    panels = [
        over(
            [row for row in shown if row.method == name],
            sources.looks,
            title=text,
            xlabel="epoch",
            ylabel="training loss",
            field="level",
            order=epochs,
            drops=[0],
        )
        for name, text in titles(shown).items()
    ]
    last = {f"{row.backbone} by {title(row.method)}": row.value for row in shown if row.level == epochs[-1]}
    return [
        illustration(
            part,
            "losses",
            line_figure(panels, sources.looks.keys(shown, variants=False)),
            title="Training loss by epoch",
            caption=caption("At each representation's best rate, means over seeds.", sources.looks.note),
            alt=numbers_in_words(last, f"Losses of epoch {epochs[-1]:g}"),
        )
    ]


def _depth_table(score: str, best: Sequence[Row]) -> list[Table]:
    """AbMILPs by depth and activation, where there are deeper ones than the plain one."""
    shapes = {row.method: shape for row in best if (shape := abmilp_shape(row.method))}
    depths = sorted({depth for depth, _ in shapes.values()})
    if len(depths) < 2:
        return []
    entries = []
    for backbone in backbones_of(best):
        own = {shapes[row.method]: row for row in best if row.backbone == backbone and row.method in shapes}
        for activation in (known for known in ACTIVATIONS if any(known == its for _, its in own)):
            # The plain one has no activation: it is the first of every line.
            found = [own.get((depth, activation if depth > 1 else "")) for depth in depths]
            entries.append(
                Entry(
                    ACTIVATIONS[activation],
                    [row and row.value for row in found],
                    backbone,
                    next(iter(own.values())).untrained,
                    backbone,
                    label_is_name=False,
                    deviations=[row and row.deviation for row in found],
                )
            )
    columns = [Column(f"Depth {depth}") for depth in depths]
    heading = f"{SHORT[score]} by depth and activation of AbMILP"
    return [number_table(heading, "Activation", columns, entries, note="Table 5 of the paper.", best_in_line=True)]


def _rates_table(score: str, every: Sequence[Row]) -> list[Table]:
    if not every:
        return []
    rates = sorted({row.level for row in every})
    columns = {Column(f"rate {rate:g}"): [row for row in every if row.level == rate] for rate in rates}
    return [by_representation(f"{SHORT[score]} at every rate", columns, folded=True, best_in_line=True)]


def _losses_table(losses: Sequence[Row]) -> list[Table]:
    if not losses:
        return []
    epochs = spread(sorted({row.level for row in losses}), _EPOCHS)
    columns = {Column(f"epoch {epoch:g}", ""): [row for row in losses if row.level == epoch] for epoch in epochs}
    return [by_representation("Training loss at the best rate", columns, folded=True)]
