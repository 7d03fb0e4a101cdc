"""Behaviours of mixed quality: what offline data is collected with."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ring_rl.types import ActionSpace, Discrete


@dataclasses.dataclass(frozen=True)
class UniformBehaviour:
    """Uniformly random actions, in any environment.

    Attributes:
      action: the environment's actions.
    """

    action: ActionSpace

    def begin(self, task: str, generator: np.random.Generator) -> np.random.Generator:
        """The state of an episode is its generator."""
        return generator

    def act(
        self,
        observations: Float[np.ndarray, "B O"],
        states: Sequence[np.random.Generator],
    ) -> Float[np.ndarray, "B A"] | Int[np.ndarray, " B"]:
        """One draw a row."""
        if isinstance(self.action, Discrete):
            size = self.action.size
            return np.array([state.integers(size) for state in states], np.int32)
        low, high = np.array(self.action.low), np.array(self.action.high)
        return np.array([state.uniform(low, high) for state in states], np.float32)


class DarkRoomState(NamedTuple):
    """What `DarkRoomBehaviour` remembers within an episode.

    Attributes:
      goal: x and y.
      noise: probability of a random action at each step.
      generator: the episode's own.
    """

    goal: tuple[int, int]
    noise: float
    generator: np.random.Generator


class DarkRoomBehaviour:
    """Goes to the dark room's goal, which it is told, more or less astray.

    Each episode draws a noise rate from U(0, 1); each step is with that probability
    uniformly random, else one towards the goal (along an axis drawn at random while
    both remain) or, once there, none. So the returns of a task spread from near nothing
    to the best.
    """

    def begin(self, task: str, generator: np.random.Generator) -> DarkRoomState:
        """Draws the noise rate of an episode.

        Raises:
          ValueError: `task` is not "x,y".
        """
        x, comma, y = task.partition(",")
        if not (comma and x.isdecimal() and y.isdecimal()):
            raise ValueError(
                f'task of a dark room: expected a goal "x,y", found {task!r}'
            )
        return DarkRoomState((int(x), int(y)), generator.random(), generator)

    def act(
        self, observations: Float[np.ndarray, "B O"], states: Sequence[DarkRoomState]
    ) -> Int[np.ndarray, " B"]:
        """Actions 0 stay, 1 up, 2 down, 3 left, 4 right, one a row."""
        size = observations.shape[1] // 2
        position = np.stack(
            [observations[:, :size].argmax(1), observations[:, size:].argmax(1)], 1
        )
        across, up = (np.array([state.goal for state in states]) - position).T
        noise = np.array([state.noise for state in states])
        draws = np.array([state.generator.random(3) for state in states])
        sideways = np.where(across > 0, 4, 3)
        upright = np.where(up > 0, 1, 2)
        along_x = (up == 0) | ((across != 0) & (draws[:, 1] < 0.5))
        towards = np.where(along_x, sideways, upright)
        towards = np.where((across == 0) & (up == 0), 0, towards)
        astray = (draws[:, 2] * 5).astype(np.int32)
        return np.where(draws[:, 0] < noise, astray, towards).astype(np.int32)
