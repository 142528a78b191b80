"""What stands around a figure: captions say what was done, alternative texts give its numbers in words."""

from collections.abc import Iterable, Mapping, Sequence

from vitprobe_jax.report.examples import Example
from vitprobe_jax.report.figures.selection import backbones_of, seeds_differ, tokens_of, trials_differ
from vitprobe_jax.report.tables import METRIC_LABELS, Summary
from vitprobe_jax.types import Rule

DASHED = "Dashed: a template that is positive everywhere."
RULE_NAMES: Mapping[Rule, str] = {
    "hyperplane": "hyperplane templates",
    "hyperplane_paper": "hyperplane templates (paper's SGD)",
    "cosine": "cosine templates",
    "cosine_centered": "cosine templates on centred features",
}
_SPOKEN = 24  # numbers of an alternative text; of more, the extremes


def how(rows: Sequence[Summary], *, each_category: bool = False, every_layer: bool = False) -> str:
    """What the numbers of some rows are means of, and where: the beginning of a caption, without a full stop."""
    trials = max((row.templates // (row.concepts * row.seeds) for row in rows if row.concepts), default=1)
    seeds = max((row.seeds for row in rows), default=1)
    over = (
        "the concepts of each category (their number in brackets)"
        if each_category
        else count_range(row.concepts for row in rows if row.scores)
    )
    draws = [f"{number} {unit}" for number, unit in ((trials, "trials"), (seeds, "seeds")) if number > 1]
    mean = f"Mean over {' and '.join(draws)}, then unweighted over" if draws else "Unweighted mean over"
    return f"{mean} {over}, {place(rows, every_layer=every_layer)}"


def how_sure(rows: Sequence[Summary]) -> str:
    """`how` and `intervals` as one sentence."""
    return f"{how(rows)}; {intervals(rows)}."


def spreads(rows: Sequence[Summary]) -> str:
    """What the thin and thick lines of bars and points are, without a full stop."""
    if not trials_differ(rows):
        return intervals(rows)
    trials = "the trials of all seeds" if seeds_differ(rows) else "trials"
    thick = f"thick: one standard deviation over {trials}, of the mean over concepts, to both sides, as in the paper"
    return f"{intervals(rows)}; {thick}"


def intervals(rows: Iterable[Summary]) -> str:
    """What the whiskers of some rows are, without a full stop."""
    if seeds_differ(rows):
        return "whiskers: 95% intervals over concepts and seeds"
    return "whiskers: 95% bootstrap intervals over concepts"


def place(rows: Sequence[Summary], *, every_layer: bool = False) -> str:
    """At which blocks and from how many support images."""
    blocks = sorted({row.layer for row in rows})
    numbers = f"block{'s' if len(blocks) > 1 else ''} {', '.join(map(str, blocks))}"
    where = "at every probed block" if every_layer else f"at the last probed block of each backbone ({numbers})"
    shots = sorted({row.shots for row in rows if row.shots})
    if not shots:
        return where
    short = any(row.effective_shots is not None and row.effective_shots < row.shots for row in rows)
    fewer = " (all there are of concepts with fewer)" if short else ""
    return f"{where}, from {', '.join(map(str, shots))} support image{'' if shots == [1] else 's'}{fewer}"


def count_range(counts: Iterable[int]) -> str:
    """`1 concept`, `40 concepts` or `38 to 40 concepts`."""
    counts = sorted(set(counts)) or [0]
    number = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
    return f"{number} concept{'' if counts == [1] else 's'}"


def footnotes(rows: Iterable[Summary]) -> str:
    """Sentences about controls, skipped cells and undefined metrics, where there are some."""
    rows = list(rows)
    said = []
    if any(row.untrained for row in rows):
        said.append("Control: random weights, which show what the architecture alone gives.")
    if any(not row.scores for row in rows):
        said.append("Where a mark is missing, every concept was skipped.")
    templates, degenerate = (sum(getattr(row, name) for row in rows) for name in ("templates", "degenerate"))
    if degenerate:
        said.append(
            f"{degenerate:,} of {templates:,} templates find no positive; their undefined precision or F1 counts as 0."
        )
    return " ".join([*said, unconverged(rows)]).strip()


def unconverged(rows: Iterable[Summary]) -> str:
    """A sentence on regressions that did not converge, where there are some."""
    rows = list(rows)
    templates, missed = (sum(getattr(row, name) for row in rows) for name in ("templates", "unconverged"))
    return f"{missed:,} of {templates:,} regressions did not converge." if missed else ""


def scores_in_words(rows: Sequence[Summary], metrics: Sequence[str]) -> str:
    """Every mean in words where they are few, else for each metric and backbone the extremes."""
    scored = [row for row in rows if row.scores]
    whole = len(scored) * len(metrics) <= _SPOKEN
    said = []
    for metric in metrics:
        parts = []
        for backbone in backbones_of(scored):
            own = [row for row in scored if row.backbone == backbone]
            if whole:
                own.sort(key=lambda row: tokens_of(scored).index(row.token))
                parts.append(f"{backbone} " + ", ".join(f"{_where(row, own)} {_number(row, metric)}" for row in own))
            else:
                parts.append(f"{backbone} {extremes_in_words(own, metric)}")
        said.append(f"{capitalised(METRIC_LABELS[metric])}: {'; '.join(parts)}.")
    return " ".join(said)


def extremes_in_words(rows: Iterable[Summary], metric: str) -> str:
    """The lowest and the highest of some rows, and where they are; without a full stop."""
    ranked = sorted((row for row in rows if row.scores), key=lambda row: row.scores[metric].mean)
    if not ranked:
        return "has no scores"
    several = len(backbones_of(ranked)) > 1

    def said(row: Summary) -> str:
        of = f" of {row.backbone}" if several else ""
        return f"{_number(row, metric)} ({_where(row, ranked)}{of})"

    return said(ranked[0]) if len(ranked) == 1 else f"from {said(ranked[0])} to {said(ranked[-1])}"


def iou_in_words(rows: Iterable[Example]) -> str:
    """Which concepts examples are of, and their IoU by backbone, rule and choice of the token."""
    groups: dict[tuple[str, str, str], list[Example]] = {}
    for row in rows:
        groups.setdefault((row.backbone, row.rule, row.choice), []).append(row)
    names = dict.fromkeys(row.name for own in groups.values() for row in own)
    said = []
    for (backbone, rule, choice), own in groups.items():
        values = [row.iou for row in own]
        mean = sum(values) / len(values)
        of_paper = f" of the paper's token {own[0].token}" if choice == "paper" else ""
        template = f"{backbone} with {RULE_NAMES[rule]}{of_paper}"
        said.append(f"{template} {mean:.3f} ({min(values):.3f} to {max(values):.3f})")
    return f"Concepts: {', '.join(names)}. Mean IoU: {'; '.join(said)}."


def listed(metrics: Sequence[str]) -> str:
    """The names of metrics as a sentence begins: `Accuracy and F1`."""
    names = ["F1" if metric == "f1" else metric for metric in metrics]
    return capitalised(names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}")


def capitalised(text: str) -> str:
    """With a capital at its beginning, the rest as it is."""
    return text[:1].upper() + text[1:]


def _number(row: Summary, metric: str) -> str:
    return f"{row.scores[metric].mean:.3f}"


def _where(row: Summary, among: Sequence[Summary]) -> str:
    """The token; block and shots where those of the others differ."""
    said = row.token
    if len({other.layer for other in among if other.backbone == row.backbone}) > 1:
        said += f" of block {row.layer}"
    if len({other.shots for other in among}) > 1:
        said += f" with {row.shots} shot{'' if row.shots == 1 else 's'}"
    return said
