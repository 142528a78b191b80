"""Answers name what was planted, are as sure as the numbers allow, and quote them as they are."""

import random

import numpy as np
import pytest

from vitprobe_jax.backbones.untrained import OBJECTIVE as UNTRAINED
from vitprobe_jax.metrics.results import SCHEMA, make_table
from vitprobe_jax.metrics.statistics import holm, paired_test
from vitprobe_jax.report import answers, sentences, tables
from vitprobe_jax.report.comparison import LEVEL

DINO, MAE, CONTROL = ("dino_vits16", "self-distillation"), ("mae_vitb16", "masked pixels"), ("tiny", UNTRAINED)
TOKENS = {"q": 0.0, "k": 0.1, "v": 0.1}
CONCEPTS = tuple((number, f"thing {number}", "object") for number in range(1, 41))


@pytest.fixture
def planted(results_rows):
    """Rows whose scores are an effect of backbone, token and rule on top of each concept's difficulty, and noise."""

    def make(effect, *, concepts=CONCEPTS, seed=0, noise=0.01, **options) -> list[dict]:
        rng = np.random.default_rng(seed)
        difficulty = {name: rng.normal(0.5, 0.1) for _, name, _ in concepts}
        options = {"tokens": tuple(TOKENS), "shots": (1, 5), "backbones": (DINO, MAE, CONTROL)} | options
        rows = results_rows(concepts=concepts, **options)
        scored = [row for row in rows if row["skipped"] is None]
        for row in scored:
            score = difficulty[row["name"]] + effect(row) + rng.normal(0, noise)
            row.update(dict.fromkeys(("accuracy", "precision", "recall", "f1"), float(np.clip(score, 0, 1))))
        return rows

    return make


def by_all(row) -> float:
    """DINO is 0.05 above MAE, which is 0.1 above the control; hyperplanes are 0.08 above cosine templates."""
    backbone = {"dino_vits16": 0.15, "mae_vitb16": 0.1, "tiny": 0.0}[row["backbone"]]
    return backbone + TOKENS[row["token"]] + 0.08 * (row["rule"] == "hyperplane") + 0.01 * (row["shots"] == 5)


def numbers(comparisons) -> list[tuple]:
    return sorted((repr(c.first), repr(c.second), c.p_adjusted, c.test.difference.mean, c.holds) for c in comparisons)


def test_planted_best_is_named_with_what_it_beats(planted):
    (answer,) = answers.answer(make_table(planted(by_all)))
    best, runner_up = answer.best, answer.runner_up
    assert (answer.task, answer.dataset) == ("segmentation", "broden:streets")
    assert (best.backbone, best.rule, {best.token, runner_up.token}) == ("dino_vits16", "hyperplane", {"k", "v"})
    verdicts = {(c.second.backbone, c.second.rule, c.second.token): c.holds for c in answer.against}
    assert verdicts.pop(("dino_vits16", "hyperplane", runner_up.token)) is False
    assert verdicts.pop(("dino_vits16", "hyperplane", "q")) is True
    others = {place[:2] for place in verdicts}
    assert others == {("dino_vits16", "cosine"), ("mae_vitb16", "hyperplane"), ("tiny", "hyperplane")}
    assert all(verdicts.values())


