"""Tables of what can be converted: whole, readable, the same in the pages as in the records; and the records."""

import re
from pathlib import Path

import pytest

from checkpoints_convert import listing
from vitprobe_jax.backbones.families import FAMILIES
from vitprobe_jax.errors import InputError

ROOT = Path(__file__).parents[2]
PAGES = {"README.md": ["overview"], "docs/zoo.md": ["overview", "architectures", "preprocessing", "files"]}
ARCHS = [pytest.param(family, arch, id=f"{family}-{arch}") for family in FAMILIES for arch in FAMILIES[family].archs]


def cells(table: str) -> list[list[str]]:
    """The cells of a Markdown table, its title and its ruler first; without links and marks of code."""
    plain = re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", table).replace("`", "")
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in plain.splitlines()]


@pytest.mark.parametrize("page", PAGES)
def test_tables_of_the_pages_are_those_of_the_records(page):
    text = (ROOT / page).read_text()
    assert re.findall(rf"<!-- ({'|'.join(listing.TABLES)}) -->", text) == PAGES[page]
    made = "run `python -m checkpoints_convert.listing README.md docs/zoo.md`: the records say otherwise"
    assert listing.with_tables(text) == text, made


def test_a_page_that_differs_is_written_anew(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "before\n<!-- files -->\nold | table\n<!-- /files -->\nbetween\n<!-- overview -->\n<!-- /overview -->\n"
    )
    listing.main(["listing", str(page)])
    before, files, between, overview, after = re.split(r"<!-- /?\w+ -->\n", page.read_text())
    assert (before, between, after) == ("before\n", "between\n", "")
    assert files == f"\n{listing.files_markdown()}\n\n"
    assert overview == f"\n{listing.overview_markdown()}\n\n"


@pytest.mark.parametrize(("text", "said"), [(None, "No such file"), ("a page\n", "holds no table")])
def test_pages_without_tables(text, said, tmp_path):
    page = tmp_path / "page.md"
    if text is not None:
        page.write_text(text)
    with pytest.raises(InputError, match=said) as caught:
        listing.main(["listing", str(page)])
    assert str(caught.value).startswith(f"{page}: ")


def test_every_family_and_every_file_has_a_row():
    titles, _, *rows = cells(listing.families_markdown())
    assert titles == ["family", "--arch", "objective", "trained on", "tokens", "file", "licence"]
    assert [row[0] for row in rows] == list(FAMILIES)
    titles, _, *rows = cells(listing.files_markdown())
    named = [(family.name, name, arch.file) for family in FAMILIES.values() for name, arch in family.archs.items()]
    assert [tuple(row[:3]) for row in rows] == named
    assert all(len(row) == len(titles) for row in rows)


@pytest.mark.parametrize("width", [120, 140, 160])
def test_the_table_fits_a_terminal_and_loses_nothing(width):
    lines = listing.families_text(width).splitlines()
    assert max(map(len, lines)) <= width
    # A column stands where its ruler stands; read down, it has the letters of the cells.
    columns = [match.span() for match in re.finditer("-+", lines[1])]
    read = ["".join("".join(line[start:end].split()) for line in lines[2:]) for start, end in columns]
    _, _, *rows = cells(listing.families_markdown())
    for column, title in enumerate(["family", "--arch", "objective", "trained on", "tokens"]):
        assert read[column] == "".join("".join(row[column].split()) for row in rows), title
    for family in FAMILIES.values():
        assert listing.pattern(arch.file for arch in family.archs.values()) in read[5]


def test_the_preprocessing_of_every_family_has_a_row():
    titles, _, *rows = cells(listing.preprocessing_markdown())
    assert titles == ["family", "resized, for 224 px", "for 384 px", "filter", "mean", "deviation", "as in"]
    assert list(dict.fromkeys(row[0].split()[0] for row in rows)) == list(FAMILIES)
    by_family = {row[0]: row[1:4] for row in rows}
    assert by_family["dino"] == ["short side to 256", "438", "bicubic"]
    assert by_family["augreg"] == ["short side to 248", "426", "bicubic"]
    assert by_family["mae_finetuned"] == ["short side to 256", "384; all of it from 225 px on", "bicubic"]
    assert by_family["scalemae"] == ["both sides to 224", "384", "bilinear"]
    assert by_family["torchvision vitl16"] == ["short side to 242", "414", "bilinear"]


def test_words_are_not_cut_but_in_file_names():
    lines = listing.families_text(120).splitlines()
    _, start, *_, file, licence = [match.start() for match in re.finditer("-+", lines[1])]
    shown = {word for line in lines for word in (line[:file] + line[licence:]).split()}
    archs = {name for family in FAMILIES.values() for name in family.archs}
    assert archs <= {word for line in lines for word in line[start:file].split()}
    assert {word for family in FAMILIES.values() for word in f"{family.objective} {family.licence}".split()} <= shown


def test_the_files_of_a_family():
    text = listing.files_text(FAMILIES["dinov2"], 160)
    assert max(map(len, text.splitlines())) <= 160
    row = next(line for line in text.splitlines() if line.startswith("vitg14 "))
    assert row.split()[:8] == ["vitg14", "dinov2_vitg14_pretrain.pth", "LVD-142M", "14", "1536", "40", "24", "-"]


@pytest.mark.parametrize(
    ("family", "said"),
    [
        ("dino", "[CLS] + patches"),
        ("dinov2", "[CLS] + patches or [CLS] + 4 registers + patches"),
        ("deit_distilled", "[CLS] + 1 register + patches"),
        ("capi", "16 registers + patches"),
        ("ijepa", "patches"),
    ],
)
def test_tokens(family, said):
    assert listing.tokens(FAMILIES[family]) == said


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["a_b.pth"], "a_b.pth"),
        (["a_b.pth", "a_b.pth"], "a_b.pth"),
        (["m_base.pth", "m_large.pth", "m_huge.pth"], "m_{base,large,huge}.pth"),
        (["IN1K-h.tar", "IN22K-h.tar"], "{IN1K,IN22K}-h.tar"),
        (["a-1-a.pth", "a-1-1-a.pth"], "a-1-{a,1-a}.pth"),
    ],
)
def test_patterns_of_file_names(names, said):
    assert listing.pattern(names) == said


@pytest.mark.parametrize("name", FAMILIES)
def test_a_record_is_complete(name):
    family = FAMILIES[name]
    assert family.name == name
    assert family.archs
    assert family.page.startswith("https://")
    for field in ("objective", "paper", "data", "licence"):
        text = getattr(family, field)
        assert text, field
        assert "|" not in text, f"{field}: would break a table"


@pytest.mark.parametrize(("family", "name"), ARCHS)
def test_a_published_file_is_consistent(family, name):
    arch = FAMILIES[family].archs[name]
    assert re.match(rf"vit[sblhg]{arch.patch_size}(_|$)", name)
    assert arch.width == {"s": 384, "b": 768, "l": 1024, "h": 1280}.get(name[3], arch.width)
    assert arch.width % arch.num_heads == 0
    file = Path(arch.file)
    assert file.suffix in (".pth", ".tar", ".pyth", ".safetensors")
    if arch.url:
        assert re.fullmatch(r"https://[\w./-]+", arch.url)
        # A folder in the name is one of the address too: such files are called alike.
        assert set(file.parts) <= set(arch.url.split("/"))
        assert arch.url.endswith(f"/{file.name}")
    assert re.fullmatch(r"([0-9a-f]{8}([0-9a-f]{56})?)?", arch.sha256)
    digits = re.search(r"-([0-9a-f]{8})\.", file.name)
    assert (digits[1] if digits else "") == arch.sha256[:8]


def test_no_two_files_have_one_address():
    urls = [arch.url for family in FAMILIES.values() for arch in family.archs.values() if arch.url]
    assert len(set(urls)) == len(urls) > 30
