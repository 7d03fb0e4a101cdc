"""How runs were trained: what their folders say, finished or not."""

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

# What a run's folder has, see `ring_rl.configs.saved` and `ring_rl.train.metrics`.
_CONFIG, _METRICS = "config.json", "metrics.jsonl"
# What comes of a file that holds something else.
_BAD = (KeyError, TypeError, ValueError, OverflowError, RecursionError, OSError)


class History(NamedTuple):
    """One training run, one seed.

    Attributes:
      folder: the run's.
      owner: the folder that its evaluations are in: the same, or for one seed of
        several the one above.
      name: of the run.
      seed: of the training.
      steps: updates that it should make.
      every: updates between two records, each a mean over them.
      records: lines of metrics, `step` (updates made) and numbers by name.
    """

    folder: Path
    owner: Path
    name: str
    seed: int
    steps: int
    every: int
    records: tuple[dict[str, float], ...]

    @property
    def made(self) -> int:
        """Updates that are on record."""
        return int(self.records[-1]["step"]) if self.records else 0

    @property
    def finished(self) -> bool:
        """Whether it was trained to its end."""
        return self.made >= self.steps


def owner(evaluation: Path) -> Path:
    """The folder of the run, or of the runs, that an evaluation's folder is in."""
    # Not as it is given: above `.` there is nothing.
    parent = Path(os.path.abspath(evaluation)).parent
    return parent.parent if parent.name == "evaluations" else parent


def read_histories(
    inside: Iterable[Path], beside: Iterable[Path] = ()
) -> tuple[list[History], list[str]]:
    """The runs in folders, and a line for each that cannot be read.

    Args:
      inside: folders with runs in them, or below at any depth.
      beside: a run's folder each, or that of several seeds.

    A run that is met twice counts once.
    """
    paths = [path for folder in inside for path in _sorted(folder.rglob(_CONFIG))]
    for folder in beside:
        paths += [folder / _CONFIG, *_sorted(folder.glob(f"seed-*/{_CONFIG}"))]
    found: dict[Path, History] = {}
    bad: dict[Path, str] = {}
    for path in paths:
        run, known = path.parent, path.resolve()
        if known in found or known in bad or not path.is_file():
            continue
        try:
            found[known] = _read(run)
        except _BAD as error:
            bad[known] = f"{run}: cannot be read ({type(error).__name__}: {error})"
    return list(found.values()), list(bad.values())


def _sorted(paths: Iterable[Path]) -> list[Path]:
    """In order, seed-2 before seed-10."""

    def key(path: Path) -> tuple[str, int, str]:
        return str(path.parent.parent), len(path.parent.name), path.parent.name

    return sorted(paths, key=key)


def _read(run: Path) -> History:
    config: dict[str, Any] = json.loads((run / _CONFIG).read_text())
    several = run.name == f"seed-{config['seed']}"
    return History(
        folder=run,
        owner=run.parent if several else run,
        name=_name(config["name"]),
        seed=int(config["seed"]),
        steps=int(config["loop"]["steps"]),
        every=int(config["loop"]["log_every"]),
        records=tuple(_records(run / _METRICS)),
    )


def _records(path: Path) -> Iterable[dict[str, float]]:
    """The whole lines; the last may be one that the run died in."""
    if not path.is_file():
        return
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            return
        if not isinstance(record, dict) or "step" not in record:
            raise ValueError(
                f"{path.name}, line {number}: expected numbers by name, step among them"
            )
        made = {name: float(value) for name, value in record.items()}
        if not math.isfinite(made["step"]):
            raise ValueError(f"{path.name}, line {number}: step is {made['step']}")
        yield made


def _name(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"name: expected a text, found {value!r}")
    return value
