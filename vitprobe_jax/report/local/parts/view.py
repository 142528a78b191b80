"""What the page shows of one part on one data set, and what it is made from."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from etils import epath
from matplotlib.figure import Figure

from vitprobe_jax.report.figures.illustration import Illustration, slug
from vitprobe_jax.report.local.answers import Answer
from vitprobe_jax.report.local.figures.looks import Looks
from vitprobe_jax.report.local.pictures import read_pictures
from vitprobe_jax.report.local.rows import PartTable
from vitprobe_jax.report.local.tables import Table


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

    def pictures(self, part: PartTable, backbone: str) -> dict[str, np.ndarray]:
        """The pictures of the cell of a backbone that is shown; {} where none were kept."""
        layer = part.last_layers.get(backbone)
        return (
            {} if layer is None else read_pictures(self.folder, backbone, part.dataset, part.part, (layer, part.token))
        )


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
