"""`python -m tests.checkpoints_convert` makes a file of each layout and prints how it is read, with --family and without."""

import dataclasses
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from checkpoints_convert import convert
from checkpoints_convert.recognition import candidates
from checkpoints_convert.sources import open_source
from tests.checkpoints_convert.official import write
from tests.checkpoints_convert.official_layouts import LAYOUTS


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a layout is read.

    Attributes:
        layout: its name.
        given: the family with `--family`.
        auto: the families that the file may be of without; one where it is recognised.
    """

    layout: str
    given: str
    auto: tuple[str, ...]


def outcomes(folder: Path, names: Iterable[str] = tuple(LAYOUTS)) -> Iterator[Outcome]:
    """Converts a file of each layout in the folder."""
    for number, name in enumerate(names):
        layout = LAYOUTS[name]
        place = folder / str(number)
        place.mkdir()
        file = write(layout.specimen, place)
        path = place / "file.pth"
        torch.save(layout.contents(file), path)
        options = file.options | layout.options | {"family": layout.family}
        spec = convert(path, place / "out", log=lambda line: None, **options)
        with open_source(path) as source:
            yield Outcome(name, spec.family, tuple(found.family.name for found in candidates(source)))


def expected() -> list[Outcome]:
    """What the tests hold every layout to."""
    return [Outcome(name, layout.family, layout.auto) for name, layout in LAYOUTS.items()]


def markdown(rows: Iterable[Outcome]) -> str:
    """A table, one layout a line."""
    lines = ["| saved by, or as | with `--family` | without |", "| --- | --- | --- |"]
    for row in rows:
        auto = " ".join(f"`{family}`" for family in row.auto)
        lines.append(f"| {row.layout} | `{row.given}` | {auto if len(row.auto) == 1 else f'asks: {auto}'} |")
    return "\n".join(lines)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        print(markdown(outcomes(Path(name))))
