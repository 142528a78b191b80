"""Part attention: what [CLS] and patches attend to, by block and head (Figs 3 to 6 and 10 to 13, Table 3)."""

import dataclasses
from collections.abc import Sequence

from vitprobe_jax.report.aggregation.parts.comparing import half_width
from vitprobe_jax.report.figures import style
from vitprobe_jax.report.figures.illustration import Illustration, caption
from vitprobe_jax.report.measured.answers import Answer, numbers_in_words
from vitprobe_jax.report.measured.figures.lines import Line, Panel, line_figure, variant_lines
from vitprobe_jax.report.measured.rows import PartTable, Row, backbones_of, values_by
from vitprobe_jax.report.measured.tables import Column, Entry, Table, number_table
from vitprobe_jax.report.measured.view import PartView, Sources, illustration
from vitprobe_jax.report.sentences import count, listed, number

FLOW = {
    "cls_to_cls": "[CLS] to itself",
    "cls_entropy": "Entropy of [CLS]",
    "patch_to_itself": "Patches to themselves",
    "patch_entropy": "Entropy of patches",
}
"""The statistics, with their titles."""
_AXES = {
    "cls_to_cls": "share of [CLS]",
    "cls_entropy": "entropy, nats",
    "patch_to_itself": "share of patches",
    "patch_entropy": "entropy, nats",
}
_ENTROPIES = ("cls_entropy", "patch_entropy")
_HEAD, _MEAN = "_", ""
"""Markers of the heads and of their mean."""


@dataclasses.dataclass(frozen=True)
class _Flow:
    """Rows of the part: of all heads and of each, bounds of entropies, Table 3."""

    means: Sequence[Row]
    heads: Sequence[Row]
    bounds: dict[str, float]
    aggregation: Sequence[Row]

    @classmethod
    def of(cls, part: PartTable) -> "_Flow":
        # Blocks are the part's own matter: no cell is chosen.
        bounds = values_by(part.rows("entropy_bound", layers="every cell"), "backbone")
        return cls(
            part.rows(*FLOW, layers="every cell", setting="all heads"),
            part.rows("cls_entropy", layers="every cell", setting="head"),
            {backbone: value for (backbone,), value in bounds.items()},
            part.rows("aggregation_entropy", layers="every cell"),
        )

    def last(self, measure: str) -> list[Row]:
        """Of each backbone the row of its last block."""
        last: dict[str, Row] = {}
        for row in self.means:
            if row.measure == measure and (row.backbone not in last or row.layer > last[row.backbone].layer):
                last[row.backbone] = row
        return list(last.values())


def view(part: PartTable, sources: Sources) -> PartView:
    """The part on one data set."""
    flow = _Flow.of(part)
    figures = [_flow_figure(part, flow, sources)]
    if heads := sources.looks.shown(flow.heads):
        figures.append(_heads_figure(part, flow, heads, sources))
    return PartView(_answer(flow), figures, [_last_table(flow), _block_table(flow)])


def _answer(flow: _Flow) -> Answer:
    said = []
    selective = flow.last("cls_entropy")
    chosen = [row for row in selective if not row.untrained] or selective
    if chosen:
        low, high = (pick(chosen, key=lambda row: row.value) for pick in (min, max))
        first = f"In the last block, [CLS] of {low.backbone} attends to the patches"
        said.append(
            f"{first} with an entropy of {_of_bound(low, flow)}."
            if low is high
            else f"{first} most selectively, with an entropy of {_of_bound(low, flow)}; that of {high.backbone} "
            f"most evenly, with {_of_bound(high, flow)}."
        )
        said += _kept_to_itself([row for row in flow.means if row.measure == "cls_to_cls"])
    said += _without_cls(flow)
    if chosen:
        return Answer(number(low.value), low.backbone, "lowest entropy of [CLS] in the last block, nats", said)
    own = flow.last("patch_entropy")
    lowest = min([row for row in own if not row.untrained] or own, key=lambda row: row.value)
    said.append(
        f"In the last block, the attention of patches is the most selective in {lowest.backbone}, with an entropy of "
        f"{number(lowest.value)}."
    )
    return Answer(number(lowest.value), lowest.backbone, "lowest entropy of patches in the last block, nats", said)


def _of_bound(row: Row, flow: _Flow) -> str:
    bound = flow.bounds.get(row.backbone)
    return number(row.value) + (f" of at most {number(bound)}" if bound else "")


def _kept_to_itself(rows: Sequence[Row]) -> list[str]:
    """Whose [CLS] gives itself most and least of its attention, over all blocks."""
    chosen = [row for row in rows if not row.untrained] or rows
    means = {backbone: value for (backbone,), value in values_by(chosen, "backbone").items()}
    if not means:
        return []
    high, low = max(means, key=means.get), min(means, key=means.get)
    said = f"Over all blocks, [CLS] of {high} keeps {number(means[high])} of its attention to itself"
    return [f"{said}." if high == low else f"{said}, most of all; that of {low}, {number(means[low])}, least."]


def _without_cls(flow: _Flow) -> list[str]:
    names = backbones_of(row for row in flow.aggregation if row.setting == "no [CLS]")
    if not names:
        return []
    has = "has" if len(names) == 1 else "have"
    return [f"{listed(names)} {has} no [CLS]: the mean of the patches weights them alike, with the highest entropy."]


