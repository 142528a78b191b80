"""One of several processes that fit and count together: `python -m tests.probes.process COORDINATOR COUNT NUMBER OUT`.

Also what a single process does for comparison (`fit_and_count`).
"""

import os
import sys

if __name__ == "__main__":
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
    os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np
from jax.sharding import Mesh

from tests.probes.tables import planted_rows, random_labels
from vitprobe_jax.features.moments import highest_variance, table_variance
from vitprobe_jax.features.streaming import HostRows
from vitprobe_jax.features.table import DATA_AXIS, place_table
from vitprobe_jax.metrics.counts import count_cosine, count_hyperplanes
from vitprobe_jax.probes.cosine import fit_cosine
from vitprobe_jax.probes.feature_norm import fit_feature_norm
from vitprobe_jax.probes.hyperplane import HyperplaneConfig, fit_hyperplanes
from vitprobe_jax.probes.sampling import concept_identity, draw_pools, draw_queries, draw_support
from vitprobe_jax.probes.trials import Support, Trials


def fit_and_count(mesh: Mesh, *, resident: bool) -> dict[str, np.ndarray]:
    """Everything that touches rows, on a small table."""
    rng = np.random.default_rng(0)
    labels = random_labels(rng, images=61, rows=4, sizes={"object": 4, "part": 2})
    rows, _ = planted_rows(rng, labels, width=10, strength=3.0)
    table = place_table(HostRows(rows), labels, mesh, resident=resident, device_bytes=rows.nbytes // 8)
    concepts = np.arange(len(labels.concepts), dtype=np.int32)
    keep = highest_variance(table_variance(table), 2)
    norm = fit_feature_norm(table, kind="standardize", keep=keep)
    identities = [concept_identity(concept) for concept in labels.concepts]
    pools = draw_pools(labels, ratio=20, seed=0)
    config = HyperplaneConfig(rounds=2)
    fitted = fit_hyperplanes(jax.random.key(0), table, pools, identities, norm=norm, config=config)
    support = Support.of(draw_support(labels, shots=5, trials=2, seed=0), labels, concepts, mesh)
    alpha, t, fitted_on = fit_cosine(table, support, norm=norm, shots=(1, 5))
    queries = Trials.of(draw_queries(labels, trials=2, seed=0), labels, concepts, mesh)
    # Not at a threshold itself, which is a score and may fall on either side of another one's rounding.
    lower = np.asarray(t) - 1e-4
    results = {
        "hyperplane counts": count_hyperplanes(
            table, concepts, labels.concept_category, fitted.w, fitted.b, fitted.shift
        ),
        "cosine counts": count_cosine(table, queries, alpha, lower, norm=norm),
        "fitted on": fitted_on,
    }
    results |= {f"hyperplane {name}": leaf for name, leaf in fitted._asdict().items()}
    results |= {"alpha": alpha, "t": t, "shift": norm.shift, "scale": norm.scale}
    return {name: np.asarray(leaf) for name, leaf in results.items()}


def main(coordinator: str, count: str, number: str, out: str) -> None:
    """Joins the others and writes what this process was given."""
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(coordinator, int(count), int(number))
    assert jax.device_count() == 2 * int(count)
    mesh = Mesh(np.array(jax.devices()), (DATA_AXIS,))
    for resident in (True, False):
        np.savez(f"{out}/{number}_{resident}.npz", **fit_and_count(mesh, resident=resident))


if __name__ == "__main__":
    main(*sys.argv[1:])
