"""The summaries equal loops over the rows, written without Arrow."""

import itertools
import random
import statistics

import numpy as np
import pyarrow as pa
import pytest

from vitprobe_jax.metrics.results import METRICS, SCHEMA, make_table
from vitprobe_jax.metrics.statistics import bootstrap_means, mean_intervals
from vitprobe_jax.report import cells, tables
from vitprobe_jax.types import RULES, TOKENS, Concept

# Only the order of summation differs between Arrow and Python: a few units in the last place of numbers up to 1.
EXACT = 1e-12


def select(rows, summary):
    names = ("task", "dataset", "backbone", "layer", "token", "rule", "shots", "evaluation")
    return [row for row in rows if all(row[name] == getattr(summary, name) for name in names)]


def concept_means(rows, metric):
    """Mean over trials of each concept that has any."""
    by_concept = {}
    for row in rows:
        if row["skipped"] is None:
            by_concept.setdefault((row["concept"], row["category"]), []).append(row[metric])
    return {concept: statistics.fmean(values) for concept, values in by_concept.items()}


@pytest.fixture
def rows(results_rows):
    """Two layers, and a concept that is skipped by the cosine rule of one backbone at 5 shots."""

    def skip(row):
        return "too few" if row["name"] == "wheel" and row["shots"] == 5 and row["backbone"] == "tiny_mae" else None

    return results_rows(layers=(3, 11), skip=skip)


def test_means_and_counts_are_those_of_plain_loops(rows):
    summaries = tables.summarise(make_table(rows))
    assert len(summaries) == 2 * 2 * 3 * (1 + 2)  # backbones, layers, tokens, hyperplane and two numbers of shots
    for summary in summaries:
        own = select(rows, summary)
        scored = [row for row in own if row["skipped"] is None]
        assert summary.templates == len(scored)
        assert summary.degenerate == sum(row["degenerate"] for row in scored)
        assert summary.concepts == len(concept_means(own, "f1"))
        assert summary.skipped == 4 - summary.concepts
        for metric in METRICS:
            expected = statistics.fmean(concept_means(own, metric).values())
            assert summary.scores[metric].mean == pytest.approx(expected, abs=EXACT)
    assert any(summary.skipped for summary in summaries)
    assert any(summary.degenerate for summary in summaries)


def test_deviation_is_over_trials_of_the_mean_over_concepts(rows):
    for summary in tables.summarise(make_table(rows)):
        own = [row for row in select(rows, summary) if row["skipped"] is None]
        if summary.rule == "hyperplane":
            assert summary.scores["f1"].deviation is None
            assert summary.effective_shots is None
            continue
        trials = [statistics.fmean(row["f1"] for row in own if row["trial"] == trial) for trial in range(3)]
        assert summary.scores["f1"].deviation == pytest.approx(statistics.stdev(trials), abs=EXACT)
        assert summary.effective_shots == pytest.approx(statistics.fmean(row["effective_shots"] for row in own))


def test_concepts_weigh_the_same_however_many_trials_they_have(results_rows):
    full = results_rows(rules=("cosine",), tokens=("k",), shots=(5,), trials=4)
    uneven = [row for row in full if row["name"] != "sky" or row["trial"] == 0]
    for summary in tables.summarise(make_table(uneven)):
        expected = statistics.fmean(concept_means(select(uneven, summary), "recall").values())
        plain = statistics.fmean(row["recall"] for row in select(uneven, summary))
        assert summary.scores["recall"].mean == pytest.approx(expected, abs=EXACT)
        assert abs(expected - plain) > 1e-3  # the two ways to average really differ on these rows


def test_a_single_trial_has_no_deviation(results_rows):
    rows = results_rows(rules=("cosine",), trials=1)
    assert all(row.scores[m].deviation is None for row in tables.summarise(make_table(rows)) for m in METRICS)


def test_order_is_that_of_the_table_then_layer_token_and_shots(rows):
    summaries = tables.summarise(make_table(rows))
    assert [name for name, _ in itertools.groupby(row.backbone for row in summaries)] == ["dino_vits16", "tiny_mae"]
    keys = [
        (row.backbone, row.layer, TOKENS.index(row.token), RULES.index(row.rule), row.shots or 0) for row in summaries
    ]
    assert keys == sorted(keys)


