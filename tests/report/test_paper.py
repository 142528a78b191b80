"""The published numbers are whole, stand beside the right cells, and never without what must be said of them."""

import json

import pytest

from vitprobe_jax.backbones.untrained import OBJECTIVE as UNTRAINED
from vitprobe_jax.metrics.results import METRICS, SCHEMA, make_table
from vitprobe_jax.report import tables
from vitprobe_jax.report.paper import TIE, compare_with_paper, paper_numbers
from vitprobe_jax.types import RULES, TASKS, TOKENS

PUBLISHED = (("dino_vits8", "DINO"), ("mae_vitb16", "MAE"))
CATEGORIES = tuple((n, f"thing {n}", c) for n, c in enumerate(("object", "part", "material", "scene", "texture"), 1))
CONFIG = {
    "image_size": [224, 224],
    "layers": "last",
    "trials": 10,
    "max_images": 0,
    "feature_norm": "none",
    "categories": [],
    "hyperplane": {"rounds": 5, "epochs": 3, "pool_ratio": 20, "negative_ratio": 2},
}


@pytest.fixture
def rows_like_the_paper(results_rows):
    """Rows of all six tokens at 500 shots, by the paper's backbones unless others are named."""

    def make(task="segmentation", **options) -> list[dict]:
        options = {"backbones": PUBLISHED, "tokens": TOKENS, "shots": (5, 500), "concepts": CATEGORIES} | options
        if task == "classification":
            options = {"evaluation": "image", "dataset": "imagenet200:200"} | options
        return results_rows(task=task, **options)

    return make


def with_scores(rows, metric, by_token):
    """The same rows with one metric set by token."""
    return [row | {metric: by_token.get(row["token"], row[metric])} for row in rows]


def test_facts_are_those_of_the_papers(shared_data):
    """All that stands there stands here, unchanged; here stand numbers of the text beside it."""

    def check(ours, theirs):
        if isinstance(theirs, dict):
            assert theirs.keys() <= ours.keys()
            for name, value in theirs.items():
                check(ours[name], value)
        else:
            assert ours == theirs

    check(paper_numbers(), json.loads((shared_data / "paper_numbers.json").read_text()))


def test_facts_are_well_formed():
    numbers = paper_numbers()
    assert numbers.keys() == {"source", "note", "directions", "local", "cls"}
    assert len(numbers["directions"]) == 30
    for fact in numbers["directions"]:
        assert fact["task"] in TASKS
        assert fact["rule"] in RULES
        assert fact["token"] in (*TOKENS, "any")
        assert fact["backbone"] in dict(PUBLISHED)
        assert ("shots" in fact) == (fact["rule"] == "cosine")
        given = [metric for metric in METRICS if metric in fact]
        assert given
        assert all(0 <= fact[metric] <= 1 for metric in given)
    for study in ("local", "cls"):
        assert all("where" in facts for facts in numbers[study].values())


def test_every_fact_stands_beside_its_cell(rows_like_the_paper):
    rows = rows_like_the_paper() + rows_like_the_paper("classification", seed=1)
    table = make_table(rows)
    comparison = compare_with_paper(table, CONFIG)
    assert comparison.absent == ()
    assert comparison.source == "Which Direction to Choose? (2025)"
    by_category = tables.summarise_by_category(table) | {None: tables.summarise(table)}
    expected = []
    for fact in paper_numbers()["directions"]:
        for token in TOKENS if fact["token"] == "any" else (fact["token"],):
            (cell,) = (
                row
                for row in by_category[fact.get("category")]
                if (row.task, row.backbone, row.rule, row.token)
                == (fact["task"], fact["backbone"], fact["rule"], token)
                and row.shots == fact.get("shots")
            )
            for metric in METRICS:
                if metric in fact:
                    score = cell.scores[metric]
                    expected.append((fact["where"], metric, token, score.mean, score.low, score.high, fact[metric]))
    found = [(r.where, r.metric, r.token, r.value, r.low, r.high, r.published) for r in comparison.rows]
    assert sorted(found) == sorted(expected)
    for row in comparison.rows:
        assert row.difference == row.value - row.published
        assert row.exact_backbone
        assert row.approximate or row.where not in ("4.1, Fig. 6", "4.3 (-0.001, -0.01 against k)")
    deviations = {row.published_deviation for row in comparison.rows}
    assert deviations == {None, 0.01, 0.02, 0.03}


def test_rows_name_what_was_published(rows_like_the_paper):
    rows = compare_with_paper(make_table(rows_like_the_paper() + rows_like_the_paper("classification")), CONFIG).rows
    names = {row.what for row in rows}
    assert "segmentation, hyperplane, k of dino_vits8, part" in names
    assert "segmentation, cosine at 500 shots, q of mae_vitb16, texture" in names
    assert "classification, hyperplane, x1 (as any token) of mae_vitb16" in names


