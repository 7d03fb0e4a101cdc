"""Configurations as JSON: complete, readable, and read back without any code in it."""

import dataclasses
import hashlib
import json
import types
import typing
from pathlib import Path
from typing import Any

from ring_rl.configs.run import KINDS, EvaluationConfig, RunConfig
from ring_rl.mesh import MeshConfig

_FILE = "config.json"


def digest(config: RunConfig) -> str:
    """Names what was trained, whatever the seed, the devices and the evaluation."""
    plain = _plain(
        dataclasses.replace(
            config, seed=0, mesh=MeshConfig(), evaluation=EvaluationConfig()
        )
    )
    # Of acting alone.
    del plain["agent"]["recall"]
    return hashlib.sha256(_text(plain).encode()).hexdigest()[:12]


def to_json(config: RunConfig) -> str:
    """The configuration as JSON; what a union holds is named by its class."""
    return _text(_plain(config))


def from_json(text: str, where: str) -> RunConfig:
    """Undoes `to_json`; raises ValueError for anything else, naming `where`."""
    try:
        return _build(RunConfig, json.loads(text), "")
    except (
        ValueError, TypeError, KeyError, AttributeError, RecursionError
    ) as error:  # fmt: skip
        raise ValueError(
            f"{where}: expected a configuration of this version of ring_rl, found "
            f"something else ({error})"
        ) from error


def load_config(run: Path) -> RunConfig:
    """The configuration of a run folder.

    Raises:
      ValueError: there is none, or it cannot be read.
    """
    path = run / _FILE
    if not path.is_file():
        raise ValueError(
            f"{run}: expected a folder that `ring-rl train` wrote, found no {_FILE}"
        )
    return from_json(path.read_text(), str(path))


def check_folder(run: Path, config: RunConfig) -> None:
    """Finds that a folder is new, or this run's already.

    Raises:
      ValueError: it holds another configuration, or files of something else.
    """
    path = run / _FILE
    if path.is_file():
        held = load_config(run)
        if held != config:
            field, old, new = _first_difference(held, config)
            raise ValueError(
                f"{run}: holds a run with another configuration, {field}={old!r} "
                f"where {new!r} is asked for; give another --name or remove the folder"
            )
        return
    ours = (path.with_suffix(".partial").name,)  # left by a run killed as it began
    if run.exists() and (
        not run.is_dir() or any(file.name not in ours for file in run.iterdir())
    ):
        raise ValueError(
            f"{run}: expected an empty or new folder for the run, found other files"
        )


def claim_folder(run: Path, config: RunConfig) -> None:
    """Makes the folder a run's; raises as `check_folder` does."""
    check_folder(run, config)
    run.mkdir(parents=True, exist_ok=True)
    path = run / _FILE
    partial = path.with_suffix(".partial")
    partial.write_text(to_json(config))
    partial.replace(path)


def _text(plain: Any) -> str:
    return json.dumps(plain, indent=2) + "\n"


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            field.name: _plain(getattr(value, field.name))
            for field in dataclasses.fields(value)
        }
        kind = type(value).__name__
        return {"kind": kind, **fields} if kind in KINDS else fields
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _build(kind: Any, value: Any, where: str) -> Any:
    """Makes a value of an annotated type from plain JSON."""
    origin = typing.get_origin(kind)
    if origin in (types.UnionType, typing.Union):
        named = KINDS.get(str(value["kind"])) if isinstance(value, dict) else None
        if named not in typing.get_args(kind):
            raise ValueError(f"{where}: no such kind")
        return _build(named, value, where)
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        fields = dataclasses.fields(kind)
        names = {field.name for field in fields}
        # The default of a field that is younger than the file means what was before.
        needed = {f.name for f in fields if f.default is dataclasses.MISSING}
        given = {name: item for name, item in value.items() if name != "kind"}
        if not needed <= set(given) <= names:
            odd = sorted((set(given) - names) | (needed - set(given)))
            raise ValueError(f"{where or 'top level'}: fields differ, {', '.join(odd)}")
        made: Any = kind
        return made(
            **{
                name: _build(hints[name], item, f"{where}.{name}".lstrip("."))
                for name, item in given.items()
            }
        )
    if origin is tuple:
        return tuple(value)
    if kind is float and isinstance(value, int | float):
        return float(value)
    if isinstance(kind, type) and type(value) is not kind:
        raise ValueError(f"{where}: expected {kind.__name__}, found {value!r}")
    return value


def _first_difference(held: Any, asked: Any, where: str = "") -> tuple[str, Any, Any]:
    if type(held) is type(asked) and dataclasses.is_dataclass(held):
        for field in dataclasses.fields(held):
            old, new = getattr(held, field.name), getattr(asked, field.name)
            if old != new:
                name = f"{where}.{field.name}".lstrip(".")
                return _first_difference(old, new, name)
    return where, held, asked
