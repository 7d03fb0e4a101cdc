"""What every test runs under: one CPU split in eight, strict shapes, no display."""

import gc
import os

# Before anything imports mujoco, jax or matplotlib.
os.environ.setdefault("MUJOCO_GL", "disabled")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["MPLBACKEND"] = "Agg"
# Nothing that another process has compiled, nor anything in the user's cache folder.
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
# Most of the tests' time is compiling, and small programs gain nothing from LLVM's
# optimisation; XLA's own passes stay. Processes that tests start do the same, so that
# what is compared is compiled in one way.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "true"

import jax
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

# Before anything imports ring_rl: annotations are then checked at every call.
install_import_hook("ring_rl", "beartype.beartype")


@pytest.fixture(scope="module", autouse=True)
def _forget_programs():
    """Lets a file's compiled programs go when its tests are done.

    Each is a few mappings of memory, and where the kernel's limit of 65,530 is reached,
    as by all tests in one process, the next compilation ends it.
    """
    yield
    jax.clear_caches()
    gc.collect()


# Where slow tests run too, and files side by side, none of these is left to the end.
LONGEST = (
    "test_quickstart.py",
    "test_readme.py",
    "test_notebooks.py",
    "test_several_processes.py",
    "test_processes.py",
    "test_devices.py",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-slow", action="store_true", help="run slow tests too")


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    if config.getoption("--run-slow"):
        items.sort(key=lambda item: item.path.name not in LONGEST)
    skip_slow = pytest.mark.skip(reason="slow: give --run-slow to run it")
    skip_gpu = pytest.mark.skip(reason="no GPU in this process")
    for item in items:
        if "slow" in item.keywords and not config.getoption("--run-slow"):
            item.add_marker(skip_slow)
        if item.get_closest_marker("gpu") and jax.default_backend() != "gpu":
            item.add_marker(skip_gpu)
