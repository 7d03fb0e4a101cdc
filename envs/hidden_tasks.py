"""Distributions of tasks in one body, of which the observation does not say which.

What an agent is to do, only rewards tell: those of this trial, and those of the earlier
ones that its context holds.

- `ring_rl/PointMassMaze-v0`: a point mass among walls, and a goal "x,y" anywhere
  (metres). Training goals are drawn at random, apart from ExoRL's four corners, which
  are held out.
- `ring_rl/Walker-v0`: stand, walk, run or flip. None is held out.
- `ring_rl/Cheetah-v0`: run or run_backward. None is held out.
"""

import dataclasses
from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Float

from ring_rl.envs.exorl import EXORL_TASKS
from ring_rl.envs.from_dm_control import HORIZON, DmControlEnv

# Metres: how far out goals may be, how far from the middle of a wall and from the goals
# held out they are at least. A wall is 0.02 to each side, a goal's radius 0.015.
ARENA, CLEARANCE, APART = 0.27, 0.05, 0.06
HELD_OUT_GOALS = ("-0.15,0.15", "0.15,0.15", "-0.15,-0.15", "0.15,-0.15")
_WALL = 0.18  # metres that the walls reach from the middle
_IDS = {
    "ring_rl/PointMassMaze-v0": "point_mass_maze",
    "ring_rl/Walker-v0": "walker",
    "ring_rl/Cheetah-v0": "cheetah",
}


@dataclasses.dataclass(frozen=True)
class TaskSplit:
    """Tasks of a family: to train on, and to evaluate on.

    Where `held_out` is False both are the same.
    """

    training: tuple[str, ...]
    evaluation: tuple[str, ...]
    held_out: bool


def split_hidden_tasks(env_id: str, *, goals: int = 64, seed: int = 0) -> TaskSplit:
    """The tasks of a family.

    Args:
      env_id: one of the names above.
      goals: how many training goals of the maze.
      seed: of the draw of those.

    Raises:
      ValueError: there is no such family, or no goal is asked for.
    """
    if env_id not in _IDS:
        raise ValueError(
            f"hidden tasks: expected one of {', '.join(_IDS)}, found {env_id!r}"
        )
    domain = _IDS[env_id]
    if domain != "point_mass_maze":
        return TaskSplit(EXORL_TASKS[domain], EXORL_TASKS[domain], held_out=False)
    if goals < 1:
        raise ValueError(f"goals: expected at least 1, found {goals}")
    random = np.random.default_rng(seed)
    training: list[str] = []
    while len(training) < goals:
        place = random.uniform(-ARENA, ARENA, 2).round(3)
        if _is_free(place) and all(
            np.hypot(*(place - _place(held))) >= APART for held in HELD_OUT_GOALS
        ):
            training.append(f"{place[0]:g},{place[1]:g}")
    return TaskSplit(tuple(training), HELD_OUT_GOALS, held_out=True)


def _place(task: str) -> Float[np.ndarray, " 2"]:
    """The goal of a name "x,y".

    Raises:
      ValueError: it is not one, or lies beyond the arena or in a wall.
    """
    try:
        x, y = (float(word) for word in task.split(","))
    except ValueError:
        x = y = np.nan
    place = np.array([x, y])
    if not (np.abs(place) <= ARENA).all() or not _is_free(place):
        raise ValueError(
            f'task: expected "x,y" in metres, both from {-ARENA} to {ARENA} and '
            f"outside the walls, found {task!r}"
        )
    return place


def _is_free(place: Float[np.ndarray, " 2"]) -> bool:
    """Whether a goal there is clear of the cross of walls in the middle."""
    across, along = np.sort(np.abs(place))
    return bool(across >= CLEARANCE or along >= _WALL + CLEARANCE)


def register_hidden_tasks() -> None:
    """Adds the families to Gymnasium's registry; again does nothing."""
    for name, domain in _IDS.items():
        if name not in gymnasium.registry:
            gymnasium.register(
                name,
                entry_point="ring_rl.envs.hidden_tasks:HiddenTaskEnv",
                kwargs={"domain": domain},
                max_episode_steps=HORIZON,
            )


class HiddenTaskEnv(gymnasium.Env[Float[np.ndarray, " O"], Float[np.ndarray, " A"]]):
    """A body and one of its tasks; `task` is that of the next resets.

    Observations, actions and rewards are those of ExoRL's tasks of that domain; without
    a task, each reset draws one of `split_hidden_tasks`'s training tasks.
    """

    metadata = {"render_modes": []}

    def __init__(self, domain: str, task: str | None = None):
        """Of one of ExoRL's domains.

        Raises:
          ValueError: there is no such family or task.
        """
        names = {kind: name for name, kind in _IDS.items()}
        if domain not in names:
            raise ValueError(
                f"domain: expected one of {', '.join(names)}, found {domain!r}"
            )
        self._domain = domain
        self._training = split_hidden_tasks(names[domain]).training
        self._bodies: dict[str, DmControlEnv] = {}
        self._seed: int | None = None
        self._body = self._body_of(self._training[0])
        self.observation_space = self._body.observation_space
        self.action_space = self._body.action_space
        self.task = task

    @property
    def task(self) -> str | None:
        """Of the next resets; None (or "") draws one at each."""
        return self._task

    @task.setter
    def task(self, task: str | None) -> None:
        if task and self._domain == "point_mass_maze":
            _place(task)
        elif task and task not in self._training:
            raise ValueError(
                f"task: expected one of {', '.join(self._training)}, found {task!r}"
            )
        self._task = task or None

    def _body_of(self, task: str) -> DmControlEnv:
        """The environment that has the task's rewards, made when it is first needed."""
        maze = self._domain == "point_mass_maze"
        name = EXORL_TASKS[self._domain][0] if maze else task
        if name not in self._bodies:
            self._bodies[name] = DmControlEnv("exorl", f"{self._domain}_{name}")
            if self._seed is not None:
                self._bodies[name].reset(seed=self._seed)
        return self._bodies[name]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Float[np.ndarray, " O"], dict[str, Any]]:
        """Starts an episode; the information has its `task`."""
        super().reset(seed=seed)
        if seed is not None:
            self._seed = seed
            for body in self._bodies.values():
                body.reset(seed=seed)
        task = self._task
        if task is None:
            task = self._training[int(self.np_random.integers(len(self._training)))]
        self._body = self._body_of(task)
        if self._domain == "point_mass_maze":
            place = self._body.physics.named.model.geom_pos
            place["target", ["x", "y"]] = _place(task)
        observation, _ = self._body.reset()
        return observation, {"task": task}

    def step(
        self, action: Float[np.ndarray, " A"]
    ) -> tuple[Float[np.ndarray, " O"], float, bool, bool, dict[str, Any]]:
        """Takes an action for one step of control."""
        return self._body.step(action)

    def close(self) -> None:
        """Frees the bodies."""
        for body in self._bodies.values():
            body.close()
