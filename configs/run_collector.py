"""Collecting data by a trained run."""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ring_rl.collect import MakesEnvironment, describe, look, record_trials
from ring_rl.collect.collectors import Episodes, part_seed
from ring_rl.configs.loading import load_model, load_policy
from ring_rl.types import Spaces

_ROWS = 16  # environments stepped together


@dataclasses.dataclass(frozen=True)
class RunCollector:
    """Parts that stand alone, by a trained run: rows that each play its trials.

    A row keeps its task and its context for all its trials, as in the run's evaluation,
    and is told the same target return at the same temperature.

    Attributes:
      environment: where.
      folder: of the run.
      trials: episodes in one context.
      tasks: of the rows, gone through again and again.
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
    environment: MakesEnvironment,
    env_id: str,
    folder: Path,
    tasks: Sequence[str] | None,
    seed: int,
) -> RunCollector:
    """Of a run, in an environment of its spaces.

    Args:
      environment: where; the run's own where it has the name, whose training tasks are
        then the default.
      env_id: name of the environment, "" for another than the run's own in any case.
      folder: of the run.
      tasks: that the rows go round; None for the environment's choice.
      seed: of everything.

    Raises:
      ValueError: there is no trained run in the folder, or it has other spaces.
    """
    config, derived, _ = load_model(folder)
    if env_id and env_id == config.environment.id:
        environment = config.environment
        tasks = environment.training_tasks if tasks is None else tasks
    spaces, horizon = look(environment, seed)
    if derived.spaces != spaces:
        raise ValueError(
            f"{folder}: expected a run for {spaces} as in {environment}, found one for "
            f"{derived.spaces}"
        )
    trials = config.evaluation.trials
    digest = hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()
    policy = f"run {config.name}, config.json sha256 {digest}"
    tasks = tuple(tasks or ("",))
    description = describe(environment, policy, seed, tasks)
    description |= {
        "rows": _ROWS,
        "trials": trials,
        "target_return": derived.target_return,
        "temperature": config.evaluation.temperature,
    }
    return RunCollector(
        environment, folder, trials, tasks, seed, spaces, horizon, description
    )
