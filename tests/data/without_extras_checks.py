"""ring_rl where the packages of its extras are hidden, as if not installed."""

import ast
import importlib.util
import pkgutil
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np

HIDDEN = ("tensorflow", "rlds", "reverb", "d4rl", "gym", "pybullet", "mujoco_py")
TINY = (
    "--environment.size 3 --environment.held-out 3 --environment.max-steps 6 "
    "--data.episodes 10 --agent.trunk.layers 1 --agent.trunk.width 16 "
    "--agent.trunk.heads 2 --loader.rows 2 --loader.row-steps 48 --loop.steps 2 "
    "--loop.log-every 2 --loop.checkpoint-every 2 --evaluation.trials 2 "
    "--evaluation.rollouts 2"
).split()


class Hiding:
    """A finder of modules that does not find these. None in `sys.modules` would not
    do: some ask for a package's spec, and only import it if there is one."""

    def __init__(self, finder: Any):
        self._finder = finder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._finder, name)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.split(".")[0] in HIDDEN:
            return None
        return self._finder.find_spec(name, path, target)


sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]

import ring_rl  # noqa: E402
from ring_rl.cli import main  # noqa: E402
from ring_rl.data.interchange import packages  # noqa: E402


def check_every_module_imports(folder: Path) -> None:
    for module in pkgutil.walk_packages(ring_rl.__path__, "ring_rl."):
        importlib.import_module(module.name)
    assert not set(HIDDEN) & set(sys.modules)


def check_one_file_only_imports_them(folder: Path) -> None:
    """Also inside functions, which the check above does not come to."""
    modules = pkgutil.walk_packages(ring_rl.__path__, "ring_rl.")
    specs = [importlib.util.find_spec(module.name) for module in modules]
    assert len(specs) > 50
    for path in (Path(str(spec.origin)) for spec in specs if spec):
        tops = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                tops |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                tops.add(str(node.module).split(".")[0])
        assert not tops & set(HIDDEN), path


def check_what_is_missing_is_said(folder: Path) -> None:
    for ask, name, extra in (
        (packages.import_tensorflow, "tensorflow", "rlds"),
        (packages.import_rlds, "rlds", "rlds"),
        (packages.import_d4rl, "d4rl", "d4rl"),
    ):
        try:
            ask()
        except ModuleNotFoundError as error:
            words = f"expected the package {name}, found none: pip install "
            assert str(error).startswith(f"{words}'ring_rl[{extra}]'")
            assert "\n" not in str(error)
        else:
            raise AssertionError(f"expected {name} to be missing, found it")
    assert not {"reverb", "mujoco_py"} & set(sys.modules)


def check_data_commands(folder: Path) -> None:
    steps = 12
    with h5py.File(folder / "file.hdf5", "w") as file:
        file["observations"] = np.zeros((steps, 3), np.float32)
        file["actions"] = np.zeros((steps, 2), np.float32)
        file["rewards"] = np.ones(steps, np.float32)
        file["terminals"] = np.arange(steps) == 3
    source, out = str(folder / "file.hdf5"), str(folder / "dataset")
    assert main(["data", "import", source, "--format", "d4rl", "--out", out]) == 0
    assert main(["data", "inspect", out, "--json"]) == 0
    assert main(["list"]) == 0
    assert not {"tensorflow", "gym"} & set(sys.modules)


def check_training_and_evaluation(folder: Path) -> None:
    runs, data, pages = (str(folder / name) for name in ("runs", "data", "pages"))
    words = ["--runs", runs, "--data.parent", data, *TINY]
    assert main(["train", "dark-room", *words]) == 0
    run = str(folder / "runs" / "dark-room")
    assert main(["evaluate", run, "--trials", "2"]) == 0
    assert main(["report", run, "--out", pages]) == 0
    assert not set(HIDDEN) & set(sys.modules)
