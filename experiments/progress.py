"""How a run shows that it goes on: rates and the time left."""

import datetime
import itertools
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import jax
from tqdm import tqdm

from experiments.processes import is_first
from vitprobe_jax.data.pipeline import Batch

T = TypeVar("T")

ESTIMATE_SECONDS = 10.0
"""After so long, compilation left out, the rest of an extraction is foretold."""
TRIAL_BATCHES = 4
"""What a dry run computes to foretell it."""


def progress(items: Iterable[T], *, total: int, label: str, unit: str) -> Iterator[T]:
    """The items, with rate and time left on a terminal, quietly elsewhere."""
    quiet = not (is_first() and sys.stderr.isatty())
    yield from tqdm(items, total=total, desc=label, unit=unit, disable=quiet, leave=False)


def foretold(batches: Iterable[Batch], label: str, num_images: int) -> Iterator[Batch]:
    """The batches; once their rate is known, says how long the backbone's images will take."""
    start, seen, told = None, 0, not is_first()
    for batch in batches:
        if start is not None:
            seen += batch.num_valid
        elapsed = time.monotonic() - start if start is not None else 0.0
        if not told and elapsed > ESTIMATE_SECONDS:
            told = True
            print(expected_time(label, seen / elapsed, num_images // jax.process_count()), flush=True)
        yield batch
        # From the second batch on: the first one waited for compilation.
        start = start if start is not None else time.monotonic()


def expected_time(label: str, rate: float, num_images: int) -> str:
    """A line that foretells an extraction; the rate is in images a second and process."""
    duration = datetime.timedelta(seconds=round(num_images / rate))
    return f"{label}: {rate:.1f} images/s, {duration} h for {num_images} images"


def stamped(batches: Iterable[Batch], times: list[float]) -> Iterator[Batch]:
    """The first `TRIAL_BATCHES`; notes in `times` (seconds) when each of them is handed over."""
    for batch in itertools.islice(batches, TRIAL_BATCHES):
        times.append(time.monotonic())
        yield batch
