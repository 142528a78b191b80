"""Pixels and patches of each concept, beside the published ones of FAIR1M (Table 3)."""

from tests.report.local.made import Made
from vitprobe_jax.data.fair1m import CATEGORIES, NAMES
from vitprobe_jax.metrics.measurements import make_measurements
from vitprobe_jax.report.local.page import LOCAL
from vitprobe_jax.report.local.statistics import statistics_tables
from vitprobe_jax.report.paper import paper_numbers

PUBLISHED = paper_numbers()["local"]["fair1m_statistics"]["concepts"]


def rows_of(grids):
    """As a run on the paper's own tiles measures them, by backbones of these numbers of patches."""
    kinds = {name: kind for kind, names in CATEGORIES.items() for name in names}
    of = {"study": "local", "dataset": "fair1m:aerial", "family": "x", "objective": "x", "part": "retrieval"}
    rows = []
    for grid in grids:
        column = {"pixels": 0, "patches": 1 if grid == 196 else 2}
        for measure, i in column.items():
            for name in ("background", *NAMES):
                what = {"name": name, "setting": kinds.get(name), "level": float(grid), "count": 295}
                value = 69216.0 if PUBLISHED[name][i] is None else float(PUBLISHED[name][i])
                rows.append(of | what | {"backbone": f"of_{grid}", "measure": measure, "value": value})
    (part, *_) = [part for part in LOCAL.tables(make_measurements(rows)) if part.part == "retrieval"]
    return part.rows("pixels", "patches")


def test_published_sums_are_those_of_295_tiles():
    assert {name for name in PUBLISHED} == {"background", "A320", *NAMES}
    pixels, patches, dinov2 = zip(*PUBLISHED.values(), strict=True)
    assert sum(patches) == 295 * 196
    assert sum(dinov2) == 295 * 256
    # The pixels of A330 are illegible; by the sum they are 69,216, as in the printed total of airplanes, 554,797.
    assert pixels.count(None) == 1
    assert 295 * 224**2 - sum(filter(None, pixels)) == 69216
    airplanes = sum(PUBLISHED[name][0] or 69216 for name in CATEGORIES["airplane"])
    assert airplanes == 554797


def test_of_fair1m_published_numbers_stand_beside_those_of_the_run():
    (table,) = statistics_tables(rows_of((196, 256)))
    heads = ["Pixels", "published", "Patches, 196 an image", "published", "Patches, 256 an image", "published"]
    assert table.columns == heads
    lines = {group: {line.label: [cell.text for cell in line.cells] for line in own} for group, own in table.bodies}
    assert list(lines) == ["", *CATEGORIES]
    assert lines[""]["background"] == ["13305235", "13305235", "51970", "51970", "67897", "67897"]
    assert lines["vehicle"]["Bus"] == ["2451", "2451", "8", "8", "13", "13"]
    assert lines["airplane"]["A330"] == ["69216", "\N{EN DASH}", "269", "269", "350", "350"]
    assert lines["airplane"]["all of them"] == ["554797", "\N{EN DASH}", "2171", "2171", "2818", "2818"]
    assert lines["road"]["all of them"] == ["152003", "152003", "576", "576", "787", "787"]
    assert table.note.startswith("Of the 295 images that are searched;")
    assert "Published: Table 3 of the paper" in table.note


def test_patches_of_another_size_have_no_published_number():
    (table,) = statistics_tables(rows_of((64,)))
    assert table.columns == ["Pixels", "published", "Patches, 64 an image"]


def test_other_data_sets_have_the_runs_numbers_alone():
    parts = LOCAL.tables(make_measurements(Made(parts=("retrieval",), datasets=("cityscapes:streets",)).rows()))
    (table,) = statistics_tables(parts[0].rows("pixels", "patches"))
    assert table.columns == ["Pixels", "Patches, 4 an image", "Patches, 9 an image"]
    assert "Published" not in table.note
    assert statistics_tables([]) == []
