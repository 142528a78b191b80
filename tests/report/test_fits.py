"""How hyperplanes were fitted, on the page: no claim of fits that did not converge; solvers are named and compared."""

import json

import numpy as np
import pytest

from tests.report.conftest import BACKBONES
from tests.report.page_text import NOTHING, Page
from vitprobe_jax.errors import InputError
from vitprobe_jax.metrics.results import make_table, write_table
from vitprobe_jax.report import answers, figures, tables
from vitprobe_jax.report.fits import cell_fits, solver_orders
from vitprobe_jax.report.mining import unmined_concepts
from vitprobe_jax.report.page import write_report
from vitprobe_jax.report.paper import compare_with_paper
from vitprobe_jax.report.rule_words import solver_words
from vitprobe_jax.report.sweep_comparison import compare_sweeps

DINO = ("dino_vits16", "self-distillation")
TWELVE = tuple((i, f"concept {i}", "object") for i in range(1, 13))
CONFIG = {"hyperplane": {"rounds": 5, "penalty": 1e-3, "epochs": 3, "batch_size": 128, "learning_rate": 0.1}}
BOTH = ("hyperplane", "hyperplane_paper")


def ranked(results_rows, means, *, missed=(), concepts=TWELVE, **options):
    """Rows whose accuracy is `means[token]` and a little of each concept's; `missed` are (token, concept number)."""
    rows = results_rows(
        tokens=tuple(means), concepts=concepts, **{"rules": ("hyperplane",), "backbones": (DINO,)} | options
    )
    for row in rows:
        row["accuracy"] = means[row["token"]] + row["concept"] / 1000
        if (row["token"], row["concept"]) in missed:
            row["converged"] = False
    return rows


def page_of(folder):
    return Page(write_report(folder).read_text(encoding="utf-8"))


@pytest.fixture
def undrawn(monkeypatch):
    monkeypatch.setattr(figures, "illustrate", lambda table, examples: [])


def test_a_difference_is_not_claimed_where_a_fit_did_not_converge(results_rows):
    means = {"k": 0.8, "q": 0.7, "v": 0.6, "x2": 0.5}
    table = make_table(ranked(results_rows, means))
    assert all(comparison.holds for comparison in answers.compare_tokens(table))
    table = make_table(ranked(results_rows, means, missed={("q", 3), ("q", 5), ("v", 7)}))
    by_pair = {(c.first.token, c.second.token): c for c in answers.compare_tokens(table)}
    assert {pair for pair, c in by_pair.items() if c.holds} == {("k", "x2")}
    assert not any(c.reversed for c in by_pair.values())
    assert by_pair["q", "v"].missed == (2, 1)
    assert by_pair["k", "q"].verdict == "not claimed: 2 fits did not converge"
    assert by_pair["k", "v"].verdict == "not claimed: 1 fit did not converge"
    assert by_pair["k", "x2"].verdict == "first is ahead"
    # The tests themselves are what they were.
    assert by_pair["k", "q"].p_adjusted < 0.05
    (answer,) = answers.answer(table)
    assert (
        "It is not claimed to differ from q of the same block, because 2 fits of q did not converge: the mean difference is "
        "0.100 [0.100, 0.100]. It beats x2. No difference to v is claimed, because 1 fit of these cells did not converge."
    ) in answer.sentences[0]
    assert "beats q" not in " ".join(answer.sentences)


def test_only_shared_concepts_count(results_rows):
    """A fit of a concept that the other cell skipped takes no part in their comparison."""
    rows = ranked(results_rows, {"k": 0.8, "q": 0.7}, missed={("k", 3)})
    for row in rows:
        if (row["token"], row["concept"]) == ("q", 3):
            row |= dict.fromkeys(("threshold", "accuracy", "precision", "recall", "f1"))
            row |= dict.fromkeys(("loss", "gradient_norm", "converged", "scale_low", "scale_high"))
            row["skipped"] = "no negatives in train"
    (comparison,) = answers.compare_tokens(make_table(rows))
    assert comparison.missed == (0, 0)
    assert comparison.holds


