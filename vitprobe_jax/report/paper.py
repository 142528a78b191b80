"""A run's numbers beside those that the paper prints: value, published, difference, order of tokens, and all caveats.

The published numbers stand in `paper_numbers.json` with the paper and the place in it: values from text and tables only,
none read off bars. To set a run beside them is no reproduction unless data, weights and protocol are the paper's;
`PaperComparison.caveats` says in sentences what differs and what cannot be seen from a results folder.
"""

import dataclasses
import functools
import itertools
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib import resources

import pyarrow as pa

from vitprobe_jax.metrics.results import METRICS
from vitprobe_jax.report.cells import UNTRAINED
from vitprobe_jax.report.settings import differing_protocol
from vitprobe_jax.report.tables import (
    Summary,
    last_layer,
    main_rows,
    summarise,
    summarise_by_category,
)
from vitprobe_jax.types import HYPERPLANE_RULES, TOKENS, Rule

TIE = 0.01
"""Published values this close, one of them approximate, are no order; a run's means this close agree with that."""

_DATA = {"segmentation": "Broden", "classification": "ImageNet's images of Tiny ImageNet's 200 classes"}
_KINDS = {"segmentation": "broden", "classification": "imagenet200"}
_CONCEPTS = {"segmentation": 1190, "classification": 200}  # probed by the paper; of Broden about so many
_WEIGHTS = {"dino_vits8": "DINO's official ViT-S/8", "mae_vitb16": "MAE's official ViT-B/16"}
_PROTOCOL = {
    "image_size": (224, 224),
    "trials": 10,
    "max_images": 0,
    "patches_per_image": 0,
    "feature_norm": "none",
    "drop_features": 0,
    "categories": (),
    "hyperplane.rounds": 5,
    "hyperplane.epochs": 3,
    "hyperplane.pool_ratio": 20,
    "hyperplane.negative_ratio": 2,
}
"""What of a run's configuration the paper fixes, and how."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PaperRow:
    """One published number and the run's.

    Attributes:
        what: task, rule, token, backbone and category in words, as published.
        where: place in the paper.
        metric: one of `METRICS`.
        dataset: the run's.
        backbone: the run's that stands for the paper's.
        exact_backbone: whether it has the name of the paper's.
        layer: the run's block.
        token: the run's; another than published only where the paper says `any`.
        value: the run's mean over concepts.
        low: lower end of its 95% interval.
        high: upper end.
        deviation: the run's over trials; None for hyperplanes and a single trial.
        published: the paper's number.
        published_deviation: over trials, where the paper gives one.
        approximate: the paper gives the number only roughly, or by its distance from another.
        difference: value less published.
    """

    what: str
    where: str
    metric: str
    dataset: str
    backbone: str
    exact_backbone: bool
    layer: int
    token: str
    value: float
    low: float
    high: float
    deviation: float | None
    published: float
    published_deviation: float | None
    approximate: bool
    difference: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class PaperOrdering:
    """The order of tokens in the paper and in the run, by means alone: no test stands behind either.

    Attributes:
        what: task, rule, backbone and category in words, as published.
        where: places in the paper.
        metric: one of `METRICS`.
        dataset: the run's.
        backbone: the run's that stands for the paper's.
        exact_backbone: whether it has the name of the paper's.
        published: `x2 > xn > x1`; tokens that the paper does not tell apart are joined by `=`.
        ours: the run's order of the same tokens; means that agree in three decimals are joined by `=`.
        agreeing: pairs of tokens for which the run says the same. A pair that the paper orders must have that order; one
            that it does not tell apart must lie within `TIE`.
        pairs: all pairs.
    """

    what: str
    where: str
    metric: str
    dataset: str
    backbone: str
    exact_backbone: bool
    published: str
    ours: str
    agreeing: int
    pairs: int

    @property
    def holds(self) -> bool:
        """Whether every pair agrees."""
        return self.agreeing == self.pairs


@dataclasses.dataclass(frozen=True)
class PaperComparison:
    """Everything to be said about a run beside the paper.

    Attributes:
        source: the paper.
        rows: in the order of the published facts.
        orderings: in the order of the published facts.
        absent: published facts of the run's tasks that it has no number for, in words.
        caveats: sentences that must be read with the numbers: the verdict, what differs, what cannot be seen from a
            results folder.
    """

    source: str
    rows: tuple[PaperRow, ...]
    orderings: tuple[PaperOrdering, ...]
    absent: tuple[str, ...]
    caveats: tuple[str, ...]


@functools.cache
def paper_numbers() -> Mapping:
    """All published numbers: `source` by study, `note`, and by study (`directions`, `local`, `cls`) the facts."""
    return json.loads(resources.files("vitprobe_jax.report").joinpath("paper_numbers.json").read_text("utf-8"))


def compare_with_paper(table: pa.Table, config: Mapping) -> PaperComparison:
    """Sets the published numbers of the main study beside a run's.

    A number of the run is that of the same task, rule, number of shots, token and category, at its last probed block and
    never about pixels. For a backbone of the paper stands the run's of the same name; else the first trained one of the
    same family, with a caveat; never an untrained control. Hyperplanes are those of the paper's solver where
    the run has both.

    Args:
        table: results.
        config: every flag as resolved; what is not in it is not checked.
    """
    numbers = paper_numbers()
    run = _Run.of(table)
    facts = [
        (dataset, fact) for task, dataset in run.datasets for fact in numbers["directions"] if fact["task"] == task
    ]
    rows, absent = [], []
    for dataset, fact in facts:
        found = [row for token in _tokens(fact) if (row := run.find(dataset, fact, token))]
        rows += [_row(fact, row, run, metric) for row in found for metric in METRICS if metric in fact]
        if not found:
            absent.append(_what(fact, f"{fact['token']} token" if fact["token"] == "any" else fact["token"]))
    return PaperComparison(
        source=numbers["source"]["directions"],
        rows=tuple(rows),
        orderings=tuple(_orderings(facts, run)),
        absent=tuple(absent),
        caveats=tuple(_caveats(run, config, absent, len(facts))),
    )


@dataclasses.dataclass(frozen=True)
class _Run:
    """What is looked up in a results table.

    Attributes:
        datasets: (task, dataset), in the table's order.
        stand_ins: the run's backbone for each published one that has any.
        rows: at the last block, by data set, category (None for all), backbone, rule, shots and token.
        concepts: how many concepts were probed, by (task, dataset).
        planes: the rule whose hyperplanes stand for the paper's: those of its own solver where the run has some.
    """

    datasets: Sequence[tuple[str, str]]
    stand_ins: Mapping[str, str]
    rows: Mapping[tuple, Summary]
    concepts: Mapping[tuple[str, str], int]
    planes: Rule | None

    @classmethod
    def of(cls, table: pa.Table) -> "_Run":
        summaries = {None: summarise(table)} | summarise_by_category(table)
        rows = {
            (row.task, row.dataset, category, row.backbone, row.rule, row.shots, row.token): row
            for category, own in summaries.items()
            for row in last_layer(main_rows(own))
            if row.scores
        }
        concepts = defaultdict(int)
        for row in main_rows(summaries[None]):
            concepts[row.task, row.dataset] = max(concepts[row.task, row.dataset], row.concepts)
        backbones = table.select(["backbone", "family", "objective"]).group_by(
            ["backbone", "family", "objective"], use_threads=False
        )
        trained = {
            record["backbone"]: record["family"]
            for record in backbones.aggregate([]).to_pylist()
            if record["objective"] != UNTRAINED
        }
        stand_ins = {}
        for published in _WEIGHTS:
            family = [name for name in trained if trained[name] == published.partition("_")[0]]
            if family:
                stand_ins[published] = published if published in family else family[0]
        present = {row.rule for row in rows.values()}
        planes = next((rule for rule in reversed(HYPERPLANE_RULES) if rule in present), None)
        return cls(tuple(concepts), stand_ins, rows, concepts, planes)

    def find(self, dataset: str, fact: Mapping, token: str) -> Summary | None:
        backbone = self.stand_ins.get(fact["backbone"])
        rule = self.planes if fact["rule"] == "hyperplane" else fact["rule"]
        place = (fact["task"], dataset, fact.get("category"), backbone, rule, fact.get("shots"), token)
        return self.rows.get(place)


def _tokens(fact: Mapping) -> tuple[str, ...]:
    return TOKENS if fact["token"] == "any" else (fact["token"],)


def _row(fact: Mapping, row: Summary, run: _Run, metric: str) -> PaperRow:
    score = row.scores[metric]
    return PaperRow(
        what=_what(fact, f"{row.token} (as any token)" if fact["token"] == "any" else row.token),
        where=fact["where"],
        metric=metric,
        dataset=row.dataset,
        backbone=row.backbone,
        exact_backbone=row.backbone == fact["backbone"],
        layer=row.layer,
        token=row.token,
        value=score.mean,
        low=score.low,
        high=score.high,
        deviation=score.deviation,
        published=fact[metric],
        published_deviation=fact.get(f"{metric}_std"),
        approximate=fact.get("approximate", False),
        difference=score.mean - fact[metric],
    )


def _what(fact: Mapping, token: str | None) -> str:
    """A fact in words; without a token, the order that it is part of."""
    rule = f"{fact['rule']} at {fact['shots']} shots" if "shots" in fact else fact["rule"]
    words = [fact["task"], rule, fact["backbone"] if token is None else f"{token} of {fact['backbone']}"]
    return ", ".join([*words, fact["category"]] if "category" in fact else words)


def _orderings(facts: Sequence[tuple[str, Mapping]], run: _Run) -> list[PaperOrdering]:
    groups = defaultdict(list)
    for dataset, fact in facts:
        for metric in METRICS:
            if metric in fact and (row := run.find(dataset, fact, fact["token"])):
                groups[dataset, _what(fact, None), metric].append((fact, row))
    return [_ordering(metric, found) for (*_, metric), found in groups.items() if len(found) > 1]


def _ordering(metric: str, found: Sequence[tuple[Mapping, Summary]]) -> PaperOrdering:
    published = {row.token: fact[metric] for fact, row in found}
    rough = {row.token for fact, row in found if fact.get("approximate")}
    ours = {row.token: row.scores[metric].mean for _, row in found}

    def untold(a: str, b: str) -> bool:
        """Whether the paper does not tell two tokens apart; gaps are compared in its own three decimals."""
        return round(abs(published[a] - published[b]), 3) <= (TIE if {a, b} & rough else 0.0)

    def agree(a: str, b: str) -> bool:
        gap = ours[a] - ours[b]
        return abs(gap) <= TIE if untold(a, b) else gap * (published[a] - published[b]) > 0

    pairs = list(itertools.combinations(published, 2))
    (fact, row), places = found[0], dict.fromkeys(fact["where"] for fact, _ in found)
    return PaperOrdering(
        what=_what(fact, None),
        where="; ".join(places),
        metric=metric,
        dataset=row.dataset,
        backbone=row.backbone,
        exact_backbone=row.backbone == fact["backbone"],
        published=_chain(published, untold),
        ours=_chain(ours, lambda a, b: round(ours[a], 3) == round(ours[b], 3)),
        agreeing=sum(itertools.starmap(agree, pairs)),
        pairs=len(pairs),
    )


def _chain(values: Mapping[str, float], equal) -> str:
    """Tokens from the highest value down, neighbours that are equal joined by `=`."""
    ranked = sorted(values, key=lambda token: (-values[token], TOKENS.index(token)))
    signs = [" = " if equal(a, b) else " > " for a, b in itertools.pairwise(ranked)]
    return "".join(itertools.chain(*itertools.zip_longest(ranked, signs, fillvalue="")))


def _caveats(run: _Run, config: Mapping, absent: Sequence[str], num_facts: int) -> list[str]:
    """The verdict, then what differs, then what cannot be seen."""
    differing, unknown = zip(_data_caveats(run), _weight_caveats(run), _protocol_caveats(run, config), strict=True)
    differing, unknown = list(itertools.chain(*differing)), list(itertools.chain(*unknown))
    tasks = dict.fromkeys(task for task, _ in run.datasets)
    paper = (
        f"the paper's numbers come from {' and '.join(_DATA[task] for task in tasks)}, with the weights of "
        f"{' and '.join(_WEIGHTS.values())}, at 224 px, under its full protocol"
    )
    if absent:
        unknown.append(
            f"{len(absent)} of the {num_facts} published facts have no counterpart here, for want of a backbone, category, "
            "token or number of shots."
        )
    verdict = "Not a reproduction" if differing else "A reproduction only if what cannot be seen from here is the same"
    return [f"{verdict}: {paper}.", *differing, *unknown] if tasks else []


def _data_caveats(run: _Run) -> tuple[list[str], list[str]]:
    """What is known to differ in the data, and what cannot be seen; the same below."""
    differing, unknown = [], []
    for task, dataset in run.datasets:
        count, published = run.concepts[task, dataset], _CONCEPTS[task]
        kind = dataset.removeprefix("tfds:").split("/")[0] if dataset.startswith("tfds:") else dataset.split(":")[0]
        if kind != _KINDS[task]:
            differing.append(f"Other data: the paper used {_DATA[task]} for {task}, the run {dataset}.")
        elif count < 0.9 * published:
            differing.append(
                f"Other data, or a part: the run probed {count:,} concepts of {dataset}, the paper about {published:,}."
            )
        else:
            unknown.append(f"Whether images and annotations of {dataset} are the paper's cannot be seen from here.")
    return differing, unknown


def _weight_caveats(run: _Run) -> tuple[list[str], list[str]]:
    differing, unknown = [], []
    for published, weights in _WEIGHTS.items():
        name = run.stand_ins.get(published)
        if name is None:
            differing.append(f"No trained backbone of the run can stand for {weights}.")
        elif name == published:
            unknown.append(f"Whether {name} holds the weights of {weights} cannot be seen from here.")
        else:
            differing.append(f"Other weights: {name} stands for {weights}.")
    return differing, unknown


def _protocol_caveats(run: _Run, config: Mapping) -> tuple[list[str], list[str]]:
    hyperplane = config.get("hyperplane")
    nested = hyperplane.items() if isinstance(hyperplane, Mapping) else ()
    flat = dict(config) | {f"hyperplane.{name}": value for name, value in nested}
    differing = differing_protocol(flat, _PROTOCOL)
    unknown = []
    if run.planes == "hyperplane":
        differing.append(
            "Other protocol: hyperplanes are solved to the minimum of their loss; the paper's SGD stops before it "
            "(--solver=paper does so)."
        )
    elif run.planes:
        unknown.append(
            "Hyperplanes are those of --solver=paper. The paper leaves their learning rate open: its own may be another."
        )
    if not isinstance(config.get("layers", "last"), str):
        unknown.append("Blocks were chosen: the last of them stands for the model's last.")
    if "image_size" in config and config["image_size"] is None:
        unknown.append("Images had the size that each backbone was made for; the official weights' is 224 px.")
    scarce = {row.shots for row in run.rows.values() if row.shots and row.effective_shots < row.shots}
    scarce &= {fact["shots"] for fact in paper_numbers()["directions"] if "shots" in fact}
    if scarce:
        differing.append(
            f"Fewer images: where a concept has no {' or '.join(map(str, sorted(scarce)))} to draw, all of its are used."
        )
    return differing, unknown
