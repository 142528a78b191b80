"""The page says what the results say, in valid and self-contained HTML; bad folders end in one clear line."""

import base64
import hashlib
import json
import os
import re
import statistics

import pytest

from tests.report.page_text import NOTHING, Page, without_intervals
from vitprobe_jax.errors import InputError
from vitprobe_jax.metrics.results import METRICS, SCHEMA, make_table, write_table
from vitprobe_jax.report import figures
from vitprobe_jax.report.page import write_report
from vitprobe_jax.report.tables import summarise

CONCEPTS = tuple((i, f"concept {i}", "object") for i in range(1, 13))


@pytest.fixture
def drawn():
    """Asked for by tests that need figures."""


@pytest.fixture(autouse=True)
def nothing_drawn(request, monkeypatch):
    """Figures take seconds, and most tests are not about them."""
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(figures, "illustrate", lambda table, examples: [])


def page_of(folder) -> Page:
    path = write_report(folder)
    assert path == folder / "report" / "index.html"
    return Page(path.read_text(encoding="utf-8"))


def expected_row(rows, backbone, token, rule, shots):
    """The cells of a summary row, by loops over the results."""
    own = [
        row
        for row in rows
        if (row["backbone"], row["token"], row["rule"], row["shots"]) == (backbone, token, rule, shots)
    ]
    scored = [row for row in own if row["skipped"] is None]
    concepts = {(row["concept"], row["category"]) for row in scored}
    cells = [token]
    if rule == "cosine":
        cells += [str(shots), f"{statistics.fmean(row['effective_shots'] for row in scored):.4g}"]
    for metric in METRICS:
        by_concept = [
            statistics.fmean(row[metric] for row in scored if (row["concept"], row["category"]) == concept)
            for concept in sorted(concepts)
        ]
        cell = f"{statistics.fmean(by_concept):.3f}"
        if rule == "cosine":
            trials = [statistics.fmean(row[metric] for row in scored if row["trial"] == trial) for trial in range(3)]
            cell += f" ± {statistics.stdev(trials):.3f}"
        cells.append(cell)
    degenerate = f"{sum(row['degenerate'] for row in scored)} of {len(scored)}"
    return [*cells, str(len(concepts)), degenerate, str(4 - len(concepts))]


def skip_wheel(row):
    return "2 positives in train" if row["name"] == "wheel" else None


@pytest.mark.parametrize("rule", ["hyperplane", "cosine"])
def test_numbers_are_those_of_plain_loops(results_rows, results_folder, rule):
    rows = results_rows(skip=skip_wheel)
    page = page_of(results_folder(rows))
    head = (
        ("Token", "Shots")
        if rule == "cosine"
        else ("Token", "Accuracy", "Precision", "Recall", "F1", "Concepts", "Degenerate")
    )
    shots = (1, 5) if rule == "cosine" else (None,)
    expected = []
    for backbone, badge in (("dino_vits16", ""), ("tiny_mae", " untrained control")):
        expected.append([f"{backbone}{badge}, block 11"])
        expected += [expected_row(rows, backbone, token, rule, s) for token in ("q", "k", "x2") for s in shots]
    assert [without_intervals(row) for row in page.table(*head)] == expected


def test_intervals_are_those_of_the_summaries(results_rows, results_folder):
    rows = results_rows(rules=("hyperplane",))
    page = page_of(results_folder(rows))
    table = page.table("Token", "Accuracy", "Precision", "Recall", "F1", "Concepts", "Degenerate")
    by_place = {(row.backbone, row.token): row for row in summarise(make_table(rows))}
    for row, key in zip(table[1:4], (("dino_vits16", token) for token in ("q", "k", "x2")), strict=True):
        for cell, metric in zip(row[1:5], METRICS, strict=True):
            score = by_place[key].scores[metric]
            assert cell == f"{score.mean:.3f} [{score.low:.3f}, {score.high:.3f}]"


