"""What the page shows of every part, made once; pages whose figures are not drawn, since they take seconds."""

import dataclasses

import pytest

from tests.report.aggregation.made import Made, write_folder
from tests.report.page_text import Page
from vitprobe_jax.metrics.measurements import make_measurements
from vitprobe_jax.report.aggregation.page import AGGREGATION, write_aggregation_report

NAMES = ("mean", "cls", "abmilp_1", "abmilp_2_relu", "abmilp_3_tanh", "attentive_12")


@dataclasses.dataclass(frozen=True)
class Whole:
    """Rows of every part, and what the page shows of each."""

    rows: list
    views: dict


def views_of(made, folder) -> dict:
    """What the page shows of each part, by its name."""
    table = make_measurements(made.rows())
    sources = AGGREGATION.sources(table, folder)
    return {
        part.part: AGGREGATION.parts[part.part].view(part, sources)
        for part in AGGREGATION.tables(table)
        if part.has_numbers
    }


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """Four backbones, one without [CLS] and one untrained, with pictures; nothing of it may be changed."""
    made = Made(representations=NAMES)
    folder = write_folder(tmp_path_factory.mktemp("aggregation") / "out", made, pictures=True)
    return Whole(made.rows(), views_of(made, folder))


@pytest.fixture
def page_of(undrawn, tmp_path):
    """The page of some rows, without its figures drawn."""

    def write(made, *, rows=None, **options) -> Page:
        folder = write_folder(tmp_path / "out", made, rows=rows, **options)
        path = write_aggregation_report(folder)
        assert path == folder / "report" / "index.html"
        return Page(path.read_text(encoding="utf-8"))

    return write
