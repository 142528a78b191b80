"""The end of a sweep: images with what the best templates find on them, for the report (paper Fig. 15 and 16)."""

import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int, UInt8
from PIL import Image

from experiments.backbones import make_transform
from experiments.preparation import PreparedData
from vitprobe_jax.backbones.loading import Backbone
from vitprobe_jax.data.dataset import ImageSubset
from vitprobe_jax.data.labels import LabelTable
from vitprobe_jax.data.pipeline import Batch
from vitprobe_jax.features.store import Cell, RowShape
from vitprobe_jax.probes.templates import Templates, load_templates, template_path
from vitprobe_jax.report.cells import CellName
from vitprobe_jax.report.examples import LEFT_OUT, NEGATIVE, PAPER_TOKENS, POSITIVE, Example, Examples
from vitprobe_jax.report.tables import ConceptScores, concept_scores
from vitprobe_jax.types import RULES, Concept, Rule

BEST_CONCEPTS = 5
"""Concepts of a backbone and rule whose best images are shown."""
BEST_IMAGES = 5
"""Images that are shown of each of them."""
LOOKED_AT = 200
"""Images of each of them that the best ones are chosen from: those with the largest coverage."""
JPEG_SIDE, JPEG_QUALITY = 160, 80
"""The larger side at most, in pixels; pillow's measure of quality."""


def make_examples(backbones: Sequence[Backbone], data: PreparedData, table: pa.Table) -> Examples:
    """What the best templates of every backbone and rule find on held-out images.

    Of every backbone and rule the (block, token) with the highest mean F1 over concepts is shown, and where it is another
    one, the paper's token at the last probed block (`PAPER_TOKENS`); of cosine rules, that at the most shots, and their
    first trial. Each shows

    - every concept on the image that it covers most of, in patches (`coverage`; the first of equals), and
    - its `BEST_CONCEPTS` best concepts by F1, each on the `BEST_IMAGES` images where found and true patches have the highest
      intersection over union (`iou`; the first of equals). Only the `LOOKED_AT` images that the concept covers most of are
      looked at.

    Images that cannot be decoded are passed over. The same results give the same examples, on any number of devices. This
    process computes them alone, batch by batch; rows are judged and forgotten.

    Args:
        backbones: of the sweep.
        data: of the sweep; its folder has the templates.
        table: results of the sweep.

    Returns:
        The examples. Images are kept as the first backbone that shows them sees them; others may see another crop, with
        `--crop=family`.

    Raises:
        InputError: templates or images cannot be read.
    """
    scores = concept_scores(table)
    rows, images, undecodable = [], {}, set()
    for backbone in backbones:
        with data.folder.stage(f"examples, {backbone.spec.name}", "concepts", len(data.dataset.concepts)):
            probes = [probe for rule in RULES for probe in _choose_probes(scores, data, backbone, rule)]
            rows += _Gallery(backbone, data, probes, undecodable, images).rows()
    shown = {row.image for row in rows}
    rows.sort(key=lambda row: row.kind)
    return Examples(tuple(rows), {name: jpeg for name, jpeg in images.items() if name in shown})


class _Probe(NamedTuple):
    """The templates of a rule that are shown of a backbone.

    Attributes:
        templates: one of every concept.
        concepts: their indices in the data set.
        best: those of the best ones, from the best down.
        choice: why this token, as `Example.choice`.
    """

    templates: Templates
    concepts: tuple[int, ...]
    best: tuple[int, ...]
    choice: str

    @property
    def cell(self) -> Cell:
        return self.templates.layer, self.templates.token


def _choose_probes(scores: ConceptScores, data: PreparedData, backbone: Backbone, rule: Rule) -> list[_Probe]:
    """The cell with the highest mean F1, and that of the paper's token where it is another one; cells have a score."""
    name = backbone.spec.name
    cells = [cell for cell in scores.cells if (cell.backbone, cell.rule, cell.evaluation) == (name, rule, "patch")]
    most = max((cell.shots or 0 for cell in cells), default=0)
    by_cell = {cell: scores.of(cell, "f1") for cell in cells if (cell.shots or 0) == most}
    means = {cell: np.nanmean(f1) for cell, f1 in by_cell.items() if not np.isnan(f1).all()}
    if not means:
        return []
    best = max(means, key=means.__getitem__)  # The first of equals.
    last, token = max(cell.layer for cell in cells), PAPER_TOKENS.get(rule)
    of_paper = [cell for cell in means if (cell.layer, cell.token) == (last, token) and cell != best]
    chosen = [(best, "best"), *((cell, "paper") for cell in of_paper)]
    return [_probe(data, cell, by_cell[cell], scores.concepts, choice) for cell, choice in chosen]


