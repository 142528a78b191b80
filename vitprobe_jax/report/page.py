"""Results folders -> their report: one HTML page that needs no other file and no network."""

import base64
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from etils import epath
from markupsafe import Markup

from vitprobe_jax.backbones.untrained import OBJECTIVE as UNTRAINED
from vitprobe_jax.report import answers, figures, page_data, tables
from vitprobe_jax.report.comparison import LEVEL
from vitprobe_jax.report.document import Picture, asset, distinct, environment, run_view, write_page
from vitprobe_jax.report.fits import cell_fits, solver_orders
from vitprobe_jax.report.mining import unmined_concepts
from vitprobe_jax.report.paper import compare_with_paper
from vitprobe_jax.report.rule_words import RULE_WORDS, solver_words
from vitprobe_jax.report.sweep_comparison import compare_sweeps, differing_settings
from vitprobe_jax.report.sweeps import Sweep, read_sweeps
from vitprobe_jax.report.tables import ConceptScores, Summary
from vitprobe_jax.types import ALL_TOKENS, RULES

METRIC_TITLES = {"accuracy": "Accuracy", "precision": "Precision", "recall": "Recall", "f1": "F1"}
SECTION_TITLES = {
    "tokens": "By token and backbone",
    "shots": "Over the number of support images",
    "categories": "By category of concepts",
    "layers": "By block",
    "pixels": "Patches against pixels",
    "controls": "Against untrained weights",
    "masks": "What templates find",
}
"""The sections of figures, in the page's order."""

_SCRIPTS = ("concept_table.js", "concept_dialog.js", "page.js")


def write_report(folders: Sequence[epath.PathLike] | epath.PathLike, *, paper: bool = False) -> epath.Path:
    """Writes `report/index.html` and `report/figures/` into the first results folder; returns the path of the page.

    Figures of an earlier report go, see `document.write_page`.

    Args:
        folders: one results folder, or several sweeps that one page compares; the first one is what others are held to.
        paper: whether published numbers stand beside those of the sweeps.

    Raises:
        InputError: a folder, its results, `config.json` or `run.json` is missing or unreadable, a folder is named twice,
            or the first one is not writable.
    """
    folders = [folders] if isinstance(folders, (str, os.PathLike)) else folders
    sweeps = read_sweeps(folders)
    pictures = _pictures(sweeps)
    html = _render(sweeps, pictures, paper=paper)
    return write_page(folders[0], html, pictures)


