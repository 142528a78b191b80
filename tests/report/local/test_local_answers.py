"""Sentences of study 2 and its lists: who leads, what leaving out features changes, what was skipped, on made-up numbers."""

import re

import pytest

from tests.report.local.made import BACKBONES, Made
from vitprobe_jax.metrics.measurements import make_measurements
from vitprobe_jax.report.local.changes import changes
from vitprobe_jax.report.local.methods import method_title, methods_of, shots_of, told_by
from vitprobe_jax.report.local.page import LOCAL
from vitprobe_jax.report.measured import answers
from vitprobe_jax.report.measured.answers import Standing
from vitprobe_jax.report.measured.rows import variant_name
from vitprobe_jax.report.measured.tables import LONG, Cell, Column, Entry, number_table


def standing(backbone, value, dropped=0, *, untrained=False):
    return Standing(variant_name(backbone, "without top", dropped), backbone, dropped, untrained, value)


def test_the_leader_is_ahead_of_another_backbone_not_of_its_own_variant():
    found = [standing("dino", 0.345), standing("dino", 0.34, 200), standing("mae", 0.058), standing("mae", 0.295, 200)]
    assert (
        answers.leads(found, "By 1-NN", "an mIoU")
        == "By 1-NN, dino leads with an mIoU of 0.345, 0.050 ahead of mae-200."
    )
    assert answers.leads(found[:2], "By 1-NN", "an mIoU") == "By 1-NN, dino reaches an mIoU of 0.345."


def test_lower_may_be_better_and_equals_are_level():
    found = [standing("dino", 0.4), standing("mae", 0.3)]
    assert answers.leads(found, "Over all", "a drop", lower=True).endswith(
        "mae leads with a drop of 0.300, 0.100 below dino."
    )
    level = answers.leads([standing("dino", 0.4), standing("mae", 0.40001)], "Over all", "a drop")
    assert level == "Over all, mae and dino are level with a drop of 0.400."


def test_a_control_leads_only_alone():
    found = [standing("tiny", 0.9, untrained=True), standing("mae", 0.3)]
    assert answers.leader(found).name == "mae"
    assert answers.leader(found[:1]).name == "tiny"
    assert "0.600 ahead of tiny (untrained)" not in answers.leads(found, "By 1-NN", "an mIoU")


def test_a_leader_behind_a_control_says_so():
    found = [standing("tiny", 0.9, untrained=True), standing("mae", 0.3), standing("dino", 0.2)]
    assert answers.leads(found, "By 1-NN", "an mIoU") == (
        "By 1-NN, mae leads with an mIoU of 0.300, 0.100 ahead of dino; the control tiny reaches 0.900."
    )


def test_changes_are_spelled_out_for_few_and_by_extremes_for_many():
    few = [standing("dino", 0.345), standing("dino", 0.335, 200), standing("mae", 0.058), standing("mae", 0.295, 200)]
    assert changes(few, "that mIoU") == (
        "Leaving out the 200 features of highest variance changes that mIoU by +0.237 for mae (0.058 to 0.295) and "
        "\N{MINUS SIGN}0.010 for dino (0.345 to 0.335)."
    )
    many = [one for i in range(9) for one in (standing(f"b{i}", 0.3), standing(f"b{i}", 0.24 + 0.01 * i, 200))]
    assert changes(many, "that mIoU") == (
        "Leaving out the 200 features of highest variance changes that mIoU by +0.020 for b8 at most and by "
        "\N{MINUS SIGN}0.060 for b0 at least; it rises for 2 of 9 backbones."
    )
    assert changes(few[:1] + few[2:3], "that mIoU") == ""


def test_methods_are_in_their_order_and_have_names():
    made = Made(parts=("patches",), methods=("linear_batchnorm", "20-nn", "linear", "5-nn"), shots=(0, 8, 2))
    (part, _) = LOCAL.tables(make_measurements(made.rows()))
    rows = part.rows("miou")
    assert methods_of(rows) == ["5-nn", "20-nn", "linear", "linear_batchnorm"]
    assert [method_title(method) for method in methods_of(rows)] == [
        "5-NN",
        "20-NN",
        "linear probe",
        "linear, BatchNorm",
    ]
    assert told_by("linear") == "by a linear probe"
    assert told_by("1-nn other images") == "by 1-NN, own image excluded"
    assert shots_of(rows) == [2, 8, 0]


