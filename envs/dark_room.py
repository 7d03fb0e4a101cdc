"""The dark room: a grid with a hidden goal that only the reward gives away.

The observation shows where the agent stands and nothing of the goal, so one episode
must search, and a context of earlier episodes pays: it holds the rewards that tell
where the goal is. Position is one-hot x and one-hot y, apart: a goal never seen in
training then still has coordinates that were.
"""

import dataclasses
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from jaxtyping import Float, UInt8

DARK_ROOM_ACTIONS = ("stay", "up", "down", "left", "right")
# Of (x, y), in the order of the names above; y grows upwards.
_MOVES = ((0, 0), (0, 1), (0, -1), (-1, 0), (1, 0))
# Pixels a side of a cell in a picture, and colours.
_CELL = 24
_FLOOR, _LINE, _GOAL, _AGENT = (
    (245, 245, 245),
    (200, 200, 200),
    (60, 160, 80),
    (40, 80, 200),
)


def dark_room_tasks(size: int = 9) -> tuple[str, ...]:
    """Names "x,y" of all goals of a room: every cell but the start, the centre.

    Raises:
      ValueError: `size` is below 2: no cell but the start.
    """
    if size < 2:
        raise ValueError(f"size: expected at least 2 cells a side, found {size}")
    start = (size // 2, size // 2)
    cells = ((x, y) for x in range(size) for y in range(size))
    return tuple(f"{x},{y}" for x, y in cells if (x, y) != start)


def split_tasks(
    size: int, held_out: int, seed: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Splits the goals of a room at random into (training, held out).

    Args:
      size: cells a side.
      held_out: how many goals to hold out.
      seed: of the draw; the same seed gives the same split.

    Raises:
      ValueError: `held_out` leaves no training goal, or is negative.
    """
    tasks = dark_room_tasks(size)
    if not 0 <= held_out < len(tasks):
        raise ValueError(
            f"held_out: expected 0 to {len(tasks) - 1} of the {len(tasks)} goals of a "
            f"room of size {size}, found {held_out}"
        )
    order = np.random.default_rng(seed).permutation(len(tasks)).tolist()
    held = set(order[:held_out])
    train = tuple(task for i, task in enumerate(tasks) if i not in held)
    return train, tuple(task for i, task in enumerate(tasks) if i in held)


class DarkRoomEnv(gymnasium.Env[Float[np.ndarray, " O"], np.int64]):
    """A square room, the agent in its centre, a goal that no observation shows.

    Observations are `[2 * size]` float32: one-hot x, then one-hot y. Actions are those
    of `DARK_ROOM_ACTIONS`; a move into a wall stays. Every step after which the agent
    is on the goal brings reward 1, every other 0. Nothing ends an episode but its
    length, `max_steps` environment steps. The best return is `max_steps + 1` minus the
    goal's distance: on average 16.5 with 9 cells a side and 20 steps.
    """

    metadata = {"render_modes": ["ansi", "rgb_array"], "render_fps": 4}

    def __init__(
        self,
        size: int = 9,
        max_steps: int = 20,
        task: str | None = None,
        render_mode: str | None = None,
    ) -> None:
        """A room of `size` cells a side with episodes of `max_steps` steps.

        Raises:
          ValueError: a number is too small, or `task` names no goal of this room.
        """
        self._tasks = dark_room_tasks(size)
        if max_steps < 1:
            raise ValueError(f"max_steps: expected at least 1, found {max_steps}")
        self.size = size
        self.max_steps = max_steps
        self.task = task
        self.render_mode = render_mode
        self.observation_space = gymnasium.spaces.Box(0, 1, (2 * size,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(len(DARK_ROOM_ACTIONS))
        self._position = self._goal = (size // 2, size // 2)
        self._steps = 0

    # gymnasium.make sets the spec. Were a limit registered, it would also wrap the room
    # in a time limit that knows nothing of max_steps; so the room reports its own.
    @property
    def spec(self) -> EnvSpec | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The spec from `gymnasium.make`, with this room's `max_episode_steps`."""
        return self._spec

    @spec.setter
    def spec(  # pyright: ignore[reportIncompatibleVariableOverride]
        self, spec: EnvSpec | None
    ) -> None:
        if spec is not None:
            spec = dataclasses.replace(spec, max_episode_steps=self.max_steps)
        self._spec = spec

    _spec: EnvSpec | None = None

    @property
    def task(self) -> str | None:
        """The goal "x,y" of the next resets; None (or "") draws one at each."""
        return self._task

    @task.setter
    def task(self, task: str | None) -> None:
        if task and task not in self._tasks:
            raise ValueError(
                f'task: expected "x,y" with both from 0 to {self.size - 1} and not the '
                f"start {self.size // 2},{self.size // 2}, found {task!r}"
            )
        self._task = task or None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Float[np.ndarray, " O"], dict[str, Any]]:
        """Puts the agent in the centre; the information has the episode's `task`."""
        super().reset(seed=seed)
        task = self._task
        if task is None:
            task = self._tasks[int(self.np_random.integers(len(self._tasks)))]
        x, y = task.split(",")
        self._goal = (int(x), int(y))
        self._position = (self.size // 2, self.size // 2)
        self._steps = 0
        return self._observe(), {"task": task}

    def step(
        self, action: np.int64 | int
    ) -> tuple[Float[np.ndarray, " O"], float, bool, bool, dict[str, Any]]:
        """Moves the agent by one of `DARK_ROOM_ACTIONS`.

        Raises:
          ValueError: there is no such action.
        """
        if not 0 <= action < len(_MOVES):
            raise ValueError(f"action: expected 0 to {len(_MOVES) - 1}, found {action}")
        across, up = _MOVES[action]
        x, y = self._position
        x = min(max(x + across, 0), self.size - 1)
        y = min(max(y + up, 0), self.size - 1)
        self._position = (x, y)
        self._steps += 1
        reward = 1.0 if self._position == self._goal else 0.0
        return self._observe(), reward, False, self._steps >= self.max_steps, {}

    def render(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
    ) -> str | UInt8[np.ndarray, "height width 3"] | None:
        """The room as text or as a picture, by the render mode.

        "ansi" is lines of text, A the agent and G the goal; "rgb_array" pixels, the
        agent a blue square, the goal a green cell.
        """
        if self.render_mode == "rgb_array":
            return self._draw()
        if self.render_mode != "ansi":
            return None
        marks = {self._goal: "G", self._position: "A"}
        lines = (
            " ".join(marks.get((x, y), ".") for x in range(self.size))
            for y in reversed(range(self.size))
        )
        return "\n".join(lines) + "\n"

    def _draw(self) -> UInt8[np.ndarray, "height width 3"]:
        """One cell after another, y upwards."""
        picture = np.full((self.size * _CELL, self.size * _CELL, 3), _FLOOR, np.uint8)
        picture[::_CELL], picture[:, ::_CELL] = _LINE, _LINE
        for (x, y), colour, margin in (
            (self._goal, _GOAL, 1),
            (self._position, _AGENT, 6),
        ):
            top, left = (self.size - 1 - y) * _CELL, x * _CELL
            inside = slice(margin, _CELL - margin + 1)
            picture[top : top + _CELL, left : left + _CELL][inside, inside] = colour
        return picture

    def _observe(self) -> Float[np.ndarray, " O"]:
        observation = np.zeros(2 * self.size, np.float32)
        x, y = self._position
        observation[x] = observation[self.size + y] = 1.0
        return observation
