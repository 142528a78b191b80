"""The documentation as pages: nothing public is missing, and the site builds without a warning and without the network."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("vitprobe_jax", "checkpoints_convert", "experiments")


def public_modules(package: str) -> list[str]:
    """Dotted names of all modules of a package that are not private; what only starts a command is none of them."""
    found = []
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if not any(part.startswith("_") for part in parts):
            found.append(".".join(parts))
    return found


@pytest.fixture(scope="module")
def documented():
    """What the API pages show, with all that is below it (`show_submodules`)."""
    text = "".join(path.read_text() for path in (ROOT / "docs/api").glob("*.md"))
    return set(re.findall(r"^::: (\S+)$", text, re.MULTILINE))


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_module_is_on_a_page(package, documented):
    missing = []
    for module in public_modules(package):
        parts = module.split(".")
        shown = {".".join(parts[: i + 1]) for i in range(len(parts))} & documented
        if not shown and module != "vitprobe_jax":  # A page of its own, written by hand.
            missing.append(module)
    assert not missing, "add a page to docs/api and to mkdocs.yml"


def test_pages_show_what_exists_and_all_of_it(documented):
    everything = {module for package in PACKAGES for module in public_modules(package)}
    assert documented <= everything
    assert "show_submodules: true" in (ROOT / "mkdocs.yml").read_text()


def test_the_navigation_has_every_page():
    navigation = (ROOT / "mkdocs.yml").read_text()
    for path in (ROOT / "docs").rglob("*.md"):
        assert f": {path.relative_to(ROOT / 'docs').as_posix()}\n" in navigation


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocstrings", reason="needs the docs extra: pip install '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", f"--site-dir={folder}"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_shows_every_module(site):
    pages = "".join(path.read_text() for path in (site / "api").glob("*.html"))
    for package in PACKAGES:
        for module in public_modules(package):
            assert f'id="{module}"' in pages or module == "vitprobe_jax", module
    assert 'id="vitprobe_jax.data.open_dataset"' in pages
    assert 'id="vitprobe_jax.probes.templates.Templates.predict"' in pages


@pytest.mark.slow
def test_the_site_needs_no_network(site):
    for path in site.rglob("*.html"):
        loaded = re.findall(r'<(?:script|img|iframe)[^>]*\ssrc="([^"]+)"', path.read_text())
        loaded += re.findall(r'<link[^>]*rel="(?:stylesheet|preconnect|icon)"[^>]*>', path.read_text())
        assert loaded
        assert not [item for item in loaded if "//" in item], path


@pytest.mark.slow
def test_shapes_of_arrays_stand_in_signatures_as_written(site):
    """jaxtyping's axes are text, no names to be looked up: all of `B height width 3` is there."""
    text = re.sub(r"<[^>]+>", "", (site / "api/probes.html").read_text())
    assert "B height width 3" in text
    assert "B *grid templates" in text
