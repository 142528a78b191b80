"""The page of study 2 in a real browser: nothing wider than the screen, both themes, folds, no complaint, no request."""

import pytest

from tests.report.chromium import NAMES, chromium, find_chromium
from tests.report.local.made import BACKBONES, Made, write_folder
from vitprobe_jax.report.local.page import write_local_report


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    program = find_chromium()
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)}; name one in VITPROBE_CHROMIUM")
    name = "a_backbone_of_a_long_name_that_goes_on_and_on_until_it_ends"
    made = Made(
        parts=("patches", "retrieval", "context"),
        backbones=(*BACKBONES[:1], (name, "mae", "MAE")),
        datasets=("cityscapes:streets",),
        methods=("1-nn",),
        drops=(0,),
    )
    path = write_local_report(write_folder(tmp_path_factory.mktemp("browser") / "out", made, pictures=True))
    with chromium(program, tmp_path_factory.mktemp("profile")) as tab:
        tab.open(path)
        yield tab
        assert tab.complaints == []
        assert tab.requests == [path.as_uri()]


def on_screen(page, width):
    # A mobile one would grow with what it shows.
    page.send("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
    page.wait(f"window.innerWidth === {width}")


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_wider_than_the_screen(page, width):
    on_screen(page, width)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_numbers_are_seen_beside_their_names_on_a_phone(page):
    """The names of lines stay while a table is scrolled: they must leave room."""
    on_screen(page, 360)
    widest = page.evaluate(
        "Math.max(...[...document.querySelectorAll('.scroll th[scope=row]')].map((th) => th.getBoundingClientRect().width))"
    )
    assert 0 < widest < 0.5 * 360


@pytest.mark.parametrize(("scheme", "ground"), [("light", "rgb(255, 255, 255)"), ("dark", "rgb(20, 23, 27)")])
def test_letters_of_figures_are_read_in_both_themes(page, scheme, ground):
    page.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == ground
    ink = page.evaluate("getComputedStyle(document.querySelector('svg g[style*=currentColor]')).fill")
    assert ink == page.evaluate("getComputedStyle(document.body).color")


def test_pictures_are_of_their_own_page(page):
    """The policy lets embedded photographs be shown."""
    assert page.evaluate("document.querySelectorAll('svg image').length") > 6
    width = page.evaluate(
        "new Promise((done) => { const i = new Image(); i.onload = () => done(i.naturalWidth); i.onerror = () => done(0);"
        " i.src = document.querySelector('svg image').getAttribute('href'); })"
    )
    assert width > 10
