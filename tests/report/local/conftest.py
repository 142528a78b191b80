"""One page of every part, drawn once; results folders; pages whose figures are not drawn, since they take seconds."""

import dataclasses

import pytest

from tests.report.local.made import Made, write_folder
from tests.report.page_text import Page
from vitprobe_jax.metrics.measurements import make_measurements
from vitprobe_jax.report.local.page import LOCAL, write_local_report


@dataclasses.dataclass(frozen=True)
class Whole:
    """Rows of every part, and what the page shows of each."""

    rows: list
    views: dict


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """Three backbones, with pictures; nothing of it may be changed."""
    made = Made(datasets=("cityscapes:streets",))
    folder = write_folder(tmp_path_factory.mktemp("local") / "out", made, pictures=True, notes=["To be known."])
    table = make_measurements(rows := made.rows())
    sources = LOCAL.sources(table, folder)
    views = {part.part: LOCAL.parts[part.part].view(part, sources) for part in LOCAL.tables(table) if part.has_numbers}
    return Whole(rows, views)


@pytest.fixture
def page_of(undrawn, tmp_path):
    """The page of some rows, without its figures drawn."""

    def write(made, *, rows=None, **options) -> Page:
        folder = write_folder(tmp_path / "out", made, rows=rows, **options)
        path = write_local_report(folder)
        assert path == folder / "report" / "index.html"
        return Page(path.read_text(encoding="utf-8"))

    return write
