"""What a report is about: evaluations, trainings, recordings, and what went wrong."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ring_rl.evaluate.histories import History, owner, read_histories
from ring_rl.evaluate.kept import UNFINISHED
from ring_rl.evaluate.looks import read_look
from ring_rl.evaluate.recordings import Recording, find_recordings
from ring_rl.evaluate.report import Evaluated, read_evaluations


class Contents(NamedTuple):
    """Everything that is found in or below some folders.

    Attributes:
      evaluated: evaluations, each of all seeds of one configuration.
      histories: training runs, evaluated or not.
      recordings: recordings of each of `evaluated`.
      looks: for each of `evaluated` what its attention.json holds, or None.
      speeds: for each of `evaluated` environment steps per second and milliseconds
        of one acting step, one pair a seed.
      problems: a line for everything that is missing or cannot be read.
    """

    evaluated: list[Evaluated]
    histories: list[History]
    recordings: list[list[Recording]]
    looks: list[dict[str, Any] | None]
    speeds: list[list[tuple[float, float]]]
    problems: list[str]


def gather(runs: Sequence[Path]) -> Contents:
    """Reads all that a report can show of the folders.

    Raises:
      FileNotFoundError: there is neither an evaluation nor a run in one of them.
      ValueError: an evaluation is damaged, or contradicts another.
    """
    evaluated = read_evaluations(runs)
    owners = [owner(folder) for one in evaluated for folder in one.folders]
    # Where a folder is an evaluation's, its run is beside it.
    histories, problems = read_histories(runs, dict.fromkeys(owners))
    for run in runs:
        if not any(run.rglob("evaluation.json")) and not any(
            _below(history.folder, [run]) for history in histories
        ):
            raise FileNotFoundError(
                f"{run}: expected an evaluation.json in this folder or below, found "
                "none, and no training run either; `ring-rl evaluate` makes one"
            )
    looks = []
    for one in evaluated:
        found = [_look(folder, one, problems) for folder in dict.fromkeys(one.folders)]
        looks.append(next((look for look in found if look), None))
    return Contents(
        evaluated=evaluated,
        histories=histories,
        recordings=[
            [
                recording
                for folder in dict.fromkeys(one.folders)
                for recording in find_recordings(folder)
            ]
            for one in evaluated
        ],
        looks=looks,
        speeds=[_speeds(one) for one in evaluated],
        problems=[
            *problems,
            *_unfinished(histories, evaluated),
            *_stopped([*(history.owner for history in histories), *owners]),
        ],
    )


def trained_for(one: Evaluated, histories: Sequence[History]) -> list[History]:
    """The training runs of an evaluation, one a seed where they are found."""
    where = {
        seed: owner(folder).resolve()
        for seed, folder in zip(one.evaluation["seeds"], one.folders, strict=True)
    }
    # One seed of several can be evaluated by itself.
    return [
        history
        for history in histories
        if where.get(history.seed)
        in (history.owner.resolve(), history.folder.resolve())
    ]


def by_task(one: Evaluated) -> dict[str, tuple[float | None, float, int]]:
    """Mean return of the first trial and of the last, and the rollouts, by task.

    Empty where tasks have no names. The first is None where a control plays it in
    another task.
    """
    found: dict[str, list[np.ndarray]] = {}
    for rollouts in one.rollouts:
        for task, returns in zip(rollouts.tasks, rollouts.returns, strict=True):
            found.setdefault(task, []).append(returns)
    if set(found) == {""}:
        return {}
    elsewhere = one.evaluation["other_task_trials"] > 0
    made = {}
    for task in sorted(found):
        rows = np.array(found[task])
        first = None if elsewhere else float(rows[:, 0].mean())
        made[task] = (first, float(rows[:, -1].mean()), len(rows))
    return made


def _below(path: Path, folders: Sequence[Path]) -> bool:
    real = path.resolve()
    return any(real.is_relative_to(folder.resolve()) for folder in folders)


def _look(folder: Path, one: Evaluated, problems: list[str]) -> dict[str, Any] | None:
    path = folder / "attention.json"
    if not path.is_file():
        return None
    try:
        return read_look(path, one.evaluation)
    except (ValueError, OSError) as error:
        problems.append(str(error))
        return None


def _speeds(one: Evaluated) -> list[tuple[float, float]]:
    """As far as the files say; clocks are no part of the results."""
    found = []
    for seed, folder in zip(one.evaluation["seeds"], one.folders, strict=True):
        try:
            timing = json.loads((folder / "timing.json").read_text())
            index = timing["seeds"].index(seed)
            found.append(
                (
                    float(timing["environment_steps_per_second"][index]),
                    float(timing["decode_milliseconds"][index]),
                )
            )
        except (
            OSError, AttributeError, KeyError, IndexError, TypeError, ValueError,
            OverflowError, RecursionError,
        ):  # fmt: skip
            continue
    return found


def _unfinished(
    histories: Sequence[History], evaluated: Sequence[Evaluated]
) -> list[str]:
    known = {
        history.folder for one in evaluated for history in trained_for(one, histories)
    }
    lines = []
    for history in histories:
        if not history.finished:
            lines.append(
                f"{history.folder}: training stopped after {history.made} of "
                f"{history.steps} updates; its command, given again, goes on"
            )
        elif history.folder not in known:
            lines.append(f"{history.folder}: trained to its end, not evaluated")
    return lines


def _stopped(owners: Iterable[Path]) -> list[str]:
    """A line for each evaluation that has begun and is not complete."""
    lines: dict[Path, str] = {}
    for run in owners:
        for place in ("evaluation", "evaluations/*"):
            for folder in sorted(run.glob(f"{place}/{UNFINISHED}")):
                seeds = len(list(folder.glob("seed-*.json")))
                lines.setdefault(
                    folder.resolve(),
                    f"{folder.parent}: an evaluation was stopped, {seeds} of its seeds "
                    "are rolled out; its command, given again, goes on",
                )
    return list(lines.values())
