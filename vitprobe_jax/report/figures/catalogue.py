"""All figures that a table allows, with titles, captions and words for who cannot see them."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator

import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.figure import Figure

from vitprobe_jax.report.examples import Examples
from vitprobe_jax.report.figures import categories, layers, masks, pairs, shots, tokens, wording
from vitprobe_jax.report.figures.illustration import Illustration, caption, slug, with_own_names
from vitprobe_jax.report.figures.selection import backbones_of, choose, restrict, studies
from vitprobe_jax.report.figures.wording import DASHED, RULE_NAMES
from vitprobe_jax.report.tables import DECIDING, METRIC_LABELS, summarise
from vitprobe_jax.types import HYPERPLANE_RULES, RULES, Rule, Task

SECTIONS = ("tokens", "shots", "categories", "layers", "pixels", "controls", "masks")
_SHORT = {"segmentation": "seg", "classification": "cls"}
_MAIN = ("accuracy", "f1")
_PAPER_COSINE = {
    "classification": {"tokens": "Figure 7", "shots": "Figure 8", "categories": None},
    "segmentation": {"tokens": "Figure 12", "shots": "Figure 14", "categories": "Figure 13"},
}


def illustrate(table: pa.Table, examples: Examples | None) -> list[Illustration]:
    """Every figure that a results table has the rows for, by task, data set and section.

    Figures over shots need several numbers of them, those over layers several blocks, and so on. Of a rule under which
    every concept was skipped nothing is drawn.

    Args:
        table: results of any number of tasks and data sets.
        examples: photographs with masks of the same sweep, if there are any; they are shown if there is one data set of
            segmentation.
    """
    found_studies = studies(table)
    datasets = Counter(task for task, _ in found_studies)
    illustrations = []
    for task, dataset in found_studies:
        several = datasets[task] > 1
        prefix = f"{_SHORT[task]}_{slug(dataset)}" if several else _SHORT[task]
        study = _Study(restrict(table, task, dataset), task, prefix)
        found = list(study.numbers())
        if task == "segmentation" and examples is not None and not several:
            found += study.photographs(examples)
        illustrations += sorted(found, key=lambda one: SECTIONS.index(one.section))
    return with_own_names(illustrations)


@dataclasses.dataclass(frozen=True)
class _Study:
    """The figures of one task on one data set."""

    table: pa.Table
    task: Task
    prefix: str

    def numbers(self) -> Iterator[Illustration]:
        """All that show numbers."""
        scored = [row for row in summarise(self.table) if row.scores]
        patches = [row for row in scored if row.evaluation != "pixel"]
        rules = [rule for rule in RULES if any(row.rule == rule for row in patches)]
        for rule in rules:
            rows = [row for row in patches if row.rule == rule]
            yield from self.by_token(rule)
            if len({row.shots for row in rows}) > 1:
                yield self.over_shots(rule)
            if pc.count_distinct(self.table["category"]).as_py() > 1:
                yield from self.by_category(rule)
            if len({(row.backbone, row.layer) for row in rows}) > len({row.backbone for row in rows}):
                yield self.over_layers(rule)
            if {row.untrained for row in rows} == {True, False}:
                yield self.against_control(rule)
        if {"cosine", "cosine_centered"} <= set(rules):
            yield self.centred()
        for rule in HYPERPLANE_RULES:
            if any(row.evaluation == "pixel" and row.rule == rule for row in scored):
                yield self.pixels(rule)

    def illustration(self, name: str, section: str, draw: Callable[..., Figure], **rest) -> Illustration:
        return Illustration(name=f"{self.prefix}_{name}", section=section, task=self.task, figure=draw(), **rest)

    def by_token(self, rule: Rule) -> Iterator[Illustration]:
        if rule not in HYPERPLANE_RULES:
            kinds = [(tokens.cosine_by_token, ("accuracy", "f1", "precision", "recall"), self.cosine(rule, "tokens"))]
        elif self.task == "classification":
            kinds = [
                (tokens.accuracy_by_token, ("accuracy",), "Figure 6, left"),
                (tokens.precision_recall_f1_by_token, ("precision", "recall", "f1"), "Figure 6, right"),
            ]
        else:
            kinds = [
                (tokens.accuracy_f1_by_token, ("accuracy", "f1"), "Figure 9"),
                (tokens.precision_recall_by_token, ("precision", "recall"), "Figure 9"),
            ]
        rows = choose(summarise(self.table), rule=rule)
        for draw, metrics, number in kinds:
            title = f"{wording.listed(metrics)} of {RULE_NAMES[rule]}, by token and backbone"
            yield self.illustration(
                f"{rule}_{draw.__name__.removeprefix('cosine_')}",
                "tokens",
                lambda draw=draw: draw(self.table, rule=rule),
                title=title,
                caption=caption(
                    f"{wording.how(rows)}; {wording.spreads(rows)}.", DASHED, wording.footnotes(rows), _paper(number)
                ),
                alt=f"{title}. {wording.scores_in_words(rows, metrics)}",
            )

    def over_shots(self, rule: Rule) -> Illustration:
        rows = choose(summarise(self.table), rule=rule, shots="all")
        title = f"{wording.listed(_MAIN)} of {RULE_NAMES[rule]} over the number of support images"
        spread = any(score.deviation is not None for row in rows for score in row.scores.values())
        bands = "; bands: one standard deviation over trials, of the mean over concepts" if spread else ""
        number = self.cosine(rule, "shots")
        return self.illustration(
            f"{rule}_over_shots",
            "shots",
            lambda: shots.scores_over_shots(self.table, _MAIN, rule=rule),
            title=title,
            caption=caption(f"{wording.how(rows)}{bands}.", DASHED, wording.footnotes(rows), _paper(number)),
            alt=f"{title}. {wording.scores_in_words(rows, _MAIN)}",
        )

    def by_category(self, rule: Rule) -> Iterator[Illustration]:
        if rule not in HYPERPLANE_RULES:
            kinds = [(categories.cosine_by_category, _MAIN, self.cosine(rule, "categories"))]
        else:
            named = self.task == "segmentation"
            kinds = [
                (categories.f1_by_category, ("f1",), "Figure 10" if named else None),
                (categories.precision_recall_by_category, ("precision", "recall"), "Figure 11" if named else None),
            ]
        overall = choose(summarise(self.table), rule=rule)
        by_category = categories.category_rows(self.table, rule=rule)
        rows = [row for own in by_category.values() for row in own]
        single = [category for category, own in by_category.items() if max(row.concepts for row in own) == 1]
        alone = f"An interval over one concept ({', '.join(single)}) has no width." if single else ""
        for draw, metrics, number in kinds:
            title = f"{wording.listed(metrics)} of {RULE_NAMES[rule]}, by category of concepts"
            said = (
                f"{wording.capitalised(METRIC_LABELS[metric])}: "
                + "; ".join(
                    f"{category} {wording.extremes_in_words(own, metric)}" for category, own in by_category.items()
                )
                for metric in metrics
            )
            how = f"{wording.how(overall, each_category=True)}; {wording.spreads(rows)}."
            yield self.illustration(
                f"{rule}_{draw.__name__.removeprefix('cosine_')}",
                "categories",
                lambda draw=draw: draw(self.table, rule=rule),
                title=title,
                caption=caption(how, alone, DASHED, wording.footnotes(rows), _paper(number)),
                alt=f"{title}. {'. '.join(said)}.",
            )

    def over_layers(self, rule: Rule) -> Illustration:
        rows = choose(summarise(self.table), rule=rule, layer="all")
        title = f"F1 of {RULE_NAMES[rule]} at every probed block and token"
        said = (
            f"{name} {wording.extremes_in_words((row for row in rows if row.backbone == name), 'f1')}"
            for name in backbones_of(rows)
        )
        framed = (
            "Framed: the best cell of each backbone. Dashed, at the colours: a template that is positive everywhere."
        )
        last = "The paper probes the last block."
        return self.illustration(
            f"{rule}_over_layers",
            "layers",
            lambda: layers.layer_token_heatmap(self.table, rule=rule),
            title=title,
            caption=caption(f"{wording.how(rows, every_layer=True)}.", framed, wording.footnotes(rows), last),
            alt=f"{title}. {'; '.join(said)}.",
        )

    def centred(self) -> Illustration:
        plain, centred = (choose(summarise(self.table), rule=rule) for rule in ("cosine", "cosine_centered"))
        title = "Cosine templates with and without centring the features"
        done = "Centred: cosines of features less the mean of the training rows; the same draws and trials."
        said = f"Plain: {wording.scores_in_words(plain, _MAIN)} Centred: {wording.scores_in_words(centred, _MAIN)}"
        later = "The paper leaves centring for later."
        return self.illustration(
            "centred_beside_plain",
            "tokens",
            lambda: pairs.centred_beside_plain(self.table, _MAIN),
            title=title,
            caption=caption(wording.how_sure(plain), done, DASHED, wording.footnotes(plain), later),
            alt=f"{title}. {said}",
        )

    def pixels(self, rule: Rule) -> Illustration:
        rows, pixels = (choose(summarise(self.table), rule=rule, pixels=own) for own in (False, True))
        title = f"{wording.capitalised(RULE_NAMES[rule])} counted on patches and on pixels"
        done = "Pixels: every annotated pixel counts, under score maps upsampled to the masks."
        said = f"Patches: {wording.scores_in_words(rows, _MAIN)} Pixels: {wording.scores_in_words(pixels, _MAIN)}"
        return self.illustration(
            "pixels_beside_patches" if rule == "hyperplane" else f"{rule}_pixels_beside_patches",
            "pixels",
            lambda: pairs.pixels_beside_patches(self.table, _MAIN, rule=rule),
            title=title,
            caption=caption(
                wording.how_sure(rows),
                done,
                DASHED,
                wording.footnotes(rows),
                "The paper counts patches.",
            ),
            alt=f"{title}. {said}",
        )

    def against_control(self, rule: Rule) -> Illustration:
        rows = choose(summarise(self.table), rule=rule)
        title = f"What training adds to {RULE_NAMES[rule]}: trained backbones less the untrained control"
        said, counts = [], []
        for trained, control in pairs.control_of(self.table, rows).items():
            tests = pairs.control_differences(self.table, rows, trained, control, DECIDING)
            counts += [test.num_concepts for test in tests.values()]
            numbers = {token: test.difference for token, test in tests.items()}
            each = (f"{token} {own.mean:+.3f} [{own.low:+.3f}, {own.high:+.3f}]" for token, own in numbers.items())
            said.append(f"{trained} less {control} {', '.join(each)}")
        how = (
            f"Mean difference over {wording.count_range(counts)} that both have, token by token, {wording.place(rows)}"
        )
        ahead = "Right of the dashed line the trained backbone is ahead. The control has random weights."
        return self.illustration(
            f"{rule}_trained_less_control",
            "controls",
            lambda: pairs.trained_less_control(self.table, _MAIN, rule=rule),
            title=title,
            caption=caption(f"{how}; {wording.intervals(rows)}.", ahead, wording.unconverged(rows)),
            alt=f"{title}. Differences in {METRIC_LABELS[DECIDING]} with intervals: {'; '.join(said)}.",
        )

    def photographs(self, examples: Examples) -> Iterator[Illustration]:
        """All that show images: of many backbones, the best ones."""
        everyone = len({row.backbone for row in examples.rows})
        examples = masks.of_best_backbones(self.table, examples)
        kept = len({row.backbone for row in examples.rows})
        left_out = f"Of {everyone} backbones the {kept} with the highest F1 are shown." if kept < everyone else ""
        painted = (
            "Positive patches keep their colours within a line; veiled ones take no part, for nothing of the category is "
            "annotated there."
        )
        largest = [row for row in examples.rows if row.kind == "coverage"]
        for category in sorted({row.category for row in largest}):
            rows = [row for own in masks.pick_over_ranks(self.table, examples, category) for row in own]
            shown, count = (len({row.concept for row in own if row.category == category}) for own in (rows, largest))
            of_paper = {row.rule: row.token for row in rows if row.choice == "paper"}
            named = " and ".join(f"{token} for {RULE_NAMES[rule]}" for rule, token in sorted(of_paper.items()))
            beside = f", beside it the paper's ({named}) where it is another" if of_paper else ""
            how = (
                f"{shown} of {wording.count_range([count])} from the best to the worst F1 (mean over backbones and rules), "
                "each on the held-out image that it covers most of: the truth, then the best token of each backbone and "
                f"rule{beside}, with the concept's F1 over all held-out images and the IoU on this one."
            )
            title = f"What templates find: {category}"
            yield self.illustration(
                f"masks_{slug(category)}",
                "masks",
                lambda category=category: masks.mask_examples(self.table, examples, category=category),
                title=title,
                caption=caption(how, left_out, painted, _paper("Figure 15")),
                alt=f"{title}, on photographs. {wording.iou_in_words(rows)}",
                photographs=True,
            )
        best = [row for row in examples.rows if row.kind == "iou"]
        for backbone, rule, choice in dict.fromkeys((row.backbone, row.rule, row.choice) for row in best):
            rows = [row for own in masks.pick_best(self.table, examples, backbone, rule, choice) for row in own]
            how = (
                f"The {masks.CONCEPTS} concepts of highest F1 under {rows[0].token} of block {rows[0].layer}, each on the "
                f"{masks.IMAGES} held-out images of highest IoU."
            )
            title = f"Best concepts of {backbone} with {RULE_NAMES[rule]}"
            if choice == "paper":
                title += f" of the paper's token, {rows[0].token}"
            yield self.illustration(
                f"best_concepts_{slug(backbone)}_{rule}{'_papers_token' if choice == 'paper' else ''}",
                "masks",
                lambda own=(backbone, rule, choice): masks.best_concepts(
                    self.table, examples, backbone=own[0], rule=own[1], choice=own[2]
                ),
                title=title,
                caption=caption(how, painted, _paper(None if rule == "cosine_centered" else "Figure 16")),
                alt=f"{title}, on photographs. {wording.iou_in_words(rows)}",
                photographs=True,
            )

    def cosine(self, rule: Rule, section: str) -> str | None:
        """The paper's figure of cosine templates; it has none of centred features."""
        return _PAPER_COSINE[self.task][section] if rule == "cosine" else None


def _paper(number: str | None) -> str:
    return f"{number} of the paper." if number else ""
