"""What every test stands on: eight CPU devices, strict ranks, the shared photographs where they are."""

import os

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from pathlib import Path

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real photographs; set VITPROBE_SHARED_DATA, or keep it beside the checkout."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("VITPROBE_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no shared photographs at {folder}; set VITPROBE_SHARED_DATA")
    return folder
