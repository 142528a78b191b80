"""Parts of the local study at the papers' sizes, with their memory: `python -m experiments.real_sizes --case=mot17`.

Numbers of images, patches, features and objects are those of the data sets; the features themselves are made up, image by
image, as if they were read from `--cache_dir`. Nothing is decoded and no backbone runs, so what is measured is what the
parts themselves hold: at most `--host_memory` of features. Times say little, since rows are copied rather than extracted.
"""

import dataclasses
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from absl import flags
from jaxtyping import Float, Int
from PIL import Image

from experiments.benchmarks.timing import added_memory_mb
from experiments.local.config import define_local_flags, local_config
from experiments.local.parts import PARTS
from experiments.local.views import ViewRows
from experiments.local.workbench import Drawn, Workbench
from experiments.processes import make_meshes
from experiments.results_folder import ResultsFolder
from vitprobe_jax import cli
from vitprobe_jax.backbones.config import BackboneSpec, sized
from vitprobe_jax.backbones.families import FAMILIES
from vitprobe_jax.backbones.loading import Backbone
from vitprobe_jax.data.dataset import Annotation, Box, Dataset
from vitprobe_jax.errors import InputError
from vitprobe_jax.types import Concept

VIT_B = sized(
    FAMILIES["dino"].architectures[0], patch_size=16, width=768, depth=12, num_heads=12, mlp_dim=3072, grid=(14, 14)
)
CELL = (11, "x2")
DIFFERENT = 7
"""Images whose rows differ; the others repeat them."""
MOT17 = (
    ("MOT17-02", 600, 18581, (1080, 1920)),
    ("MOT17-04", 1050, 47557, (1080, 1920)),
    ("MOT17-05", 837, 6917, (480, 640)),
    ("MOT17-09", 525, 5325, (1080, 1920)),
    ("MOT17-10", 654, 12839, (1080, 1920)),
    ("MOT17-11", 900, 9436, (1080, 1920)),
    ("MOT17-13", 750, 11642, (1080, 1920)),
)
"""Frames, pedestrians that are to be considered, height and width of each training sequence."""
BDD100K = tuple((f"video {i}", 200, 2080, (720, 1280)) for i in range(200))
"""Of the validation videos about as many frames and objects: BDD100K has 3.3 million boxes in 318,000 frames."""


