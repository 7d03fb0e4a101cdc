"""What an evaluation does otherwise than the run that it is of."""

import dataclasses
import math
from pathlib import Path
from typing import Literal

from ring_rl.configs.controls import Control
from ring_rl.configs.datasets import Derived, derive, open_datasets
from ring_rl.configs.demonstrations import Demonstrations
from ring_rl.configs.run import Gymnasium, RunConfig


@dataclasses.dataclass(frozen=True)
class Asked:
    """What an evaluation does otherwise than its run has it; None is the run's own.

    Attributes:
      environment: id.
      trials: episodes in one context.
      episodes: contexts for each task and seed.
      control: what is done to the context, see `Control`.
      temperature: of the sampled actions.
      target: return that every trial is told to reach: a number, or a percentile of
        the training data's returns such as `95%`.
      demonstrations: folder of a dataset of which each row reads some episodes first.
      demonstrations_per_row: how many; None is one less than in training's longest
        chains, and at least 1.
      processes: that step the environments; `auto` takes the faster number.
      video: whether first and last trial of a few rows are filmed.
    """

    environment: str | None = None
    trials: int | None = None
    episodes: int | None = None
    control: str = "none"
    temperature: float | None = None
    target: str | None = None
    demonstrations: Path | None = None
    demonstrations_per_row: int | None = None
    processes: int | Literal["auto"] = 1
    video: bool = False

    def __post_init__(self):
        """Checks what has to do with each other."""
        if self.demonstrations_per_row is not None and self.demonstrations is None:
            raise ValueError(
                "demonstrations_per_row: expected --demonstrations with it, found none"
            )

    def folder(self, demonstrations: Demonstrations | None) -> Path:
        """Where its results go: a folder that says what is not as the run has it."""
        control = str(Control.parse(self.control))
        changed = {
            "env": self.environment,
            "trials": self.trials,
            "episodes": self.episodes,
            "control": None if control == "none" else control,
            "temperature": self.temperature,
            "target": self.target,
            "demonstrations": demonstrations and demonstrations.digest,
            "per-row": self.demonstrations_per_row,
        }
        words = [f"{k}-{v}" for k, v in changed.items() if v is not None]
        if not words:
            return Path("evaluation")
        name = "_".join(words)
        return Path("evaluations", name.replace("/", "-").replace(":", "-"))

    def config(self, config: RunConfig) -> RunConfig:
        """The run's configuration with what was asked for in it."""
        given = {
            "trials": self.trials,
            "rollouts": self.episodes,
            "temperature": self.temperature,
            "target": self.target,
        }
        changes = {name: value for name, value in given.items() if value is not None}
        config = dataclasses.replace(
            config, evaluation=dataclasses.replace(config.evaluation, **changes)
        )
        # The run's own environment by name is the run's own: with its options.
        if self.environment in (None, config.environment.id):
            return config
        return dataclasses.replace(config, environment=Gymnasium(self.environment))

    def derived(self, derived: Derived, config: RunConfig) -> Derived:
        """What the run derived from its data, with the target that was asked for.

        Args:
          derived: the run's.
          config: from `config`; a percentile needs the training data again.

        Raises:
          ValueError: the target is neither a number nor a percentile, or the data is
            not there.
        """
        if self.target is None:
            return derived
        if self.target.endswith("%"):
            again = derive(config, open_datasets(config))
            target, rule = again.target_return, again.target_rule
        else:
            target, rule = _number(self.target), "given"
        return dataclasses.replace(derived, target_return=target, target_rule=rule)


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(
            f"target: expected a number or a percentile such as 95%, found {text!r}"
        )
    return number
