"""A results folder -> its report: one HTML page that needs no other file and no network."""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence

import jinja2
import pyarrow as pa
import pyarrow.compute as pc
from etils import epath
from matplotlib.figure import Figure

from vitprobe_jax.atomic import write_whole
from vitprobe_jax.errors import InputError
from vitprobe_jax.metrics.results import METRICS, read_table
from vitprobe_jax.report import figures, tables
from vitprobe_jax.report.tables import Summary
from vitprobe_jax.types import RULES, TOKENS

METRIC_TITLES = {"accuracy": "Accuracy", "precision": "Precision", "recall": "Recall", "f1": "F1"}


@dataclasses.dataclass(frozen=True)
class Illustration:
    """A figure as the page shows it: an image address, its width, what it shows, and the same in words alone."""

    uri: str
    width_inches: float
    caption: str
    alt: str


@dataclasses.dataclass(frozen=True)
class RuleSection:
    """All that the page says of one decision rule.

    Attributes:
        groups: summaries by (backbone, layer).
        illustrations: at least one for each metric, unless every concept was skipped.
        categories: names of the categories that have scores, with the number of concepts in each.
        category_groups: by (backbone, layer), the rows of the category table: token -> category -> summary.
        category_shots: the number of shots of that table, None for hyperplanes.
    """

    rule: str
    groups: Mapping[tuple[str, int], Sequence[Summary]]
    illustrations: Sequence[Illustration]
    categories: Mapping[str, int]
    category_groups: Mapping[tuple[str, int], Mapping[str, Mapping[str, Summary]]]
    category_shots: int | None


def write_report(out: epath.PathLike) -> epath.Path:
    """Writes `report/index.html` into a results folder, whole or not at all, and returns its path.

    Raises:
        InputError: the folder, its results, `config.json` or `run.json` is missing or unreadable, or it is not writable.
    """
    out = epath.Path(out)
    if not out.is_dir():
        raise InputError(f"{out}: no such folder; give the --out of a finished run")
    table = read_table(out / "results.parquet")
    config = _read_json(out / "config.json", mend="run the sweep into another --out")
    html = render_page(table, config, _read_run(out / "run.json"))
    path = out / "report" / "index.html"
    try:
        path.parent.mkdir(exist_ok=True)
        write_whole(path, html.encode())
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); free the place or its permissions") from error
    return path


def render_page(table: pa.Table, config: Mapping, run: Mapping) -> str:
    """The page as text.

    Args:
        table: of the results schema.
        config: every flag as resolved.
        run: `versions`, `devices`, `seed`, `stages` and `notes` of the run.
    """
    rows = tables.summarise(table)
    rules = sorted({row.rule for row in rows}, key=RULES.index)
    by_category = tables.summarise_by_category(table)
    objectives = {row.backbone: row.objective for row in rows}
    template = _environment().get_template("page.html.j2")
    return template.render(
        tasks=_distinct(table, "task"),
        datasets=_distinct(table, "dataset"),
        objectives=objectives,
        controls=[name for name, objective in objectives.items() if objective == tables.UNTRAINED],
        tokens=[token for token in TOKENS if any(row.token == token for row in rows)],
        rules=rules,
        shots=sorted({row.shots for row in rows if row.shots}),
        trials=len(_distinct(table, "trial")),
        num_concepts=table.group_by(["concept", "category"]).aggregate([]).num_rows,
        bests={rule: [best for best in tables.best_tokens(rows) if best.first.rule == rule] for rule in rules},
        sections=[_rule_section(rule, rows, by_category) for rule in rules],
        skipped=tables.skipped_concepts(table),
        notes=run["notes"],
        config=_flatten(config),
        environment=_flatten({"seed": run["seed"], "devices": run["devices"], "versions": run["versions"]}),
        stages=run["stages"],
        metrics=METRIC_TITLES,
        always_positive=figures.ALWAYS_POSITIVE,
        untrained=tables.UNTRAINED,
    )


