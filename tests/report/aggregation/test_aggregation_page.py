"""The page of study 3 says what the table says, whatever parts there are; it needs no other file, script or network."""

import re

import numpy as np
import pytest

from tests.report.aggregation.made import ALL_PARTS, BACKBONES, Made, write_folder
from tests.report.page_text import NOTHING, Page
from vitprobe_jax.errors import InputError
from vitprobe_jax.report.aggregation.page import AGGREGATION, write_aggregation_report


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A small page with its figures of every kind: lines, dots, cells, photographs."""
    made = Made(backbones=BACKBONES[:1], representations=("mean",), heads=2, depth=2, cells=((1, "x2_raw"),), epochs=1)
    folder = write_folder(tmp_path_factory.mktemp("drawn") / "out", made, pictures=True)
    path = write_aggregation_report(folder)
    text = path.read_text(encoding="utf-8")
    return path, text, Page(text)


def row_of(rows, **wanted):
    """The only row with these columns."""
    (found,) = [row for row in rows if all(row.get(name) == value for name, value in wanted.items())]
    return found


def text_of(row):
    deviation = f" ± {row['deviation']:.3f}" if row.get("deviation") is not None else ""
    return f"{row['value']:.3f}{deviation}"


def lines(page, *head):
    """The lines of the table whose header begins so, groups left out."""
    return [row for row in page.table(*head) if len(row) > 1]


@pytest.mark.parametrize("measure", ["top1", "map"])
def test_scores_are_those_of_the_table(page_of, measure):
    """Of classes, and of several labels an image."""
    names = ("mean", "cls", "abmilp_1", "attentive_12")
    rows = (made := Made(parts=("probing",), representations=names, measure=measure)).rows()
    page = page_of(made, rows=rows)
    expected = []
    for backbone, family, objective in BACKBONES:
        line = [f"{backbone} untrained control" if "untrained" in objective else backbone]
        for name in names:
            missing = family == "ijepa" and name == "cls"
            of = {"backbone": backbone, "method": name, "measure": f"{measure}_best"}
            line.append(NOTHING if missing else text_of(row_of(rows, **of)))
        expected.append(line)
    assert lines(page, "Backbone", "Patch mean", "[CLS]", "AbMILP", "Attentive (12 heads)") == expected
    assert ("Top-1 by representation" if measure == "top1" else "mAP by representation") in page.said()
    every = lines(page, "Representation", "rate 0.01", "rate 0.1", "rate 1")
    of = {"backbone": "dino_vits16", "method": "abmilp_1", "measure": measure}
    assert every[2] == ["AbMILP", *(text_of(row_of(rows, level=rate, **of)) for rate in (0.01, 0.1, 1.0))]
    assert ("top-1 accuracy" in page.said()) == (measure == "top1")


def test_losses_are_those_of_the_best_rate(page_of):
    rows = (made := Made(parts=("probing",), backbones=BACKBONES[:1], representations=("mean",))).rows()
    best = row_of(rows, measure="top1_best")["level"]
    of = {"measure": "loss", "name": f"{best:g}"}
    (line,) = lines(page_of(made, rows=rows), "Representation", "epoch 1")
    assert line[1:] == [text_of(row_of(rows, level=float(epoch), **of)) for epoch in range(1, 6)]


def test_depths_stand_by_activation(page_of):
    names = ("abmilp_1", "abmilp_2_relu", "abmilp_2_tanh", "abmilp_3_relu")
    rows = (made := Made(parts=("probing",), representations=names, backbones=BACKBONES[1:2])).rows()
    best = {row["method"]: text_of(row) for row in rows if row["measure"] == "top1_best"}
    assert lines(page_of(made, rows=rows), "Activation", "Depth 1", "Depth 2", "Depth 3") == [
        ["ReLU", best["abmilp_1"], best["abmilp_2_relu"], best["abmilp_3_relu"]],
        ["tanh", best["abmilp_1"], best["abmilp_2_tanh"], NOTHING],
    ]


def test_attention_has_table_3_and_every_block(page_of):
    rows = (made := Made(parts=("attention",))).rows()
    page = page_of(made, rows=rows)
    last = {row[0]: row[1:] for row in lines(page, "Backbone", "Aggregation entropy", "Upper bound")}
    of = {"backbone": "mae_vitb16", "setting": "all heads"}
    flow = ("cls_to_cls", "cls_entropy", "patch_to_itself", "patch_entropy")
    numbers = [row_of(rows, measure=name, layer=5, **of)["value"] for name in flow]
    over_blocks = np.mean([row_of(rows, measure="cls_entropy", layer=i, **of)["value"] for i in range(6)])
    assert last["mae_vitb16"] == [f"{value:.3f}" for value in (over_blocks, np.log(36), *numbers)]
    assert "Figures 3 to 6, and 10 to 13 for ViT-S, ViT-B and ViT-L, of the paper." in page.said()
    assert last["ijepa_vith14"][:4] == [f"{np.log(36):.3f}"] * 2 + [NOTHING] * 2
    blocks = lines(page, "Block", "[CLS] to itself")
    assert len(blocks) == 4 * 6
    shown = [f"{row_of(rows, measure=name, layer=2, **of)['value']:.3f}" for name in flow]
    assert blocks[6 + 2] == ["block 2", *shown]
    assert "ijepa_vith14 has no [CLS]: the mean of the patches weights them alike" in page.said()


def test_untrained_weights_have_scores_entropies_and_divergences(page_of):
    rows = (made := Made(parts=("untrained",))).rows()
    page = page_of(made, rows=rows)
    of = {"backbone": "mae_vitb16", "method": "central_patch"}
    table = lines(page, "Representation", "Top-1", "Entropy, nats")
    assert table[6 + 3] == [
        "Central patch's attention",
        text_of(row_of(rows, measure="top1_best", **of)),
        text_of(row_of(rows, measure="weights_entropy", **of)),
    ]
    divergences = lines(page, "Weights", "from patch mean")
    names = ("mean", "cls_attention", "lowest_entropy_cls", "central_patch", "other_cls_attention", "abmilp_1")
    found = [f"{row_of(rows, measure='kl', name=name, **of)['value']:.3f}" for name in names]
    assert divergences[6 + 3] == ["central patch's attention", *found]
    without = [row for row in divergences if NOTHING in row]
    assert [row[0] for row in without] == ["patch mean", "central patch's attention", "AbMILP"]


def test_localisation_has_both_kinds_of_boxes_and_all_levels(page_of):
    rows = (made := Made(parts=("localisation",))).rows()
    page = page_of(made, rows=rows)
    table = lines(page, "Backbone", "[CLS] attention", "AbMILP")
    assert len(table) == 2 * 4
    of = {"backbone": "mae_vitb16"}
    for line, measure in ((table[1], "maxboxaccv2"), (table[5], "largest_box")):
        values = [row_of(rows, measure=measure, method=name, **of) for name in ("cls_attention", "abmilp_1")]
        assert line == ["mae_vitb16", *map(text_of, values)]
    assert table[2] == ["ijepa_vith14", NOTHING, table[2][2]]
    levels = lines(page, "Representation", "IoU 0.3", "IoU 0.5", "IoU 0.7")
    of |= {"measure": "maxboxacc", "method": "abmilp_1"}
    assert levels[3] == ["AbMILP", *(text_of(row_of(rows, level=iou, **of)) for iou in (0.3, 0.5, 0.7))]


@pytest.mark.parametrize("part", ALL_PARTS)
@pytest.mark.parametrize("backbones", [BACKBONES[2:3], BACKBONES[3:]], ids=["no CLS", "control"])
def test_any_part_alone_makes_a_page(page_of, part, backbones):
    """Of one backbone, without [CLS] or untrained, one rate, one epoch, one seed."""
    made = Made(parts=(part,), backbones=backbones, rates=(0.1,), epochs=1, seeds=1)
    page = page_of(made)
    assert [own.title for own in AGGREGATION.parts.values() if own.title in page.said()] == [
        AGGREGATION.parts[part].title
    ]
    assert "1 part of the study" in page.said()
    assert not re.search(r"\bnan\b|None|\{|\}|\.\.", page.said())
    assert ("Untrained control." in page.said()) == (backbones == BACKBONES[3:])


def test_a_control_never_leads_nor_is_marked_the_best(page_of):
    made = Made(parts=("probing", "localisation"))
    rows = [
        row | {"value": 0.99} if row["backbone"] == "untrained_tiny" and "value" in row else row for row in made.rows()
    ]
    page = page_of(made, rows=rows)
    assert "the control untrained_tiny reaches 0.990" in page.said()
    assert not re.search(r"highest [\w\- ]+ is 0\.990", page.said(), re.IGNORECASE)


def test_what_was_skipped_is_said_with_its_representation(page_of):
    rows = (made := Made(parts=("probing", "attention"))).rows()
    diverged = {"measure": "top1", "setting": "rate", "level": 3.0, "method": "abmilp_1", "count": 0}
    names = ("study", "dataset", "backbone", "family", "objective", "part", "layer", "token")
    of = {name: row_of(rows, measure="top1_best", method="mean", backbone="mae_vitb16")[name] for name in names}
    page = page_of(made, rows=[*rows, of | diverged | {"skipped": "its loss was no number in epoch 2"}])
    found = [row for table in page.cells() for row in table if table[0][:2] == ["What", "Why"]]
    assert ["top1 of [CLS]", "it has no [CLS]", "ijepa_vith14", "1"] in found
    assert ["cls to cls", "it has no [CLS]", "ijepa_vith14", "1"] in found
    assert ["top1 of AbMILP, rate 3", "its loss was no number in epoch 2", "mae_vitb16", "1"] in found


def test_a_part_where_everything_was_skipped(page_of):
    rows = (made := Made(parts=("localisation", "attention"), backbones=BACKBONES[:1])).rows()
    reason = "its loss was no number in epoch 1"
    rows = [
        {k: v for k, v in row.items() if k != "value"} | {"skipped": reason} if row["part"] == "localisation" else row
        for row in rows
    ]
    page = page_of(made, rows=rows)
    assert page.said().count("Everything was skipped: there is nothing to compare.") == 1
    assert any(reason in row for table in page.cells() for row in table)


def test_classifiers_may_be_missing_where_weights_are_not(page_of):
    made = Made(parts=("untrained",), backbones=BACKBONES[:2])
    page = page_of(made, rows=[row for row in made.rows() if not row["measure"].startswith("top1")])
    assert "The most selective weights are those of AbMILP of dino_vits16" in page.said()
    assert all(row[1] == NOTHING for row in lines(page, "Representation", "Top-1"))


def test_several_cells_are_all_in_a_table(page_of):
    made = Made(parts=("probing",), backbones=BACKBONES[:1], cells=((3, "x2"), (5, "x2"), (5, "x2_raw")))
    rows = made.rows()
    page = page_of(made, rows=rows)
    of = {"measure": "top1_best", "method": "mean"}
    every = {row[0]: row[1] for row in lines(page, "Backbone", "patch mean")}
    shown = {"dino_vits16, x2 of block 3": (3, "x2"), "dino_vits16, x2_raw of block 5": (5, "x2_raw")}
    for label, (layer, token) in shown.items():
        assert every[label] == f"{row_of(rows, layer=layer, token=token, **of)['value']:.3f}"
    assert lines(page, "Backbone", "Patch mean")[0][1] == text_of(row_of(rows, layer=5, token="x2_raw", **of))


def test_names_cannot_become_markup(page_of):
    hostile = '<script>alert("1")</script>{{ 7 * 7 }}'
    made = Made(
        backbones=((f"b {hostile}", "mae", "MAE"),),
        representations=("mean", hostile),
        datasets=(f"imagefolder:{hostile}",),
    )
    page = page_of(made, notes=(hostile,))
    assert "script" not in page.tags
    assert page.said().count(hostile) > 20


def test_links_and_ids_on_data_sets_that_differ_in_signs_alone(page_of):
    page = page_of(
        Made(backbones=BACKBONES[:1], datasets=("imagefolder:a b", "imagefolder:a:b"), rates=(0.1,), epochs=1)
    )
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    pointed = {value[1:] for _, name, value in page.attributes if name == "href" and value.startswith("#")}
    assert set(AGGREGATION.parts) <= pointed <= set(ids)


def test_every_figure_is_in_the_page_and_in_files_beside_it(drawn):
    path, text, page = drawn
    files = {file.name: file.stat().length for file in (path.parent / "figures").iterdir()}
    assert all(size > 1000 for size in files.values())
    stems = {name.rpartition(".")[0].replace("_imagefolder_birds", "") for name in files}
    assert stems == {
        "attention_flow",
        "attention_heads",
        "probing_best",
        "probing_rates",
        "untrained_scores",
        "untrained_kl",
        "untrained_maps_dino_vits16",
        "localisation_scores",
        "localisation_levels",
        "localisation_boxes_dino_vits16",
    }
    assert len(files) == 2 * len(stems)
    links = {value for tag, name, value in page.attributes if (tag, name) == ("a", "href") and "/" in value}
    assert links == {f"figures/{name}" for name in files}
    assert page.tags.count("figcaption") == page.tags.count("svg") == len(stems)
    assert text.count("data:image/jpeg") == 3 * (1 + 5) + 3 * (1 + 2)  # equal weights are no picture


def test_page_needs_no_other_file_and_no_id_stands_twice(drawn):
    _, text, page = drawn
    assert not {"script", "link", "iframe", "object", "embed"} & set(page.tags)
    addresses = [value for _, name, value in page.attributes if name in ("href", "src")]
    assert all(value.startswith(("#", "figures/", "data:")) for value in addresses)
    assert set(re.findall(r"https?://[^\s\"']+", text)) == {"http://www.w3.org/2000/svg"}
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids)) > 20


_IMAGES = np.zeros((2, 4, 4, 3), np.uint8)
_WEIGHTS = np.ones((2, 2, 2), np.float32)


@pytest.mark.parametrize(
    "arrays",
    [
        {"weights_mean": _WEIGHTS},
        {"images": _IMAGES.astype(np.float32)},
        {"images": _IMAGES, "weights_mean": _WEIGHTS[:1]},
        {"images": _IMAGES, "weights_mean": _WEIGHTS * np.nan},
        {"images": _IMAGES, "weights_mean": -_WEIGHTS},
        {"images": _IMAGES, "truth": np.array([[2, 0, 0, 1, 1]], np.float32)},
        {"images": _IMAGES, "boxes_mean": np.zeros((2, 5), np.float32)},
        {"images": _IMAGES, "names": np.array(["one"])},
        {"images": _IMAGES, "something": _WEIGHTS},
    ],
)
def test_other_arrays_than_pictures_are_refused(undrawn, tmp_path, arrays):
    made = Made(parts=("untrained",), backbones=BACKBONES[:1])
    folder = write_folder(tmp_path, made, pictures=True)
    path = folder / "pictures/dino_vits16/imagefolder_birds_untrained_5_x2_raw.npz"
    np.savez(path, **arrays)
    with pytest.raises(InputError, match="holds other arrays than pictures") as error:
        write_aggregation_report(folder)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