def test_the_answer_comes_first_with_its_numbers(results_rows, results_folder):
    rows = results_rows(rules=("hyperplane",), concepts=CONCEPTS)
    level = {"q": 0.4, "k": 0.9, "x2": 0.7}
    rows = [row | {"accuracy": level[row["token"]] + row["concept"] / 250} for row in rows]
    said = page_of(results_folder(rows)).said()
    mean = 0.9 + statistics.fmean(range(1, 13)) / 250
    start = said.index("The answer")
    assert f"Use k and hyperplane block 11 of dino_vits16 Balanced accuracy {mean:.3f} [" in said[start:]
    assert "Ahead of x2 by 0.200 [0.200, 0.200] How sure p " in said[start:]
    assert said.index("For segmentation on broden:streets, use k of block 11") < said.index("Every concept")
    for backbone in ("dino_vits16", "tiny_mae untrained control"):
        assert f"{backbone}, hyperplane k {mean:.3f} [" in said
    assert f"next is x2 at block 11 with {mean - 0.2:.3f}" in said


def test_what_is_not_distinguishable_is_said_to_be_so(results_rows, results_folder):
    said = page_of(results_folder(results_rows(rules=("hyperplane",)))).said()
    assert re.search(r"How sure open not distinguishable: p \d\.\d{3} after Holm", said)


def test_f1_by_category(results_rows, results_folder):
    rows = results_rows(rules=("hyperplane",))
    page = page_of(results_folder(rows))
    table = page.table("Token", "material (1)", "object (2)", "part (1)")
    for row in table[1:4]:
        values = {
            category: statistics.fmean(
                r["f1"] for r in rows if (r["backbone"], r["token"], r["category"]) == ("dino_vits16", row[0], category)
            )
            for category in ("material", "object", "part")
        }
        assert without_intervals(row)[1:] == [f"{value:.3f}" for value in values.values()]


def test_what_was_done_how_and_when(results_rows, results_folder):
    page = page_of(results_folder(results_rows(), notes=("skipped 2 corrupt images: a.png, b.png",)))
    said = page.said()
    assert "Segmentation on broden:streets: 4 concepts probed in 3 tokens (q, k, x2) of 2 frozen backbones" in said
    assert "from 1, 5 support images, 3 trials each" in said
    assert "skipped 2 corrupt images: a.png, b.png" in said
    config = dict(row for table in page.cells() for row in table if len(row) == 2)
    assert config["hyperplane.rounds"] == "5"
    assert config["shots"] == "1, 5"
    assert config["image_size"] == NOTHING
    assert config["seed"] == "17"
    assert config["versions.jax"] == "0.10.2"
    assert page.table("Stage") == [["extract train", "4.0", "10 images", "2.5 images/s"]]


@pytest.mark.parametrize(("count", "folded"), [(5, []), (9, ["4 more"])])
def test_many_notes_leave_room_for_the_results(results_rows, results_folder, count, folded):
    notes = tuple(f"note number {i}." for i in range(count))
    page = page_of(results_folder(results_rows(), notes=notes))
    text = " ".join(page.text)
    assert all(note in text for note in notes)
    assert re.findall(r"\d+ more", text) == folded


def test_skipped_concepts_and_why(results_rows, results_folder):
    page = page_of(results_folder(results_rows(skip=skip_wheel)))
    assert page.table("Category", "Concept") == [["part", "wheel", "2 positives in train", "cosine, hyperplane", "all"]]


def test_controls_are_marked_and_trained_backbones_are_not(results_rows, results_folder, tmp_path):
    rows = results_rows()
    assert "Untrained control." in page_of(results_folder(rows)).said()
    trained = [row for row in rows if row["backbone"] == "dino_vits16"]
    (tmp_path / "results").rename(tmp_path / "first")
    page = page_of(results_folder(trained))
    assert "Untrained control." not in page.said()
    assert ("span", "class", "badge") not in page.attributes


def test_everything_skipped(results_rows, results_folder):
    page = page_of(results_folder(results_rows(skip=lambda row: "no positives in val")))
    assert "Every concept was skipped: there is nothing to compare." in page.said()
    assert "figure" not in page.tags
    assert page.table("Token", "Accuracy")[1] == ["q", NOTHING, NOTHING, NOTHING, NOTHING, "0", "0", "4"]


def test_no_rows_at_all(results_folder):
    folder = results_folder([])
    write_table(SCHEMA.empty_table(), folder / "results.parquet")
    assert "The results table is empty." in page_of(folder).said()


