"""Study 3: how tokens gather information, and what selective aggregation of patches is worth.

`python -m experiments.aggregate --flagfile=aggregate.flags --dataset=imagefolder:DIR --backbones=DIR,DIR --out=DIR`
"""

from collections.abc import Sequence

from absl import flags

from experiments import config as run_config
from experiments import processes
from experiments.aggregate import config as aggregate_config
from experiments.aggregate.run import run_aggregate
from vitprobe_jax import cli


def main(argv: Sequence[str]) -> None:
    """Runs the study that the flags ask for and says where its report is."""
    processes.carry_out(argv, aggregate_config.aggregate_config, run_aggregate)


if __name__ == "__main__":
    aggregate_config.define_aggregate_flags()
    for module in (run_config, aggregate_config):
        flags.adopt_module_key_flags(module)  # --help lists the flags of this program, not only of this file
    cli.run(
        main,
        flagfile_package="experiments.flags",
        interrupted=processes.INTERRUPTED,
    )