def test_order_of_rows_changes_no_number(rows):
    def by_cell(rows):
        return {(s.backbone, s.layer, s.token, s.rule, s.shots): s for s in tables.summarise(make_table(rows))}

    shuffled = random.Random(1).sample(rows, len(rows))
    straight, mixed = by_cell(rows), by_cell(shuffled)
    assert straight.keys() == mixed.keys()
    for cell, summary in straight.items():
        assert mixed[cell].skipped == summary.skipped
        for metric, score in summary.scores.items():
            assert mixed[cell].scores[metric].mean == pytest.approx(score.mean, abs=EXACT)
            assert mixed[cell].scores[metric].deviation == pytest.approx(score.deviation, abs=EXACT)


def test_a_table_in_several_chunks_is_the_same_table(results_rows):
    """As parquet files of several row groups are read; hyperplanes have nulls in some chunks and not in others."""
    rows = results_rows()
    whole = make_table(rows)
    parts = pa.concat_tables([make_table(rows[i : i + 7]) for i in range(0, len(rows), 7)])
    assert parts["shots"].num_chunks > 1
    assert tables.summarise(parts) == tables.summarise(whole)


def test_intervals_are_bootstraps_over_concepts_in_their_own_order(rows):
    for summary in tables.summarise(make_table(random.Random(2).sample(rows, len(rows)))):
        for metric in METRICS:
            means = concept_means(select(rows, summary), metric)
            names = {(row["concept"], row["category"]): (row["category"], row["name"], row["concept"]) for row in rows}
            # A concept that was skipped keeps its place, so that all cells see the same resamples.
            column = [means.get(concept, np.nan) for concept in sorted(names, key=names.get)]
            (low,), (high,) = bootstrap_means(np.array(column)[:, None])
            score = summary.scores[metric]
            assert (score.low, score.high) == pytest.approx((low, high), abs=EXACT)
            assert score.low - EXACT <= score.mean <= score.high + EXACT


def test_tasks_data_sets_and_what_was_counted_are_cells_of_their_own(results_rows):
    kinds = [
        {},
        {"evaluation": "pixel", "rules": ("hyperplane",)},
        {"dataset": "broden:forest"},
        {"task": "classification", "dataset": "imagefolder:pets", "evaluation": "image"},
    ]
    parts = [results_rows(seed=seed, **kind) for seed, kind in enumerate(kinds)]
    summaries = tables.summarise(make_table(itertools.chain(*parts)))
    assert len(summaries) == 3 * 18 + 6
    alone = [tables.summarise(make_table(part)) for part in parts]
    assert sorted(summaries, key=repr) == sorted(itertools.chain(*alone), key=repr)
    places = [(row.task, row.dataset) for row in summaries]
    assert list(dict.fromkeys(places)) == [
        ("segmentation", "broden:streets"),
        ("segmentation", "broden:forest"),
        ("classification", "imagefolder:pets"),
    ]
    assert len(list(itertools.groupby(places))) == 3
    assert [row for row in summaries if row.evaluation != "pixel"] == tables.main_rows(summaries)


def test_concept_scores_are_the_means_over_trials(rows):
    found = tables.concept_scores(make_table(rows))
    summaries = tables.summarise(make_table(rows))
    assert found.cells == tuple(cells.cell_name(summary) for summary in summaries)
    assert found.concepts == (
        Concept(1, "grass", "material"),
        Concept(1, "sky", "object"),
        Concept(2, "tree", "object"),
        Concept(3, "wheel", "part"),
    )
    assert found.scores.shape == (len(METRICS), 4, len(summaries))
    missing = 0
    for summary in summaries:
        for metric in METRICS:
            means = concept_means(select(rows, summary), metric)
            for concept, score in zip(found.concepts, found.of(summary, metric), strict=True):
                expected = means.get((concept.number, concept.category))
                missing += expected is None
                assert np.isnan(score) if expected is None else score == pytest.approx(expected, abs=EXACT)
    assert missing


def test_concept_scores_are_not_written_to(rows):
    with pytest.raises(ValueError, match="read-only"):
        tables.concept_scores(make_table(rows)).scores[0, 0, 0] = 1.0