def test_every_figure_has_words_and_files_beside_it(results_rows, results_folder, drawn):
    rows = results_rows(layers=(3, 11))
    folder = results_folder(rows)
    page = page_of(folder)
    illustrations = figures.illustrate(make_table(rows), None)
    assert len(illustrations) > 5
    assert page.tags.count("figcaption") == len(illustrations)
    said = page.said()
    labels = [value for _, name, value in page.attributes if name == "aria-label"]
    links = {value for tag, name, value in page.attributes if (tag, name) == ("a", "href")}
    for illustration in illustrations:
        assert f"{illustration.title}. {' '.join(illustration.caption.split())}" in said
        assert illustration.alt in labels
        for suffix in ("png", "svg"):
            address = f"figures/{illustration.name}.{suffix}"
            assert address in links
            assert (folder / "report" / address).stat().st_size > 1000
    assert len(list((folder / "report" / "figures").iterdir())) == 2 * len(illustrations)


def test_figures_of_a_former_report_go(results_rows, results_folder, drawn):
    folder = results_folder(results_rows(rules=("hyperplane",)))
    former = folder / "report" / "figures"
    former.mkdir(parents=True)
    (former / "seg_of_yesterday.png").write_bytes(b"old")
    (former / "mine.txt").write_text("a user's own")
    write_report(folder)
    assert not (former / "seg_of_yesterday.png").exists()
    assert (former / "mine.txt").exists()


def test_names_cannot_become_markup(results_rows, results_folder):
    hostile = '<script>alert("1")</script>'
    rows = results_rows(
        rules=("hyperplane",),
        concepts=((1, hostile, f"a {hostile}"), (2, "sky", "object")),
        skip=lambda row: f"because {hostile}" if row["name"] == hostile else None,
    )
    rows = [row | {"backbone": f"b {hostile}", "dataset": hostile} for row in rows if row["backbone"] == "tiny_mae"]
    page = page_of(results_folder(rows, notes=(hostile,)))
    assert page.tags.count("script") == 5  # the page's own
    assert page.said().count(hostile) >= 6


def test_page_needs_no_other_file_and_no_network(results_rows, results_folder, drawn):
    folder = results_folder(results_rows(layers=(3, 11)))
    page = page_of(folder)
    assert not {"link", "iframe", "object", "embed"} & set(page.tags)
    loaded = [value for tag, name, value in page.attributes if name in ("src", "srcset", "data", "action")]
    assert all(value.startswith("data:") for value in loaded)
    addresses = [value for _, name, value in page.attributes if name in ("href", "xlink:href")]
    assert all(value.startswith(("#", "figures/", "data:")) for value in addresses)
    text = (folder / "report" / "index.html").read_text(encoding="utf-8")
    assert set(re.findall(r"https?://[^\s\"']+", text)) == {"http://www.w3.org/2000/svg"}  # a name, not an address
    assert "@import" not in text
    assert re.findall(r"url\((?!#)", text) == []


def test_only_the_script_of_the_page_may_run(results_rows, results_folder):
    """The policy names the hash of the script, as a browser computes it."""
    folder = results_folder(results_rows(rules=("hyperplane",)))
    text = (write_report(folder)).read_text(encoding="utf-8")
    (script,) = re.findall(r'<script type="module">(.*?)</script>', text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; script-src 'sha256-{digest}'" in text


def test_links_within_the_page_lead_somewhere(results_rows, results_folder, drawn):
    page = page_of(results_folder(results_rows()))
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    pointed = [value.removeprefix("#") for _, name, value in page.attributes if name in ("href", "aria-describedby")]
    pointed = {value for value in pointed if not value.startswith("figures/")}
    assert pointed <= set(ids)


def test_same_results_same_page(results_rows, results_folder, drawn):
    folder = results_folder(results_rows(rules=("hyperplane",)))
    assert write_report(folder).read_bytes() == write_report(folder).read_bytes()


def test_a_failed_write_leaves_the_former_page(results_rows, results_folder, monkeypatch):
    folder = results_folder(results_rows(rules=("hyperplane",)))
    before = write_report(folder).read_bytes()

    def fail(*paths):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(InputError, match="No space left on device"):
        write_report(folder)
    assert (folder / "report" / "index.html").read_bytes() == before


RUN = {"versions": {}, "devices": {}, "seed": 0, "stages": [], "notes": []}


@pytest.mark.parametrize(
    ("file", "content", "complaint"),
    [
        ("results.parquet", None, "no results here"),
        ("results.parquet", b"not a table", "not a readable results file"),
        ("config.json", None, "missing"),
        ("config.json", b"{", "cannot be read as JSON"),
        ("config.json", b"\xff\xfe", "cannot be read as JSON"),
        ("config.json", b"[1]", "no record"),
        ("run.json", None, "missing"),
        ("run.json", b'{"versions": ', "cannot be read as JSON"),
        ("run.json", b"{}", "lacks"),
        ("run.json", json.dumps(RUN | {"stages": [{"stage": "a"}]}).encode(), "lacks"),
        ("run.json", json.dumps(RUN | {"notes": "a"}).encode(), "lacks"),
    ],
)
def test_damaged_folders_are_named_in_one_line(results_rows, results_folder, file, content, complaint):
    folder = results_folder(results_rows(rules=("hyperplane",)))
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content)
    with pytest.raises(InputError) as error:
        write_report(folder)
    message = str(error.value)
    assert message.startswith(f"{folder / file}: ")
    assert complaint in message
    assert "run " in message  # the mend
    assert not (folder / "report").exists()