def test_the_last_block_and_patches_are_compared(rows_like_the_paper):
    rows = rows_like_the_paper(layers=(3, 11))
    pixels = rows_like_the_paper(layers=(11,), rules=("hyperplane",), evaluation="pixel", seed=4)
    comparison = compare_with_paper(make_table(rows + pixels), CONFIG)
    alone = compare_with_paper(make_table([row for row in rows if row["layer"] == 11]), CONFIG)
    assert {row.layer for row in comparison.rows} == {11}
    for row, other in zip(comparison.rows, alone.rows, strict=True):
        assert (row.what, row.metric, row.value) == (other.what, other.metric, pytest.approx(other.value, abs=1e-12))


def test_a_backbone_of_the_family_stands_in_and_controls_never_do(rows_like_the_paper):
    controls = (("dino_vits8", UNTRAINED), ("tiny_mae", UNTRAINED))
    comparison = compare_with_paper(make_table(rows_like_the_paper(backbones=controls)), CONFIG)
    assert (comparison.rows, comparison.orderings) == ((), ())
    assert len(comparison.absent) == 20
    assert "No trained backbone of the run can stand for DINO's official ViT-S/8." in comparison.caveats

    several = (*controls, ("dino_vitb16", "DINO"), ("dino_vits16", "DINO"), ("mae_vitb16", "MAE"))
    comparison = compare_with_paper(make_table(rows_like_the_paper(backbones=several)), CONFIG)
    assert {(row.backbone, row.exact_backbone) for row in comparison.rows} == {
        ("dino_vitb16", False),
        ("mae_vitb16", True),
    }
    assert "Other weights: dino_vitb16 stands for DINO's official ViT-S/8." in comparison.caveats
    assert any("mae_vitb16 holds the weights of" in caveat for caveat in comparison.caveats)

    exact = (("dino_vitb16", "DINO"), ("dino_vits8", "DINO"))
    comparison = compare_with_paper(make_table(rows_like_the_paper(backbones=exact)), CONFIG)
    assert {row.backbone for row in comparison.rows} == {"dino_vits8"}


def test_what_the_run_lacks_is_listed(rows_like_the_paper):
    rows = [row for row in rows_like_the_paper(shots=(5,), tokens=("k", "v")) if row["category"] != "part"]
    comparison = compare_with_paper(make_table(rows), CONFIG)
    assert "segmentation, hyperplane, k of dino_vits8, part" in comparison.absent
    assert "segmentation, cosine at 500 shots, q of dino_vits8" in comparison.absent
    assert not any("cosine" in row.what or "part" in row.what for row in comparison.rows)
    assert any(f"{len(comparison.absent)} of the 20 published facts" in caveat for caveat in comparison.caveats)


def orderings(rows):
    return {(o.what, o.metric): o for o in compare_with_paper(make_table(rows), CONFIG).orderings}


def test_orders_of_tokens_hold_or_not(rows_like_the_paper):
    rows = rows_like_the_paper("classification")
    place = ("classification, hyperplane, dino_vits8", "accuracy")
    same = orderings(with_scores(rows, "accuracy", {"x1": 0.5, "xn": 0.6, "x2": 0.7}))[place]
    assert (same.published, same.ours) == ("x2 > xn > x1", "x2 > xn > x1")
    assert (same.agreeing, same.pairs, same.holds) == (3, 3, True)
    assert same.where == "Table 1"
    swapped = orderings(with_scores(rows, "accuracy", {"x1": 0.5, "xn": 0.7, "x2": 0.6}))[place]
    assert (swapped.ours, swapped.agreeing, swapped.holds) == ("xn > x2 > x1", 2, False)
    equal = orderings(with_scores(rows, "accuracy", {"x1": 0.5, "xn": 0.7, "x2": 0.7}))[place]
    assert (equal.ours, equal.agreeing, equal.holds) == ("xn = x2 > x1", 2, False)


def test_recall_of_all_six_tokens_is_one_order(rows_like_the_paper):
    rows = rows_like_the_paper("classification")
    recall = {"x1": 0.1, "k": 0.2, "q": 0.3, "v": 0.4, "xn": 0.5, "x2": 0.6}
    found = orderings(with_scores(rows, "recall", recall))
    ordering = found["classification, hyperplane, dino_vits8", "recall"]
    assert ordering.published == ordering.ours == "x2 > xn > v > q > k > x1"
    assert ordering.pairs == 15
    assert ordering.holds
    assert ordering.where == "Table 1; 4.1"