@pytest.mark.parametrize(
    ("features", "dropped", "name"),
    [
        ("all", 0, "mae"),
        ("without top", 0, "mae"),
        ("without top", 200, "mae-200"),
        ("only top", 200, "mae, only the top 200"),
        ("only random", 7, "mae, only 7 at random"),
        ("without bottom", 7, "mae, without the bottom 7"),
    ],
)
def test_variants_are_named_as_the_paper_names_them(features, dropped, name):
    assert variant_name("mae", features, dropped) == name


def test_the_best_of_a_column_is_a_trained_one():
    entries = [Entry("a", [0.1, 5.0]), Entry("b", [0.3, 2.0]), Entry("tiny", [0.9, 1.0], untrained=True)]
    table = number_table("t", "Backbone", [Column("up"), Column("down", "lower", 1)], entries)
    ((_, lines),) = table.bodies
    assert [cell for line in lines for cell in line.cells if cell.best] == [Cell("0.300", True), Cell("2.0", True)]
    assert not table.folded
    alone = number_table("t", "Backbone", [Column("up")], [Entry("a", [0.1])])
    assert not any(cell.best for _, own in alone.bodies for line in own for cell in line.cells)


def test_a_long_table_is_folded():
    entries = [Entry(str(i), [float(i)]) for i in range(LONG + 1)]
    assert not number_table("t", "Backbone", [Column("up")], entries[:-1]).folded
    long = number_table("t", "Backbone", [Column("up")], entries)
    assert long.folded
    assert long.title == f"t: {LONG + 1} lines"


def test_answers_are_about_the_shown_cell_and_the_largest_draw(whole):
    """Of every part one number stands first; it is in the part's first table."""
    for part, view in whole.views.items():
        assert view.answer.sentences, part
        assert re.search(r"\d", view.answer.sentences[0]), part
        assert all(said.endswith(".") for said in view.answer.sentences), part
        assert view.answer.holder.split("-")[0] in [name for name, *_ in BACKBONES[:2]], part
        if part not in ("variance", "corruptions", "retrieval", "scale"):  # those are means or gains
            texts = {cell.text for _, lines in view.tables[0].bodies for line in lines for cell in line.cells}
            assert view.answer.value in texts, part


def test_variance_names_who_gains_and_from_how_many(whole):
    first, _, ratio = whole.views["variance"].answer.sentences
    assert re.match(
        r"By 1-NN, leaving out features of high variance helps mae_vitb16 most: its mIoU is 0\.06\d with", first
    )
    assert re.match(r"The highest variance of a feature is 1,\d\d\d times the median in mae_vitb16", ratio)


def test_names_with_braces_are_only_names():
    made = Made(parts=("variance",), backbones=(("a {0} {b}", "mae", "MAE"),), datasets=("shapes:4",))
    table = make_measurements(made.rows())
    view = LOCAL.parts["variance"].view(LOCAL.tables(table)[0], LOCAL.sources(table, "."))
    assert "a {0} {b}" in view.answer.sentences[0]
    assert view.answer.sentences[-1].endswith("the median in a {0} {b}.")


def test_part_scale_is_led_by_the_votes_of_scale_mae(tmp_path):
    """Where they were measured: the paper's figure has them."""
    rows = Made(parts=("scale",)).rows()
    weighted = [row | {"method": "20-nn weighted", "value": row["value"] / 2} for row in rows if row.get("value")]
    for given, titles in ((rows, ["1-NN"]), (rows + weighted, ["1-NN", "20-NN weighted"])):
        table = make_measurements(given)
        (part,) = LOCAL.tables(table)
        view = LOCAL.parts["scale"].view(part, LOCAL.sources(table, tmp_path))
        assert all(
            sentence.startswith(f"Over all distances, by {titles[-1]} of ") for sentence in view.answer.sentences
        )
        assert f"accuracy by {titles[-1]} of" in view.answer.what
        (figure,) = view.illustrations
        assert ("weight of exp(s / 0.07)" in figure.caption) == (len(titles) > 1)
        assert figure.caption.startswith(" and ".join(titles))
