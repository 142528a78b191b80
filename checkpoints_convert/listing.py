"""What can be converted, as tables made from the family records: for a terminal, and for the pages of the documentation.

`python -m checkpoints_convert.listing README.md docs/zoo.md` writes the tables of these pages anew. In a page a table stands
between two comments, `<!-- NAME -->` and `<!-- /NAME -->`, NAME one of `TABLES`.
"""

import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from vitprobe_jax import cli
from vitprobe_jax.atomic import write_whole
from vitprobe_jax.backbones.config import Architecture, Preprocess
from vitprobe_jax.backbones.families import FAMILIES, Arch, Family
from vitprobe_jax.data.transforms import resized_side
from vitprobe_jax.errors import InputError

NARROWEST, WIDEST = 120, 160
"""Columns of a terminal between which tables are fitted to it; the widest is for what is no terminal."""
_GAP = "  "
# How the width that short columns leave is dealt out among long ones.
_SHARES = {"--arch": 3, "objective": 5, "trained on": 3, "tokens": 4, "file": 8, "where": 7}
# Columns whose words may be cut: file names and addresses.
_CUT = ("file", "where")


def tokens(family: Family) -> str:
    """What a family's tokens are, in order: `[CLS] + 4 registers + patches`."""
    kinds = []
    for architecture in family.architectures:
        count = architecture.num_registers
        registers = f"{count} register{'s' * (count > 1)}" if count else ""
        parts = ("[CLS]" if architecture.class_token else "", registers, "patches")
        kinds.append(" + ".join(filter(None, parts)))
    return " or ".join(dict.fromkeys(kinds))


def pattern(names: Iterable[str]) -> str:
    """Several file names as one, what differs in braces: `mae_finetuned_vit_{base,large,huge}.pth`."""
    first, *more = names = list(dict.fromkeys(names))
    if not more:
        return first
    start = _shared(names)
    end = _shared([name[start:][::-1] for name in names])
    middles = ",".join(name[start : len(name) - end] for name in names)
    return f"{first[:start]}{{{middles}}}{first[len(first) - end :]}"


def _shared(names: Sequence[str]) -> int:
    """How many letters all names begin with, up to what stands between two words: words are not cut."""
    length = 0
    for place, letters in enumerate(zip(*names, strict=False)):
        if len(set(letters)) > 1:
            break
        if letters[0] in "_./-":
            length = place + 1
    return length


def where(family: Family, arch: Arch) -> str:
    """Where a published file is fetched: its address for `--download`, or the page on which a person finds it."""
    return arch.url or f"by hand: {family.page}"


def families_text(width: int | None = None) -> str:
    """The table of all families for a terminal, a row each.

    Args:
        width: of the terminal; that of this one, within limits, unless given.
    """
    return _text([_family_cells(family) for family in FAMILIES.values()], width)


def files_text(family: Family, width: int | None = None) -> str:
    """The table of a family's published files for a terminal, a row each; `width` as in `families_text`."""
    rows = [_file_cells(family, name) for name in family.archs]
    return _text([{title: cell for title, cell in row.items() if title != "family"} for row in rows], width)


def overview_markdown() -> str:
    """The table of all families without their files, for the pages."""
    return _markdown([_family_links(family, files=False) for family in FAMILIES.values()])


def families_markdown() -> str:
    """The whole table of `families_text` in Markdown."""
    return _markdown([_family_links(family) for family in FAMILIES.values()])


def files_markdown() -> str:
    """Every published file of every family, a row each."""
    return _markdown([_file_links(family, name) for family in FAMILIES.values() for name in family.archs])


def architectures_markdown() -> str:
    """What the encoders of each family are like, a row each."""
    return _markdown([_architecture_cells(family) for family in FAMILIES.values()])


def preprocessing_markdown() -> str:
    """How images are prepared for each family, and for files that differ from their family, a row each."""
    rows = []
    for family in FAMILIES.values():
        special = {name: arch.preprocess for name, arch in family.archs.items() if arch.preprocess is not None}
        rows.append(_preprocess_cells(family, "", family.preprocess))
        rows += [_preprocess_cells(family, name, preprocess) for name, preprocess in special.items()]
    return _markdown(rows)


TABLES: Mapping[str, Callable[[], str]] = {
    "overview": overview_markdown,
    "preprocessing": preprocessing_markdown,
    "architectures": architectures_markdown,
    "files": files_markdown,
}
"""The tables of the documentation, by the name of their comments."""


