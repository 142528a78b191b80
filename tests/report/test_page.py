"""The page says what the results say, in valid and self-contained HTML; bad folders end in one clear line."""

import base64
import html.parser
import json
import os
import re
import statistics

import pytest

from vitprobe_jax.errors import InputError
from vitprobe_jax.metrics.results import METRICS, SCHEMA, write_table
from vitprobe_jax.report.page import write_report

NOTHING = "\N{EN DASH}"
VOID = {"meta", "img", "link", "br", "hr", "input"}


class Page(html.parser.HTMLParser):
    """Tags in balance, tables as lists of lists of text, attributes of all tags."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.tables, self.attributes, self.tags, self.text = [], [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] == ["style"]:
            return
        self.text.append(data)
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += data

    def table(self, *head):
        """The rows of the table whose header begins so."""
        return next(rows for rows in self.cells() if tuple(rows[0][: len(head)]) == head)[1:]

    def cells(self):
        """Every table, white space brought to single blanks."""
        return [[[" ".join(cell.split()) for cell in row] for row in table] for table in self.tables]

    def said(self) -> str:
        return " ".join("".join(self.text).split())


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
    head = ("Token", "Shots") if rule == "cosine" else ("Token", "Accuracy")
    shots = (1, 5) if rule == "cosine" else (None,)
    expected = []
    for backbone, badge in (("dino_vits16", ""), ("tiny_mae", " untrained control")):
        expected.append([f"{backbone}, block 11{badge}"])
        expected += [expected_row(rows, backbone, token, rule, s) for token in ("q", "k", "x2") for s in shots]
    assert page.table(*head) == expected


def test_headline_names_the_best_token_and_the_next(results_rows, results_folder):
    rows = results_rows(rules=("hyperplane",))
    level = {"q": 0.4, "k": 0.9, "x2": 0.7}
    rows = [row | {"f1": level[row["token"]]} for row in rows]
    said = page_of(results_folder(rows)).said()
    for backbone in ("dino_vits16", "tiny_mae untrained control"):
        assert f"{backbone} k F1 0.900 block 11, 4 concepts; next is x2 at block 11 with 0.700" in said


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
        assert row[1:] == [f"{value:.3f}" for value in values.values()]


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
    assert page.table("Category") == [["part", "wheel", "2 positives in train", "cosine, hyperplane", "all"]]


def test_controls_are_marked_and_trained_backbones_are_not(results_rows, results_folder, tmp_path):
    rows = results_rows()
    assert "Untrained control." in page_of(results_folder(rows)).said()
    trained = [row for row in rows if row["backbone"] == "dino_vits16"]
    (tmp_path / "results").rename(tmp_path / "first")
    assert "ntrained" not in page_of(results_folder(trained)).said()


def test_everything_skipped(results_rows, results_folder):
    page = page_of(results_folder(results_rows(skip=lambda row: "no positives in val")))
    assert page.said().count("Every concept was skipped under this rule.") == 2
    assert "img" not in page.tags
    assert page.table("Token", "Accuracy")[1] == ["q", NOTHING, NOTHING, NOTHING, NOTHING, "0", "0", "4"]


def test_no_rows_at_all(results_folder):
    folder = results_folder([])
    write_table(SCHEMA.empty_table(), folder / "results.parquet")
    assert "The results table is empty." in page_of(folder).said()


@pytest.mark.parametrize(
    ("options", "num_figures"),
    [
        ({"rules": ("hyperplane",)}, 4),
        ({"rules": ("cosine",)}, 4),
        ({"rules": ("cosine",), "shots": (5,), "trials": 1}, 4),
        ({"rules": ("hyperplane",), "layers": (3, 11)}, 8),
        ({"layers": (3, 11)}, 16),
    ],
)
def test_each_metric_has_its_figures_with_words_for_them(results_rows, results_folder, options, num_figures):
    page = page_of(results_folder(results_rows(**options)))
    assert page.tags.count("figure") == page.tags.count("figcaption") == num_figures
    alternatives = [value for tag, name, value in page.attributes if (tag, name) == ("img", "alt")]
    assert len(set(alternatives)) == num_figures
    assert all(re.search(r"from 0\.\d{3} \(.*\) to [01]\.\d{3} \(", text) for text in alternatives)


def test_names_cannot_become_markup(results_rows, results_folder):
    hostile = '<script>alert("1")</script>'
    rows = results_rows(
        rules=("hyperplane",),
        concepts=((1, hostile, f"a {hostile}"), (2, "sky", "object")),
        skip=lambda row: f"because {hostile}" if row["name"] == hostile else None,
    )
    rows = [row | {"backbone": f"b {hostile}", "dataset": hostile} for row in rows if row["backbone"] == "tiny_mae"]
    page = page_of(results_folder(rows, notes=(hostile,)))
    assert "script" not in page.tags
    assert page.said().count(hostile) >= 6


def test_page_needs_no_other_file_and_no_network(results_rows, results_folder):
    folder = results_folder(results_rows(layers=(3, 11)))
    page = page_of(folder)
    assert not {"script", "link", "iframe", "object", "embed"} & set(page.tags)
    addresses = [value for _, name, value in page.attributes if name in ("src", "href", "srcset", "data", "action")]
    images = [value for value in addresses if value.startswith("data:image/svg+xml;base64,")]
    assert len(images) == 16
    assert all(value in images or value.startswith("#") for value in addresses)
    text = (folder / "report" / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|url\(|@import", text)
    for image in images:
        svg = base64.b64decode(image.partition("base64,")[2]).decode()
        assert all(target.startswith("#") for target in re.findall(r'(?:href|src)="([^"]*)"', svg))


def test_links_within_the_page_lead_somewhere(results_rows, results_folder):
    page = page_of(results_folder(results_rows()))
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    pointed = [value.removeprefix("#") for _, name, value in page.attributes if name in ("href", "aria-describedby")]
    assert set(pointed) <= set(ids)


def test_same_results_same_page(results_rows, results_folder):
    folder = results_folder(results_rows())
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
