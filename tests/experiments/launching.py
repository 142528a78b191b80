"""Commands as processes of their own, alone or several as one run on the loopback."""

import os
import socket
import subprocess
import sys

COMPILED: dict[str, str] = {}
"""Variables that have all processes of a test module share what they compile."""


def environment(devices: int) -> dict[str, str]:
    """Of a process with so many CPU devices."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    return os.environ | COMPILED | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}


def launch(module: str, *arguments: str, devices: int = 1, **options) -> subprocess.Popen:
    """Starts `python -m module arguments`, in a session of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        env=environment(devices),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def launch_together(module: str, count: int, *arguments: str) -> list[subprocess.Popen]:
    """Starts the same command as so many processes of one run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = (f"--coordinator=127.0.0.1:{port}", f"--num_processes={count}")
    return [launch(module, *arguments, *shared, f"--process_id={p}") for p in range(count)]


def ended(process: subprocess.Popen, seconds: float = 300) -> tuple[int, str, str]:
    """Waits for it: its exit code, and what it said on stdout and stderr."""
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err