def test_sentences_quote_the_numbers(planted):
    (answer,) = answers.answer(make_table(planted(by_all)))
    first, second, rule, backbone, control, other_control, seeds, selection = answer.sentences
    best, runner_up = answer.best, answer.runner_up
    score = best.scores["f1"]
    lead = next(c for c in answer.against if c.second == tables.cell_name(runner_up))
    interval = f"[{lead.test.difference.low:.3f}, {lead.test.difference.high:.3f}]".replace("-0.000", "0.000")
    assert first == (
        f"For segmentation on broden:streets, use {best.token} of block 11 of dino_vits16 with a hyperplane: "
        f"balanced accuracy {score.mean:.3f} [{score.low:.3f}, {score.high:.3f}] over 40 concepts. "
        f"It is not distinguishable from {runner_up.token} of the same block: "
        f"the mean difference is {lead.test.difference.mean:.3f} {interval} "
        f"(rank-biserial r = {lead.test.effect_size:.2f}, p = {lead.p_adjusted:.3f} after Holm over 18 comparisons). "
        "It beats q."
    )
    assert second.startswith("With a cosine template from 5 images, use ")
    assert "on dino_vits16, " in rule.lower()
    assert " beats " in rule
    assert "with a cosine template from 5 images by 0.0" in rule
    assert "of block 11 of dino_vits16 beats " in backbone
    assert "of block 11 of mae_vitb16 by 0.0" in backbone
    assert "dino_vits16 beats the untrained control (" in control
    assert "mae_vitb16 beats the untrained control (" in other_control
    assert "p < 0.001 after Holm over 4 comparisons" in control
    assert seeds.startswith("Intervals and tests cover concepts only, not draws: ")
    assert "drawn with one seed (0)" in seeds
    assert "--seeds=3" in seeds
    assert selection.startswith("The best of 12 cells was chosen by the same scores")
    assert selection.endswith("not for the choice by which each rule, backbone and control stands by its best token.")


def test_a_clear_runner_up_is_beaten_in_words(planted):
    rows = planted(lambda row: {"q": 0.0, "k": 0.2, "v": 0.1}[row["token"]], rules=("hyperplane",))
    (answer,) = answers.answer(make_table(rows))
    assert answer.best.token == "k"
    assert " It beats v of the same block by 0." in answer.sentences[0]
    assert answer.sentences[0].endswith("It also beats q.")


def test_each_family_is_corrected_for_all_its_comparisons(planted):
    table = make_table(planted(by_all))
    families = {
        answers.compare_tokens: 3 * 2 * 3,  # pairs of tokens, rules, backbones
        answers.compare_rules: 3,  # one pair for each backbone
        answers.compare_backbones: 2,  # one pair of trained backbones for each rule
        answers.against_control: 4,  # two trained backbones under two rules
    }
    scores = tables.concept_scores(table)
    for family, size in families.items():
        comparisons = family(table)
        assert len(comparisons) == size
        assert {comparison.num_comparisons for comparison in comparisons} == {size}
        for c in comparisons:
            alone = paired_test(scores.of(c.first, "f1"), scores.of(c.second, "f1"))
            assert (c.test.p_value, c.test.effect_size) == (alone.p_value, alone.effect_size)
            # A product of matrices sums in another order than one of a matrix and a vector.
            ends = (alone.difference.low, alone.difference.high)
            assert (c.test.difference.low, c.test.difference.high) == pytest.approx(ends, abs=1e-12)
            assert (c.shots == 5) == (c.rule == "cosine")
        p_values = np.array([comparison.test.p_value for comparison in comparisons])
        np.testing.assert_array_equal([comparison.p_adjusted for comparison in comparisons], holm(p_values))


def test_the_first_of_a_pair_has_the_higher_mean_and_controls_come_second(planted):
    table = make_table(planted(by_all))
    means = {tables.cell_name(row): row.scores["f1"].mean for row in tables.summarise(table)}
    for family in (answers.compare_tokens, answers.compare_rules, answers.compare_backbones):
        assert all(means[c.first] >= means[c.second] for c in family(table))
    worse = make_table(planted(lambda row: 0.1 * (row["backbone"] == "tiny"), rules=("hyperplane",)))
    for c in answers.against_control(worse):
        assert not c.first.untrained
        assert c.second.untrained
        assert c.reversed
        assert not c.holds
    (answer,) = answers.answer(worse)
    assert answer.best.backbone != "tiny"
    assert any("falls behind the untrained control" in sentence for sentence in answer.sentences)