def test_layer_norm_table_holds_its_tokens_at_the_last_block(results_rows):
    rows = results_rows(tokens=("q", "x1", "xn", "x2"), layers=(3, 11))
    pixels = results_rows(tokens=("x1",), rules=("hyperplane",), layers=(12,), evaluation="pixel")
    table = tables.layer_norm_table(make_table(rows + pixels))
    assert table["token"].to_pylist() == ["x1", "xn", "x2"] * 4
    assert set(table["layer"].to_pylist()) == {11}
    assert set(table["shots"].to_pylist()) == {None, 5}
    summaries = {(s.backbone, s.layer, s.token, s.rule, s.shots): s for s in tables.summarise(make_table(rows))}
    for record in table.to_pylist():
        summary = summaries[record["backbone"], 11, record["token"], record["rule"], record["shots"]]
        assert record["concepts"] == summary.concepts
        for metric, score in summary.scores.items():
            assert (record[metric], record[f"{metric}_low"], record[f"{metric}_high"]) == (
                score.mean,
                score.low,
                score.high,
            )


def test_what_is_made_of_a_table_is_kept_with_it_and_no_longer():
    calls = []

    @cells.once_per_table
    def count(table):
        calls.append(table.num_rows)
        return table.num_rows

    table = SCHEMA.empty_table()
    assert (count(table), count(table)) == (0, 0)
    assert calls == [0]
    for _ in range(50):  # new tables may get the ids of forgotten ones
        del table
        table = SCHEMA.empty_table()
        count(table)
    assert len(calls) == 51


def test_everything_skipped_leaves_cells_without_scores(results_rows):
    table = make_table(results_rows(skip=lambda row: "no positives in val"))
    summaries = tables.summarise(table)
    assert len(summaries) == 2 * 3 * (1 + 2)
    assert all(row.scores == {} and row.concepts == 0 and row.skipped == 4 for row in summaries)
    assert tables.best_tokens(summaries) == []


def test_empty_table_has_no_cells():
    table = SCHEMA.empty_table()
    assert tables.summarise(table) == []
    assert tables.summarise_by_category(table) == {}
    assert tables.skipped_concepts(table) == []
    assert tables.concept_scores(table).scores.shape == (len(METRICS), 0, 0)
    assert tables.layer_norm_table(table).num_rows == 0


def test_categories_are_summarised_alone(rows):
    by_category = tables.summarise_by_category(make_table(rows))
    assert list(by_category) == ["material", "object", "part"]
    for category, summaries in by_category.items():
        for summary in summaries:
            own = concept_means([row for row in select(rows, summary) if row["category"] == category], "f1")
            assert summary.concepts == len(own)
            if own:
                assert summary.scores["f1"].mean == pytest.approx(statistics.fmean(own.values()), abs=EXACT)
    assert any(not summary.scores for summary in by_category["part"])


def test_best_token_is_the_highest_at_the_largest_number_of_shots(rows):
    summaries = tables.summarise(make_table(rows))
    best = tables.best_tokens(summaries)
    assert {(b.first.backbone, b.first.rule) for b in best} == {
        (backbone, rule) for backbone in ("dino_vits16", "tiny_mae") for rule in ("hyperplane", "cosine")
    }
    for b in best:
        shots = 5 if b.first.rule == "cosine" else None
        rivals = [
            row for row in summaries if (row.backbone, row.rule, row.shots) == (b.first.backbone, b.first.rule, shots)
        ]
        assert b.first.scores["accuracy"].mean == max(row.scores["accuracy"].mean for row in rivals)
        others = [row.scores["accuracy"].mean for row in rivals if row.token != b.first.token]
        assert b.second.token != b.first.token
        assert b.second.scores["accuracy"].mean == max(others)


def test_of_equal_tokens_the_first_leads_and_a_lone_token_has_no_second(results_rows):
    equal = [row | {"f1": 0.5, "degenerate": False} for row in results_rows(rules=("hyperplane",))]
    assert [(b.first.token, b.second.token) for b in tables.best_tokens(tables.summarise(make_table(equal)))] == [
        ("q", "k")
    ] * 2
    lone = tables.summarise(make_table(results_rows(rules=("hyperplane",), tokens=("k",))))
    assert [b.second for b in tables.best_tokens(lone)] == [None, None]


