import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.probes.process import fit_and_count
from tests.probes.tables import mesh_of

PATIENCE = 240
"""Seconds until the processes must have ended; alone on a machine they take 20."""


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_several_processes_get_what_one_gets(tmp_path, count):
    """Two devices each, connected by the loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "tests.probes.process", coordinator, str(count)]
    environment = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    processes = [
        subprocess.Popen(
            [*command, str(number), str(tmp_path)],
            cwd=Path(__file__).parents[2],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(count)
    ]
    try:
        told = [process.communicate(timeout=PATIENCE)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * count, "\n".join(told)
    expected = fit_and_count(mesh_of(1), resident=True)
    for resident in (True, False):
        for number in range(count):
            with np.load(tmp_path / f"{number}_{resident}.npz") as results:
                for name, leaf in expected.items():
                    if leaf.dtype == np.int32:
                        np.testing.assert_array_equal(results[name], leaf, err_msg=name)
                    else:
                        np.testing.assert_allclose(results[name], leaf, rtol=1e-5, atol=5e-6, err_msg=name)