def _flow_figure(part: PartTable, flow: _Flow, sources: Sources) -> Illustration:
    shown = sources.looks.shown(flow.means)
    panels = []
    for measure, title in FLOW.items():
        rows = [row for row in shown if row.measure == measure]
        if not rows:
            continue
        lines = variant_lines(rows, sources.looks, lambda row: row.layer, drops=[0], spread=half_width)
        bounds = _bounds(flow, rows) if measure in _ENTROPIES else []
        panels.append(Panel(title, "block", _AXES[measure], lines, bounds=bounds))
    last = {
        f"{FLOW[measure].lower()}, {row.backbone}": row.value
        for measure in FLOW
        for row in flow.last(measure)
        if row.backbone in sources.looks.marks
    }
    return illustration(
        part,
        "flow",
        line_figure(panels, sources.looks.keys(shown, variants=False), columns=2),
        title="Attention by block",
        caption=caption(
            f"Means over heads and {count(max(row.count for row in flow.means), 'held-out image')}, with 95% intervals of "
            "the mean over images. Entropies are those of attention to patches alone. Upper bound: the entropy of equal "
            "weights, the logarithm of the number of patches.",
            sources.looks.note,
            "Figures 3 to 6, and 10 to 13 for ViT-S, ViT-B and ViT-L, of the paper.",
        ),
        alt=numbers_in_words(last, "In the last block"),
    )


def _bounds(flow: _Flow, rows: Sequence[Row]) -> list[list[tuple[int, float]]]:
    """A level line for each number of patches, as long as the deepest backbone that has it."""
    deepest: dict[float, int] = {}
    for row in rows:
        if row.backbone in flow.bounds:
            bound = round(flow.bounds[row.backbone], 6)
            deepest[bound] = max(row.layer, deepest.get(bound, 0))
    return [[(0, bound), (layer, bound)] for bound, layer in deepest.items()]


def _heads_figure(part: PartTable, flow: _Flow, heads: Sequence[Row], sources: Sources) -> Illustration:
    means = [row for row in flow.means if row.measure == "cls_entropy"]
    panels, most = [], {}
    for backbone in backbones_of(heads):
        mark = sources.looks.marks[backbone]
        own = [row for row in heads if row.backbone == backbone]
        mean = sorted((row.layer, row.value) for row in means if row.backbone == backbone)
        lines = [
            Line("head", dataclasses.replace(mark, marker=_HEAD), "none", [(row.layer, row.value) for row in own]),
            Line("mean", dataclasses.replace(mark, colour=style.INK, marker=_MEAN), "-", mean),
        ]
        panels.append(Panel(mark.label, "block", "entropy, nats", lines, bounds=_bounds(flow, own)))
        lowest = min(own, key=lambda row: row.value)
        most[f"head {lowest.level:g} of block {lowest.layer} of {backbone}"] = lowest.value
    keys = [
        style.points_key(style.Mark("one head", "#808080", _HEAD), line=False),
        style.points_key(style.Mark("mean of heads", style.INK, _MEAN), line=True),
    ]
    return illustration(
        part,
        "heads",
        line_figure(panels, keys),
        title="Entropy of [CLS], head by head",
        caption=caption(
            "Each dash is the mean of one head over the held-out images.",
            sources.looks.note,
            "Beyond the paper, which shows means over heads.",
        ),
        alt=numbers_in_words(most, "Lowest entropies"),
    )


def _last_table(flow: _Flow) -> Table:
    aggregation = {row.backbone: row for row in flow.aggregation}
    last = {measure: {row.backbone: row.value for row in flow.last(measure)} for measure in FLOW}
    entries = []
    for backbone in backbones_of([*flow.means, *flow.aggregation]):
        of = aggregation.get(backbone)
        untrained = next(row.untrained for row in [*flow.means, *flow.aggregation] if row.backbone == backbone)
        numbers = [of and of.value, flow.bounds.get(backbone), *(last[measure].get(backbone) for measure in FLOW)]
        entries.append(Entry(backbone, numbers, backbone, untrained))
    heads = ["Aggregation entropy", "Upper bound", *FLOW.values()]
    note = (
        "Aggregation entropy: the entropy of [CLS] attention to the patches, averaged over all blocks, heads and images; "
        "without [CLS], that of the mean of the patches, which is the upper bound. Table 3 of the paper. The four columns "
        "after the bound are of the last block alone."
    )
    title = "Aggregation entropy, and the last block"
    return number_table(title, "Backbone", [Column(head, "") for head in heads], entries, note=note)


def _block_table(flow: _Flow) -> Table:
    values = values_by(flow.means, "backbone", "layer", "measure")
    entries = []
    for backbone in backbones_of(flow.means):
        own = [row for row in flow.means if row.backbone == backbone]
        for layer in sorted({row.layer for row in own}):
            numbers = [values.get((backbone, layer, measure)) for measure in FLOW]
            entries.append(Entry(f"block {layer}", numbers, backbone, own[0].untrained, backbone, label_is_name=False))
    columns = [Column(head, "") for head in FLOW.values()]
    return number_table("Attention of every block", "Block", columns, entries, folded=True)