def test_published_ties_ask_for_means_that_are_close(rows_like_the_paper):
    # Printed precision of xn and x2 is the same; F1 of v is given roughly, 0.01 from that of k.
    for task, what, metric, tokens, published in (
        ("classification", "classification, hyperplane, dino_vits8", "precision", ("xn", "x2"), "xn = x2 > x1"),
        ("segmentation", "segmentation, hyperplane, dino_vits8", "f1", ("k", "v"), "k = v"),
    ):
        rows = rows_like_the_paper(task)
        for gap, holds in ((0.9 * TIE, True), (-0.9 * TIE, True), (1.1 * TIE, False), (-1.1 * TIE, False)):
            scores = {"x1": 0.1, tokens[0]: 0.5, tokens[1]: 0.5 + gap}
            ordering = orderings(with_scores(rows, metric, scores))[what, metric]
            assert ordering.published == published
            assert ordering.holds == holds


def test_one_token_is_no_order(rows_like_the_paper):
    assert orderings(rows_like_the_paper(tokens=("k",))) == {}


def test_other_data_weights_and_protocol_are_told(rows_like_the_paper):
    rows = rows_like_the_paper(dataset="shapes:400", backbones=(("dino_tiny", "DINO"),))
    config = CONFIG | {
        "image_size": [128, 128],
        "trials": 3,
        "feature_norm": "standardize",
        "categories": ["object"],
        "layers": [3, 11],
        "hyperplane": CONFIG["hyperplane"] | {"rounds": 2},
    }
    caveats = compare_with_paper(make_table(rows), config).caveats
    assert caveats[0].startswith("Not a reproduction: the paper's numbers come from Broden, with the weights of DINO's")
    for wanted in (
        "Other data: the paper used Broden for segmentation, the run shapes:400.",
        "Other weights: dino_tiny stands for DINO's official ViT-S/8.",
        "No trained backbone of the run can stand for MAE's official ViT-B/16.",
        "Other protocol: image_size is 128, 128, the paper's 224, 224.",
        "Other protocol: trials is 3, the paper's 10.",
        "Other protocol: feature_norm is standardize, the paper's none.",
        "Other protocol: categories is object, the paper's all.",
        "Other protocol: hyperplane.rounds is 2, the paper's 5.",
        "Blocks were chosen: the last of them stands for the model's last.",
        "Fewer images: where a concept has no 500 to draw, all of its are used.",
    ):
        assert wanted in caveats
    assert len(set(caveats)) == len(caveats)


def test_a_part_of_broden_is_other_data(rows_like_the_paper):
    caveats = compare_with_paper(make_table(rows_like_the_paper()), CONFIG).caveats
    assert "Other data, or a part: the run probed 5 concepts of broden:streets, the paper about 1,190." in caveats


@pytest.mark.parametrize("dataset", ["imagenet200:folder", "tfds:imagenet200/seed0"])
def test_where_all_seems_the_same_what_cannot_be_seen_is_told(rows_like_the_paper, dataset):
    classes = tuple((n, f"n{n:08d}", "class") for n in range(1, 201))
    options = {"rules": ("hyperplane_paper", "cosine"), "shots": (500,), "trials": 1}
    rows = rows_like_the_paper("classification", dataset=dataset, concepts=classes, **options)
    rows = [row | {"effective_shots": row["shots"]} if row["shots"] else row for row in rows]
    comparison = compare_with_paper(make_table(rows), CONFIG)
    assert comparison.absent == ()
    first, *others = comparison.caveats
    assert first.startswith(
        "A reproduction only if what cannot be seen from here is the same: the paper's numbers come from"
    )
    assert others == [
        f"Whether images and annotations of {dataset} are the paper's cannot be seen from here.",
        "Whether dino_vits8 holds the weights of DINO's official ViT-S/8 cannot be seen from here.",
        "Whether mae_vitb16 holds the weights of MAE's official ViT-B/16 cannot be seen from here.",
        "Hyperplanes are those of --solver=paper. The paper leaves their learning rate open: its own may be another.",
    ]


def test_configurations_of_any_kind_are_borne(rows_like_the_paper):
    table = make_table(rows_like_the_paper())
    for config in ({}, {"hyperplane": "none"}, {"image_size": None, "layers": "all"}, {"categories": ()}):
        assert compare_with_paper(table, config).rows
    assert any(
        "size that each backbone was made for" in c for c in compare_with_paper(table, {"image_size": None}).caveats
    )


def test_an_empty_table_compares_to_nothing():
    comparison = compare_with_paper(SCHEMA.empty_table(), CONFIG)
    assert (comparison.rows, comparison.orderings, comparison.absent, comparison.caveats) == ((), (), (), ())