def test_tokens_stand_at_their_best_block_and_the_answer_says_so(planted):
    def effect(row):
        return TOKENS[row["token"]] + {"k": 0.1, "v": -0.1}.get(row["token"], 0.0) * (row["layer"] == 3)

    (answer,) = answers.answer(make_table(planted(effect, layers=(3, 11), backbones=(DINO,), rules=("hyperplane",))))
    assert (answer.best.token, answer.best.layer) == ("k", 3)
    assert (answer.runner_up.token, answer.runner_up.layer) == ("v", 11)
    assert "It beats v of block 11 by 0." in answer.sentences[0]
    assert "stands by its best token and each token stands at its best block." in answer.sentences[-1]
    assert any("No untrained control was probed" in sentence for sentence in answer.sentences)


def test_pixels_answer_nothing(planted):
    rows = planted(by_all, rules=("hyperplane",))
    pixels = planted(lambda row: 0.4, rules=("hyperplane",), evaluation="pixel")
    assert answers.answer(make_table(rows + pixels)) == answers.answer(make_table(rows))


def test_each_task_and_data_set_has_its_own_answer_and_families(planted):
    streets = planted(by_all)
    pets = planted(by_all, seed=1, task="classification", dataset="imagefolder:pets", evaluation="image")
    both = answers.answer(make_table(streets + pets))
    assert both == answers.answer(make_table(streets)) + answers.answer(make_table(pets))
    assert {c.num_comparisons for c in answers.compare_tokens(make_table(streets + pets))} == {18}


def test_order_of_rows_changes_no_answer(planted):
    rows = planted(by_all)
    # Backbones keep the order of their first rows in the table, and sentences of equals with them.
    shuffled = sorted(random.Random(3).sample(rows, len(rows)), key=lambda row: row["backbone"])
    straight, mixed = make_table(rows), make_table(shuffled)
    (first,), (second,) = answers.answer(straight), answers.answer(mixed)
    assert first.sentences == second.sentences
    for a, b in zip(numbers(answers.compare_tokens(straight)), numbers(answers.compare_tokens(mixed)), strict=True):
        assert a[:2] == b[:2]
        assert a[2:4] == pytest.approx(b[2:4], abs=1e-9)


def test_planted_differences_hold_and_chance_hardly_ever_does(planted):
    """Over seeds: no claim among equal tokens in 95% of the tables, all planted claims found."""
    false_alarms = 0
    for seed in range(30):
        rows = planted(
            lambda row: 0.03 * (row["token"] == "k"), seed=seed, backbones=(DINO,), tokens=("q", "k", "v", "xn")
        )
        comparisons = answers.compare_tokens(make_table(rows))
        true = [c for c in comparisons if c.first.token == "k"]
        assert len(true) == 3 * 2
        assert all(c.holds for c in true)
        false_alarms += any(c.holds for c in comparisons if c.first.token != "k")
    assert false_alarms <= 5  # 1.5 expected at most; six or more would come up once in 300 suites


def test_means_and_ranks_that_disagree_are_no_claim(planted):
    """One concept decides the mean, all others say the opposite: the interval or the ranks keep it from being a claim."""
    rows = planted(lambda row: 0.0, rules=("hyperplane",), tokens=("q", "k"), backbones=(DINO,), noise=0.0)
    for row in rows:
        row["accuracy"] = 0.5 if row["token"] == "q" else (1.0 if row["concept"] == 1 else 0.495)
    (comparison,) = answers.compare_tokens(make_table(rows))
    assert comparison.first.token == "k"
    assert comparison.p_adjusted < LEVEL
    assert not comparison.holds
    assert not comparison.reversed
    (answer,) = answers.answer(make_table(rows))
    assert "means and ranks do not agree" in answer.sentences[0]


@pytest.mark.parametrize("count", [1, 5])
def test_few_concepts_can_tell_nothing(planted, count):
    rows = planted(by_all, concepts=CONCEPTS[:count])
    table = make_table(rows)
    for family in (answers.compare_tokens, answers.compare_rules, answers.compare_backbones, answers.against_control):
        assert family(table)
        assert not any(c.holds or c.reversed for c in family(table))
    (answer,) = answers.answer(table)
    assert f"by {count} concept{'s' * (count > 1)} alone: the mean difference is" in answer.sentences[0]
    assert "nan" not in " ".join(answer.sentences)


