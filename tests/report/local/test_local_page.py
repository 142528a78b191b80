"""The page of study 2 says what the table says, whatever parts there are; it needs no other file, script or network."""

import re
import statistics

import numpy as np
import pytest

from tests.report.local.made import ALL_PARTS, BACKBONES, Made, write_folder
from tests.report.page_text import NOTHING, VOID, Page
from vitprobe_jax.errors import InputError
from vitprobe_jax.metrics.measurements import MEASUREMENTS
from vitprobe_jax.metrics.results import write_table
from vitprobe_jax.report.local.page import LOCAL, write_local_report

SMALL = {"datasets": ("cityscapes:streets",), "tilings": ("tiles",), "methods": ("1-nn", "linear"), "depth": 2}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A page with its figures: lines, photographs, stacks. What they show is tested elsewhere."""
    made = Made(parts=("patches", "retrieval"), backbones=BACKBONES[:1], drops=(0,), **SMALL | {"methods": ("1-nn",)})
    folder = write_folder(tmp_path_factory.mktemp("drawn") / "out", made, pictures=True)
    path = write_local_report(folder)
    text = path.read_text(encoding="utf-8")
    return path, text, Page(text)


def value(rows, **wanted):
    """The mean of the numbers of some rows, by a loop, as the page writes it."""
    found = [row["value"] for row in rows if all(row.get(name) == own for name, own in wanted.items())]
    return f"{statistics.fmean(found):.3f}"


def table_of(page, title, *head):
    """The lines of the table whose header begins so, of those whose region has this label."""
    labels = [text for _, name, text in page.attributes if name == "aria-label"]
    assert title in labels
    return [row for row in page.table(*head) if len(row) > 1]


def test_numbers_of_the_main_table_are_those_of_plain_loops(page_of):
    made = Made(parts=("patches",), **SMALL)
    rows = made.rows()
    page = page_of(made, rows=rows)
    expected = []
    for method in ("1-nn", "linear"):
        for backbone, _, objective in BACKBONES:
            for m in (0, 200):
                of = {"method": method, "backbone": backbone, "dropped": m}
                label = f"{backbone}-{m}" if m else backbone
                label += " untrained control" if "untrained" in objective else ""
                miou = [value(rows, measure="miou", shots=shots, **of) for shots in (2, 4, 8)]
                expected.append([label, *miou, value(rows, measure="pixel_accuracy", shots=4, **of)])
    assert table_of(page, "mIoU by method", "Backbone", "mIoU from 2") == expected


def test_means_over_levels_are_those_of_plain_loops(page_of):
    made = Made(parts=("corruptions", "retrieval"), backbones=BACKBONES[1:2], **SMALL)
    rows = made.rows()
    page = page_of(made, rows=rows)
    lines = {
        row[0]: row[1:] for row in reversed(table_of(page, "What corruption costs", "Backbone", "mIoU of clean images"))
    }
    of = {"method": "1-nn", "backbone": "mae_vitb16", "dropped": 200, "part": "corruptions"}
    assert lines["mae_vitb16-200"][0] == value(rows, setting="clean", measure="miou", **of)
    assert lines["mae_vitb16-200"][2] == value(rows, setting="noise", measure="relative_drop", **of)
    lines = {row[0]: row[1:] for row in reversed(table_of(page, "What is found again", "Backbone", "none", "shift"))}
    of |= {"part": "retrieval", "measure": "same_patch"}
    assert lines["mae_vitb16-200"][:2] == ["1.000", value(rows, setting="shift", **of)]
    assert lines["upper bound"][1] == value(rows, setting="shift", measure="upper_bound", method="1-nn")


@pytest.mark.parametrize("part", ALL_PARTS)
def test_any_part_alone_makes_a_page(page_of, part):
    made = Made(parts=(part,), backbones=BACKBONES[1:2], **SMALL)
    page = page_of(made)
    headings = [own.title for own in LOCAL.parts.values() if own.title in page.said()]
    assert headings == [LOCAL.parts[part].title]
    assert "1 part of the study" in page.said()
    assert f"On {made.datasets_of(part)[0]}" in page.said()
    assert not re.search(r"\bnan\b|None|\{|\}", page.said())


def test_several_tokens_and_blocks_are_all_in_a_table(page_of):
    made = Made(parts=("patches", "tracking"), cells=((3, "k"), (3, "x2"), (11, "k"), (11, "x2")), **SMALL)
    rows = made.rows()
    page = page_of(made, rows=rows)
    of = {"measure": "miou", "shots": 8, "backbone": "dino_vits16", "dropped": 0, "layer": 11, "token": "x2"}
    main = {row[0]: row for row in reversed(table_of(page, "mIoU by method", "Backbone", "mIoU from 2"))}
    assert main["dino_vits16"][3] == value(rows, method="1-nn", **of)
    title = "Every token and block of 3 backbones: mIoU"
    every = {row[0]: row[1:] for row in table_of(page, title, "Backbone", "1-NN", "linear probe")}
    assert len(every) == 3 * 2 * 4
    # Beside the sizes, a page is of the data set's own draw.
    of |= {"layer": 3, "token": "k", "shots": 4}
    assert every["dino_vits16, k of block 3"] == [value(rows, method=method, **of) for method in ("1-nn", "linear")]


def test_a_page_without_x2_shows_the_first_token(page_of):
    made = Made(parts=("patches",), cells=((11, "v"), (11, "k")), **SMALL)
    page = page_of(made)
    assert "Figures and tables above show k, where blocks" in page.said()


def test_what_was_skipped_is_said_with_its_reason(page_of):
    page = page_of(Made(parts=("reconstruction", "layers", "scale"), **SMALL))
    decoders = ["mse", "it has no decoder; convert MAE's full checkpoint", "dino_vits16, untrained_tiny", "2"]
    assert decoders in page.table("What", "Why")
    every = [row for table in page.cells() for row in table]
    assert ["accuracy of harbour", "no training image shows it", ", ".join(b[0] for b in BACKBONES), "3"] in every
    assert any(row[:2] == ["iou of rider", "no held-out pixel carries it"] for row in every)


def test_a_part_where_everything_was_skipped(page_of):
    made = Made(parts=("reconstruction", "patches"), backbones=BACKBONES[:1], **SMALL)
    reason = "no training patch carries a concept"
    keys = ("value", "concept", "name", "category")
    rows = [
        {k: v for k, v in row.items() if k not in keys} | {"skipped": reason} if row["part"] == "patches" else row
        for row in made.rows()
    ]
    page = page_of(made, rows=rows)
    assert page.said().count("Everything was skipped: there is nothing to compare.") == 2
    assert "figure" not in page.tags
    assert any(reason in row for table in page.cells() for row in table)


def test_variants_that_a_backbone_is_too_narrow_for(page_of):
    made = Made(parts=("patches",), backbones=BACKBONES[:1], drops=(0,), **SMALL)
    reason = "it has 48 features: 200 cannot be left out"
    of = {name: made.rows()[0][name] for name in ("study", "dataset", "backbone", "family", "objective", "part")}
    rows = [*made.rows(), of | {"dropped": 200, "measure": "all", "count": 0, "skipped": reason}]
    page = page_of(made, rows=rows)
    assert ["everything", reason, "dino_vits16-200", "1"] in page.table("What", "Why")
    assert "Leaving out" not in page.said()


def test_no_rows_at_all(undrawn, tmp_path):
    folder = write_folder(tmp_path, Made(), rows=[])
    write_table(MEASUREMENTS.empty_table(), folder / "results.parquet")
    page = Page(write_local_report(folder).read_text("utf-8"))
    assert "The results table is empty." in page.said()
    assert "The run" in page.said()


def test_one_backbone_with_one_size_and_all_images(page_of):
    made = Made(parts=("patches", "variance"), backbones=BACKBONES[:1], drops=(0,), shots=(0,), **SMALL)
    page = page_of(made)
    assert "From all images, by 1-NN, dino_vits16 reaches an mIoU of" in page.said()
    assert " most" not in page.said()[page.said().index("By 1-NN") :].split(".")[0]


def test_names_cannot_become_markup(page_of):
    hostile = '<script>alert("1")</script>{{ 7 * 7 }}'
    backbones = ((f"b {hostile}", "mae", "MAE"),)
    concepts = ((1, hostile, f"a {hostile}"), (2, "sky", "class"), (3, "gone", "class"))
    made = Made(backbones=backbones, concepts=concepts, drops=(0,), **SMALL | {"datasets": (f"cityscapes:{hostile}",)})
    page = page_of(made, notes=(hostile,))
    assert "script" not in page.tags
    assert page.said().count(hostile) > 20


def test_control_is_marked_and_never_leads(page_of):
    made = Made(parts=("patches",), **SMALL)
    rows = [
        row | {"value": 0.9} if row["backbone"] == "untrained_tiny" and "value" in row else row for row in made.rows()
    ]
    page = page_of(made, rows=rows)
    assert "Untrained control." in page.said()
    assert re.search(r"by 1-NN, (dino_vits16|mae_vitb16)\S* leads", page.said())
    assert ("span", "class", "badge") in page.attributes


def test_page_needs_no_other_file_script_or_network(drawn):
    _, text, page = drawn
    assert not {"script", "link", "iframe", "object", "embed"} & set(page.tags)
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:\"" in text
    loaded = [value for tag, name, value in page.attributes if name in ("src", "srcset", "data", "action")]
    assert all(value.startswith("data:") for value in loaded)
    addresses = [value for _, name, value in page.attributes if name in ("href", "xlink:href")]
    assert all(value.startswith(("#", "figures/", "data:")) for value in addresses)
    assert set(re.findall(r"https?://[^\s\"']+", text)) == {"http://www.w3.org/2000/svg"}
    assert re.findall(r"url\((?!#)", text) == []
    assert not {tag for tag in re.findall(r"<(\w+)[^>]*/>", text) if tag in VOID}


def test_links_within_the_page_lead_somewhere(page_of):
    """Of every part on several data sets, two of which differ in signs alone."""
    page = page_of(
        Made(backbones=BACKBONES[:1], drops=(0,), **SMALL | {"datasets": ("cityscapes:a b", "cityscapes:a:b")})
    )
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    pointed = {
        value.removeprefix("#") for _, name, value in page.attributes if name == "href" and value.startswith("#")
    }
    assert pointed <= set(ids)
    assert set(LOCAL.parts) <= pointed


def test_every_figure_is_in_the_page_and_in_files_beside_it(drawn):
    path, text, page = drawn
    files = {file.name: file.stat().length for file in (path.parent / "figures").iterdir()}
    assert all(size > 1000 for size in files.values())
    stems = {name.rpartition(".")[0] for name in files}
    assert stems == {
        "patches_cityscapes_streets_sizes",
        "patches_cityscapes_streets_predictions_1-nn",
        "retrieval_cityscapes_streets_1-nn",
        "retrieval_cityscapes_streets_1-nn_other_images",
    }
    links = {value for tag, name, value in page.attributes if (tag, name) == ("a", "href") and "/" in value}
    assert links == {f"figures/{name}" for name in files}
    assert page.tags.count("figcaption") == page.tags.count("svg") == len(stems)
    assert text.count("data:image/jpeg") == 9  # three photographs, annotated, and taken for


def test_two_figures_that_look_the_same_share_no_id(drawn):
    _, _, page = drawn
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids)) > 20


def test_same_results_same_page(drawn):
    path, text, _ = drawn
    assert write_local_report(path.parent.parent).read_text("utf-8") == text


@pytest.mark.parametrize(
    ("file", "content", "complaint"),
    [
        ("results.parquet", None, "no results here"),
        ("results.parquet", b"not a table", "not a readable results file"),
        ("config.json", b"{", "cannot be read as JSON"),
        ("run.json", b"{}", "lacks"),
        ("pictures/dino_vits16/cityscapes_streets_patches_11_x2.npz", b"PK no archive", "not readable pictures"),
    ],
)
def test_damaged_folders_are_named_in_one_line(undrawn, tmp_path, file, content, complaint):
    made = Made(parts=("patches",), backbones=BACKBONES[:1], **SMALL)
    folder = write_folder(tmp_path, made, pictures=True)
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content)
    with pytest.raises(InputError, match=complaint) as error:
        write_local_report(folder)
    assert str(error.value).startswith(f"{folder / file}: ")
    assert "\n" not in str(error.value)
    assert not (folder / "report").exists()


@pytest.mark.parametrize(
    "arrays",
    [
        {"truth": np.zeros((1, 4, 4), np.uint16)},
        {"image": np.zeros((1, 4, 4, 3), np.float32)},
        {"image": np.zeros((1, 4, 4, 3), np.uint8), "truth": np.zeros((2, 4, 4), np.uint16)},
    ],
)
def test_other_arrays_than_pictures_are_refused(undrawn, tmp_path, arrays):
    folder = write_folder(tmp_path, Made(parts=("patches",), backbones=BACKBONES[:1], **SMALL), pictures=True)
    np.savez(folder / "pictures/dino_vits16/cityscapes_streets_patches_11_x2.npz", **arrays)
    with pytest.raises(InputError, match="holds other arrays than pictures"):
        write_local_report(folder)


def test_missing_numbers_are_dashes(page_of):
    """One backbone was not measured by the linear probe from 4 images."""
    made = Made(parts=("patches",), **SMALL)
    rows = [
        row
        for row in made.rows()
        if not (row["backbone"] == "dino_vits16" and row["method"] == "linear" and row["shots"] == 4)
    ]
    lines = [row for row in page_of(made, rows=rows).table("Backbone", "mIoU from 2") if row[0] == "dino_vits16"]
    assert [row[2] == NOTHING for row in lines] == [False, True]


@pytest.mark.parametrize(("count", "folded"), [(15, None), (151, "140 more concepts")])
def test_many_concepts_are_folded_below_those_with_most_pixels(page_of, count, folded):
    """The last one is nowhere, so it is in no table."""
    concepts = tuple((i, f"concept {i}", "class") for i in range(1, count + 1))
    page = page_of(Made(parts=("layers",), backbones=BACKBONES[:1], concepts=concepts, **SMALL))
    tables = [[row[0] for row in table[1:]] for table in page.cells() if table[0][0] == "Concept"]
    names = [f"concept {i}" for i in range(1, count)]
    assert tables == ([names] if folded is None else [names[:10], names[10:]])
    assert folded is None or folded in page.said()


def test_failed_matches_have_a_table_by_gap_and_over_all_gaps(page_of):
    made = Made(parts=("tracking",), **SMALL)
    rows = made.rows()
    page = page_of(made, rows=rows)
    title = "Share of failed matches whose nearest object is of the right category"
    gaps = [f"{gap} frame{'s' * (gap > 1)}" for gap in (1, 2, 4, 8, 16)]
    found = table_of(page, title, "Backbone", *gaps, "all gaps")
    of = {"measure": "failed_same_category", "backbone": "dino_vits16", "dropped": 0, "tiling": "tiles"}
    line = next(row for row in found if row[0] == "dino_vits16")
    assert line[1] == value(rows, level=1.0, **of)
    assert line[-1] == value(rows, setting="all gaps", **of)
