"""The study by several processes on the loopback: the same bytes as one."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import path_aware_map

from tests.backbones.random_vit import random_params, tiny
from tests.data.cityscapes_tree import write_cityscapes
from tests.data.mot_tree import write_mot
from tests.experiments.launching import COMPILED, ended, launch, launch_together
from vitprobe_jax.backbones.config import BackboneSpec, DecoderConfig
from vitprobe_jax.backbones.loading import make_decoder
from vitprobe_jax.backbones.saving import save_backbone, streamed


def write_backbone(folder: Path) -> Path:
    """A small MAE with its decoder, random weights."""
    config = tiny("mae", patch_size=8, width=24, depth=2, num_heads=2, mlp_dim=24, grid=(4, 4))
    decoder = DecoderConfig(width=16, depth=1, num_heads=2, mlp_dim=16)
    inputs = jnp.zeros((1, 17, config.width)), jnp.zeros((1, 16), jnp.int32)
    shapes = jax.eval_shape(make_decoder(config, decoder).init, jax.random.key(0), *inputs)["params"]
    rng = np.random.default_rng(0)
    params = path_aware_map(lambda path, leaf: rng.normal(scale=0.3, size=leaf.shape) + (path[-1] == "scale"), shapes)
    spec = BackboneSpec(name="mae_small", family="mae", objective="MAE", config=config, decoder=decoder)
    save_backbone(folder, spec, streamed(random_params(config)), streamed(params))
    return folder


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    COMPILED.update(JAX_COMPILATION_CACHE_DIR=str(folder / "compiled"), JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0")
    cities = {"train": {"aachen": 3, "bochum": 2}, "val": {"frankfurt": 3}}
    streets = write_cityscapes(folder / "streets", cities=cities, size=(96, 160))
    people = write_mot(folder / "people", seed=0)
    return (
        f"--dataset=cityscapes:{streets},mot17:{people}",
        f"--backbones={write_backbone(folder / 'mae_small')}",
        "--parts=patches,variance,corruptions,retrieval,tracking,reconstruction,context,layers",
        "--tokens=x2",
        "--layers=last",
        "--image_size=32",
        "--tile=64",
        "--batch_size=4",
        "--drop_features=0,8",
        "--images_per_group=2",
        "--corruptions=noise",
        "--methods=knn,knn_batchnorm,linear",
        "--transformations=rotation",
        "--gaps=1,2",
        "--examples=3",
    )


def contents(out: Path) -> dict[str, bytes]:
    """Everything that was measured, pictures too."""
    paths = [out / "results.parquet", *(out / "cells").rglob("*.parquet"), *(out / "pictures").rglob("*.npz")]
    arrays = {}
    for path in paths:
        name = str(path.relative_to(out))
        if path.suffix == ".npz":
            # The archive has times of its own.
            with np.load(path) as pictures:
                arrays |= {f"{name} {key}": pictures[key].tobytes() for key in pictures}
        else:
            arrays[name] = path.read_bytes()
    return arrays


@pytest.fixture(scope="module")
def alone(flags, tmp_path_factory):
    out = tmp_path_factory.mktemp("alone") / "out"
    code, _, err = ended(launch("experiments.local", *flags, f"--out={out}"))
    assert code == 0, err
    return contents(out)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_processes_together_come_to_the_bytes_of_one(flags, alone, tmp_path, count):
    own = (f"--out={tmp_path / 'out'}", f"--cache_dir={tmp_path / 'cache'}")
    for code, _, err in map(ended, launch_together("experiments.local", count, *flags, *own)):
        assert code == 0, err
    together = contents(tmp_path / "out")
    assert together.keys() == alone.keys()
    assert [name for name in alone if together[name] != alone[name]] == []
    assert sum("reconstruction" in name for name in alone) > 1