def _probe(
    data: PreparedData, cell: CellName, f1: Float[np.ndarray, " K"], of: Sequence[Concept], choice: str
) -> _Probe:
    """The templates of one cell, without those that no held-out row measured.

    Args:
        data: prepared data of the sweep.
        cell: its name.
        f1: F1 of every concept, NaN where it has none.
        of: the concepts.
        choice: why this token.
    """
    path = template_path(data.folder.path / "templates" / cell.backbone, cell.layer, cell.token, cell.rule)
    templates = load_templates(path).most_shots()
    index = {concept: k for k, concept in enumerate(data.dataset.concepts)}
    score = {concept: value for concept, value in zip(of, f1, strict=True) if np.isfinite(value)}
    templates = templates.take([k for k, concept in enumerate(templates.concepts) if concept in score])
    best = sorted(templates.concepts, key=lambda concept: (-score[concept], index[concept]))
    concepts, best = (tuple(index[concept] for concept in own) for own in (templates.concepts, best[:BEST_CONCEPTS]))
    return _Probe(templates, concepts, best, choice)


class _Pair(NamedTuple):
    """Something to be judged: what a concept's template finds on an image."""

    probe: int
    concept: int
    image: int


class _Gallery:
    """Chooses the images of one backbone, has its templates judge them, and makes examples of them."""

    def __init__(
        self,
        backbone: Backbone,
        data: PreparedData,
        probes: Sequence[_Probe],
        undecodable: set[int],
        jpegs: dict[str, bytes],
    ):
        self._backbone, self._data, self._probes = backbone, data, probes
        self._split = data.splits["val"]
        self._undecodable, self._jpegs = undecodable, jpegs

    def rows(self) -> list[Example]:
        """The examples, by rule, kind and concept."""
        if not self._probes:
            return []
        labels = self._data.whole_labels(self._backbone, "val")
        coverage = _coverage(labels)
        found: dict[_Pair, UInt8[np.ndarray, " R"]] = {}
        while True:
            # Where an image turned out to be no image, the next one takes its place.
            coverage[sorted(self._undecodable)] = 0
            largest, candidates = self._choose(coverage)
            missing = {*largest, *candidates} - found.keys()
            if not missing:
                break
            found |= self._judge(missing, labels.slots.shape[1])
        rows = [self._example("coverage", pair, found[pair], labels) for pair in largest]
        compared = [self._example("iou", pair, found[pair], labels) for pair in candidates]
        by_template = defaultdict(list)
        for pair, row in zip(candidates, compared, strict=True):
            by_template[pair.probe, pair.concept].append(row)
        for _, of_template in sorted(by_template.items()):
            # A stable sort: by coverage among equals.
            rows += sorted(of_template, key=lambda row: -row.iou)[:BEST_IMAGES]
        return rows

    def _choose(self, coverage: Int[np.ndarray, "I K"]) -> tuple[list[_Pair], list[_Pair]]:
        """Each template's image of the largest coverage, and the candidates for the highest IoU."""
        largest, candidates = [], []
        for number, probe in enumerate(self._probes):
            for k in sorted(probe.concepts):
                image = int(coverage[:, k].argmax())
                if coverage[image, k]:
                    largest.append(_Pair(number, k, image))
            for k in probe.best:
                order = np.argsort(-coverage[:, k].astype(int), kind="stable")[:LOOKED_AT]
                candidates += [_Pair(number, k, int(image)) for image in order if coverage[image, k]]
        return largest, candidates

    def _judge(self, pairs: Iterable[_Pair], num_rows: int) -> dict[_Pair, UInt8[np.ndarray, " R"]]:
        """What the templates find on each pair's image, which is decoded once; images that cannot be are remembered."""
        wanted = defaultdict(list)
        for pair in sorted(pairs):
            wanted[pair.image].append(pair)
        numbers = np.array(sorted(wanted))
        shape = RowShape(len(numbers), num_rows, self._backbone.spec.config.width, self._data.config.dtype)
        judge = _Judge(shape, self._probes, [wanted[image] for image in numbers])

        def keep(batch: Batch) -> None:
            wrong = dict(batch.errors)
            for i in range(batch.num_valid):
                name = self._split.name(int(numbers[batch.first + i]))
                if batch.first + i not in wrong and name not in self._jpegs:
                    self._jpegs[name] = _jpeg(batch.images[i])

        cells = list(dict.fromkeys(probe.cell for probe in self._probes))
        self._data.visit(self._backbone, ImageSubset(self._split, numbers), judge, cells, keep)
        self._undecodable.update(int(numbers[i]) for i in judge.errors)
        return judge.found

    def _example(self, kind: str, pair: _Pair, found: UInt8[np.ndarray, " R"], labels: LabelTable) -> Example:
        templates, concept = self._probes[pair.probe].templates, labels.concepts[pair.concept]
        patch_size = self._backbone.spec.config.patch_size
        grid = [side // patch_size for side in make_transform(self._data.config, self._data.task, self._backbone).size]
        slots = labels.slots[pair.image]
        pos = (slots == pair.concept + 1).any(-1)
        category = labels.categories.index(concept.category)
        takes_part = (slots[:, labels.slot_category == category] > 0).any(-1)
        union = takes_part & (pos | (found > 0))
        return Example(
            kind=kind,
            choice=self._probes[pair.probe].choice,
            backbone=templates.backbone,
            layer=templates.layer,
            token=templates.token,
            rule=templates.rule,
            shots=templates.shots[0] if templates.shots else None,
            concept=concept.number,
            name=concept.name,
            category=concept.category,
            image=self._split.name(pair.image),
            iou=float((pos & (found > 0)).sum() / union.sum()),
            truth=np.select([pos, takes_part], [POSITIVE, NEGATIVE], LEFT_OUT).astype(np.uint8).reshape(grid),
            found=found.reshape(grid),
        )


class _Judge:
    """A `RowSink` that keeps of rows only what templates find on them.

    Attributes:
        shape: of the rows.
        found: by what was asked for, 1 where the template is positive; nothing for images that could not be decoded.
        errors: what was wrong with those, by their number.
    """

    def __init__(self, shape: RowShape, probes: Sequence[_Probe], wanted: Sequence[Sequence[_Pair]]):
        self.shape = shape
        self.found: dict[_Pair, UInt8[np.ndarray, " R"]] = {}
        self._probes = probes
        self._wanted = [[[pair for pair in pairs if pair.probe == i] for pairs in wanted] for i in range(len(probes))]
        self.errors: dict[int, str] = {}

    def write(self, shard: int, rows: Mapping[Cell, Float[np.ndarray, "i R D"]], errors: Mapping[int, str]) -> None:
        """Judges the images of a shard."""
        for place, image in enumerate(self.shape.images_of(shard)):
            if image in errors:
                continue
            for probe, wanted in zip(self._probes, self._wanted, strict=True):
                if not wanted[image]:
                    continue
                places = [probe.concepts.index(pair.concept) for pair in wanted[image]]
                # Filled up with the first template, so that all images go through one program.
                places += [0] * (max(map(len, wanted)) - len(places))
                margins = np.asarray(probe.templates.take(places).margins(rows[probe.cell][place]))
                self.found |= {pair: (margins[:, i] >= 0).astype(np.uint8) for i, pair in enumerate(wanted[image])}
        self.errors |= errors


def _coverage(labels: LabelTable) -> Int[np.ndarray, "I K"]:
    """How many patches of every image carry every concept; a few images at a time."""
    num_images, num_concepts, at_once = len(labels.slots), len(labels.concepts), 256
    coverage = np.empty((num_images, num_concepts), np.int32)
    for first in range(0, num_images, at_once):
        slots = labels.slots[first : first + at_once].astype(np.int64)
        codes = slots + (num_concepts + 1) * np.arange(len(slots))[:, None, None]
        counts = np.bincount(codes.ravel(), minlength=len(slots) * (num_concepts + 1))
        coverage[first : first + at_once] = counts.reshape(len(slots), -1)[:, 1:]
    return coverage


def _jpeg(image: UInt8[np.ndarray, "H W 3"]) -> bytes:
    picture = Image.fromarray(image)
    picture.thumbnail((JPEG_SIDE, JPEG_SIDE))
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=JPEG_QUALITY)
    return content.getvalue()
