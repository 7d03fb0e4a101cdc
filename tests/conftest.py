"""What every test runs under: one CPU split in eight, strict shapes, no display."""

import os

# Before anything imports mujoco, jax or matplotlib.
os.environ.setdefault("MUJOCO_GL", "disabled")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["MPLBACKEND"] = "Agg"

import jax
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

# Before anything imports ring_rl: annotations are then checked at every call.
install_import_hook("ring_rl", "beartype.beartype")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-slow", action="store_true", help="run slow tests too")


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    skip_slow = pytest.mark.skip(reason="slow: give --run-slow to run it")
    skip_gpu = pytest.mark.skip(reason="no GPU in this process")
    for item in items:
        if "slow" in item.keywords and not config.getoption("--run-slow"):
            item.add_marker(skip_slow)
        if "gpu" in item.keywords and jax.default_backend() != "gpu":
            item.add_marker(skip_gpu)