def test_rules_and_backbones_that_did_not_converge_are_named(results_rows):
    rows = ranked(results_rows, {"k": 0.8}) + ranked(
        results_rows, {"k": 0.6}, rules=("hyperplane_paper",), missed={("k", 1)}
    )
    (answer,) = answers.answer(make_table(rows))
    (sentence,) = [one for one in answer.sentences if one.startswith("On dino_vits16, k of block 11 with a hyperplane")]
    assert (
        "is not claimed to differ from k of block 11 with a hyperplane by the paper's SGD, because 1 fit of k with a "
        "hyperplane by the paper's SGD did not converge"
    ) in sentence
    mae = ("mae_vitb16", "masked image modelling")
    rows = ranked(results_rows, {"k": 0.8}) + ranked(
        results_rows, {"k": 0.6}, backbones=(mae,), missed={("k", 1), ("k", 2)}
    )
    (answer,) = answers.answer(make_table(rows))
    assert any("because 2 fits of k of mae_vitb16 did not converge" in sentence for sentence in answer.sentences)


def test_sweeps_are_not_claimed_to_differ_either(results_rows):
    first, second = (make_table(ranked(results_rows, {"k": mean, "q": 0.5}, missed=missed)) for mean, missed in (
        (0.8, ()),
        (0.7, {("k", 4)}),
    ))  # fmt: skip
    found = compare_sweeps(["a", "b"], [tables.concept_scores(table) for table in (first, second)])
    by_token = {own.first.token: own for own in found if not own.best}
    assert by_token["k"].missed == (0, 1)
    assert by_token["k"].verdict == "not claimed: 1 fit did not converge"
    assert by_token["q"].verdict == "not distinguishable"
    whole = compare_sweeps(["a", "b"], [tables.concept_scores(first), tables.concept_scores(make_table(ranked(
        results_rows, {"k": 0.7, "q": 0.5}
    )))])  # fmt: skip
    assert {own.first.token: own.verdict for own in whole if not own.best}["k"] == "behind"


@pytest.mark.usefixtures("undrawn")
def test_the_board_does_not_show_an_open_claim_as_sure(results_rows, results_folder):
    page = page_of(results_folder(ranked(results_rows, {"k": 0.8, "q": 0.7}, missed={("q", 3)})))
    said = page.said()
    assert "How sure open not claimed: 1 fit did not converge" in said
    assert "first is ahead" not in said
    assert "0 hold" in said


@pytest.mark.usefixtures("undrawn")
def test_the_page_says_how_hyperplanes_were_fitted(results_rows, results_folder):
    missed = {("k", i) for i in range(1, 8)}
    rows = ranked(results_rows, {"k": 0.8, "q": 0.7}, rules=BOTH)
    for row in rows:
        if row["rule"] == "hyperplane_paper" and (row["token"], row["concept"]) in missed:
            row["converged"] = False
        row["scale_low"] = 0.25 if row["concept"] == 2 else 0.5
    pixels = [row | {"evaluation": "pixel"} for row in rows]
    folder = results_folder(rows + pixels)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    page = page_of(folder)
    assert page.table("Backbone", "Block", "Token", "Rule", "Regressions") == [
        ["dino_vits16", "11", "q", "hyperplane", "12", "0", NOTHING, "0.25 to 4"],
        ["dino_vits16", "11", "q", "hyperplane (paper's SGD)", "12", "0", NOTHING, "0.25 to 4"],
        ["dino_vits16", "11", "k", "hyperplane", "12", "0", NOTHING, "0.25 to 4"],
        [
            *("dino_vits16", "11", "k", "hyperplane (paper's SGD)", "12", "7"),
            *("concept 1, concept 2, concept 3, concept 4, concept 5 and 2 more", "0.25 to 4"),
        ],
    ]
    said = page.said()
    assert (
        "by hyperplane templates (at the minimum of the penalised loss, found by L-BFGS on standardised features, "
        "penalty 0.001) and by hyperplane (paper's SGD) templates (where SGD stops, learning rate 0.1, 3 epochs, "
        "batches of 128 rows)."
    ) in said
    assert page.table("Backbone", "Hyperplane", "Hyperplane (paper's SGD)") == [
        ["dino_vits16, segmentation on broden:streets, block 11", "k > q", "k > q", "12", "1.00"]
    ]


