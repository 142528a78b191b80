"""From JPEG files to normalised batches, against torch's DataLoader; and how much of that an extraction hides.

Feeding: the same files through the same geometry to float32 batches, with as many worker processes, 0 being none: then the
library decodes in threads, torch in the one that asks. The DataLoader normalises in its workers, the library in a jitted
call on the device, as all of its commands do. Seconds are those from the first batch of a pass to its last; what starting
and ending cost stands beside them. The library's workers are spawned and import JAX, torch's are forked on Linux.

Extraction: decoding alone, the forward pass alone (from decoded batches to stored rows), and both as one extraction. There
are two ways to read "an extraction takes no longer than the slower of the two":

- Where decoding and the forward pass have processors of their own, as beside an accelerator, the slower one is the bound,
  and the ratio of this case is the slower one's seconds over the extraction's: 0.91 is 10 % over the bound.
- Where they share the same cores, as here on a CPU, each alone has all of them already, and nothing that is done to the
  order of things can end before both are done in turn. The sum is the bound then; the title has that ratio as well. They
  agree as far as a forward pass takes much longer than decoding, as a ViT-S/16 does on a CPU.

It decodes in threads, as is the default: workers would take a second to start, of a pass of seconds.

Of the flags, `--rows` is the number of images (of a sixteenth of them features are extracted), `--batch_sizes` and `--archs`
give their last and their first value.
"""

import dataclasses
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float
from PIL import Image
from safetensors.numpy import save_file

from checkpoints_convert import convert
from experiments.benchmarks.comparison import Comparison
from experiments.benchmarks.config import BenchConfig
from experiments.benchmarks.extract import official_weights
from experiments.benchmarks.timing import Work, measure
from vitprobe_jax.backbones.capture import normalize
from vitprobe_jax.backbones.config import Preprocess
from vitprobe_jax.backbones.families import FAMILIES
from vitprobe_jax.backbones.loading import load_backbone
from vitprobe_jax.data.dataset import ImageSubset
from vitprobe_jax.data.imagefolder import FolderSplit
from vitprobe_jax.data.pipeline import image_batches
from vitprobe_jax.data.transforms import Transform
from vitprobe_jax.errors import InputError
from vitprobe_jax.features.extract import extract, fitting_batch, shard_images
from vitprobe_jax.features.store import MemoryStore, RowShape
from vitprobe_jax.features.table import DATA_AXIS
from vitprobe_jax.types import TOKENS

NEEDS = ("torch", "torchvision")
# Nothing is planted here; four concepts are what the sample of other benchmarks needs.
DEFAULTS = {"rows": 4096, "concepts": 4}

WORKERS = (0, 1, 2)
FILES = 64
"""Different images; a pass repeats them. Files that are read once more come from the system's memory either way."""
HEIGHT, WIDTH, QUALITY = 375, 500, 90
"""Of the size of ImageNet's; 90 KB each."""
OCTAVES = 8
IMAGES_A_FORWARD = 16
"""Features are extracted of one in so many images: on two cores ViT-S/16 takes as long for one as decoding for 15."""


def compare(config: BenchConfig) -> list[Comparison]:
    """Feeding with every count of workers, then extraction."""
    _check(config)
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(Path(folder), config.seed)
        backbone = Path(folder) / "backbone"
        save_file(
            official_weights(FAMILIES["dino"].archs[config.archs[0]], config.image_size, config.seed),
            Path(folder) / "official.safetensors",
        )
        convert(Path(folder) / "official.safetensors", backbone, family="dino", arch=config.archs[0])
        feeding = [compare_feeding(config, Path(folder), workers) for workers in WORKERS]
        return [*feeding, compare_extraction(config, Path(folder))]


def headline(comparisons: list[Comparison]) -> tuple[str, float]:
    """The last line's words and number: feeding, with the least favourable count of workers."""
    feeding = [comparison.ratio for comparison in comparisons if not isinstance(comparison, WholeAndParts)]
    return "torch DataLoader / vitprobe_jax", min(feeding)