def test_last_layer_is_each_backbones_own(results_rows):
    rows = [
        row
        for row in results_rows(rules=("hyperplane",), layers=(3, 7, 11))
        if row["backbone"] == "dino_vits16" or row["layer"] < 11
    ]
    last = tables.last_layer(tables.summarise(make_table(rows)))
    assert {(row.backbone, row.layer) for row in last} == {("dino_vits16", 11), ("tiny_mae", 7)}


def test_skipped_concepts_are_listed_once_with_their_places(rows, results_rows):
    (skipped,) = tables.skipped_concepts(make_table(rows))
    assert skipped == tables.SkippedConcept("part", "wheel", "too few", ("cosine",), ("tiny_mae",))
    everywhere = make_table(results_rows(skip=lambda row: "rare" if row["name"] in ("sky", "grass") else None))
    assert [(s.category, s.name, s.rules) for s in tables.skipped_concepts(everywhere)] == [
        ("material", "grass", ("cosine", "hyperplane")),
        ("object", "sky", ("cosine", "hyperplane")),
    ]


def test_controls_are_known_by_their_objective(rows):
    assert {row.backbone for row in tables.summarise(make_table(rows)) if row.untrained} == {"tiny_mae"}


def test_scores_are_means_over_the_trials_of_each_seed_then_over_seeds(results_rows):
    """By loops; one seed lacks a trial of one concept, which weighs no less for it."""
    rows = [row | {"seed": seed} for seed in (5, 2, 9) for row in results_rows(seed=seed, shots=(5,))]
    rows = [row for row in rows if not (row["seed"] == 9 and row["name"] == "sky" and row["trial"] == 2)]
    table = make_table(rows)
    scores = tables.concept_scores(table)
    assert scores.seeds == (2, 5, 9)
    for summary in tables.summarise(table):
        own = select(rows, summary)
        by_seed = [concept_means([row for row in own if row["seed"] == seed], "f1") for seed in scores.seeds]
        for k, concept in enumerate(scores.concepts):
            expected = [means[concept.number, concept.category] for means in by_seed]
            assert scores.of_seeds(summary, "f1")[k] == pytest.approx(expected, abs=EXACT)
            assert scores.of(summary, "f1")[k] == pytest.approx(statistics.fmean(expected), abs=EXACT)
        score, means = summary.scores["f1"], [statistics.fmean(means.values()) for means in by_seed]
        assert summary.seeds == 3
        assert score.by_seed == pytest.approx(means, abs=EXACT)
        assert score.mean == pytest.approx(statistics.fmean(means), abs=EXACT)
        assert score.seed_deviation == pytest.approx(statistics.stdev(means), abs=EXACT)
        (low,), (high,) = mean_intervals(scores.of_seeds(summary, "f1")[:, None])
        assert (score.low, score.high) == pytest.approx((max(low, 0), min(high, 1)), abs=EXACT)
        if summary.rule == "cosine":
            trials = [
                statistics.fmean(row["f1"] for row in own if (row["seed"], row["trial"]) == (seed, trial))
                for seed in scores.seeds
                for trial in range(3)
            ]
            assert score.deviation == pytest.approx(statistics.stdev(trials), abs=EXACT)
        else:
            assert score.deviation is None
    for best in tables.best_tokens(tables.summarise(table)):
        for seed, token in zip(scores.seeds, best.token_by_seed, strict=True):
            alone = tables.best_tokens(tables.summarise(make_table(row for row in rows if row["seed"] == seed)))
            place = (best.first.backbone, best.first.rule)
            assert token == next(one.first.token for one in alone if (one.first.backbone, one.first.rule) == place)
        assert best.agreeing_seeds == sum(token == best.first.token for token in best.token_by_seed)


def test_rows_of_one_seed_have_no_deviation_over_seeds(rows):
    for summary in tables.summarise(make_table(rows)):
        assert summary.seeds == 1
        for score in summary.scores.values():
            assert score.seed_deviation is None
            assert score.by_seed == (pytest.approx(score.mean, abs=EXACT),)
