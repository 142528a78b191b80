"""The sizes of a benchmark, and whether it can run here."""

import dataclasses
import importlib.util
from collections.abc import Iterable

from vitprobe_jax.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """The sizes of a benchmark; the flags of the same names (`--help`) say what they are."""

    scale: str
    rows: int
    concepts: int
    width: int
    sample: int
    spread: bool
    isotropic: bool
    shots: tuple[int, ...]
    trials: int
    patches: int
    queries: int
    neighbours: tuple[int, ...]
    archs: tuple[str, ...]
    batch_sizes: tuple[int, ...]
    image_size: int
    probe_memory: int
    repeats: int
    seed: int
    isolate: bool

    def __post_init__(self):
        numbers = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "seed"}
        for name, value in numbers.items():
            if isinstance(value, bool):
                continue
            if (isinstance(value, int) and value < 1) or value == ():
                raise InputError(f"--{name}: must be 1 or more, got {value}")
            if isinstance(value, tuple) and any(isinstance(part, int) and part < 1 for part in value):
                raise InputError(f"--{name}: must be 1 or more each, got {', '.join(map(str, value))}")
        if self.rows < 4 * self.concepts:
            raise InputError(
                f"--rows={self.rows}: too few for --concepts={self.concepts}; give 4 rows a concept or more"
            )
        if self.sample > self.concepts:
            raise InputError(f"--sample={self.sample}: more than --concepts={self.concepts}; give at most as many")


def require(benchmark: str, packages: Iterable[str]) -> None:
    """Refuses with an `InputError` to start without a rival's package."""
    absent = [package for package in packages if importlib.util.find_spec(package) is None]
    if absent:
        raise InputError(f"{benchmark}: its rivals need {', '.join(absent)}; install the extra: vitprobe_jax[bench]")