def test_equal_tokens_are_not_told_apart(planted):
    rows = planted(lambda row: 0.1, noise=0.0)
    (answer,) = answers.answer(make_table(rows))
    assert (answer.best.token, answer.runner_up.token) == ("q", "k")
    assert "the mean difference is 0.000 [0.000, 0.000] (rank-biserial r = 0.00, p = 1.000" in answer.sentences[0]
    assert "It is not distinguishable from v either." in answer.sentences[0]


def test_tokens_without_a_shared_concept_are_not_compared(planted):
    rows = planted(by_all, rules=("hyperplane",), backbones=(DINO,), tokens=("q", "k"))
    disjoint = [row for row in rows if (row["token"] == "q") == (row["concept"] <= 20)]
    assert answers.compare_tokens(make_table(disjoint)) == []
    (answer,) = answers.answer(make_table(disjoint))
    assert answer.runner_up is not None
    assert "There is no other token to compare it with." in answer.sentences[0]


def test_a_lone_cell_and_nothing_at_all(planted, results_rows):
    lone = planted(by_all, rules=("hyperplane",), backbones=(CONTROL,), tokens=("k",))
    (answer,) = answers.answer(make_table(lone))
    assert answer.runner_up is None
    assert answer.against == ()
    control, seeds, selection = answer.sentences[1:]
    assert control == "Every backbone here is an untrained control: this is what architecture alone gives."
    assert seeds.startswith("Intervals and tests cover concepts only, not draws: ")
    assert selection == "A single cell was probed: nothing was chosen."
    skipped = make_table(results_rows(skip=lambda row: "no positives in val"))
    for table in (skipped, SCHEMA.empty_table()):
        assert answers.answer(table) == []
        assert answers.compare_tokens(table) == []


def test_scarce_images_are_told(planted):
    (answer,) = answers.answer(make_table(planted(by_all, rules=("cosine",), trials=4)))
    # The rows' first trial of four used one image fewer than the five asked for.
    assert "Where there were fewer images, all were used: 4.8 on average." in answer.sentences[0]


def test_numbers_are_written_as_readers_expect():
    written = [sentences.number(value) for value in (-0.0001, 0.12349, -0.5)]
    assert written == ["0.000", "0.123", "-0.500"]
    assert [sentences.p_value(p) for p in (0.0, 0.0009, 0.0312, 1.0)] == [
        "p < 0.001",
        "p < 0.001",
        "p = 0.031",
        "p = 1.000",
    ]
    assert [sentences.count(n, "concept") for n in (1, 1190)] == ["1 concept", "1,190 concepts"]
    assert [sentences.listed(names) for names in (["v"], ["v", "xn"], ["v", "xn", "q"])] == [
        "v",
        "v and xn",
        "v, xn and q",
    ]


def test_of_many_backbones_the_far_ones_share_a_sentence(planted):
    """Two as good as the best, four far behind; the control as good as the last of them."""
    level = {"a": 0.2, "b": 0.2, "c": 0.2, "d": 0.1, "e": 0.1, "f": 0.05, "g": 0.0, "tiny": 0.0}
    backbones = (*((name, "masked pixels") for name in level if name != "tiny"), CONTROL)
    rows = planted(
        lambda row: level[row["backbone"]], backbones=backbones, rules=("hyperplane",), tokens=("k",), noise=0.03
    )
    (answer,) = answers.answer(make_table(rows))
    of_backbones, of_controls = (
        [sentence for sentence in answer.sentences if words in sentence]
        for words in ("other backbones", "other trained backbones")
    )
    assert sum("With a hyperplane, k of block 11 of" in sentence for sentence in answer.sentences) == 2 * 3
    best, near = answer.best.backbone, {"a", "b", "c"} - {answer.best.backbone}
    assert best in ("a", "b", "c")
    spelled = [c.second.backbone for c in answer.against if c.first.backbone == best][:3]
    assert near < set(spelled)
    (left,) = {"d", "e"} - set(spelled)
    assert of_backbones == [f"As to the other backbones, each by its best token: it beats {left}, f and g."]
    (of_control,) = of_controls
    assert "the control falls behind " in of_control
    assert of_control.endswith("; it is not distinguishable from g.")


