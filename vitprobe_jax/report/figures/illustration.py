"""A figure with all that stands around it on a page."""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable

from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True, kw_only=True)
class Illustration:
    """A figure with all that stands around it.

    Attributes:
        name: file stem, unique among the illustrations of a page: `seg_hyperplane_f1_by_category`.
        section: of the page: one of `catalogue.SECTIONS`, or a part of study 2.
        task: of the main study, `segmentation` or `classification`; "" where a study has no tasks.
        figure: itself.
        title: what it shows, in a few words.
        caption: what was done: of what, over how many concepts, what intervals are, the paper's figure.
        alt: the figure in words, with its numbers.
        photographs: whether it holds photographs, whose colours must stay.
    """

    name: str
    section: str
    task: str = ""
    figure: Figure
    title: str
    caption: str
    alt: str
    photographs: bool = False


def with_own_names(illustrations: Iterable[Illustration]) -> list[Illustration]:
    """The same with numbers behind names that come again: names of data that differ in signs alone would share a file."""
    seen = Counter()
    unique = []
    for one in illustrations:
        seen[one.name] += 1
        again = seen[one.name]
        unique.append(one if again == 1 else dataclasses.replace(one, name=f"{one.name}_{again}"))
    return unique


def slug(text: str) -> str:
    """The text as a part of a file's name."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text)


def caption(*sentences: str) -> str:
    """Those sentences that are not empty."""
    return " ".join(sentence for sentence in sentences if sentence)
