"""Templates without held-out positives or negatives have reasons instead of numbers, in results and on the page."""

import json

import numpy as np
import pyarrow.compute as pc
import pytest

from experiments.sweep import run_sweep
from tests.data.broden_tree import write_image, write_mask, write_tables
from tests.experiments.test_sweep import make_config
from tests.report.page_text import Page
from vitprobe_jax.metrics.results import METRICS, read_table
from vitprobe_jax.probes import sampling
from vitprobe_jax.report.tables import summarise

LABELS = """number,name,category,frequency,coverage,syns
1,alone,material(9),9,1.0,
2,everywhere,object(9),9,1.0,
3,untested,object(9),9,1.0,
4,common,part(9),9,1.0,
5,rare,part(9),9,1.0,
"""
SIDE, TRIALS = 64, 8
RULES = ("hyperplane", "cosine", "cosine_centered")


def _masks(split: str, image: int) -> dict[str, np.ndarray]:
    """`alone` has no other concept in its category, `everywhere` and `untested` lack one side of the held-out rows.

    `rare` covers most pixels of its patches, but none of those that are counted one by one (every second row and column);
    it shows in one held-out image, so that trials that do not draw it have no negatives of `common`.
    """
    whole = np.ones((SIDE, SIDE), int)
    objects = whole * 2
    if split == "train":
        objects[: SIDE // 2] = 3
    parts = whole * 4
    if split == "train" or image == 0:
        parts[: SIDE // 2] = 5
        parts[1::2, 1::2] = 4
    return {"material": whole, "object": objects, "part": parts}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    folder = tmp_path_factory.mktemp("broden")
    lines = []
    for split in ("train", "val"):
        for image in range(6):
            name = f"{split}_{image}"
            write_image(folder / "images" / f"{name}.png", SIDE, SIDE)
            masks = {}
            for category, labels in _masks(split, image).items():
                masks[category] = f"{name}_{category}.png"
                write_mask(folder / "images" / masks[category], labels)
            objects, parts, material = (masks[name] for name in ("object", "part", "material"))
            lines.append(f"{name}.png,{split},{SIDE},{SIDE},{SIDE},{SIDE},,{objects},{parts},{material},,")
    write_tables(folder, lines, labels=LABELS)
    config = make_config(
        tmp_path_factory.mktemp("sweep") / "out",
        f"--dataset=broden:{folder}",
        "--backbones=untrained_dino_tiny",
        f"--image_size={SIDE}",
        "--tokens=k",
        f"--rules={','.join(RULES)}",
        "--shots=1",
        f"--trials={TRIALS}",
        "--min_positives=1",
        "--pixel_level",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "NUM_QUERY", 1)
        run_sweep(config)
    return config, read_table(config.out / "results.parquet")


def rows_of(table, **fields):
    return [row for row in table.to_pylist() if all(row[name] == value for name, value in fields.items())]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("alone", "no negatives in val"),
        ("everywhere", "no negatives in val"),
        ("untested", "no positives in val"),
    ],
)
def test_every_rule_skips_what_no_held_out_row_can_measure(sweep, rule, name, reason):
    rows = rows_of(sweep[1], name=name, rule=rule)
    assert {row["skipped"] for row in rows} == {reason}
    assert {row["evaluation"] for row in rows} == ({"patch", "pixel"} if rule == "hyperplane" else {"patch"})
    assert all(row[metric] is None for row in rows for metric in (*METRICS, "threshold"))


@pytest.mark.parametrize("rule", RULES[1:])
def test_a_trial_whose_queries_lack_negatives_is_skipped_alone(sweep, rule):
    rows = rows_of(sweep[1], name="common", rule=rule)
    assert [row["trial"] for row in rows] == list(range(TRIALS))
    lacking = [row for row in rows if row["n_neg_test"] == 0]
    assert 0 < len(lacking) < TRIALS
    assert {row["skipped"] for row in lacking} == {"no negatives in the query images"}
    measured = [row for row in rows if row["n_neg_test"]]
    assert all(row["skipped"] is None and row["accuracy"] is not None for row in measured)
    (summary,) = [row for row in summarise(sweep[1].filter(pc.equal(sweep[1]["name"], "common"))) if row.rule == rule]
    assert (summary.concepts, summary.templates, summary.skipped) == (1, len(measured), 0)
    for metric in METRICS:
        assert summary.scores[metric].mean == pytest.approx(np.mean([row[metric] for row in measured]))


def test_pixels_may_lack_what_patches_have(sweep):
    patch, pixel = (rows_of(sweep[1], name="rare", evaluation=kind) for kind in ("patch", "pixel"))
    assert patch[0]["rule"] == "hyperplane"
    assert patch[0]["skipped"] is None
    assert [(row["skipped"], row["n_pos_test"]) for row in pixel] == [("no positives in the pixels of val", 0)]


def test_patches_and_pixels_have_the_same_concepts(sweep):
    by_kind = {row.evaluation: row for row in summarise(sweep[1]) if row.rule == "hyperplane"}
    assert (by_kind["patch"].concepts, by_kind["patch"].skipped) == (2, 3)
    # `rare` has no counted pixel, and so `common` no negative one.
    assert (by_kind["pixel"].concepts, by_kind["pixel"].skipped) == (0, 5)


def test_the_page_says_how_many_concepts_were_probed_and_why_not_all(sweep):
    page = Page((sweep[0].out / "report" / "index.html").read_text())
    assert "2 of 5 concepts probed (3 skipped) in 1 token" in page.said()
    reasons = {(row[1], row[2]) for row in page.table("Category", "Concept", "Why")}
    assert {("alone", "no negatives in val"), ("untested", "no positives in val")} <= reasons
    numbers = [rows for rows in page.cells() if rows and rows[0][:2] == ["Token", "Accuracy"] and "Skipped" in rows[0]]
    assert [rows[-1][-1] for rows in numbers] == ["3", "5"]


def test_concepts_whose_pool_leaves_no_choice_are_named_once(sweep):
    notes = json.loads((sweep[0].out / "run.json").read_text())["notes"]
    (note,) = [note for note in notes if "mining" in note]
    assert note.startswith("untrained_dino_tiny: the negative pools of 2 of 2 concepts hold at most --negative_ratio=2")
    assert note.endswith("mining chooses nothing for common (part), rare (part)")
    page = Page((sweep[0].out / "report" / "index.html").read_text())
    assert [row[:5] for row in page.table("Category", "Concept", "Positives")] == [
        ["part", "common", "192", "192", "1.00"],
        ["part", "rare", "192", "192", "1.00"],
    ]