def test_any_metric_can_be_asked_for(planted):
    rows = planted(by_all)
    for row in rows:
        row["recall"] = 1.0 - row["accuracy"]
    (by_accuracy,), (by_recall,) = (
        answers.answer(make_table(rows), metric=metric) for metric in ("accuracy", "recall")
    )
    assert by_accuracy.best.token != by_recall.best.token
    assert ": recall " in by_recall.sentences[0]
    assert all(c.metric == "recall" for c in by_recall.against)


def of_seeds(planted, effect, seeds, **options):
    """The same concepts under several seeds, `effect` knowing the seed."""
    rows = []
    for seed in seeds:
        # Difficulties are drawn before the noise, so that the first number of a stream decides nothing but them.
        drawn = planted(lambda row, seed=seed: effect(row, seed), seed=0, noise=0.0, **options)
        rng = np.random.default_rng(100 + seed)
        for row in drawn:
            row |= {name: float(row[name] + rng.normal(0, 0.01)) for name in ("accuracy",)} | {"seed": seed}
        rows += drawn
    return rows


PLAIN = {"rules": ("hyperplane",), "backbones": (DINO,)}


def test_with_several_seeds_a_lead_of_one_draw_is_no_claim(planted):
    """k leads by 0.06 under one seed and trails by 0.01 under two: sure over concepts, not over seeds."""
    lead = {0: 0.06, 1: -0.01, 2: -0.01}
    rows = of_seeds(
        planted, lambda row, seed: (row["token"] == "k") * lead[seed], (0, 1, 2), tokens=("q", "k"), **PLAIN
    )
    (first_alone,) = answers.compare_tokens(make_table([row for row in rows if row["seed"] == 0]))
    assert first_alone.holds
    (together,) = answers.compare_tokens(make_table(rows))
    assert together.first.token == "k"
    assert not together.holds
    scores = tables.concept_scores(make_table(rows))
    columns = [scores.of_seeds(cell, "accuracy") for cell in (together.first, together.second)]
    assert columns[0].shape == (40, 3)
    assert together.test == paired_test(*columns)
    (answer,) = answers.answer(make_table(rows))
    said = answer.sentences[-2]
    means = [np.mean([row["accuracy"] for row in rows if (row["token"], row["seed"]) == ("k", s)]) for s in range(3)]
    assert said == (
        "Intervals and tests cover concepts and the draws of 3 seeds (0, 1, 2). Over seeds, the mean of the best cell has a "
        f"standard deviation of {np.std(means, ddof=1):.3f}. For 0 of 1 pair of backbone and rule, the best token is the "
        "same under every seed. k is the best token of dino_vits16 in 1 of 3 seeds."
    )


def test_with_several_seeds_a_lead_under_each_is_a_claim(planted):
    rows = of_seeds(
        planted, lambda row, seed: 0.05 * (row["token"] == "k") + 0.02 * seed, (4, 7, 9), tokens=("q", "k"), **PLAIN
    )
    (comparison,) = answers.compare_tokens(make_table(rows))
    assert comparison.first.token == "k"
    assert comparison.holds
    (answer,) = answers.answer(make_table(rows))
    assert "For 1 of 1 pair of backbone and rule, the best token is the same under every seed." in answer.sentences[-2]
    # What moves both tokens alike is no part of their difference, but of the mean's interval.
    score = answer.best.scores["accuracy"]
    assert score.seed_deviation == pytest.approx(0.02 * np.std([4, 7, 9], ddof=1), abs=0.005)
    assert score.high - score.low > 0.2
