"""Hyperplane templates by the full mining protocol, against other solvers on the same pools.

All follow the same protocol: rounds of mining, and in each the same number of positives and negatives. Times include
everything from the placed rows to templates. scikit-learn's LogisticRegression is fitted in a loop over concepts, on
`--sample` of them, and its time is scaled.
"""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from experiments.benchmarks.comparison import Comparison
from experiments.benchmarks.config import BenchConfig
from experiments.benchmarks.probes_rivals import (
    prepare_logistic,
    prepare_probekit,
    prepare_torch_lbfgs,
    prepare_torch_sgd,
)
from experiments.benchmarks.problem import PROTOCOL, Evidence, Fitted, Problem
from experiments.benchmarks.timing import Work, measure
from vitprobe_jax.probes.feature_norm import fit_feature_norm
from vitprobe_jax.probes.hyperplane import Solver, fit_hyperplanes
from vitprobe_jax.probes.sampling import concept_identity

NEEDS = ("torch", "sklearn", "probekit")
DEFAULTS = {"rows": 100_000, "concepts": 200, "isotropic": False}
EQUAL = 0.002
"""Mean held-out accuracies this near are equal."""
LIBRARY, PAPER = "vitprobe_jax", "--solver=paper"
PORT = "its algorithm in PyTorch"
"""The library's own method, written for PyTorch: it shows what is gained by JAX alone, and is not a rival's method."""


def compare(config: BenchConfig) -> list[Comparison]:
    """Measures all contenders; their quality is the mean balanced accuracy on held-out rows, and how far losses are off."""
    measured = measure(CONTENDERS, config)
    evidence: list[Evidence] = [measurement.evidence for measurement in measured]
    quality = {
        "accuracy": [float(e.accuracy.mean()) if len(e.accuracy) == config.concepts else None for e in evidence],
        f"accuracy, first {config.sample}": [float(e.accuracy[: config.sample].mean()) for e in evidence],
        "loss above minimum": [e.excess for e in evidence],
    }
    rows = "isotropic rows" if config.isotropic else "rows like tokens"
    title = f"hyperplanes: {config.rows} {rows} x {config.width}, {config.concepts} concepts"
    return [Comparison(title, measured, quality)]


def headline(comparisons: Sequence[Comparison]) -> tuple[str, float]:
    """The last line: the fastest rival of equal accuracy, over the library's time; nan where there is none.

    The port of the library's own algorithm is named beside it and does not count.
    """
    (comparison,) = comparisons
    evidence = {m.name: m.evidence.accuracy for m in comparison.measurements}
    seconds = {m.name: m.seconds for m in comparison.measurements}

    def good(name: str) -> bool:
        # Compared on the concepts that the contender has fitted.
        count = len(evidence[name])
        best = np.nanmax([accuracy[:count].mean() for accuracy in evidence.values() if len(accuracy) >= count])
        return bool(evidence[name].mean() >= best - EQUAL)

    words = "".join(
        f"{name} / {LIBRARY} {seconds[name] / seconds[LIBRARY]:.2f}; " for name in (PAPER, PORT) if name in seconds
    )
    if not good(LIBRARY):
        words += f"accuracy of {LIBRARY} is more than {EQUAL} below the best; "
    rivals = [name for name in seconds if name not in (LIBRARY, PORT) and good(name)]
    if not rivals:
        return words + f"no rival has an accuracy within {EQUAL} of the best", float("nan")
    fastest = min(rivals, key=seconds.__getitem__)
    return words + f"fastest of equal accuracy, {fastest} / {LIBRARY}", seconds[fastest] / seconds[LIBRARY]


def prepare_library(config: BenchConfig, solver: Solver = "lbfgs") -> Work:
    """All concepts in one call."""
    problem = Problem.of(config)
    table = problem.train.place()
    norm = fit_feature_norm(table, kind="none")
    key, identities = jax.random.key(config.seed), list(map(concept_identity, problem.train.labels.concepts))
    protocol = dataclasses.replace(PROTOCOL, solver=solver)

    def run():
        fitted = fit_hyperplanes(
            key, table, problem.pools, identities, norm=norm, config=protocol, memory_mb=config.probe_memory
        )
        return jax.block_until_ready(fitted)

    def evidence(fitted) -> Evidence:
        fitted = jax.tree.map(np.asarray, fitted)
        accuracy = problem.accuracy(Fitted(fitted.w, fitted.b, fitted.shift))
        if solver == "paper":
            return Evidence(accuracy, None)
        # About the distance from the minimum, see `lbfgs.Solution`.
        objective = fitted.loss + PROTOCOL.penalty / 2 * np.sum((fitted.w * fitted.deviation) ** 2, axis=1)
        return Evidence(accuracy, float(np.max(fitted.gradient_norm**2 / 2 / objective)))

    return Work(run, evidence)


CONTENDERS = {
    LIBRARY: (prepare_library,),
    PAPER: (prepare_library, "paper"),
    "PyTorch L-BFGS, batched": (prepare_torch_lbfgs,),
    PORT: (prepare_torch_lbfgs, True),
    "probekit, batched Newton": (prepare_probekit,),
    "LogisticRegression loop": (prepare_logistic,),
    "PyTorch SGD, batched": (prepare_torch_sgd,),
}