def _rule_section(rule: str, rows: Sequence[Summary], by_category: Mapping[str, Sequence[Summary]]) -> RuleSection:
    own = [row for row in rows if row.rule == rule]
    groups = {}
    for row in own:
        groups.setdefault((row.backbone, row.layer), []).append(row)
    shots = tables.most_shots(own)[0].shots
    categories, category_groups = {}, {place: {} for place in groups}
    for category, cells in by_category.items():
        for row in cells:
            if row.rule == rule and row.shots == shots and row.scores:
                categories[category] = max(row.concepts, categories.get(category, 0))
                category_groups[row.backbone, row.layer].setdefault(row.token, {})[category] = row
    return RuleSection(
        rule=rule,
        groups=groups,
        illustrations=_illustrate(rule, own),
        categories=categories,
        category_groups=category_groups,
        category_shots=shots,
    )


def _illustrate(rule: str, rows: Sequence[Summary]) -> list[Illustration]:
    """The figures of one rule: by token at the last layer, or over shots where there are several, and over layers."""
    scored = [row for row in rows if row.scores]
    if not scored:
        return []
    last, largest = tables.last_layer(scored), tables.most_shots(scored)
    shots = f" at {largest[0].shots} shots" if largest[0].shots else ""
    mean = "Mean over trials, then unweighted over concepts" if shots else "Mean unweighted over concepts"
    has_spread = any(row.scores["f1"].deviation is not None for row in scored)
    kinds = []
    if len({row.shots for row in last}) > 1:
        what = "by token and number of support images, at the last probed block"
        kinds.append((figures.shots_lines, last, what, "bands"))
    else:
        kinds.append((figures.token_bars, last, f"by token and backbone{shots}, at the last probed block", "whiskers"))
    if len({(row.backbone, row.layer) for row in scored}) > len({row.backbone for row in scored}):
        kinds.append((figures.layer_lines, largest, f"by token and block{shots}", "bands"))
    return [
        _illustration(
            draw(shown, metric=metric),
            title=f"{METRIC_TITLES[metric]} of {rule} templates {what}",
            how=f"{mean}{f'; {mark}: one standard deviation over trials' if has_spread else ''}. "
            "Dashed: a template that is positive everywhere.",
            extremes=_extremes(shown, metric),
        )
        for draw, shown, what, mark in kinds
        for metric in METRICS
    ]


def _illustration(figure: Figure, *, title: str, how: str, extremes: str) -> Illustration:
    return Illustration(
        uri=figures.svg_data_uri(figure),
        width_inches=figure.get_figwidth(),
        caption=f"{title}. {how}",
        alt=f"{title}: {extremes}",
    )


def _extremes(rows: Sequence[Summary], metric: str) -> str:
    """In words, between which values and where a figure of these rows runs."""
    ranked = sorted(rows, key=lambda row: row.scores[metric].mean)

    def place(row: Summary) -> str:
        shots = f", {row.shots} shots" if row.shots else ""
        return f"{row.scores[metric].mean:.3f} ({row.token} of {row.backbone}, block {row.layer}{shots})"

    return f"from {place(ranked[0])} to {place(ranked[-1])}."


def _read_run(path: epath.Path) -> dict:
    mend = "run the sweep again with --resume"
    run = _read_json(path, mend=mend)
    stages, notes = run.get("stages"), run.get("notes")
    well_formed = (
        run.keys() >= {"versions", "devices", "seed"}
        and isinstance(notes, list)
        and all(isinstance(note, str) for note in notes)
        and isinstance(stages, list)
        and all(isinstance(stage, dict) and _is_stage(stage) for stage in stages)
    )
    if not well_formed:
        raise InputError(f"{path}: lacks versions, devices, seed, stages or notes, or holds them damaged; {mend}")
    return run


def _is_stage(stage: dict) -> bool:
    kinds = {"stage": str, "seconds": (int, float), "count": (int, float), "unit": str}
    return all(isinstance(stage.get(name), kind) for name, kind in kinds.items())


def _read_json(path: epath.Path, *, mend: str) -> dict:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: missing; {mend}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}); {mend}") from error
    if not isinstance(record, dict):
        raise InputError(f"{path}: holds no record of names and values; {mend}")
    return record


def _flatten(record: Mapping, prefix: str = "") -> dict[str, str]:
    """Names and values as text; nested names are joined by a dot."""
    flat = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            flat[prefix + name] = ", ".join(map(str, value))
        else:
            flat[prefix + name] = "" if value is None else str(value)
    return flat


def _distinct(table: pa.Table, column: str) -> list:
    """The values of a column in their order, nulls left out."""
    return pc.unique(table[column].drop_null()).to_pylist()


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("vitprobe_jax.report", "."),
        autoescape=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
