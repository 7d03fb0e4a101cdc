"""The packages of the extras `rlds` and `d4rl`, imported when they are asked for.

Neither imports as it comes: each wants another package that does not work beside
today's versions, and that nothing here needs.
"""

import contextlib
import importlib
import os
import sys
import types
import warnings
from collections.abc import Iterator
from typing import Any

# Suppresses what d4rl prints about the environments that it then goes without.
_D4RL_SILENCE = "D4RL_SUPPRESS_IMPORT_ERROR"


def import_tensorflow() -> Any:
    """TensorFlow: seconds of CPU time and half a gigabyte, the first time.

    Raises:
      ModuleNotFoundError: one line that names the extra, if it is not installed.
    """
    return _import("tensorflow", extra="rlds")


def import_rlds() -> Any:
    """The package rlds, without reverb.

    Only `rlds.transformations.pattern_map` and `pattern_map_from_transform` use reverb;
    they raise `ModuleNotFoundError`, the rest works. A reverb that is imported already
    is used.

    Raises:
      ModuleNotFoundError: one line that names the extra, if it is not installed.
    """
    with _placed("reverb", _reverb_placeholder()):
        return _import("rlds", extra="rlds")


def import_d4rl() -> Any:
    """The package d4rl, without mujoco_py: its tables and functions, no environments.

    Raises:
      ModuleNotFoundError: one line that names the extra, if it is not installed.
    """
    silence = os.environ.get(_D4RL_SILENCE)
    os.environ[_D4RL_SILENCE] = "1"
    try:
        # With None in its place its import raises an ImportError, which d4rl expects,
        # and not the bare Exception of a mujoco_py that misses MuJoCo 2.
        with _placed("mujoco_py", None), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _import("d4rl", extra="d4rl")
    finally:
        if silence is None:
            del os.environ[_D4RL_SILENCE]
        else:
            os.environ[_D4RL_SILENCE] = silence


def _import(name: str, *, extra: str) -> Any:
    """Imports a package; where something is missing, says which extra brings it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"expected the package {error.name}, found none: pip install "
            f"'ring_rl[{extra}]'{_python_limit(extra)}",
            name=error.name,
        ) from None


def _python_limit(extra: str) -> str:
    """What to add where this Python is too new for the extra to bring anything."""
    if extra == "d4rl" and sys.version_info >= (3, 12):
        return " under Python 3.11, the last that has pybullet, which d4rl needs"
    return ""


@contextlib.contextmanager
def _placed(name: str, module: types.ModuleType | None) -> Iterator[None]:
    """Puts a module, or None for "not there", into `sys.modules` for the block.

    One that is imported already stays.
    """
    modules: dict[str, Any] = sys.modules
    if name in modules:
        yield
        return
    modules[name] = module
    try:
        yield
    finally:
        modules.pop(name, None)


def _reverb_placeholder() -> types.ModuleType:
    """A module with the names that rlds's annotations evaluate, and no others."""
    reverb = types.ModuleType("reverb", "Stands in for reverb while rlds is imported.")
    writer = types.ModuleType("reverb.structured_writer")
    for name in ("Condition", "Config", "Pattern", "ReferenceStep"):
        setattr(writer, name, type(name, (), {}))

    def refuse(name: str) -> Any:
        # Introspection asks for such names, and must be told in its own way.
        if name.startswith("__"):
            raise AttributeError(name)
        raise ModuleNotFoundError(
            f"reverb.{name}: reverb is not installed, and rlds's patterns need it",
            name="reverb",
        )

    for module in (reverb, writer):
        setattr(module, "__getattr__", refuse)  # noqa: B010
    setattr(reverb, "structured_writer", writer)  # noqa: B010
    return reverb