def with_tables(page: str) -> str:
    """A page of Markdown with its tables made anew from the records."""
    marked = re.compile(rf"(<!-- ({'|'.join(TABLES)}) -->\n).*?(<!-- /\2 -->)", re.DOTALL)
    return marked.sub(lambda match: f"{match[1]}\n{TABLES[match[2]]()}\n\n{match[3]}", page)


def _family_cells(family: Family) -> dict[str, str]:
    by_hand = not all(arch.url for arch in family.archs.values())
    files = pattern(arch.file for arch in family.archs.values())
    return {
        "family": family.name,
        "--arch": " ".join(family.archs),
        "objective": family.objective,
        "trained on": ", ".join(dict.fromkeys(arch.data or family.data for arch in family.archs.values())),
        "tokens": tokens(family),
        "file": f"{files}\n{f'by hand: {family.page}' if by_hand else '--download'}",
        "licence": family.licence,
    }


def _family_links(family: Family, *, files: bool = True) -> dict[str, str]:
    cells = _family_cells(family)
    names, fetched = cells.pop("file").split("\n")
    cells["family"] = f"[`{family.name}`]({family.page})"
    cells["--arch"] = " ".join(f"`{name}`" for name in family.archs)
    if not files:
        return cells
    licence = cells.pop("licence")
    fetched = f"`{fetched}`" if fetched.startswith("--") else f"[by hand]({family.page})"
    return cells | {"file": f"`{names}`, {fetched}", "licence": licence}


def _architecture_cells(family: Family) -> dict[str, str]:
    kinds = family.architectures

    def each(describe: Callable[[Architecture], str]) -> str:
        return " or ".join(dict.fromkeys(map(describe, kinds)))

    return {
        "family": f"`{family.name}`",
        "positions": each(_positions),
        "at other sizes": each(_at_other_sizes),
        "in blocks": each(_in_blocks) or "-",
        "global representation": each(lambda kind: _POOLS[kind.pool]),
    }


_POOLS = {
    "class": "[CLS]",
    "patches": "mean of the patches",
    "patches_then_norm": "norm of the mean of the patches",
    "predictor": "mean of its predictor's output",
}
_RULES = {
    "dino": "bicubic, scale (n + 0.1) / N",
    "bicubic": "bicubic",
    "bicubic_antialias": "bicubic with antialiasing",
    "bicubic_aligned": "bicubic with aligned corners",
    "bilinear": "bilinear",
}


def _positions(kind: Architecture) -> str:
    """How an encoder knows where its patches are, in words."""
    if kind.positions != "none":
        return {"learned": "stored, added", "gsd": "sine-cosine of place x metres a pixel, added"}[kind.positions]
    if kind.rope != "none":
        return {"axial": "RoPE, prefix not turned", "stored": "RoPE, registers turned too"}[kind.rope]
    return {"shared": "relative bias, one for all blocks", "per_block": "relative bias, one a block"}[
        kind.relative_bias
    ]


def _at_other_sizes(kind: Architecture) -> str:
    if kind.positions == "learned":
        return _RULES[kind.resample]
    return "computed" if kind.relative_bias == "none" else "BEiT's cubic spline"


def _in_blocks(kind: Architecture) -> str:
    """What of the blocks is not as in a plain ViT."""
    traits = {
        "LayerScale": kind.layer_scale,
        "RMSNorm": kind.norm == "rms_norm",
        "no biases": not kind.bias,
        f"epsilon {kind.layer_norm_eps:.0e}".replace("e-0", "e-"): kind.layer_norm_eps != Architecture().layer_norm_eps,
        "SwiGLU": kind.mlp == "swiglu",
    }
    return ", ".join(trait for trait, present in traits.items() if present)


def _preprocess_cells(family: Family, arch: str, preprocess: Preprocess) -> dict[str, str]:
    sizes = (224, 384)
    resized = [resized_side(side, preprocess.ratio_at((side, side)), preprocess.resize_rounding) for side in sizes]
    what = {"kept": "short side", "bent": "both sides"}[preprocess.aspect]
    larger = "" if preprocess.whole_from is None else f"; all of it from {preprocess.whole_from} px on"
    return {
        "family": f"`{family.name}`" + (f" `{arch}`" if arch else ""),
        "resized, for 224 px": f"{what} to {resized[0]}",
        "for 384 px": f"{resized[1]}{larger}",
        "filter": preprocess.interpolation,
        "mean": " ".join(f"{value:g}" for value in preprocess.mean),
        "deviation": " ".join(f"{value:g}" for value in preprocess.std),
        "as in": f"`{family.preprocess_source}`"
        if family.preprocess_source
        else "our choice: no evaluation is published",
    }


