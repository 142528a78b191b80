"""How every contender of a benchmark is measured: in a process of its own, warm, by turns with the others.

Taking turns matters: a machine's speed drifts within minutes, by a factor of two on a shared one, and contenders that run
one after the other would be compared across that drift.
"""

import ctypes
import dataclasses
import gc
import multiprocessing
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from experiments.benchmarks.config import BenchConfig

END_SECONDS = 20.0
"""For a contender to end after its last call."""
REST_SECONDS = 0.2
"""Before every call: the threads of the one before may still spin in wait of work."""


@dataclasses.dataclass(frozen=True)
class Work:
    """What a contender does once its data are in place.

    Attributes:
        run: the call that is timed; what it returns is finished.
        evidence: turns that into what the contenders are compared by; not timed.
        scale: how many times the work of `run` the whole work is; over 1, the contender does a sample.
    """

    run: Callable[[], Any]
    evidence: Callable[[Any], Any]
    scale: float = 1.0


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One contender's numbers.

    Attributes:
        name: of the contender.
        seconds: median of the warm calls, times the work's scale.
        compile_seconds: what the first call took beyond the unscaled median.
        peak_mb: peak resident memory of the process after the first call, libraries and data included.
        scale: as in `Work`.
        evidence: as in `Work`.
    """

    name: str
    seconds: float
    compile_seconds: float
    peak_mb: float
    scale: float
    evidence: Any


def measure(contenders: Mapping[str, tuple], config: BenchConfig) -> list[Measurement]:
    """Measures the contenders, each in a process of its own unless `config.isolate` is off.

    They start in order: data, first call, evidence. Then every round calls each of them once.

    Args:
        contenders: by name, (prepare, *extra): `prepare(config, *extra)` puts the data in place and returns the `Work`.
            All of it must pickle.
        config: the benchmark's.
    """
    isolate = _isolated if config.isolate else _steps
    steps = {name: isolate(config, *contender) for name, contender in contenders.items()}
    started = {}
    for name in contenders:
        print(f"starting {name} ...", file=sys.stderr, flush=True)
        started[name] = next(steps[name])
    seconds = {name: [] for name in contenders}
    for _ in range(config.repeats):
        for name in contenders:
            seconds[name].append(next(steps[name]))
    for step in steps.values():
        step.close()
    return [_summary(name, *started[name], seconds[name]) for name in contenders]


def _summary(name: str, first: float, peak_mb: float, scale: float, evidence: Any, seconds: list[float]) -> Measurement:
    median = statistics.median(seconds)
    return Measurement(name, median * scale, max(0.0, first - median), peak_mb, scale, evidence)


def _steps(config: BenchConfig, prepare: Callable[..., Work], *extra: Any) -> Iterator[Any]:
    """What the first call gave, then the seconds of one call after the other."""
    work = prepare(config, *extra)
    first, result = _timed(work.run)
    yield first, _peak_mb(), work.scale, work.evidence(result)
    del result
    for _ in range(config.repeats):
        time.sleep(REST_SECONDS)
        yield _timed(work.run)[0]


def _isolated(config: BenchConfig, prepare: Callable[..., Work], *extra: Any) -> Iterator[Any]:
    """`_steps` in a fresh process, which works only while a step is waited for."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, config, prepare, *extra))
    process.start()
    theirs.close()
    try:
        for _ in range(1 + config.repeats):
            ours.send(None)
            step = ours.recv()
            if isinstance(step, Exception):
                raise step
            yield step
    except EOFError as error:
        raise RuntimeError("a contender's process ended; was there too little memory?") from error
    finally:
        # At the end of the pipe it ends by itself, and takes its own worker processes with it.
        ours.close()
        process.join(END_SECONDS)
        process.kill()


def _serve(pipe: Connection, config: BenchConfig, prepare: Callable[..., Work], *extra: Any) -> None:
    steps = _steps(config, prepare, *extra)
    while True:
        try:
            pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(next(steps))
        except Exception as error:  # Told to the other side, which raises it.
            pipe.send(error)


def _timed(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def memory_mb(name: Literal["VmRSS", "VmHWM"]) -> float | None:
    """Resident memory of this process, now or at its peak, in 2^20 bytes; None where the system does not tell."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    return int(re.search(rf"{name}:\s+(\d+) kB", status)[1]) / (1 << 10)


def added_memory_mb(run: Callable[[], object]) -> tuple[float | None, float | None]:
    """Resident memory of this process, and what a call takes beyond it at its peak; None where the system does not tell.

    What earlier calls have freed is given back first, or the call would take it from there.
    """
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # The peak starts from here.
    except (OSError, AttributeError):
        run()
        return None, None
    base = memory_mb("VmRSS")
    run()
    return base, memory_mb("VmHWM") - base


def _peak_mb() -> float:
    peak = memory_mb("VmHWM")
    if peak is not None:
        return peak
    # On Linux this one begins at the peak of the process that started it.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)  # Bytes on a Mac, kilobytes elsewhere.
