"""What is installed, and what importing it costs."""

import os
import pathlib
import statistics
import subprocess
import sys
import tomllib
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]
LIBRARY = ("ring_rl",)
TOP_FOLDERS = ("agents", "configs", "envs")
LINKS = {(folder,) for folder in TOP_FOLDERS}
HEAVY = (
    "grain",
    "gymnasium",
    "mujoco",
    "orbax",
    "tensorflow",
    "tensorflow_datasets",
)


def setuptools_table() -> dict:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return pyproject["tool"]["setuptools"]


def packages_with(pattern: str) -> set[str]:
    """Import names of the folders that hold a file of this name."""
    found = set()
    for top in ("ring_rl", *TOP_FOLDERS):
        for file in (ROOT / top).rglob(pattern):
            parts = file.parent.relative_to(ROOT).parts
            through_a_link = parts[0] == "ring_rl" and parts[1:2] in LINKS
            if not through_a_link:
                found.add(".".join(parts if parts[0] == "ring_rl" else LIBRARY + parts))
    return found


@pytest.mark.smoke
def test_the_listed_packages_are_the_folders():
    listed = setuptools_table()["packages"]
    assert len(listed) == len(set(listed))
    assert set(listed) == packages_with("__init__.py")
    assert set(listed) == packages_with("*.py"), "a folder of modules lacks __init__.py"


@pytest.mark.smoke
def test_the_top_folders_are_mapped_and_linked():
    mapping = setuptools_table()["package-dir"]
    for folder in TOP_FOLDERS:
        assert mapping[f"ring_rl.{folder}"] == folder
        link = ROOT / "ring_rl" / folder
        assert link.is_symlink()
        assert link.resolve() == ROOT / folder


@pytest.mark.slow
def test_the_wheel_holds_ring_rl_and_nothing_else(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    # A copy: a build leaves build/ beside the sources, and packs what it finds there.
    for name in ("pyproject.toml", "README.md", "LICENSE", "ring_rl", *TOP_FOLDERS):
        if (ROOT / name).exists():
            subprocess.run(["cp", "-a", str(ROOT / name), str(source)], check=True)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet"]
        + ["--wheel-dir", str(tmp_path), str(source)],
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"ring_rl"}
    packed = {
        name.removesuffix("/__init__.py").replace("/", ".")
        for name in names
        if name.endswith("/__init__.py")
    }
    assert packed == packages_with("__init__.py")


def in_a_new_process(code: str) -> str:
    # No virtual devices, no hook: what a user's process would pay.
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    finished = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return finished.stdout


def test_importing_ring_rl_adds_little_to_jax_and_flax():
    code = """if True:
        import os
        began = os.times()
        import jax, flax.nnx
        before = os.times()
        import ring_rl
        after = os.times()
        for one, other in (began, before), (before, after):
            print(other.user + other.system - one.user - one.system)
    """
    runs = [map(float, in_a_new_process(code).split()) for _ in range(3)]
    # Of the processor's time, so that a slow machine measures the same.
    assert statistics.median(ours / theirs for theirs, ours in runs) <= 0.15


@pytest.mark.smoke
def test_importing_ring_rl_loads_nothing_heavy():
    code = f"import ring_rl, sys; print(*(set({HEAVY!r}) & set(sys.modules)))"
    assert in_a_new_process(code).split() == []