def _file_cells(family: Family, name: str) -> dict[str, str]:
    arch = family.archs[name]
    return {
        "family": family.name,
        "--arch": name,
        "file": arch.file,
        "trained on": arch.data or family.data,
        "patch": str(arch.patch_size),
        "width": str(arch.width),
        "depth": str(arch.depth),
        "heads": str(arch.num_heads),
        "sha256": arch.sha256 or "-",
        "where": where(family, arch),
    }


def _file_links(family: Family, name: str) -> dict[str, str]:
    arch, cells = family.archs[name], _file_cells(family, name)
    cells["where"] = f"[`--download`]({arch.url})" if arch.url else f"[by hand]({family.page})"
    return cells | {title: f"`{cells[title]}`" for title in ("family", "--arch", "file")}


def _markdown(rows: Sequence[Mapping[str, str]]) -> str:
    titles = [f"`{title}`" if title.startswith("--") else title for title in rows[0]]
    lines = [titles, ["---"] * len(titles), *(row.values() for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _text(rows: Sequence[Mapping[str, str]], width: int | None) -> str:
    """Rows of cells under their titles; cells that are too long go on in the lines below."""
    width = shutil.get_terminal_size((WIDEST, 0)).columns if width is None else width
    titles = list(rows[0])
    room = min(max(width, NARROWEST), WIDEST) - len(_GAP) * (len(titles) - 1)
    widths = _widths({title: [title, *(row[title] for row in rows)] for title in titles}, room)
    lines = [titles, ["-" * widths[title] for title in titles]]
    for row in rows:
        columns = [_wrap(row[title], widths[title]) for title in titles]
        height = max(map(len, columns))
        lines += zip(*(column + [""] * (height - len(column)) for column in columns), strict=True)
    padded = ([cell.ljust(widths[title]) for title, cell in zip(titles, line, strict=True)] for line in lines)
    return "\n".join(_GAP.join(line).rstrip() for line in padded)


def _widths(columns: Mapping[str, Sequence[str]], room: int) -> dict[str, int]:
    """Widths that fill the room at most: a column that needs less than its share leaves the rest of it to the others."""
    widths = {title: max(len(line) for cell in cells for line in cell.split("\n")) for title, cells in columns.items()}
    words = {title: max(len(word) for cell in cells for word in cell.split()) for title, cells in columns.items()}
    sharing = {title: share for title, share in _SHARES.items() if title in columns}
    while sharing:
        unit = (room - sum(widths[title] for title in columns if title not in sharing)) / sum(sharing.values())
        # First those whose words are longer than the share; else those that need no more than the share.
        wide = {t: words[t] for t, share in sharing.items() if t not in _CUT and words[t] > unit * share}
        settled = wide or {t: widths[t] for t, share in sharing.items() if widths[t] <= unit * share}
        if not settled:
            settled = {title: int(unit * share) for title, share in sharing.items()}
        widths |= settled
        sharing = {title: share for title, share in sharing.items() if title not in settled}
    return widths


def _wrap(cell: str, width: int) -> list[str]:
    """A cell as lines; words that are longer than one go on after a comma, a slash, a dash or an underscore."""
    lines = []
    for line in cell.split("\n"):
        lines.append("")
        for word in line.split():
            gap = " " * bool(lines[-1])
            for part in [word] if len(word) <= width else re.findall(r"[^,/_-]*[,/_-]|[^,/_-]+", word):
                if lines[-1] and len(lines[-1] + gap + part) > width:
                    lines.append("")
                    gap = ""
                lines[-1] += gap + part
                gap = ""
    return lines


def main(argv: Sequence[str]) -> None:
    """Writes the tables of Markdown pages anew."""
    if len(argv) < 2:
        raise InputError("name the pages whose tables are written anew: README.md docs/zoo.md")
    for page in map(Path, argv[1:]):
        try:
            text = page.read_text()
            if not any(f"<!-- {name} -->" in text for name in TABLES):
                raise InputError(f"{page}: holds no table; put <!-- NAME --> and <!-- /NAME --> where one goes")
            write_whole(page, with_tables(text).encode())
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{page}: cannot be written anew ({error}); name a page of Markdown") from error


if __name__ == "__main__":
    cli.run(main)
