"""Collecting data by a trained run."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ring_rl.collect import MakesEnvironment, describe, look, record_trials
from ring_rl.collect.collectors import Episodes, part_seed
from ring_rl.configs.loading import load_model, load_policy, trained_digest
from ring_rl.configs.run import DarkRoom, Gymnasium
from ring_rl.types import Spaces

_ROWS = 16  # environments stepped together


@runtime_checkable
class NamedEnvironment(MakesEnvironment, Protocol):
    """An environment by its name and options, as `ring_rl.configs.recording.Place`."""

    @property
    def id(self) -> str: ...  # noqa: D102
    @property
    def options(self) -> tuple[tuple[str, Any], ...]: ...  # noqa: D102


@dataclasses.dataclass(frozen=True)
class RunCollector:
    """Parts that stand alone, by a trained run: rows that each play its trials.

    A row keeps its task and its context for all its trials, as in the run's evaluation,
    and is told the same target return at the same temperature.

    Attributes:
      environment: where.
      folder: of the run.
      trials: episodes in one context.
      tasks: of the rows, gone through again and again; "" leaves a row's to the
        environment.
      seed: of everything.
      spaces: of the environment.
      horizon: most steps of an episode.
      description: as `Collector` has it.
    """

    environment: MakesEnvironment
    folder: Path
    trials: int
    tasks: tuple[str, ...]
    seed: int
    spaces: Spaces
    horizon: int
    description: dict[str, Any]

    parts, least, after, apart = None, 1, 0, False

    def part(self, number: int, folder: Path) -> Episodes:
        """The episodes of a part."""
        del folder
        policy = load_policy(self.folder)
        policy.reset(
            _ROWS,
            trials=self.trials,
            steps=self.horizon,
            seed=part_seed(self.seed, number, 1),
        )
        first = number * _ROWS
        rows = self.environment.make(_ROWS, seed=part_seed(self.seed, number, 0))
        try:
            yield from record_trials(
                rows,
                policy,
                tasks=[self.tasks[(first + row) % len(self.tasks)]
                       for row in range(_ROWS)],
                trials=self.trials,
            )  # fmt: skip
        finally:
            rows.close()
        return {}


def run_collector(
    environment: NamedEnvironment,
    folder: Path,
    tasks: Sequence[str] | None,
    seed: int,
) -> RunCollector:
    """Of a run, in an environment of its spaces.

    Args:
      environment: where; by the name of the run's own it is the run's own, with the
        run's options, and of those given `max_episode_steps`.
      folder: of the run.
      tasks: that the rows go round; None for those that the run was trained for, or
        that data of another environment is collected for.
      seed: of everything.

    Raises:
      ValueError: there is no trained run in the folder, or it has other spaces.
    """
    config, derived, _model = load_model(folder)
    place: MakesEnvironment = environment
    if environment.id == config.environment.id:
        known = config.environment
        steps = dict(environment.options).get("max_episode_steps", known.max_steps)
        place = known = dataclasses.replace(known, max_steps=steps)
    else:
        default = environment.id == DarkRoom.id
        known = DarkRoom() if default else Gymnasium(environment.id)
    names = tuple(tasks or known.training_tasks)
    spaces, horizon = look(place, seed)
    if derived.spaces != spaces:
        raise ValueError(
            f"{folder}: expected a run for {spaces} as in {place}, found one for "
            f"{derived.spaces}"
        )
    trials = config.evaluation.trials
    policy = f"run {config.name}, sha256 {trained_digest(folder, config)}"
    description = describe(place, policy, seed, names)
    description |= {
        "rows": _ROWS,
        "trials": trials,
        "target_return": derived.target_return,
        "temperature": config.evaluation.temperature,
    }
    return RunCollector(
        place, folder, trials, names, seed, spaces, horizon, description
    )
