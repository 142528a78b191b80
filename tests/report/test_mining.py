"""Concepts whose pool leaves mining no choice: found by the counts of results and the ratios of the run."""

import json

import pytest

from tests.report.page_text import Page
from vitprobe_jax.metrics.results import make_table
from vitprobe_jax.report import figures
from vitprobe_jax.report.mining import UnminedConcept, unmined_concepts
from vitprobe_jax.report.page import write_report
from vitprobe_jax.types import Concept

RATIOS = {"pool_ratio": 20, "negative_ratio": 2}
AVAILABLE = {"sky": 5000, "tree": 201, "wheel": 200, "grass": 30}
"""Negatives of each concept beside its 100 positives."""


def with_pools(rows):
    return [row | {"n_neg_train": AVAILABLE[row["name"]]} for row in rows]


def test_pools_up_to_the_ratio_leave_no_choice(results_rows):
    rows = with_pools(results_rows(rules=("hyperplane", "cosine")))
    both = ("dino_vits16", "tiny_mae")
    grass = UnminedConcept(Concept(1, "grass", "material"), 100, 30, both)
    assert unmined_concepts(make_table(rows), {"hyperplane": RATIOS}) == [
        grass,
        UnminedConcept(Concept(3, "wheel", "part"), 100, 200, both),
    ]
    assert unmined_concepts(make_table(rows), {"hyperplane": RATIOS | {"negative_ratio": 1}}) == [grass]


def test_a_pool_as_large_as_a_round_leaves_no_choice_anywhere(results_rows):
    rows = with_pools(results_rows(rules=("hyperplane",)))
    found = unmined_concepts(make_table(rows), {"hyperplane": {"pool_ratio": 2, "negative_ratio": 2}})
    assert [(entry.concept.name, entry.pool) for entry in found] == [
        ("grass", 30),
        ("sky", 200),
        ("tree", 200),
        ("wheel", 200),
    ]


@pytest.mark.parametrize("config", [{}, {"hyperplane": None}, {"hyperplane": {"rounds": 5}}])
def test_without_ratios_nothing_is_said(results_rows, config):
    assert unmined_concepts(make_table(with_pools(results_rows())), config) == []


def test_skipped_concepts_and_other_rules_have_no_pool(results_rows):
    rows = with_pools(results_rows(rules=("cosine",)))
    rows += with_pools(results_rows(rules=("hyperplane",), skip=lambda row: "no positives in val"))
    assert unmined_concepts(make_table(rows), {"hyperplane": RATIOS}) == []


def test_backbones_with_other_numbers_have_their_own_entry(results_rows):
    rows = with_pools(results_rows(rules=("hyperplane",)))
    rows = [row | ({"n_neg_train": 7} if row["backbone"] == "tiny_mae" else {}) for row in rows]
    grass = [entry for entry in unmined_concepts(make_table(rows), {"hyperplane": RATIOS}) if entry.concept.number == 1]
    assert [(entry.concept.name, entry.pool, entry.backbones) for entry in grass] == [
        ("grass", 7, ("tiny_mae",)),
        ("grass", 30, ("dino_vits16",)),
        ("sky", 7, ("tiny_mae",)),
    ]


def test_the_page_lists_them(results_rows, results_folder, monkeypatch):
    monkeypatch.setattr(figures, "illustrate", lambda table, examples: [])
    folder = results_folder(with_pools(results_rows()))
    (folder / "config.json").write_text(json.dumps({"hyperplane": RATIOS}))
    page = Page(write_report(folder).read_text())
    assert "mining takes 2 negatives a positive in each round" in page.said()
    assert page.table("Category", "Concept", "Positives") == [
        ["material", "grass", "100", "30", "0.30", "all"],
        ["part", "wheel", "100", "200", "2.00", "all"],
    ]