def test_without_hyperplanes_nothing_is_said_of_fits(results_rows, results_folder, undrawn):
    said = page_of(results_folder(results_rows(rules=("cosine",)))).said()
    assert "How hyperplanes were fitted" not in said


def test_fits_by_loops(results_rows):
    rng = np.random.default_rng(0)
    rows = results_rows(rules=(*BOTH, "cosine"), layers=(3, 11))
    for row in rows:
        if row["rule"] in BOTH:
            row |= {
                "converged": bool(rng.random() < 0.7),
                "scale_low": rng.uniform(0.1, 1),
                "scale_high": rng.uniform(1, 9),
            }
    fits = cell_fits(make_table(rows))
    assert len(fits) == 2 * 2 * 3 * 2
    for fit in fits:
        place = (fit.backbone, fit.layer, fit.token, fit.rule)
        own = [row for row in rows if (row["backbone"], row["layer"], row["token"], row["rule"]) == place]
        assert fit.regressions == len(own)
        missed = [row["name"] for row in own if not row["converged"]]
        assert (fit.unconverged, list(fit.concepts)) == (len(missed), missed)
        assert fit.scale_low == min(row["scale_low"] for row in own)
        assert fit.scale_high == max(row["scale_high"] for row in own)
    total = sum(row.unconverged for row in tables.summarise(make_table(rows)))
    assert total == sum(fit.unconverged for fit in fits)


def test_orders_of_tokens_under_both_solvers(results_rows):
    default = ranked(results_rows, {"q": 0.6, "k": 0.9, "v": 0.8, "x2": 0.7})
    paper = ranked(results_rows, {"q": 0.9, "k": 0.8, "v": 0.7, "x2": 0.6}, rules=("hyperplane_paper",))
    # Concepts that a cell lacks count nowhere, the last block of both is compared, pixels and cosine are not.
    paper = [row for row in paper if row["concept"] != 12]
    other = ranked(results_rows, {"q": 0.1, "k": 0.2}, layers=(3,)) + ranked(
        results_rows, {"x2": 0.9}, rules=("cosine",)
    )
    together = tables.concept_scores(make_table(default + paper + other))
    (order,) = solver_orders(["a"], [together])
    assert (order.default, order.paper) == (("k", "v", "x2", "q"), ("q", "k", "v", "x2"))
    assert (order.concepts, order.layer, order.sweeps) == (11, 11, ("a", "a"))
    assert order.correlation == pytest.approx(-0.2)
    apart = [tables.concept_scores(make_table(rows)) for rows in (paper, default)]
    (across,) = solver_orders(["a", "b"], apart)
    assert (across.sweeps, across.correlation) == (("b", "a"), pytest.approx(-0.2))
    assert solver_orders(["a", "b", "c"], [together, *apart]) == [order]
    assert solver_orders(["b"], apart[1:]) == []
    flat = ranked(results_rows, dict.fromkeys(("q", "k"), 0.7), rules=BOTH)
    (tied,) = solver_orders(["a"], [tables.concept_scores(make_table(flat))])
    assert tied.correlation is None


def test_figures_of_the_default_rule_take_the_hyperplanes_that_are_there(results_rows):
    rows = results_rows(rules=("hyperplane_paper",), layers=(3, 11))
    table, renamed = make_table(rows), make_table([row | {"rule": "hyperplane"} for row in rows])
    for draw in (figures.accuracy_by_token, figures.f1_by_category, figures.trained_less_control):
        assert figures.svg(draw(table)) == figures.svg(draw(renamed))
    with pytest.raises(InputError, match="no hyperplane templates"):
        figures.accuracy_by_token(make_table(results_rows(rules=("cosine",))))
    names = [own.name for own in figures.illustrate(table, None)]
    assert "seg_hyperplane_paper_accuracy_f1_by_token" in names
    both = make_table(rows + results_rows(rules=("hyperplane",), layers=(3, 11)))
    shown = {own.name: own for own in figures.illustrate(both, None)}
    assert len(shown) == 2 * len(names)
    assert "hyperplane templates (paper's SGD)" in shown["seg_hyperplane_paper_accuracy_f1_by_token"].title