def _render(sweeps: Sequence[Sweep], pictures: Sequence[Picture], *, paper: bool) -> str:
    scores = [tables.concept_scores(sweep.table) for sweep in sweeps]
    views = [_view(sweep, own) for sweep, own in zip(sweeps, scores, strict=True)]
    packed = page_data.pack(
        [
            page_data.SweepScores(sweep.label, own, view["skipped"], sweep.examples, view["unmined"])
            for sweep, own, view in zip(sweeps, scores, views, strict=True)
        ]
    )
    script = "\n".join(map(asset, _SCRIPTS))
    several = len(sweeps) > 1
    template = environment().get_template("page.html.j2")
    return template.render(
        sweeps=views,
        several=several,
        seeded=any(len(view["seeds"]) > 1 for view in views),
        datasets=list(dict.fromkeys(name for view in views for name in view["datasets"])),
        controls={name for view in views for name in view["controls"]},
        differences=compare_sweeps([sweep.label for sweep in sweeps], scores) if several else [],
        settings=differing_settings([view["config"] for view in views]) if several else {},
        papers=[(sweep.label, compare_with_paper(sweep.table, sweep.config)) for sweep in sweeps] if paper else [],
        sections=_sections(pictures),
        fits=any(view["fits"] for view in views),
        orders=solver_orders([sweep.label for sweep in sweeps], scores),
        data=packed,
        num_rows=sum(int(np.isfinite(own.scores[0]).sum()) for own in scores),
        num_concepts=len({concept for own in scores for concept in own.scored}),
        metrics=METRIC_TITLES,
        labels=tables.METRIC_LABELS,
        deciding=tables.DECIDING,
        always_positive=figures.ALWAYS_POSITIVE,
        level=LEVEL,
        untrained=UNTRAINED,
        style=Markup(asset("page.css")),
        script=Markup(script),
        # Nothing but this script may run, whatever names a data set has.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _view(sweep: Sweep, scores: ConceptScores) -> dict:
    """What the template says of one sweep."""
    rows = tables.summarise(sweep.table)
    by_category = tables.summarise_by_category(sweep.table)
    objectives = {row.backbone: row.objective for row in rows}
    return run_view(sweep.label, sweep.config, sweep.run) | {
        "tasks": distinct(sweep.table, "task"),
        "datasets": distinct(sweep.table, "dataset"),
        "objectives": objectives,
        "controls": [name for name, objective in objectives.items() if objective == UNTRAINED],
        "tokens": sorted({row.token for row in rows}, key=ALL_TOKENS.index),
        "rules": sorted({row.rule for row in rows}, key=RULES.index),
        "shots": sorted({row.shots for row in rows if row.shots}),
        "trials": len(distinct(sweep.table, "trial")),
        "labels": next((note for note in sweep.run["notes"] if note.startswith("--label_categories=")), None),
        "seeds": sorted(distinct(sweep.table, "seed")),
        "num_concepts": len(scores.concepts),
        "num_probed": len(scores.scored),
        "answers": [_answer_view(one) for one in answers.answer(sweep.table)],
        "bests": list(_bests(rows)),
        "norms": tables.layer_norm_table(sweep.table).to_pylist(),
        "numbers": list(_number_tables(rows, by_category)),
        "comparisons": {
            "Tokens": answers.compare_tokens(sweep.table),
            "Rules": answers.compare_rules(sweep.table),
            "Trained backbones": answers.compare_backbones(sweep.table),
            "Trained backbones against the untrained control": answers.against_control(sweep.table),
        },
        "skipped": tables.skipped_concepts(sweep.table),
        "unmined": unmined_concepts(sweep.table, sweep.config),
        "fits": cell_fits(sweep.table),
        "solvers": {rule: solver_words(rule, sweep.config) for rule in distinct(sweep.table, "rule")},
    }


def _answer_view(answer: answers.Answer) -> dict:
    """An answer, and its comparison with the runner-up (None: there is no other token)."""
    lead = None
    if answer.runner_up is not None:
        pair = tables.cell_name(answer.best), tables.cell_name(answer.runner_up)
        lead = next((one for one in answer.against if (one.first, one.second) == pair), None)
    return {"answer": answer, "lead": lead}


def _bests(rows: Sequence[Summary]) -> Iterator[tuple[str, str, list[tables.Best]]]:
    """For each task and data set, the best token of each backbone and rule."""
    main = tables.main_rows(rows)
    for task, dataset in dict.fromkeys((row.task, row.dataset) for row in main):
        yield task, dataset, tables.best_tokens([row for row in main if (row.task, row.dataset) == (task, dataset)])


def _number_tables(rows: Sequence[Summary], by_category: Mapping[str, Sequence[Summary]]) -> Iterator[dict]:
    """A table for each task, data set, rule and thing counted: rows by (backbone, block), and F1 by category."""
    kind = lambda row: (row.task, row.dataset, row.rule, row.evaluation)  # noqa: E731
    for task, dataset, rule, evaluation in dict.fromkeys(map(kind, rows)):
        own = [row for row in rows if kind(row) == (task, dataset, rule, evaluation)]
        groups = {}
        for row in own:
            groups.setdefault((row.backbone, row.layer), []).append(row)
        shots = tables.most_shots(own)[0].shots
        categories, cells = {}, {place: {} for place in groups}
        for category, summaries in by_category.items():
            for row in summaries:
                if kind(row) == kind(own[0]) and row.shots == shots and row.scores:
                    categories[category] = max(row.concepts, categories.get(category, 0))
                    cells[row.backbone, row.layer].setdefault(row.token, {})[category] = row
        title = f"{task.capitalize()} on {dataset}, {RULE_WORDS[rule]}" + (
            ", counted on pixels" if evaluation == "pixel" else ""
        )
        yield {
            "title": title,
            "groups": groups,
            "winners": [best.first for best in tables.best_tokens(own)],
            "shots": shots,
            "categories": categories,
            "category_groups": cells,
        }


def _pictures(sweeps: Sequence[Sweep]) -> list[Picture]:
    """Every figure of every sweep; with several sweeps their names begin with the sweep's place."""
    pictures = []
    for i, sweep in enumerate(sweeps, start=1):
        for illustration in figures.illustrate(sweep.table, sweep.examples):
            name = f"{i}_{illustration.name}" if len(sweeps) > 1 else illustration.name
            pictures.append(Picture.of(illustration, name, sweep.label))
    return pictures


def _sections(pictures: Sequence[Picture]) -> list[tuple[str, str, list[Picture]]]:
    """(anchor, title, pictures) by section and, where there are several, task."""
    tasks = list(dict.fromkeys(picture.illustration.task for picture in pictures))
    sections = []
    for task in tasks:
        for section, title in SECTION_TITLES.items():
            own = [p for p in pictures if (p.illustration.task, p.illustration.section) == (task, section)]
            if own:
                heading = f"{task.capitalize()}: {title[0].lower()}{title[1:]}" if len(tasks) > 1 else title
                sections.append((f"{task}-{section}", heading, own))
    return sections