@dataclasses.dataclass(frozen=True)
class MadeFrames:
    """Frames without pixels, each with as many boxes as another.

    Attributes:
        sequences: name, frames, objects, height and width of each.
        seed: of the boxes.
    """

    sequences: tuple[tuple[str, int, int, tuple[int, int]], ...]
    seed: int = 0

    def __len__(self) -> int:
        return sum(count for _, count, _, _ in self.sequences)

    def name(self, index: int) -> str:
        return "{} {}".format(*self.frame(index))

    def image(self, index: int) -> Image.Image:
        return Image.new("RGB", self.size(index)[::-1])

    def size(self, index: int) -> tuple[int, int]:
        """Height and width."""
        return self._place(index)[0][3]

    def frame(self, index: int) -> tuple[str, int]:
        """Sequence and number."""
        sequence, number = self._place(index)
        return sequence[0], number

    def annotation(self, index: int) -> Annotation:
        (_, frames, objects, (height, width)), number = self._place(index)
        first, last = (objects * n // frames for n in (number, number + 1))
        rng = np.random.default_rng([self.seed, index])
        corners = rng.random((last - first, 2)) * [[0.9 * width, 0.8 * height]]
        boxes = [(left, top, left + 0.05 * width, top + 0.15 * height) for left, top in corners.tolist()]
        return Annotation(boxes=tuple(Box(1, track, *edges) for track, edges in enumerate(boxes)))

    def _place(self, index: int) -> tuple[tuple, int]:
        for sequence in self.sequences:
            if index < sequence[1]:
                return sequence, index
            index -= sequence[1]
        raise IndexError(index)


@dataclasses.dataclass(frozen=True)
class MadeMasks:
    """Images without pixels, whose masks are of random blocks of concepts.

    Attributes:
        count: of images.
        shape: height and width of each.
        concepts: their number.
        seed: of the masks.
    """

    count: int
    shape: tuple[int, int]
    concepts: int
    seed: int = 0

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        return f"image {index}"

    def image(self, index: int) -> Image.Image:
        return Image.new("RGB", self.shape[::-1])

    def size(self, index: int) -> tuple[int, int]:
        """Height and width."""
        return self.shape

    def annotation(self, index: int) -> Annotation:
        blocks = [-(-side // 32) for side in self.shape]
        numbers = np.random.default_rng([self.seed, index]).integers(0, self.concepts + 1, blocks)
        mask = np.kron(numbers, np.ones((32, 32), int))[: self.shape[0], : self.shape[1]]
        return Annotation(masks=(("object", mask),), image_size=self.shape)


@dataclasses.dataclass(frozen=True)
class MadeSource:
    """Rows of any number of images, made as they are read.

    Attributes:
        shape: images, rows of an image, features.
        seed: of the rows.
    """

    shape: tuple[int, int, int]
    seed: int = 0

    @property
    def dtype(self) -> np.dtype:
        """Of the rows."""
        return np.dtype(np.float32)

    def read(self, images: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n R D"]:
        """Noise, by the image's number."""
        made = np.empty((len(images), *self.shape[1:]), np.float32)
        for number in np.unique(images % DIFFERENT):
            rows = np.random.default_rng([self.seed, int(number)]).standard_normal(self.shape[1:], np.float32)
            made[images % DIFFERENT == number] = rows[None]
        return made


class MadeRows(ViewRows):
    """Views whose rows are made, as if all of them were on disk."""

    def fits(self, view, split) -> bool:
        return True

    def left_out(self, view, split) -> Int[np.ndarray, " n"]:
        return np.zeros(0, int)

    def _fitting(self, view, split):
        return view

    def _source(self, view, split, cell, cells) -> MadeSource:
        rows, columns = (side // VIT_B.patch_size for side in view.size)
        return MadeSource((len(view.splits[split]), rows * columns, VIT_B.width), len(split))


@dataclasses.dataclass(frozen=True)
class Case:
    """A data set of made images, and the parts that are measured on it.

    Attributes:
        what: it is, in words.
        parts: of the study.
        data: the data set with a share of its images, 0 to 1, that is 1 but in tests.
        flags: of the study.
    """

    what: str
    parts: tuple[str, ...]
    data: Callable[[float], Dataset]
    flags: tuple[str, ...] = ()


def _tracks(sequences: tuple, share: float) -> Dataset:
    some = tuple((name, max(2, int(share * frames)), int(share * n), size) for name, frames, n, size in sequences)
    concepts = (Concept(number=1, name="pedestrian", category="object"),)
    return Dataset("made", concepts, {"val": MadeFrames(some)}, False, "made", supercategories=("person",))


def _masks(train: int, val: int, shape: tuple[int, int], concepts: int, tile: int, share: float) -> Dataset:
    names = tuple(Concept(number=i, name=f"concept {i}", category="object") for i in range(1, concepts + 1))
    counts = (("train", train), ("val", val))
    splits = {
        split: MadeMasks(max(2, int(share * count)), shape, concepts, seed)
        for seed, (split, count) in enumerate(counts)
    }
    return Dataset("made", names, splits, False, "made", tile=tile)


CASES = {
    "mot17": Case("MOT17, all training frames", ("tracking",), lambda share: _tracks(MOT17, share)),
    "bdd100k": Case(
        "BDD100K, all validation videos, whole frames of 224 x 400",
        ("tracking",),
        lambda share: _tracks(BDD100K, share),
        ("--tiling=whole", "--whole_size=224x400"),
    ),
    "ade20k": Case(
        "ADE20K, 600 and 300 whole images of 448 x 672",
        ("context", "layers"),
        lambda share: _masks(600, 300, (448, 672), 150, 224, share),
        ("--tiling=whole", "--whole_size=448x672"),
    ),
    "cityscapes": Case(
        "Cityscapes, 72 and 30 images in tiles of 256",
        ("context", "layers"),
        lambda share: _masks(72, 30, (1024, 2048), 19, 256, share),
    ),
    "fair1m": Case(
        "FAIR1M, 295 tiles, shifted and not",
        ("retrieval",),
        lambda share: _masks(295, 295, (224, 224), 37, 0, share),
        ("--transformations=shift",),
    ),
}


@dataclasses.dataclass(frozen=True)
class Report:
    """What one part took.

    Attributes:
        part: its name.
        seconds: of the call.
        base_mb: resident memory of the process before it, 2^20 bytes; None where the system does not tell.
        added_mb: the peak of the call over it.
        rows: of the results.
    """

    part: str
    seconds: float
    base_mb: float | None
    added_mb: float | None
    rows: int


def measure_case(case: Case, out: Path, *arguments: str, share: float = 1.0) -> list[Report]:
    """Measures every part of a case.

    Args:
        case: of `CASES`.
        out: an empty folder.
        arguments: further flags of the study.
        share: of the images, 0 to 1.
    """
    values = flags.FlagValues()
    define_local_flags(values)
    every = [
        "--images_per_group=0",
        "--val_images_per_group=0",
        "--image_size=224",
        "--dataset=made",
        "--backbones=made",
    ]
    values(["real_sizes", f"--out={out}", *every, "--methods=knn", *case.flags, *arguments])
    config = local_config(values)
    mesh, local_mesh = make_meshes(config.mesh)
    backbone = Backbone(BackboneSpec(name="made", family="dino", objective="none", config=VIT_B), {})
    dataset = case.data(share)
    drawn = Drawn.of(config, dataset, config.images_per_group)
    reports = []
    for part in case.parts:
        rows = MadeRows(config, dataset, backbone, ResultsFolder(config.out, config.seed), mesh, local_mesh)
        bench, made = Workbench(drawn, backbone, rows, mesh), []
        start = time.monotonic()
        measure = PARTS[part].measure
        base, added = added_memory_mb(
            lambda bench=bench, made=made, measure=measure: made.append(measure(bench, CELL, [CELL]))
        )
        reports.append(Report(part, time.monotonic() - start, base, added, len(made[0].rows)))
    return reports


def main(argv: Sequence[str]) -> None:
    """Measures the case that `--case` names and prints a line for each of its parts."""
    if len(argv) > 1:
        raise InputError(f"unexpected argument {argv[1]!r}; every option is a flag (--help lists them)")
    values, case = flags.FLAGS, CASES[flags.FLAGS.case]
    given = [f"--host_memory={values.host_memory}", f"--knn_memory={values.knn_memory}"]
    if values.held_out:
        given.append(f"--val_images_per_group={values.held_out}")
    with tempfile.TemporaryDirectory() as folder:
        for report in measure_case(case, Path(folder), *given):
            memory = "memory unknown"
            if report.added_mb is not None:
                memory = f"{report.added_mb:,.0f} MiB at the peak beside the process's {report.base_mb:,.0f}"
            print(
                f"{case.what}: {report.part}, {report.rows} results in {report.seconds:,.0f} s, {memory} "
                f"(--host_memory={values.host_memory})",
                flush=True,
            )


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """The flags of this command."""
    flags.DEFINE_enum("case", "mot17", list(CASES), "What is measured.", flag_values=values)
    flags.DEFINE_integer("host_memory", 2048, "MiB of features, as in the study.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("knn_memory", 256, "MiB of comparisons, as in the study.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer(
        "held_out",
        0,
        "Held-out images; 0 for all. Neighbours of all of ADE20K take hours on two cores.",
        flag_values=values,
    )


if __name__ == "__main__":
    define_flags()
    cli.run(main)
