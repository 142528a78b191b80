"""How the fit of hyperplanes grows: ten times the concepts, ten times the rows, and the same in a tenth of the memory.

Each case stands beside its own unavoidable work (`limits`). The number at the end is the least of the cases' shares of
that work over the share of the first case: 1 or more means that time grew no faster than the work did.
"""

import dataclasses

from experiments.benchmarks.comparison import Comparison
from experiments.benchmarks.config import BenchConfig
from experiments.benchmarks.limits import hyperplane_limit
from experiments.benchmarks.probes import prepare_library
from experiments.benchmarks.problem import PROTOCOL, Problem
from experiments.benchmarks.timing import Work, measure

NEEDS = ()
DEFAULTS = {"rows": 100_000, "concepts": 200, "isotropic": False}
FACTOR = 10


def compare(config: BenchConfig) -> list[Comparison]:
    """Measures every case; quality is the mean balanced accuracy on held-out rows."""
    cases = {
        "": config,
        f", {FACTOR} x the concepts": dataclasses.replace(config, concepts=FACTOR * config.concepts),
        f", {FACTOR} x the rows": dataclasses.replace(config, rows=FACTOR * config.rows),
        f", {FACTOR} x the concepts, a tenth of the memory": dataclasses.replace(
            config, concepts=FACTOR * config.concepts, probe_memory=max(1, config.probe_memory // FACTOR)
        ),
    }
    return [_case(name, case) for name, case in cases.items()]


def headline(comparisons: list[Comparison]) -> tuple[str, float]:
    """The last line's words and number."""
    shares = [comparison.ratio for comparison in comparisons]
    return "growth of the work / growth of the time", min(share / shares[0] for share in shares)


def _case(name: str, config: BenchConfig) -> Comparison:
    library, limit = measure({"vitprobe_jax": (prepare_library,), "its products and fetches": (prepare_limit,)}, config)
    title = (
        f"hyperplanes{name}: {config.rows} rows x {config.width}, {config.concepts} concepts, {config.probe_memory} MiB"
    )
    return Comparison(title, [library, limit], {"accuracy": [float(library.evidence.accuracy.mean()), None]})


def prepare_limit(config: BenchConfig) -> Work:
    """The unavoidable work of the same problem."""
    problem = Problem.of(config)
    return Work(hyperplane_limit(problem.train.place().rows, problem.pools, PROTOCOL, config.seed), lambda _: None)