def test_truncated_results(results_rows, results_folder):
    """Cut anywhere, a results file is refused: never a traceback, never a report of half the rows."""
    folder = results_folder(results_rows())
    whole = (folder / "results.parquet").read_bytes()
    for share in (0.0, 0.3, 0.9, 0.999):
        (folder / "results.parquet").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(InputError, match="not a readable results file"):
            write_report(folder)


def test_missing_folder(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        write_report(tmp_path / "nowhere")


def test_damaged_examples(results_rows, results_folder):
    folder = results_folder(results_rows(rules=("hyperplane",)))
    (folder / "examples").mkdir()
    (folder / "examples" / "masks.parquet").write_bytes(b"PAR1 no")
    (folder / "examples" / "images.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(InputError, match=r"parquet: is damaged") as error:
        write_report(folder)
    assert "\n" not in str(error.value)


def test_published_numbers_stand_beside_with_what_forbids_to_take_them_for_a_reproduction(results_rows, results_folder):
    rows = [row | {"f1": 0.7 if row["token"] == "k" else 0.6} for row in results_rows(rules=("hyperplane",))]
    folder = results_folder(rows)
    page = Page(write_report(folder, paper=True).read_text("utf-8"))
    said = page.said()
    assert "Not a reproduction" in said[: said.index("Value by value")]
    row = next(row for row in page.table("Published", "Where", "Run", "Metric", "Value") if row[3] == "F1")
    # The paper's F1 of DINO's k (4.3) is 0.684.
    assert row[2] == "k of block 11, dino_vits16"
    assert without_intervals(row)[4:] == ["0.700", "0.684", "+0.016"]
    assert "Beside the paper" not in page_of(folder).said()


def test_the_page_says_whether_draws_are_covered(results_rows, results_folder, tmp_path):
    rows = results_rows(rules=("hyperplane",), concepts=CONCEPTS)
    said = page_of(results_folder(rows)).said()
    warning = "Intervals and tests cover concepts only, not draws"
    assert said.index("The answer") < said.index(warning) < said.index("Best token of each backbone and rule")
    assert "over seeds" not in said
    (tmp_path / "results").rename(tmp_path / "first")
    seeds = [row | {"seed": seed} for seed in (0, 1) for row in results_rows(seed=seed, rules=("hyperplane",))]
    page = page_of(results_folder(seeds))
    said = page.said()
    assert warning not in said
    assert "by hyperplane templates (at the minimum of the penalised loss" in said
    assert "features), all under 2 seeds." in said
    assert "Intervals and tests cover concepts and the draws of 2 seeds (0, 1)." in said
    assert re.search(r"± 0\.\d{3} over seeds, best in [012] of 2 seeds", said)
    assert "min F'" in said
    summary = next(row for row in summarise(make_table(seeds)) if (row.backbone, row.token) == ("dino_vits16", "q"))
    score = summary.scores["f1"]
    cell = page.table("Token", "Accuracy", "Precision", "Recall", "F1", "Concepts", "Degenerate")[1][4]
    assert cell == f"{score.mean:.3f} (seeds ± {score.seed_deviation:.3f}) [{score.low:.3f}, {score.high:.3f}]"


def test_the_head_says_how_labels_of_several_categories_are_counted(results_rows, results_folder):
    note = "--label_categories=primary: 1,197 labels, 60 of them in more than one category; these are counted once"
    said = page_of(results_folder(results_rows(rules=("hyperplane",)), notes=(note, "another note"))).said()
    assert note in said[: said.index("The answer")]
    assert "another note" not in said[: said.index("The answer")]
