"""What an evaluation does otherwise than the run that it is of."""

import dataclasses
from pathlib import Path
from typing import Literal

from ring_rl.configs.controls import Control
from ring_rl.configs.datasets import Derived, derive, open_datasets
from ring_rl.configs.demonstrations import Demonstrations, usual_count
from ring_rl.configs.run import Gymnasium, RunConfig
from ring_rl.configs.targets import Target
from ring_rl.types import Recall


@dataclasses.dataclass(frozen=True)
class Asked:
    """What an evaluation does otherwise than its run has it; None is the run's own.

    Attributes:
      environment: id.
      trials: episodes in one context.
      episodes: contexts for each task and seed.
      control: what is done to the context, see `Control`.
      recall: in which order earlier trials lie in a context, see `TransformerPolicy`.
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
    recall: Recall | None = None
    temperature: float | None = None
    target: str | None = None
    demonstrations: Path | None = None
    demonstrations_per_row: int | None = None
    processes: int | Literal["auto"] = 1
    video: bool = False

    def __post_init__(self):
        """Checks what has to do with each other, and what is text.

        Raises:
          ValueError: as `Control.parse` and `Target.parse`.
        """
        Control.parse(self.control)
        if self.target is not None:
            Target.parse(self.target)
        if self.demonstrations_per_row is not None and self.demonstrations is None:
            raise ValueError(
                "demonstrations_per_row: expected --demonstrations with it, found none"
            )

    def folder(self, config: RunConfig, demonstrations: Demonstrations | None) -> Path:
        """Where its results go: a folder that says what is not as the run has it.

        Args:
          config: the run's own.
          demonstrations: those asked for.
        """
        own = config.evaluation
        control = str(Control.parse(self.control)).replace(":", "-")
        target = None if self.target is None else Target.parse(self.target)
        # What is asked for, and what it is without.
        words = {
            "env": (self.environment, config.environment.id),
            "trials": (self.trials, own.trials),
            "episodes": (self.episodes, own.rollouts),
            "control": (control, "none"),
            "recall": (self.recall, config.agent.recall),
            "temperature": (self.temperature, own.temperature),
            "target": (target, Target.parse(own.target)),
            "demonstrations": (demonstrations and demonstrations.digest, None),
            "per-row": (self.demonstrations_per_row, usual_count(config.agent.chains)),
        }
        changed = [f"{k}-{v}" for k, (v, w) in words.items() if v not in (None, w)]
        if not changed:
            return Path("evaluation")
        # Neither is in names of environments, so that different ones stay different.
        names = str.maketrans({"/": "~", ":": "+"})
        return Path("evaluations", "_".join(changed).translate(names))

    def config(self, config: RunConfig) -> RunConfig:
        """The run's configuration with what was asked for in it.

        Raises:
          ValueError: as `TransformerPolicy`.
        """
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
        if self.recall is not None:
            agent = dataclasses.replace(config.agent, recall=self.recall)
            config = dataclasses.replace(config, agent=agent)
        # The run's own environment by name is the run's own: with its options.
        if self.environment in (None, config.environment.id):
            return config
        return dataclasses.replace(config, environment=Gymnasium(self.environment))

    def derived(self, derived: Derived, config: RunConfig) -> Derived:
        """What the run derived from its data, with the target that was asked for.

        Args:
          derived: the run's.
          config: the run's own; a percentile needs its training data again.

        Raises:
          ValueError: the data is not there, or is not what the run was trained on.
        """
        if self.target is None:
            return derived
        target = Target.parse(self.target)
        if not target.percentile:
            return dataclasses.replace(
                derived, target_return=target.number, target_rule="given"
            )
        evaluation = dataclasses.replace(config.evaluation, target=self.target)
        asked = dataclasses.replace(config, evaluation=evaluation)
        found = derive(asked, open_datasets(asked))
        odd = [
            field.name
            for field in dataclasses.fields(Derived)
            if not field.name.startswith("target")
            and getattr(found, field.name) != getattr(derived, field.name)
        ]
        if odd:
            raise ValueError(
                f"target: {self.target} is of the run's training data, and the dataset "
                "that lies there now is another one; different are "
                f"{', '.join(odd)}; give the return as a number"
            )
        return found
