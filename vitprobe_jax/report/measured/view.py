"""What the page shows of one part on one data set, and what it is made from."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from etils import epath
from matplotlib.figure import Figure

from vitprobe_jax.report.figures.illustration import Illustration, slug
from vitprobe_jax.report.measured.answers import Answer
from vitprobe_jax.report.measured.figures.looks import Looks
from vitprobe_jax.report.measured.pictures import read_pictures
from vitprobe_jax.report.measured.rows import PartTable
from vitprobe_jax.report.measured.tables import Table


@dataclasses.dataclass(frozen=True)
class PartView:
    """What the page shows of one part on one data set.

    Attributes:
        answer: in a sentence or two.
        illustrations: figures.
        tables: of numbers.
    """

    answer: Answer
    illustrations: Sequence[Illustration]
    tables: Sequence[Table]


@dataclasses.dataclass(frozen=True)
class Sources:
    """What a part is shown from, beside its rows.

    Attributes:
        looks: of backbones.
        folder: the results folder.
    """

    looks: Looks
    folder: epath.PathLike

    def pictures(
        self, part: PartTable, backbone: str, fits: Callable[[Mapping[str, np.ndarray]], bool]
    ) -> dict[str, np.ndarray]:
        """The arrays of the cell of a backbone that is shown, {} where none were kept; see `read_pictures`."""
        layer = part.last_layers.get(backbone)
        if layer is None:
            return {}
        return read_pictures(self.folder, backbone, part.dataset, part.part, (layer, part.token), fits)


@dataclasses.dataclass(frozen=True)
class PartOfPage:
    """A part of a study as its page shows it.

    Attributes:
        title: its heading.
        asked: what it asks, in a sentence.
        leading: measures of which one at least must have a number, see `PartTable`.
        view: of the part on one data set, if it has a number there.
    """

    title: str
    asked: str
    leading: tuple[str, ...]
    view: Callable[[PartTable, Sources], PartView]


def illustration(
    part: PartTable, name: str, figure: Figure, *, title: str, caption: str, alt: str, photographs: bool = False
) -> Illustration:
    """A figure of a part with its words."""
    return Illustration(
        name=f"{part.part}_{slug(part.dataset)}_{name}",
        section=part.part,
        figure=figure,
        title=title,
        caption=caption,
        alt=f"{title}. {alt}",
        photographs=photographs,
    )
