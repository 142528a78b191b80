"""The contenders of a benchmark side by side: as a ratio, as text, as JSON."""

import dataclasses
from collections.abc import Sequence

from experiments.benchmarks.timing import Measurement


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The contenders of one case, the library first.

    Attributes:
        title: the case.
        measurements: one a contender.
        quality: by column, one number a contender; None where the contender has none.
    """

    title: str
    measurements: Sequence[Measurement]
    quality: dict[str, Sequence[float | None]]

    @property
    def ratio(self) -> float:
        """Seconds of the fastest rival over seconds of the library: over 1, the library is faster."""
        library, *rivals = (measurement.seconds for measurement in self.measurements)
        return min(rivals) / library


def format_table(comparison: Comparison) -> str:
    """The comparison as lines of aligned text; `*` marks times that are scaled up from a sample."""
    header = ["contender", "median s", "compile s", "peak MB", *comparison.quality]
    lines = [header]
    for i, m in enumerate(comparison.measurements):
        numbers = [f"{m.seconds:.3f}" + "*" * (m.scale > 1), f"{m.compile_seconds:.3f}", f"{m.peak_mb:.0f}"]
        quality = (column[i] for column in comparison.quality.values())
        lines.append([m.name, *numbers, *("-" if value is None else f"{value:.4g}" for value in quality)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = [
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    ]
    scaled = [f"{m.name} by {m.scale:.4g}" for m in comparison.measurements if m.scale > 1]
    notes = [f"* timed on a sample and scaled: {', '.join(scaled)}"] if scaled else []
    return "\n".join([comparison.title, *rows, *notes])


def to_json(comparison: Comparison) -> dict:
    """The same as a JSON-ready dict, times in seconds and memory in MB."""
    contenders = []
    for i, measurement in enumerate(comparison.measurements):
        numbers = {
            f.name: getattr(measurement, f.name) for f in dataclasses.fields(measurement) if f.name != "evidence"
        }
        contenders.append(numbers | {"quality": {name: column[i] for name, column in comparison.quality.items()}})
    return {"title": comparison.title, "ratio": comparison.ratio, "contenders": contenders}