def test_pixels_of_both_solvers_have_a_figure(results_rows):
    rows = results_rows(rules=BOTH)
    shown = figures.illustrate(make_table(rows + [row | {"evaluation": "pixel"} for row in rows]), None)
    assert [own.name for own in shown if own.section == "pixels"] == [
        "seg_pixels_beside_patches",
        "seg_hyperplane_paper_pixels_beside_patches",
    ]


def test_captions_count_what_did_not_converge(results_rows):
    rows = ranked(results_rows, {"k": 0.8, "q": 0.7}, missed={("k", 1), ("q", 2), ("q", 3)})
    captions = [own.caption for own in figures.illustrate(make_table(rows), None) if own.section == "tokens"]
    assert captions
    assert all("3 of 24 regressions did not converge." in caption for caption in captions)


def test_pools_without_a_choice_are_those_of_either_solver(results_rows):
    config = {"hyperplane": {"pool_ratio": 20, "negative_ratio": 2}}
    alone, both = (unmined_concepts(make_table(results_rows(rules=rules)), config) for rules in (BOTH[1:], BOTH))
    assert alone == both
    assert len(alone) == 4
    assert set(alone[0].backbones) == {name for name, _ in BACKBONES}


def test_solvers_in_words():
    assert solver_words("cosine", CONFIG) == ""
    assert solver_words("hyperplane", {"hyperplane": {"penalty": 1e-2}}).endswith("features, penalty 0.01")
    assert solver_words("hyperplane_paper", {}) == "where SGD stops"


def test_the_papers_numbers_stand_beside_the_papers_solver(results_rows):
    dino = (("dino_vits8", "DINO"),)
    options = {"backbones": dino, "tokens": ("x1", "xn", "x2"), "task": "classification", "evaluation": "image"}
    paper, default = (results_rows(rules=(rule,), seed=i, **options) for i, rule in enumerate(reversed(BOTH)))
    alone = compare_with_paper(make_table(paper), {})
    both = compare_with_paper(make_table(paper + default), {})
    assert len(both.rows) > 3
    assert [row.value for row in both.rows] == [row.value for row in alone.rows]
    of_default = compare_with_paper(make_table(default), {})
    assert [row.what for row in of_default.rows] == [row.what for row in both.rows]
    assert any("the paper's SGD stops before it" in caveat for caveat in of_default.caveats)
    assert any("Hyperplanes are those of --solver=paper" in caveat for caveat in both.caveats)
    assert not any("stops before" in caveat for caveat in both.caveats)


@pytest.mark.usefixtures("undrawn")
def test_several_sweeps_share_one_table_of_orders(results_rows, results_folder, tmp_path):
    first = results_folder(ranked(results_rows, {"q": 0.6, "k": 0.9})).rename(tmp_path / "first")
    second = results_folder(ranked(results_rows, {"q": 0.9, "k": 0.8}, rules=("hyperplane_paper",))).rename(
        tmp_path / "second"
    )
    page = Page(write_report([first, second]).read_text(encoding="utf-8"))
    assert page.table("Backbone", "Hyperplane", "Hyperplane (paper's SGD)") == [
        [
            *(
                "dino_vits16, segmentation on broden:streets, block 11 (first and second)",
                "k > q",
                "q > k",
                "12",
                "-1.00",
            ),
        ]
    ]
    write_table(make_table([]), second / "results.parquet")
    assert "under both solvers" not in Page(write_report([first, second]).read_text(encoding="utf-8")).said()
