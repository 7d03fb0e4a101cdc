"""Evaluations on disk: written, read back, several seeds put together, reported.

An evaluation's folder holds

    evaluation.json       statistics and conditions; the same on every repetition
    table.txt             the statistics as a table
    timing.json           steps per second and milliseconds; differs every time
    rollouts.json         the return, length and end of every episode, by seed
    return_by_trial.png   the curve

Every file is written beside its place and then moved there: a reader, or a run killed
half-way, finds the old file or the new one, never half of one.
"""

import dataclasses
import io
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ring_rl.evaluate.figures import png
from ring_rl.evaluate.picture import draw_return_by_trial as draw_return_by_trial
from ring_rl.evaluate.protocol import Conditions, check_rollouts, summarise
from ring_rl.evaluate.tables import plain_table as plain_table
from ring_rl.evaluate.tables import table as table
from ring_rl.types import Rollouts


class Evaluated(NamedTuple):
    """One configuration's evaluation, all its seeds together.

    Attributes:
      evaluation: as from `protocol.summarise`.
      rollouts: what it sums up, one for each of its seeds, without their times.
      folders: where each seed's were found.
    """

    evaluation: dict[str, Any]
    rollouts: tuple[Rollouts, ...]
    folders: tuple[Path, ...]


def write_evaluation(
    directory: Path,
    evaluation: dict[str, Any],
    timing: dict[str, Any],
    rollouts: Sequence[Rollouts],
) -> None:
    """Writes the files above; the folder is made where it is missing.

    Args:
      directory: the evaluation's folder.
      evaluation: from `protocol.summarise`.
      timing: from `protocol.timing`.
      rollouts: what `evaluation` sums up, one for each of its seeds. `combine` needs
        them: intervals over several runs do not follow from the runs' own intervals.

    Raises:
      ValueError: the numbers of rollouts and of seeds differ.
    """
    directory.mkdir(parents=True, exist_ok=True)
    raw = [
        {
            "seed": seed,
            "tasks": list(one.tasks),
            "returns": one.returns.tolist(),
            "lengths": one.lengths.tolist(),
            "terminated": one.terminated.tolist(),
        }
        for seed, one in zip(evaluation["seeds"], rollouts, strict=True)
    ]
    write_text(directory / "rollouts.json", json.dumps(raw, allow_nan=False) + "\n")
    write_text(directory / "timing.json", _json(timing))
    write_picture(directory / "return_by_trial.png", [evaluation])
    write_text(directory / "table.txt", plain_table([evaluation]) + "\n")
    # Last: where evaluation.json is, the others are.
    write_text(directory / "evaluation.json", _json(evaluation))


def write_picture(path: Path, evaluations: Sequence[dict[str, Any]]) -> None:
    """Writes the return-by-trial curves of several evaluations as PNG."""
    write_bytes(path, png(draw_return_by_trial(evaluations)))


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file atomically."""
    _replace(path, lambda file: file.write(content))


def combine(runs: Sequence[Path]) -> list[dict[str, Any]]:
    """Puts the seeds of each configuration together and sums them up anew.

    Every `evaluation.json` in or below the folders is read. Those with equal
    `Conditions` and equal numbers of rows and trials are one configuration.

    Args:
      runs: run folders, or folders of evaluations.

    Returns:
      One evaluation, as from `protocol.summarise`, for each configuration, in the
      order in which they were found.

    Raises:
      FileNotFoundError: a folder holds no evaluation.
      ValueError: a file is damaged, or one configuration has two different
        evaluations of the same seed.
    """
    for run in runs:
        if not any(run.rglob("evaluation.json")):
            raise FileNotFoundError(
                f"{run}: expected an evaluation.json in this folder or below, found "
                "none; `ring-rl evaluate` makes one"
            )
    return [one.evaluation for one in read_evaluations(runs)]


def read_evaluations(runs: Sequence[Path]) -> list[Evaluated]:
    """What `combine` sums up, and the rollouts themselves; maybe none.

    Raises:
      ValueError: as `combine`.
    """
    groups: dict[
        tuple[Conditions, tuple[int, ...]], dict[int, tuple[Rollouts, Path]]
    ] = {}
    for run in runs:
        for folder in sorted(path.parent for path in run.rglob("evaluation.json")):
            conditions, seeds = _read(folder)
            for seed, rollouts in seeds.items():
                key = (conditions, rollouts.returns.shape)
                members = groups.setdefault(key, {})
                if seed in members and not _same(members[seed][0], rollouts):
                    raise ValueError(
                        f"seed {seed} of {conditions.name} on {conditions.environment} "
                        f"has different returns in {members[seed][1]} and {folder}; "
                        "leave one out"
                    )
                members.setdefault(seed, (rollouts, folder))
    return [
        _together(conditions, members) for (conditions, _), members in groups.items()
    ]


def _together(
    conditions: Conditions, members: dict[int, tuple[Rollouts, Path]]
) -> Evaluated:
    seeds = sorted(members)
    rollouts = tuple(members[seed][0] for seed in seeds)
    return Evaluated(
        summarise(rollouts, conditions, seeds=seeds),
        rollouts,
        tuple(members[seed][1] for seed in seeds),
    )


def _read(folder: Path) -> tuple[Conditions, dict[int, Rollouts]]:
    """The conditions, and the rollouts by seed; their times are not kept."""
    path = folder / "evaluation.json"
    try:
        evaluation = json.loads(path.read_text())
        conditions = _conditions(evaluation["conditions"])
        seeds = [int(seed) for seed in evaluation["seeds"]]
        path = folder / "rollouts.json"
        found = {
            int(one["seed"]): Rollouts(
                returns=np.asarray(one["returns"], np.float64),
                lengths=np.asarray(one["lengths"], np.int64),
                terminated=np.asarray(one["terminated"], np.bool_),
                tasks=tuple(one["tasks"]),
                environment_steps_per_second=float("nan"),
                decode_milliseconds=float("nan"),
            )
            for one in json.loads(path.read_text())
        }
        for one in found.values():
            if not all(isinstance(task, str) for task in one.tasks):
                raise TypeError("tasks: expected names")
        check_rollouts(list(found.values()), seeds)
        return conditions, {seed: found[seed] for seed in seeds}
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(
            f"{path}: expected what `ring-rl evaluate` writes, found something else "
            f"({type(error).__name__}: {error}); evaluate the run again"
        ) from error


def _conditions(plain: dict[str, Any]) -> Conditions:
    """Raises `TypeError` or `ValueError` unless every field is of its type."""
    given = dict(plain)
    for field in dataclasses.fields(Conditions):
        if field.name not in given:
            continue
        value = given[field.name]
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number if field.type is float else isinstance(value, str)):
            raise TypeError(f"{field.name} is {value!r}")
        if number and not math.isfinite(value):
            raise ValueError(f"{field.name} is {value}, expected a finite number")
        given[field.name] = float(value) if number else value
    return Conditions(**given)


def _same(one: Rollouts, other: Rollouts) -> bool:
    return one.tasks == other.tasks and np.array_equal(one.returns, other.returns)


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def _replace(path: Path, write: Callable[[io.BufferedWriter], Any]) -> None:
    # In the same folder: a move between file systems would not be atomic.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
        os.replace(temporary, path)
    except OSError as error:
        if error.filename is not None:
            raise
        # A full disk does not say which file it could not take.
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
