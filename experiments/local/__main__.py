"""Study 2: what single patch tokens are good for, with no training or next to none.

`python -m experiments.local --flagfile=local.flags --dataset=cityscapes:DIR --backbones=DIR,DIR --out=DIR`
"""

from collections.abc import Sequence

from absl import flags

from experiments import config as run_config
from experiments import processes
from experiments.local import config as local_config
from experiments.local.run import run_local
from vitprobe_jax import cli


def main(argv: Sequence[str]) -> None:
    """Runs the study that the flags ask for and says where its report is."""
    processes.carry_out(argv, local_config.local_config, run_local)


if __name__ == "__main__":
    local_config.define_local_flags()
    for module in (run_config, local_config):
        flags.adopt_module_key_flags(module)  # --help lists the flags of this program, not only of this file
    cli.run(
        main,
        flagfile_package="experiments.flags",
        interrupted=processes.INTERRUPTED,
    )
