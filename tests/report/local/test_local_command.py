"""`python -m experiments.report` writes the page of whichever study a folder holds."""

import pytest

from experiments.report import write_page
from tests.report.local.made import BACKBONES, Made, write_folder
from vitprobe_jax.errors import InputError
from vitprobe_jax.report import figures


@pytest.fixture
def local(tmp_path, undrawn):
    """Writes a results folder of study 2."""
    made = Made(parts=("scale",), backbones=BACKBONES[:1])
    return lambda name: str(write_folder(tmp_path / name, made))


@pytest.fixture
def sweep(results_rows, results_folder, monkeypatch):
    """A results folder of the main study."""
    monkeypatch.setattr(figures, "illustrate", lambda table, examples: [])
    return str(results_folder(results_rows(rules=("hyperplane",))))


def test_each_study_has_its_page(local, sweep):
    page = write_page([local("one")], paper=False)
    assert "<h1>What are single patch tokens good for?</h1>" in page.read_text("utf-8")
    page = write_page([sweep], paper=False)
    assert "<h1>Which token carries which concept?</h1>" in page.read_text("utf-8")


@pytest.mark.parametrize("paper", [False, True])
def test_studies_are_not_mixed(local, sweep, paper):
    one = local("one")
    for folders in ([one, sweep], [sweep, one]):
        with pytest.raises(InputError, match="give them apart") as error:
            write_page(folders, paper=paper)
        assert str(error.value).startswith(f"{sweep}: ")
        assert "\n" not in str(error.value)


def test_one_folder_of_the_local_study_at_a_time(local):
    with pytest.raises(InputError, match="shows one results folder"):
        write_page([local("one"), local("two")], paper=False)


def test_what_is_no_results_folder_is_refused_as_ever(local, tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        write_page([str(tmp_path / "nowhere")], paper=False)
    one = tmp_path / "one"
    local("one")
    (one / "results.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="not a readable results file"):
        write_page([str(one)], paper=False)
