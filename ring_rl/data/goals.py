"""Goals as tasks: rewards for being where a goal is, given to recorded episodes.

Data recorded for one goal, or for none, is data for every goal that its positions come
near. Which goal it is, the observation need not show: the task's name says it.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Float

from ring_rl.types import Episode


@dataclasses.dataclass(frozen=True)
class GoalRewards:
    """Reward 1 for every step that ends near a goal; a `data.Relabelling`.

    Attributes:
      goal: coordinates; or the name of an extra `[steps coordinates]` with the goal
        that each episode was recorded for (`infos/goal` of D4RL's maze2d).
      radius: distance up to which the reward is 1, in the position's units.
      columns: of the observation, those that are the position, in the goal's order;
        the first ones, as many as the goal has, unless given.
      extra: name of an extra `[steps ...]` that has the columns instead, as they are
        *after* the step (`physics`).
      margin: how far beyond the radius a reward of 0.1 is left, falling as a Gaussian
        does, so that a goal can be smelt; 0 pays nothing outside.
      name: of the task; the goal's coordinates, as in `goal 0.5,-1`, unless given.
    """

    goal: tuple[float, ...] | str
    radius: float
    columns: tuple[int, ...] | None = None
    extra: str | None = None
    margin: float = 0.0
    name: str | None = None

    def __post_init__(self):
        """Checks the numbers, as far as they can be without an episode."""
        if not 0 <= self.radius < math.inf or not 0 <= self.margin < math.inf:
            raise ValueError(
                "goal: expected a radius and a margin from 0, found "
                f"{self.radius} and {self.margin}"
            )
        if isinstance(self.goal, str):
            return
        if not self.goal or not all(map(math.isfinite, self.goal)):
            raise ValueError(f"goal: expected finite coordinates, found {self.goal}")
        if self.columns is not None and len(self.columns) != len(self.goal):
            raise ValueError(
                f"columns: expected {len(self.goal)}, one for each coordinate of the "
                f"goal, found {len(self.columns)}"
            )

    def identity(self) -> str:
        """The goal, where positions are read, and the parameters."""
        where = f"columns {self.columns} of {self.extra or 'observations'}"
        return f"goal {self.goal}, {where}, radius {self.radius}, margin {self.margin}"

    def task(self, episode: Episode) -> str:
        """The name of the episode's goal.

        Raises:
          ValueError: the episode has none, or several.
        """
        if self.name is not None:
            return self.name
        return f"goal {','.join(f'{value:.6g}' for value in self._goal(episode))}"

    def inputs(self, episode: Episode) -> tuple[np.ndarray, ...]:
        """The goal, and the position after each step.

        Raises:
          ValueError: the episode lacks the goal or the columns, or it does not say what
            was observed after its last step.
        """
        goal = self._goal(episode)
        if self.extra is not None:
            values, where = self._extra(episode, self.extra), f"extras {self.extra!r}"
            values = values.reshape(len(values), -1)
        elif not episode.has_final_observation:
            raise ValueError(
                "final_observation: expected one, to say where the last step ended, "
                "found none"
            )
        else:
            last = episode.final_observation[None]
            values = np.concatenate([episode.observations[1:], last])
            where = "observations"
        columns = self.columns or tuple(range(len(goal)))
        if len(columns) != len(goal):
            raise ValueError(
                f"columns: expected {len(goal)}, one for each coordinate of the goal, "
                f"found {len(columns)}"
            )
        if not 0 <= min(columns) <= max(columns) < values.shape[1]:
            raise ValueError(
                f"{where}: expected columns {', '.join(map(str, columns))}, found "
                f"0 to {values.shape[1] - 1}"
            )
        return goal, values[:, list(columns)].astype(np.float64)

    def rewards(self, *inputs: np.ndarray) -> Float[np.ndarray, " steps"]:
        """Rewards `[steps]` of the inputs."""
        goal, positions = inputs
        beyond = np.linalg.norm(positions - goal, axis=1) - self.radius
        if not self.margin:
            return (beyond <= 0).astype(np.float64)
        scaled = np.maximum(beyond, 0) / self.margin
        return np.exp(math.log(0.1) * np.square(scaled))

    def _goal(self, episode: Episode) -> Float[np.ndarray, " coordinates"]:
        if not isinstance(self.goal, str):
            return np.asarray(self.goal, np.float64)
        goals = self._extra(episode, self.goal)
        goals = goals.reshape(len(goals), -1)
        if (goals != goals[0]).any():
            step = int(np.flatnonzero((goals != goals[0]).any(axis=1))[0])
            raise ValueError(
                f"extras {self.goal!r}: expected one goal an episode, found another at "
                f"step {step}"
            )
        return goals[0].astype(np.float64)

    def _extra(self, episode: Episode, name: str) -> np.ndarray:
        if name not in episode.extras:
            raise ValueError(
                f"extras: expected {name!r}, found {sorted(episode.extras)}"
            )
        return episode.extras[name]
