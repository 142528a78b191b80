"""`python -m experiments.report` writes the page of study 3, and does not mix it with another."""

import pytest

from experiments.report import write_page
from tests.report.aggregation import made as aggregation
from tests.report.local import made as local
from vitprobe_jax.errors import InputError


@pytest.fixture
def folders(tmp_path, undrawn):
    """Results folders of both studies."""
    own = aggregation.Made(parts=("attention",), backbones=aggregation.BACKBONES[:1], depth=2, heads=2)
    other = local.Made(parts=("scale",), backbones=local.BACKBONES[:1])
    mixed = local.write_folder(tmp_path / "mixed", other, rows=[*own.rows(), *other.rows()])
    unknown = [row | {"study": "of tomorrow"} for row in own.rows()]
    return {
        "own": str(aggregation.write_folder(tmp_path / "own", own)),
        "again": str(aggregation.write_folder(tmp_path / "again", own)),
        "local": str(local.write_folder(tmp_path / "local", other)),
        "mixed": str(mixed),
        "unknown": str(aggregation.write_folder(tmp_path / "unknown", own, rows=unknown)),
    }


def test_each_study_has_its_page(folders):
    text = write_page([folders["own"]], paper=False).read_text("utf-8")
    assert "<h1>How should the tokens of an image become one vector?</h1>" in text
    text = write_page([folders["local"]], paper=True).read_text("utf-8")
    assert "<h1>What are single patch tokens good for?</h1>" in text


@pytest.mark.parametrize(
    ("names", "blamed", "complaint"),
    [
        (("own", "local"), "local", "holds no results of the aggregation study"),
        (("local", "own"), "own", "holds no results of the local study"),
        (("own", "again"), "again", "the page of the aggregation study shows one results folder"),
        (("mixed",), "mixed", "is of aggregation, local"),
        (("unknown",), "unknown", "is of of tomorrow; a page shows one of"),
    ],
)
def test_what_no_page_shows_is_refused_in_one_line(folders, names, blamed, complaint):
    with pytest.raises(InputError, match=complaint) as error:
        write_page([folders[name] for name in names], paper=False)
    assert str(error.value).startswith(folders[blamed])
    assert "\n" not in str(error.value)