@dataclasses.dataclass(frozen=True)
class WholeAndParts(Comparison):
    """The whole of a work first, then its parts alone."""

    @property
    def ratio(self) -> float:
        """Seconds of the slowest part over seconds of the whole."""
        whole, *parts = (measurement.seconds for measurement in self.measurements)
        return max(parts) / whole


def _check(config: BenchConfig) -> None:
    published = FAMILIES["dino"].archs
    arch = config.archs[0]
    if arch not in published:
        raise InputError(f"--archs: {arch!r} is none of {', '.join(published)}")
    if config.image_size % published[arch].patch_size:
        raise InputError(f"--image_size={config.image_size}: not a multiple of the patches of {arch}; give another")
    least = max(IMAGES_A_FORWARD, 2 * config.batch_sizes[-1])
    if config.rows < least:
        raise InputError(f"--rows={config.rows}: too few images; give {least} or more, for two batches")


def write_photographs(folder: Path, seed: int) -> None:
    """Writes `FILES` JPEGs that cost as much to decode as photographs do.

    Each is a sum of smooth noise of all scales, an octave apart and equally strong: the spectrum of natural images, whose
    amplitude falls with the inverse of the frequency.
    """
    rng = np.random.default_rng([seed, 4])

    def noise(cells: int) -> Float[np.ndarray, "H W"]:
        grid = Image.fromarray(rng.standard_normal((cells * HEIGHT // WIDTH + 1, cells + 1), dtype=np.float32))
        return np.asarray(grid.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))

    for i in range(FILES):
        channels = [sum(noise(2 << octave) for octave in range(OCTAVES)) for _ in range(3)]
        pixels = np.stack(channels, axis=-1)
        pixels = 128 + 50 * (pixels - pixels.mean()) / pixels.std()
        image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        image.save(folder / f"{i:03d}.jpg", quality=QUALITY)


def compare_feeding(config: BenchConfig, folder: Path, workers: int) -> Comparison:
    """Measures both on the photographs in the folder; quality holds the largest difference of a normalised pixel."""
    contenders = {"vitprobe_jax": prepare_library, "torch DataLoader": prepare_torch}
    logs = [folder / f"{name}, {workers}.txt" for name in contenders]
    measured = measure(
        {name: (prepare, folder, workers, log) for (name, prepare), log in zip(contenders.items(), logs, strict=True)},
        config,
    )
    start, steady, end = np.transpose([np.median(np.loadtxt(log, ndmin=2)[1:], axis=0) for log in logs])
    ours, theirs = (m.evidence for m in measured)
    quality = {
        "images/s": list((config.rows - config.batch_sizes[-1]) / steady),
        "start s": list(start),
        "end s": list(end),
        "difference": [None, float(np.abs(ours - theirs).max())],
    }
    measured = [dataclasses.replace(m, seconds=float(seconds)) for m, seconds in zip(measured, steady, strict=True)]
    title = f"data: {config.rows} JPEGs of {WIDTH} x {HEIGHT} to {config.image_size} px, {_with(workers)}"
    return Comparison(title, measured, quality)


def prepare_library(config: BenchConfig, folder: Path, workers: int, log: Path) -> Work:
    """The library's pipeline, and its normalisation on the device."""
    images, transform = _images(folder, config.rows), _transform(config)
    on_device = jax.jit(lambda pixels: normalize(pixels, Preprocess()))

    def start() -> Iterable[jax.Array]:
        for batch in image_batches(images, transform, batch_size=config.batch_sizes[-1], num_workers=workers):
            yield jax.block_until_ready(on_device(batch.images))

    return _pass(start, np.asarray, log)


def prepare_torch(config: BenchConfig, folder: Path, workers: int, log: Path) -> Work:
    """A DataLoader as torch's own examples make it."""
    from experiments.benchmarks.torch_ops import torchvision

    # isort: split
    from torch.utils.data import DataLoader

    t, library, expected = torchvision.transforms, _transform(config), Preprocess()
    steps = [
        t.Resize(int(config.image_size * library.resize_ratio), t.InterpolationMode.BICUBIC),
        t.CenterCrop(config.image_size),
        t.ToTensor(),
        t.Normalize(expected.mean, expected.std),
    ]
    images = _TorchImages(_images(folder, config.rows), t.Compose(steps))

    def start() -> Iterable[Any]:
        # A contender's process was spawned and would spawn; by itself torch forks where forking is safe.
        context = "fork" if workers and sys.platform == "linux" else None
        return DataLoader(
            images, batch_size=config.batch_sizes[-1], num_workers=workers, multiprocessing_context=context
        )

    return _pass(start, lambda batch: batch.permute(0, 2, 3, 1).numpy(), log)


class _TorchImages:
    """The same files as a map-style data set; at the top of the module, since workers may be spawned."""

    def __init__(self, images: ImageSubset, transform: Callable):
        self._images, self._transform = images, transform

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int):
        return self._transform(self._images.image(index))


def _pass(start: Callable[[], Iterable[Any]], to_numpy: Callable[[Any], np.ndarray], log: Path) -> Work:
    """A whole pass. It adds its seconds to the first batch, to the last and to the end to the log; evidence: the first."""

    def run() -> Any:
        times = [time.perf_counter()]
        first = None
        for batch in start():
            times.append(time.perf_counter())
            first = batch if first is None else first
        times.append(time.perf_counter())
        with log.open("a") as lines:
            print(times[1] - times[0], times[-2] - times[1], times[-1] - times[-2], file=lines)
        return first

    return Work(run, to_numpy)


def compare_extraction(config: BenchConfig, folder: Path) -> WholeAndParts:
    """Measures an extraction and its parts, on the photographs and with the backbone in the folder."""
    config = dataclasses.replace(config, rows=config.rows // IMAGES_A_FORWARD, concepts=1, sample=1)
    parts = {"extraction": "whole", "decoding alone": "decode", "forward pass alone": "forward"}
    measured = measure({name: (prepare_extraction, folder, part) for name, part in parts.items()}, config)
    whole, *alone = (m.seconds for m in measured)
    title = (
        f"extraction: {config.rows} JPEGs, {config.archs[0]}; the slower part takes "
        f"{max(alone) / whole:.3f} of the whole, both in turn {sum(alone) / whole:.3f}"
    )
    return WholeAndParts(title, measured, {"images/s": [config.rows / m.seconds for m in measured]})


def prepare_extraction(config: BenchConfig, folder: Path, part: str) -> Work:
    """An extraction of the six tokens of the last block into memory, or its part `decode` or `forward`."""
    backbone = load_backbone(str(folder / "backbone"))
    vit = backbone.spec.config
    split, cells = _images(folder, config.rows), [(vit.depth - 1, token) for token in TOKENS]
    shape = RowShape(config.rows, (config.image_size // vit.patch_size) ** 2, vit.width, "float32")
    shards = range(shape.num_shards)
    mesh = Mesh(np.array(jax.local_devices()), (DATA_AXIS,))

    def batches():
        return image_batches(
            shard_images(split, shape, shards),
            _transform(config),
            batch_size=fitting_batch(config.batch_sizes[-1]),
        )

    decoded = list(batches()) if part == "forward" else None

    def run() -> None:
        if part == "decode":
            for _ in batches():
                pass
            return
        extract(
            backbone,
            split,
            batches() if decoded is None else decoded,
            MemoryStore(shape),
            cells,
            shards,
            task="segmentation",
            skip_corrupt=False,
            mesh=mesh,
        )

    return Work(run, lambda _: None)


def _images(folder: Path, count: int) -> ImageSubset:
    """So many images, the files over and over."""
    files = tuple(f"{i:03d}.jpg" for i in range(FILES))
    return ImageSubset(FolderSplit(folder, files, (1,) * FILES, ("drawing",)), np.arange(count) % FILES)


def _transform(config: BenchConfig) -> Transform:
    return Transform((config.image_size, config.image_size))


def _with(workers: int) -> str:
    return f"{workers} worker{'s' * (workers != 1)}" if workers else "in one process"
