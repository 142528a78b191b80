"""How far the library is from the oracles: every specimen through its official file, at three sizes of image."""

import functools
import tempfile
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tests.zoo import SPECIMENS
from tests.zoo.conversion import Converted, convert_into
from tests.zoo.quick import quick_jit
from tests.zoo.specimen import Sizes, Specimen, Traced
from vitprobe_jax.backbones.capture import capture
from vitprobe_jax.backbones.config import ViTConfig
from vitprobe_jax.backbones.vit import ViT
from vitprobe_jax.errors import InputError
from vitprobe_jax.types import INTERMEDIATES

Differences = dict[tuple[int, str], float]
"""Largest difference of every intermediate, keyed by (block, name)."""

COLUMNS = (*INTERMEDIATES, "global")


def grids(sizes: Sizes) -> dict[str, tuple[int, int]]:
    """The patch grids (rows, columns) that are compared.

    The one that is not square has as many patches as the native one where that has an even side: their number alone must
    not pass for the shape. With the smaller square, positions are resampled downwards and upwards.
    """
    side = sizes.grid
    return {"native": (side, side), "square": (side - side // 4 - 1,) * 2, "not square": (side // 2, 2 * side)}


def random_images(sizes: Sizes, grid: tuple[int, int], *, batch: int) -> np.ndarray:
    """Normalised images [batch, height, width, 3]."""
    shape = (batch, *(side * sizes.patch_size for side in grid), 3)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def trace_ours(converted: Converted, images: np.ndarray, *, quick: bool = False) -> Traced:
    """Every intermediate of every block, and the global representation at the last one, of normalised images.

    `quick` is for tiny models; those of one config share what is compiled.
    """
    gsd = converted.specimen.gsd
    distances = None if gsd is None else jnp.full(len(images), gsd, jnp.float32)
    run = _quick if quick else _thorough
    return run(converted.backbone.spec.config, converted.backbone.params, jnp.asarray(images), distances)


def _everything(config: ViTConfig, params, images, gsd):
    last, grid = config.depth - 1, tuple(side // config.patch_size for side in images.shape[1:3])
    wanted = [(layer, name) for layer in range(config.depth) for name in INTERMEDIATES]
    found = capture(config, params, images, wanted, gsd=gsd)
    pooled = ViT(config).apply({"params": params}, found[last, "x2_raw"], grid, method=ViT.pool)
    return found | {(last, "global"): pooled}


_thorough = jax.jit(_everything, static_argnums=0)
_quick = quick_jit(_everything, static_argnums=0)


def differences(ours: Traced, theirs: Traced) -> Differences:
    """The largest difference of everything the oracle has, from ours; it is taken out of both, to free it.

    Absolute for values of order 1; where the oracle's root mean square is larger than 1, in units of that.

    Raises:
        ValueError: shapes differ.
    """
    found = {}
    for key in sorted(theirs):
        mine, expected = np.asarray(ours.pop(key)), theirs.pop(key)
        if mine.shape != expected.shape:
            raise ValueError(f"{key}: {mine.shape} instead of {expected.shape}")
        order = max(1.0, float(np.sqrt(np.mean(np.square(expected)))))
        found[key] = float(np.max(np.abs(mine - expected))) / order
    return found


class Row(NamedTuple):
    """A line of the table.

    Attributes:
        specimen: what was compared.
        model: its published size, or `tiny`.
        grid: of the patches.
        largest: the largest difference over blocks, by the name of the intermediate.
    """

    specimen: Specimen
    model: str
    grid: tuple[int, int]
    largest: dict[str, float]


def rows(specimens: Iterable[Specimen], *, full: bool) -> Iterator[Row]:
    """Compares one specimen after another, each at the `grids`; with `full` at its published size where it has one."""
    for specimen in specimens:
        at_full = full and specimen.full is not None
        with tempfile.TemporaryDirectory() as folder:
            converted = convert_into(Path(folder), specimen, full=at_full, keep_file=False)
        for grid in grids(converted.sizes).values():
            images = random_images(converted.sizes, grid, batch=1 if at_full else 2)
            theirs = specimen.trace(converted.state, converted.sizes, images)
            found = differences(dict(trace_ours(converted, images)), theirs)
            largest = functools.reduce(
                lambda known, item: known | {item[0][1]: max(item[1], known.get(item[0][1], 0.0))}, found.items(), {}
            )
            yield Row(specimen, specimen.arch if at_full else "tiny", grid, largest)
        # The compiled programs hold memory, and no other specimen of this size is of any of them.
        jax.clear_caches()


def header(*, markdown: bool) -> str:
    """The first lines of the table."""
    titles = ("specimen", "model", "patches", *COLUMNS, "oracle")
    if not markdown:
        return _text(titles)
    return (
        f"{_markdown(f'`{title}`' if title in COLUMNS else title for title in titles)}\n{_markdown('-' * len(titles))}"
    )


def line(row: Row, *, markdown: bool) -> str:
    """A line of the table, in units of 1e-6."""
    values = [f"{row.largest[name] * 1e6:.1f}" if name in row.largest else "" for name in COLUMNS]
    cells = (row.specimen.name, row.model, f"{row.grid[0]} x {row.grid[1]}", *values, row.specimen.oracle)
    return _markdown(cells) if markdown else _text(cells)


def note() -> str:
    """What the numbers are."""
    versions = ", ".join(
        f"{name} {metadata.version(name)}" for name in ("torch", "torchvision", "transformers", "timm")
    )
    return (
        "Largest difference over all blocks, tokens and features, in units of 1e-6: absolute for activations of order 1 and "
        "divided by the oracle's root mean square where that is larger than 1. Random weights and images, float32 on both "
        "sides, on a CPU; `q_rotated` and `k_rotated` where there is RoPE. `tiny` stands for layouts of which another line "
        "has the published size. torch resamples positions in float64 here: its own float32 is up to 1e-5 from that on "
        f"large grids. Oracles: {versions}."
    )


def filled(page: Path, lines: Iterable[str]) -> str:
    """The page with a Markdown table of these lines between its marks `<!-- parity -->` and `<!-- /parity -->`.

    Lines of other specimens stay: one family can be measured anew by itself.

    Raises:
        InputError: there is no page, or not both marks in it.
    """
    begin, end = "<!-- parity -->", "<!-- /parity -->"
    before, begun, rest = (page.read_text() if page.is_file() else "").partition(begin)
    section, ended, after = rest.partition(end)
    if not (begun and ended):
        raise InputError(f"--write: {page} has no lines {begin} and {end}; name a page that has")
    lines = list(lines)
    renewed = {_specimen_of(line) for line in lines}
    lines += [line for line in section.splitlines() if _specimen_of(line) not in renewed]
    order = list(SPECIMENS)
    known = sorted(
        (line for line in lines if _specimen_of(line) in SPECIMENS), key=lambda x: order.index(_specimen_of(x))
    )
    table = "\n".join([header(markdown=True), *known, "", note()])
    return f"{before}{begin}\n\n{table}\n\n{end}{after}"


def _specimen_of(line: str) -> str:
    return line.strip("|").split("|")[0].strip()


def _text(cells: Iterable[str]) -> str:
    widths = (18, 12, 8, *(max(6, len(name) + 1) for name in COLUMNS), 0)
    padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
    return " ".join(padded).rstrip()


def _markdown(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
