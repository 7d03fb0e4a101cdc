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
        unit = np.array([state.random(self.action.size) for state in states])
        low, high = np.array(self.action.low), np.array(self.action.high)
        return (low + (high - low) * unit).astype(np.float32)


class DarkRoomState(NamedTuple):
    """What `DarkRoomBehaviour` remembers within an episode.

    Attributes:
      goal: x and y of where it means to go.
      noise: probability of a random action at each step.
      generator: the episode's own.
    """

    goal: tuple[int, int]
    noise: float
    generator: np.random.Generator


@dataclasses.dataclass(frozen=True)
class DarkRoomBehaviour:
    """Goes to a goal of the dark room: often the right one, and more or less straight.

    Each episode draws a noise rate from U(0, 1); each step is with that probability
    uniformly random, else one towards where it means to go (along an axis drawn at
    random while both remain) or, once there, none. An episode that is mistaken means to
    go to a cell drawn at random. So the returns of a task spread from nothing to the
    best, and the data shows what it looks like to search in vain.

    Attributes:
      size: cells a side of the room.
      mistaken: share of the episodes that are.
    """

    size: int = 9
    mistaken: float = 0.5

    def begin(self, task: str, generator: np.random.Generator) -> DarkRoomState:
        """Draws where an episode goes and its noise rate.

        Raises:
          ValueError: `task` is not "x,y".
        """
        x, comma, y = task.partition(",")
        if not (comma and x.isdecimal() and y.isdecimal()):
            raise ValueError(
                f'task of a dark room: expected a goal "x,y", found {task!r}'
            )
        goal = (int(x), int(y))
        if generator.random() < self.mistaken:
            across, up = generator.integers(self.size, size=2).tolist()
            goal = (across, up)
        return DarkRoomState(goal, generator.random(), generator)

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
