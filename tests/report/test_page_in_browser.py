"""The page in a real browser: the concept table of 1,200 concepts in 72 cells, its dialog, keys, themes, paper, network.

Expected rows come from the results file by plain Python.
"""

import base64
import json
import re

import numpy as np
import pytest

from tests.report.big_sweep import (
    BACKBONES,
    EXAMPLE,
    NOTHING,
    SHOTS,
    TITLES,
    TOKENS,
    expected_rows,
    name_of,
    write_big_sweep,
)
from tests.report.chromium import NAMES, chromium, find_chromium
from vitprobe_jax.metrics.results import METRICS
from vitprobe_jax.report import figures
from vitprobe_jax.report.page import write_report


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    program = find_chromium()
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)}; name one in VITPROBE_CHROMIUM")
    with chromium(program, tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """The page of a big sweep, without figures."""
    folder = tmp_path_factory.mktemp("big")
    write_big_sweep(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "illustrate", lambda table, examples: [])
        return write_report(folder)


@pytest.fixture(scope="module")
def expected(big):
    """Every row of its table as the page must show it."""
    return expected_rows(big.parent.parent)


@pytest.fixture
def tab(browser):
    """The browser with a usual screen, whatever the test before made of it."""
    browser.send("Emulation.setDeviceMetricsOverride", width=1280, height=900, deviceScaleFactor=1, mobile=False)
    browser.send("Emulation.setEmulatedMedia", media="screen", features=[])
    return browser


@pytest.fixture
def page(tab, big):
    tab.open(big)
    tab.wait("!document.querySelector('.with-script').hidden")
    yield tab
    assert tab.complaints == []
    assert tab.requests == [big.as_uri()]


def status(page):
    return page.evaluate("document.querySelector('[role=status]').textContent")


def choose(page, **filters):
    """Sets filters by what their options say."""
    for name, text in filters.items():
        page.evaluate(
            f"(() => {{ const s = document.querySelector('select[name={name}]');"
            f" s.value = [...s.options].find((o) => o.text === {json.dumps(text)}).value;"
            " s.dispatchEvent(new Event('input', {bubbles: true})); })()"
        )


def rows_in_page(page):
    """The rows that are elements now, as dicts by column title."""
    return page.evaluate(
        "(() => { const heads = [...document.querySelectorAll('.rows thead button')].map((b) => b.textContent);"
        " return [...document.querySelectorAll('.rows tbody:not(.spacer) tr')].map((tr) =>"
        " Object.fromEntries([...tr.cells].map((cell, i) => [heads[i], cell.textContent]))); })()"
    )


def keep(rows, **wanted):
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def at_shots(rows, shots="500"):
    return [row for row in rows if row["Shots"] in (shots, NOTHING)]


def test_loads_with_few_elements_and_says_how_many_rows_match(page, expected):
    assert status(page) == "28,800 of 86,400 rows of 1,200 concepts"
    assert len(at_shots(expected)) == 28800
    assert 10 < len(rows_in_page(page)) < 60
    assert page.evaluate("document.querySelector('.rows').scrollHeight") > 28800 * 20


def test_every_visible_number_is_that_of_the_results(page, expected):
    """At several depths of the scroll: the same rows, with the same three decimals."""
    known = {(row["Concept"], row["Backbone"], row["Token"], row["Rule"], row["Shots"]): row for row in expected}
    choose(page, shots="all")
    for share in (0, 0.21, 0.77, 1):
        page.evaluate(
            f"(() => {{ const s = document.querySelector('.rows'); s.scrollTop = {share} * s.scrollHeight; }})()"
        )
        page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        shown = rows_in_page(page)
        assert len(shown) > 10
        for row in shown:
            wanted = known[row["Concept"], row["Backbone"], row["Token"], row["Rule"], row["Shots"]]
            assert row == {name: wanted[name] for name in row}
    assert status(page) == "86,400 rows of 1,200 concepts"


@pytest.mark.parametrize(
    ("filters", "wanted"),
    [
        ({"category": "part"}, {"Category": "part"}),
        ({"backbone": "mae_vitb16", "token": "xn"}, {"Backbone": "mae_vitb16", "Token": "xn"}),
        ({"rule": "hyperplane", "category": "texture"}, {"Rule": "hyperplane", "Category": "texture"}),
        ({"rule": "cosine"}, {"Rule": "cosine"}),
    ],
)
def test_filters(page, expected, filters, wanted):
    choose(page, **filters)
    matching = keep(at_shots(expected), **wanted)
    concepts = len({row["concept"] for row in matching})
    assert status(page) == f"{len(matching):,} of 86,400 rows of {concepts:,} concepts"
    shown = rows_in_page(page)
    assert keep(shown, **wanted) == shown
    best = sorted((row["F1"] for row in matching), reverse=True)
    assert [row["F1"] for row in shown] == best[: len(shown)]


def test_shots_choose_one_number_and_keep_hyperplanes(page, expected):
    choose(page, shots="10")
    assert status(page).startswith(f"{len(at_shots(expected, '10')):,} of")
    choose(page, rule="cosine")
    assert {row["Shots"] for row in rows_in_page(page)} == {"10"}


@pytest.mark.parametrize(
    "column", ["Concept", "F1", "Token", "Rule", "Shots", "Backbone", "Category", *TITLES.values()]
)
def test_sorts_by_every_column_both_ways(page, expected, column):
    choose(page, shots="all")
    button = f"[data-column={ {'Concept': 'name'}.get(column, column.lower()) }]"
    natural = lambda text: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", text)]  # noqa: E731
    keys = {
        "Concept": natural,
        "Token": TOKENS.index,
        "Shots": lambda text: 0 if text == NOTHING else int(text),
        "Rule": ("hyperplane", "cosine").index,
    }
    values = sorted((row[column] for row in expected), key=keys.get(column))
    seen = {}
    for _ in range(2):
        page.evaluate(f"document.querySelector('{button}').click()")
        direction = page.evaluate(f"document.querySelector('{button}').closest('th').getAttribute('aria-sort')")
        assert page.evaluate("document.querySelectorAll('.rows [aria-sort]').length") == 1
        seen[direction] = [row[column] for row in rows_in_page(page)]
    assert seen["ascending"] == values[: len(seen["ascending"])]
    assert seen["descending"] == values[::-1][: len(seen["descending"])]


def test_filtering_and_sorting_stay_within_a_few_frames(page, capsys):
    choose(page, shots="all")
    times = []
    for name in ("name", "accuracy", "token", "f1"):
        page.evaluate(f"document.querySelector('[data-column={name}]').click()")
        times.append(float(page.evaluate("document.querySelector('.rows table').dataset.milliseconds")))
    with capsys.disabled():
        print(f"\n86,400 rows filtered, sorted and rendered in {min(times):.0f} to {max(times):.0f} ms")
    assert max(times) < 1000


def test_search_is_case_blind_and_resets(page, expected):
    page.evaluate("document.querySelector('#search').focus()")
    page.type("WHEEL 1")
    matching = [row for row in at_shots(expected) if "wheel 1" in row["Concept"]]
    assert matching
    assert status(page).startswith(f"{len(matching):,} of 86,400 rows")
    page.type("no such thing")
    assert status(page) == "0 of 86,400 rows of 0 concepts"
    assert rows_in_page(page) == []
    page.click("button[type=reset]")
    page.wait("document.querySelector('[role=status]').textContent.startsWith('28,800')")


def test_keys_move_open_and_close(page):
    page.evaluate("document.querySelector('button[type=reset]').focus()")
    for _ in range(2 + len(rows_in_page(page)[0])):
        page.press("Tab")
        if page.evaluate("document.activeElement === document.querySelector('.rows table')"):
            break
    assert page.evaluate("document.activeElement.getAttribute('role')") == "grid"
    chosen = "document.querySelector('.rows [aria-selected=true]')"
    described = "document.activeElement.getAttribute('aria-activedescendant')"
    assert page.evaluate(described) == "row-0"
    for key, place in (("ArrowDown", 1), ("ArrowDown", 2), ("ArrowUp", 1), ("End", 28799), ("Home", 0)):
        page.press(key)
        assert page.evaluate(f"Number({chosen}.dataset.place)") == place
        assert page.evaluate(described) == f"row-{place}"
        box = page.evaluate(
            f"(() => {{ const [row, head, all] = [{chosen}, ...['.rows thead th', '.rows'].map((s) =>"
            " document.querySelector(s))].map((e) => e.getBoundingClientRect());"
            " return [row.top - head.bottom, all.bottom - row.bottom]; })()"
        )
        assert min(box) > -2  # in view, not below the header
    page.press("PageDown")
    assert page.evaluate(f"Number({chosen}.dataset.place)") > 5
    name = page.evaluate(f"{chosen}.cells[0].textContent")
    for key in ("Enter", " "):
        page.press(key)
        page.wait("document.querySelector('dialog').open")
        assert page.evaluate("document.querySelector('dialog h2').textContent") == name
        page.press("Escape")
        page.wait("!document.querySelector('dialog').open")
        assert page.evaluate("document.activeElement === document.querySelector('.rows table')")


def open_concept(page, name):
    page.evaluate("document.querySelector('#search').focus()")
    page.type(name)
    choose(page, rule="cosine", token="k", backbone="dino_vits8")
    page.click(".rows tbody:not(.spacer) th")
    page.wait("document.querySelector('dialog').open")


def tables_in_dialog(page):
    return page.evaluate(
        "Object.fromEntries([...document.querySelectorAll('dialog table')].map((table) => [table.caption.textContent,"
        " [...table.rows].map((row) => [...row.cells].map((cell) => cell.textContent))]))"
    )


@pytest.mark.parametrize("metric", METRICS)
def test_dialog_has_the_scores_of_the_results(page, expected, metric):
    name = name_of(EXAMPLE)
    open_concept(page, name)
    page.evaluate(
        f"(() => {{ const s = document.querySelector('dialog select'); s.value = '{metric}';"
        " s.dispatchEvent(new Event('change')); })()"
    )
    own = keep(expected, Concept=name)

    def line(**wanted):
        return [keep(own, Token=token, **wanted)[0][TITLES[metric]] for token in TOKENS]

    tables = tables_in_dialog(page)
    over_tokens = []
    for backbone in BACKBONES:
        over_tokens.append([f"{backbone}, block 11, hyperplane", *line(Backbone=backbone, Rule="hyperplane")])
        over_tokens.append([f"{backbone}, block 11, cosine, 500 shots", *line(Backbone=backbone, Shots="500")])
    assert tables.pop("Over tokens, backbones and rules") == [["Template", *TOKENS], *over_tokens]
    over_shots = [[str(shots), *line(Backbone="dino_vits8", Rule="cosine", Shots=str(shots))] for shots in SHOTS]
    assert tables.pop("Over shots: dino_vits8, block 11, cosine") == [["Shots", *TOKENS], *over_shots]
    assert tables == {}  # one block only
    shown = page.evaluate("[...document.querySelectorAll('dialog .facts dd')].map((d) => d.textContent)")
    opened = keep(own, Token="k", Backbone="dino_vits8", Shots="500")[0]
    assert shown == [opened[title] for title in TITLES.values()]
    assert page.evaluate("document.querySelectorAll('dialog svg polyline').length") == len(TOKENS)
    page.click("dialog .close")
    page.wait("!document.querySelector('dialog').open")


def test_dialog_shows_masks_with_words_and_pixels(page):
    open_concept(page, name_of(EXAMPLE))
    page.wait("document.querySelectorAll('dialog canvas').length === 3")
    words = page.evaluate("[...document.querySelectorAll('dialog canvas')].map((c) => c.getAttribute('aria-label'))")
    name = name_of(EXAMPLE)
    assert words == [
        f"The annotation: {name} covers 4 of 16 patches.",
        f"dino_vits8, hyperplane, k of block 11: finds 2 of the 4 patches of {name} and 1 others;"
        " intersection over union 0.400.",
        f"dino_vits8, cosine, 500 shots, k of block 11: finds 4 of the 4 patches of {name} and 8 others;"
        " intersection over union 0.333.",
    ]

    def patches(canvas):
        """The colour in the middle of each of the 4 x 4 patches."""
        pixels = page.evaluate(
            f"(() => {{ const c = document.querySelectorAll('dialog canvas')[{canvas}];"
            " return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]; })()"
        )
        return np.array(pixels, np.int64).reshape(320, 320, 4)[40::80, 40::80, :3]

    truth, found, everything = map(patches, range(3))
    _, green, blue = truth[1, 1]  # yellow over red
    assert green > 120 > blue
    assert found[0, 2, 2] > 120  # found, though wrong: blue
    np.testing.assert_array_equal(found[1, 1], found[2, 2])  # neither is found
    assert abs(everything[3, 1, 0] - everything[3, 1, 1]) < 60  # left out, though found: grey
    page.press("Escape")
    page.wait("!document.querySelector('dialog').open")


def test_concept_without_masks_says_so(page):
    open_concept(page, name_of(1100))
    assert "No image of this concept was kept." in page.evaluate("document.querySelector('dialog').textContent")
    page.press("Escape")


def test_everything_that_acts_has_a_name(page):
    page.click(".rows tbody:not(.spacer) th")
    page.wait("document.querySelector('dialog').open")
    roles = {"button", "combobox", "searchbox", "link", "dialog", "grid", "image", "region", "DisclosureTriangle"}
    for _ in range(2):
        nodes = page.send("Accessibility.getFullAXTree")["nodes"]
        acting = [node for node in nodes if not node["ignored"] and node["role"]["value"] in roles]
        assert acting
        assert [node for node in acting if not node.get("name", {}).get("value")] == []
        page.press("Escape")
        page.wait("!document.querySelector('dialog').open")


def test_fits_a_phone(page):
    page.send("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=2, mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate("document.querySelector('.rows tbody:not(.spacer) td').getBoundingClientRect().right") <= 390
    page.click(".rows tbody:not(.spacer) th")
    page.wait("document.querySelector('dialog').open")
    assert page.evaluate("document.querySelector('dialog').getBoundingClientRect().width") == 390
    page.press("Escape")


def test_follows_light_and_dark(page):
    shades = []
    for theme in ("light", "dark"):
        page.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
        colours = [page.evaluate(f"getComputedStyle(document.body).{name}") for name in ("backgroundColor", "color")]
        shades.append([sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in colours])
    (light_ground, light_text), (dark_ground, dark_text) = shades
    assert light_ground - light_text > 500
    assert dark_text - dark_ground > 500


def test_prints_without_what_only_acts(page):
    page.send("Emulation.setEmulatedMedia", media="print")
    assert page.evaluate("getComputedStyle(document.querySelector('.with-script')).display") == "none"
    assert page.evaluate("getComputedStyle(document.querySelector('.in-print')).display") == "block"
    # Folded tables are open on paper, and as wide as it.
    page.send("Emulation.setDeviceMetricsOverride", width=720, height=1000, deviceScaleFactor=1, mobile=False)
    assert page.evaluate("document.querySelector('#numbers details table').getBoundingClientRect().height") > 100
    assert page.evaluate("document.documentElement.scrollWidth") <= 720
    pdf = base64.b64decode(page.send("Page.printToPDF")["data"])
    assert pdf.startswith(b"%PDF")


def test_without_a_script_the_rest_is_whole(tab, big):
    tab.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        tab.open(big)
        said = tab.evaluate("document.body.innerText")
        assert "use " in said
        assert "This table needs a browser with JavaScript" in said
        assert tab.evaluate("document.querySelectorAll('#numbers table').length") > 2
    finally:
        tab.send("Emulation.setScriptExecutionDisabled", value=False)


@pytest.fixture
def opened(tab, results_rows, results_folder, monkeypatch):
    """Opens the page of rows made by `results_rows`."""

    def open_page(*, with_figures=False, **options):
        if not with_figures:
            monkeypatch.setattr(figures, "illustrate", lambda table, examples: [])
        tab.open(write_report(results_folder(results_rows(**options))))
        tab.wait("!document.querySelector('.with-script').hidden")
        return tab

    return open_page


def test_scores_over_blocks(opened):
    page = opened(layers=(3, 7, 11), rules=("hyperplane",))
    page.click(".rows tbody:not(.spacer) th")
    page.wait("document.querySelector('dialog').open")
    titles = tables_in_dialog(page)
    (title,) = (title for title in titles if title.startswith("Over blocks"))
    assert [row[0] for row in titles[title]] == ["Block", "3", "7", "11"]
    assert page.complaints == []


def test_figures_take_the_colour_of_the_text(opened):
    page = opened(with_figures=True, rules=("hyperplane",))
    assert page.evaluate("document.querySelectorAll('.picture svg').length") > 0
    assert page.evaluate("[...document.querySelectorAll('.picture svg')].every((s) => s.clientWidth > 200)")
    ink = set()
    for theme in ("light", "dark"):
        page.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
        ink.add(page.evaluate("getComputedStyle(document.querySelector('.picture svg')).color"))
    assert len(ink) == 2
    assert page.requests == [page.evaluate("location.href")]
    assert page.complaints == []


def test_reasons_of_a_concept_that_is_skipped_somewhere(opened):
    page = opened(
        skip=lambda row: "2 positives in train" if row["name"] == "wheel" and row["rule"] == "cosine" else None
    )
    page.evaluate("document.querySelector('#search').focus()")
    page.type("wheel")
    assert {row["Rule"] for row in rows_in_page(page)} == {"hyperplane"}
    page.press("Tab")
    page.click(".rows tbody:not(.spacer) th")
    said = page.evaluate("document.querySelector('dialog').innerText")
    assert "cosine of dino_vits16, tiny_mae: 2 positives in train" in said
    assert page.complaints == []


def test_hyperplanes_whose_pool_leaves_mining_no_choice_are_marked(tab, results_rows, results_folder, monkeypatch):
    monkeypatch.setattr(figures, "illustrate", lambda table, examples: [])
    rows = [row | {"n_neg_train": 30 if row["name"] == "grass" else 5000} for row in results_rows()]
    folder = results_folder(rows)
    (folder / "config.json").write_text(json.dumps({"hyperplane": {"pool_ratio": 20, "negative_ratio": 2}}))
    tab.open(write_report(folder))
    tab.wait("!document.querySelector('.with-script').hidden")
    tab.evaluate("document.querySelector('button[data-column=mining]').click()")  # Marked rows come first.
    marked = {(row["Concept"], row["Rule"]) for row in rows_in_page(tab) if row["Mining"]}
    assert marked == {("grass", "hyperplane")}
    assert any(not row["Mining"] for row in rows_in_page(tab))
    tab.click(".rows tbody:not(.spacer) th")
    said = tab.evaluate("document.querySelector('dialog').innerText")
    assert "Mining had no choice: 100 positives, 30 negatives in the pool" in said
    assert tab.complaints == []


def test_names_stay_text_in_the_script_too(opened):
    hostile = "<img src=x onerror=alert(1)></script><script>alert(2)</script>"
    page = opened(rules=("hyperplane",), concepts=((1, hostile, hostile), (2, "sky", "object")))
    page.evaluate("document.querySelector('#search').focus()")
    page.type("alert(2)")
    page.click(".rows tbody:not(.spacer) th")
    assert page.evaluate("document.querySelector('dialog h2').textContent") == hostile
    assert page.evaluate("document.querySelectorAll('img, script:not([type])').length") == 0
    assert page.complaints == []


def test_more_rows_than_a_browser_gives_height_to(page, expected):
    """The scroll stands for them then: made so here by a lower limit."""
    choose(page, shots="all")
    page.evaluate("(() => { const e = document.querySelector('.rows table'); e.focus(); })()")
    page.press("End")
    place = "Number(document.querySelector('.rows [aria-selected=true]').dataset.place)"
    assert page.evaluate(place) == len(expected) - 1
