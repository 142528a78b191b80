"""`python -m vitprobe_jax.data.tfds_builders --dataset=broden:DIR --data_dir=DIR`."""

from collections.abc import Sequence

from absl import flags

from vitprobe_jax import cli
from vitprobe_jax.data.tfds_builders import build
from vitprobe_jax.errors import InputError

_DATASET = flags.DEFINE_string("dataset", None, "What to build: imagenet200:DIR or broden:DIR.", required=True)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "tfds's folder; $TFDS_DATA_DIR, else ~/tensorflow_datasets.")
_SEED = flags.DEFINE_integer("seed", 0, "Which images of imagenet200 are drawn.", lower_bound=0)


def main(argv: Sequence[str]) -> None:
    """Builds one data set and says how to name it."""
    if len(argv) > 1:
        raise InputError(f"{argv[1]!r}: not a flag; every argument is a --flag=value")
    builder = build(_DATASET.value, data_dir=_DATA_DIR.value, seed=_SEED.value)
    name = builder.info.full_name.rpartition("/")[0]
    print(f"--dataset=tfds:{name}" + (f"@{_DATA_DIR.value}" if _DATA_DIR.value else ""))


if __name__ == "__main__":
    cli.run(main)
