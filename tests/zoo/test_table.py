"""The table of differences: every family is in it, it finds what differs, and it goes where it belongs."""

import subprocess
import sys

import numpy as np
import pytest

from tests.zoo import SPECIMENS, parity
from vitprobe_jax.backbones.families import FAMILIES
from vitprobe_jax.errors import InputError


def test_every_family_has_specimens_and_a_published_size():
    assert {specimen.family for specimen in SPECIMENS.values()} == set(FAMILIES)
    assert {specimen.family for specimen in SPECIMENS.values() if specimen.full is not None} == set(FAMILIES)
    for specimen in SPECIMENS.values():
        arch = None if specimen.arch is None else FAMILIES[specimen.family].archs[specimen.arch]
        if specimen.full is not None:
            full = specimen.full
            published = (arch.num_heads, arch.patch_size, arch.width, arch.depth)
            assert (full.num_heads, full.patch_size, full.width, full.depth) == published, specimen.name


@pytest.mark.parametrize("name", SPECIMENS)
def test_one_grid_is_native_one_square_and_one_neither(name):
    sizes = SPECIMENS[name].full or SPECIMENS[name].tiny
    native, square, other = parity.grids(sizes).values()
    assert native == (sizes.grid, sizes.grid)
    assert (square[0] == square[1], square == native) == (True, False)
    assert other[0] < sizes.grid < other[1]
    if sizes.grid % 2 == 0:
        assert other[0] * other[1] == sizes.grid**2


def test_differences_are_absolute_up_to_order_1_and_relative_above():
    rng = np.random.default_rng(0)
    small, large = rng.uniform(-1, 1, (2, 3)), 10 * rng.choice([-1.0, 1.0], (2, 3))
    theirs = {(0, "q"): small, (1, "x2_raw"): large}
    ours = {(0, "q"): small.copy(), (1, "x2_raw"): large.copy(), (0, "q_rotated"): small}
    ours[0, "q"][1, 2] -= 0.25
    ours[1, "x2_raw"][0, 0] += 0.5
    assert parity.differences(ours, theirs) == {(0, "q"): 0.25, (1, "x2_raw"): 0.05}


def test_other_shapes_are_no_small_difference():
    with pytest.raises(ValueError, match=r"\(0, 'q'\): \(2, 1\) instead of \(2, 3\)"):
        parity.differences({(0, "q"): np.zeros((2, 1))}, {(0, "q"): np.zeros((2, 3))})


def test_lines_of_a_page_are_renewed_and_others_stay(tmp_path):
    page = tmp_path / "zoo.md"
    page.write_text("# Zoo\n\n<!-- parity -->\n<!-- /parity -->\n\nafter\n")
    for lines in (["| mae | 1 |", "| dino | 2 |"], ["| ibot | 3 |", "| mae | 4 |"]):
        page.write_text(parity.filled(page, lines))
    text = page.read_text()
    assert text.startswith("# Zoo\n\n<!-- parity -->\n\n| specimen |")
    assert text.endswith("\n\n<!-- /parity -->\n\nafter\n")
    assert text.count(parity.header(markdown=True)) == text.count(parity.note()) == 1
    found = [line for line in text.splitlines() if line.split(" |")[0] in ("| dino", "| ibot", "| mae")]
    assert found == ["| dino | 2 |", "| ibot | 3 |", "| mae | 4 |"]


@pytest.mark.parametrize("text", [None, "", "<!-- parity -->", "<!-- /parity --> <!-- parity -->"])
def test_a_page_without_the_section_is_refused(tmp_path, text):
    if text is not None:
        (tmp_path / "zoo.md").write_text(text)
    with pytest.raises(InputError, match=r"--write: .*zoo.md has no lines <!-- parity -->"):
        parity.filled(tmp_path / "zoo.md", [])


@pytest.mark.slow
def test_the_commands(tmp_path):
    page = tmp_path / "zoo.md"
    page.write_text("<!-- parity --><!-- /parity -->")

    def run(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "tests.zoo", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=300)

    done = run("parity", "--families=ibot,capi", f"--write={page}")
    assert done.returncode == 0, done.stderr
    lines = [line.split("|")[1:-1] for line in page.read_text().splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 3 * 2
    assert len({len(cells) for cells in lines}) == 1
    assert [cells[0].strip() for cells in lines[2:]] == ["ibot"] * 3 + ["capi"] * 3
    done = run("checkpoints", "--families=ibot,capi", f"--output={tmp_path / 'weights'}")
    assert done.stdout.splitlines()[-1] == f"{tmp_path}/weights/ibot,{tmp_path}/weights/capi"
    for wrong, why in (["parity", "--families=vgg"], "vgg"), (["checkpoints"], "--output"), ([], "no command"):
        done = run(*wrong)
        assert done.returncode == 2
        assert why in done.stderr
        assert done.stderr.count("\n") == 1
