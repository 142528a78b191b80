"""The numbers that a paper prints beside those of a run, whatever the study.

They stand in `paper_numbers.json`: values from text and tables only. For a model of the paper stands the run's trained
backbone of the same family and size; never a control.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol, TypeVar, runtime_checkable

from vitprobe_jax.backbones.families import FAMILIES
from vitprobe_jax.report.measured.rows import PartTable, Row
from vitprobe_jax.report.paper import paper_numbers


@runtime_checkable
class Printed(Protocol):
    """One published number.

    Attributes:
        where: place in the paper.
        part: of the study.
        words: what it is, in words; the same words of a part are the same number.
        published: the number.
    """

    @property
    def where(self) -> str: ...

    @property
    def part(self) -> str: ...

    @property
    def words(self) -> str: ...

    @property
    def published(self) -> float: ...


_Fact = TypeVar("_Fact", bound=Printed)


@dataclasses.dataclass(frozen=True)
class Model:
    """A model of the paper, and which backbones may stand for it.

    Attributes:
        title: its name.
        families: that backbones may be of.
        names: what a backbone is called that may have the paper's weights.
        size: of the model, as the end of a sentence.
        leads: whether backbones of these families that are no other model's stand for it too.
        unpublished: whether the paper's authors trained the weights themselves and did not publish them.
    """

    title: str
    families: tuple[str, ...]
    names: tuple[str, ...]
    size: str = "taken to be a ViT-B"
    leads: bool = True
    unpublished: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class PaperRow:
    """One published number and the run's.

    Attributes:
        part: of the study.
        dataset: the run's.
        what: the published number in words.
        where: place in the paper.
        backbone: the run's that stands for the paper's.
        variant: its name with the features that are used.
        value: the run's number.
        published: the paper's.
        difference: value less published.
    """

    part: str
    dataset: str
    what: str
    where: str
    backbone: str
    variant: str
    value: float
    published: float
    difference: float


@dataclasses.dataclass(frozen=True)
class PaperComparison:
    """Everything to be said about a run beside the paper.

    Attributes:
        source: the paper.
        rows: in the order of the run's parts and data sets.
        absent: published numbers of the run's parts that it has no number for, in words.
        caveats: the verdict first, then what differs, then what cannot be seen from a results folder.
    """

    source: str
    rows: tuple[PaperRow, ...]
    absent: tuple[str, ...]
    caveats: tuple[str, ...]


def compare(
    study: str,
    parts: Sequence[PartTable],
    facts: Sequence[_Fact],
    *,
    find: Callable[[PartTable, _Fact], Row | None],
    caveats: Callable[[Sequence[PaperRow]], Sequence[str]],
) -> PaperComparison:
    """Sets published numbers beside a run's.

    Args:
        study: key of the paper in `paper_numbers.json`.
        parts: of the run.
        facts: published numbers.
        find: the run's number of a published one; of a part on one data set.
        caveats: what to know of the numbers that were found, of which there are some.
    """
    rows, met = [], set()
    for part in parts:
        for fact in facts:
            found = find(part, fact) if part.part == fact.part else None
            if found is not None:
                met.add((fact.part, fact.words))
                rows.append(
                    PaperRow(
                        part=part.part,
                        dataset=part.dataset,
                        what=fact.words,
                        where=fact.where,
                        backbone=found.backbone,
                        variant=found.variant,
                        value=found.value,
                        published=fact.published,
                        difference=found.value - fact.published,
                    )
                )
    measured = {part.part for part in parts}
    absent = dict.fromkeys(fact.words for fact in facts if fact.part in measured and (fact.part, fact.words) not in met)
    return PaperComparison(
        paper_numbers()["source"][study], tuple(rows), tuple(absent), tuple(caveats(rows)) if rows else ()
    )


def each_once(facts: Sequence[_Fact]) -> list[_Fact]:
    """Facts less those that are printed again elsewhere."""
    first = {(fact.part, fact.words): fact for fact in reversed(facts)}
    return [fact for fact in facts if first[fact.part, fact.words] is fact]


def stand_ins(parts: Sequence[PartTable], models: Mapping[str, Model]) -> dict[str, str]:
    """The run's backbone for each model of the paper that has any, by the model's key."""
    families: dict[str, str] = {}
    for part in parts:
        families |= part.trained
    found = {}
    for key, model in models.items():
        taken = {name for other, own in models.items() if other != key for name in own.names}
        of_family = [name for name, family in families.items() if family in model.families and name not in taken]
        of_family.sort(key=lambda name: model.families.index(families[name]))
        exact = [name for name in model.names if name in of_family]
        if exact or (of_family and model.leads):
            found[key] = (exact or of_family)[0]
    return found


def weights_caveats(
    chosen: Mapping[str, str],
    models: Mapping[str, Model],
    shown: Collection[str],
    files: Mapping[str, str] = MappingProxyType({}),
) -> tuple[list[str], list[str]]:
    """What differs in weights, and what of them cannot be seen; of the stand-ins `chosen` that are shown.

    Args:
        chosen: the backbone for each model, by the model's key.
        models: of the paper.
        shown: backbones with compared numbers.
        files: name of the file that each backbone was converted from, by the backbone's; "" or none where it is not known.
    """
    differing, unknown = [], []
    for key, backbone in chosen.items():
        model, file = models[key], files.get(backbone)
        if backbone not in shown:
            continue
        official = official_file(backbone)
        if backbone not in model.names:
            differing.append(f"Other weights: {backbone} stands for the paper's {model.title}, {model.size}.")
        elif model.unpublished:
            differing.append(
                f"Other weights: {backbone} stands for the paper's {model.title}, {model.size} that its authors trained."
            )
        elif file and official and file != official:
            differing.append(
                f"Other file: {backbone} was converted from {file}, the official file of {model.title} is {official}."
            )
        else:
            unknown.append(f"Whether {backbone} holds the paper's weights of {model.title} cannot be seen from here.")
    return differing, unknown


def official_file(backbone: str) -> str:
    """The name of the file that a backbone called FAMILY_ARCH is published as; "" where there is none of this name."""
    for name, family in FAMILIES.items():
        arch = family.archs.get(backbone.removeprefix(f"{name}_")) if backbone.startswith(f"{name}_") else None
        if arch is not None:
            return arch.file
    return ""


def judged(differing: Sequence[str], unknown: Sequence[str], source: str) -> list[str]:
    """All caveats, with the verdict before them.

    Args:
        differing: what forbids to call the run a reproduction.
        unknown: what cannot be seen from a results folder.
        source: where the paper's numbers come from.
    """
    verdict = "Not a reproduction" if differing else "A reproduction only if what cannot be seen from here is the same"
    return [f"{verdict}: {source}", *differing, *unknown]
