"""The study by several processes on the loopback."""

import pytest

from tests.data.box_tree import write_objects
from tests.experiments.launching import ended, launch, launch_together


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_processes_together_come_to_the_table_of_one(tmp_path, count):
    objects = write_objects(tmp_path / "objects", seed=0, size=(40, 48))
    flags = [
        f"--dataset=imagefolder:{objects}",
        f"--boxes={objects}",
        "--backbones=untrained_dino_tiny",
        "--image_size=32",
        "--optimizer=sgd",
        "--train_batch=12",
        "--epochs=2",
        "--box_thresholds=10",
        "--batch_size=8",
        "--representations=mean,abmilp_1",
    ]
    alone = launch("experiments.aggregate", *flags, f"--out={tmp_path / 'alone'}")
    together = launch_together("experiments.aggregate", count, *flags, f"--out={tmp_path / 'together'}")
    for code, _, err in map(ended, (alone, *together)):
        assert code == 0, err
    # Micro batches are dealt into parts of one size, whatever the processes: not only close, but equal.
    tables = [(tmp_path / out / "results.parquet").read_bytes() for out in ("alone", "together")]
    assert tables[0] == tables[1]
