"""Distributions of tasks in one body, of which the observation does not say which.

What an agent is to do, only rewards tell: those of this trial, and those of the earlier
ones that its context holds.

- `ring_rl/PointMassMaze-v0`: a point mass among walls, and a goal "x,y" anywhere
  (metres). Training goals are drawn at random, apart from those held out: ExoRL's four
  corners, and others if asked for.
- `ring_rl/PointMass-v0`: the same arena without walls, from its middle.
- `ring_rl/Walker-v0`: stand, walk, run or flip. None is held out.
- `ring_rl/Cheetah-v0`: run or run_backward. None is held out.
"""

import dataclasses
import functools
from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Float

from ring_rl.envs.exorl import EXORL_TASKS, rewards_of
from ring_rl.envs.from_dm_control import HORIZON, DmControlEnv

# Metres: how far out goals may be, how far they are at least from the middle of a wall,
# and from those held out. A wall is 0.02 to each side, ExoRL's goals' radius 0.015.
ARENA, CLEARANCE, APART = 0.27, 0.05, 0.05
HELD_OUT_GOALS = ("-0.15,0.15", "0.15,0.15", "-0.15,-0.15", "0.15,-0.15")
_WALL = 0.18  # metres that the walls reach from the middle
_FAMILIES: dict[str, dict[str, Any]] = {
    "ring_rl/PointMassMaze-v0": {"domain": "point_mass_maze"},
    "ring_rl/PointMass-v0": {"domain": "point_mass_maze", "walls": False},
    "ring_rl/Walker-v0": {"domain": "walker"},
    "ring_rl/Cheetah-v0": {"domain": "cheetah"},
}
HIDDEN_TASK_FAMILIES = tuple(_FAMILIES)


@dataclasses.dataclass(frozen=True)
class TaskSplit:
    """Tasks of a family: to train on, and to evaluate on.

    Where `held_out` is False both are the same.
    """

    training: tuple[str, ...]
    evaluation: tuple[str, ...]
    held_out: bool


@functools.cache
def split_hidden_tasks(
    env_id: str, *, goals: int = 512, held_out: int = 16, seed: int = 0
) -> TaskSplit:
    """The tasks of a family.

    The split is one draw: with other numbers or another seed the goals are others, and
    goals that were held out before may be among them. Keep to one split in collecting,
    training and evaluating. By chance a training goal may be drawn twice.

    Args:
      env_id: one of the names above.
      goals: how many training goals of a point mass.
      held_out: how many goals of a point mass are held out: ExoRL's four, and then
        others that are drawn.
      seed: of the draws of goals.

    Raises:
      ValueError: there is no such family, no goal or fewer than four held out are asked
        for, or so many that no training goal is apart from them.
    """
    if env_id not in _FAMILIES:
        raise ValueError(
            f"hidden tasks: expected one of {', '.join(_FAMILIES)}, found {env_id!r}"
        )
    options = _FAMILIES[env_id]
    if options["domain"] != "point_mass_maze":
        names = EXORL_TASKS[options["domain"]]
        return TaskSplit(names, names, held_out=False)
    if goals < 1 or held_out < len(HELD_OUT_GOALS):
        raise ValueError(
            f"goals, held_out: expected at least 1 and {len(HELD_OUT_GOALS)}, found "
            f"{goals} and {held_out}"
        )
    random = np.random.default_rng(seed)
    walls = options.get("walls", True)

    def draw(count: int, away: list[str]) -> list[str]:
        """So many free places, each apart from those of `away`."""
        others = np.array([_place(goal, walls) for goal in away])
        found: list[str] = []
        for _ in range(1000 * count):
            if len(found) == count:
                return found
            place = random.uniform(-ARENA, ARENA, 2).round(3)
            apart = np.hypot(*(others - place).T) >= APART
            if apart.all() and (not walls or _is_free(place)):
                found.append(f"{place[0]:g},{place[1]:g}")
        raise ValueError(
            f"held_out: expected so few that goals can be {APART} m apart from them, "
            f"found {held_out}"
        )

    held: list[str] = [*HELD_OUT_GOALS]
    for _ in range(held_out - len(held)):
        held += draw(1, held)
    return TaskSplit(tuple(draw(goals, held)), tuple(held), held_out=True)


def _place(task: str, walls: bool) -> Float[np.ndarray, " 2"]:
    """The goal of a name "x,y".

    Raises:
      ValueError: it is not one, or lies beyond the arena or in a wall.
    """
    try:
        x, y = (float(word) for word in task.split(","))
    except ValueError:
        x = y = np.nan
    place = np.array([x, y])
    if not (np.abs(place) <= ARENA).all() or (walls and not _is_free(place)):
        raise ValueError(
            f'task: expected "x,y" in metres, both from {-ARENA} to {ARENA}'
            f"{' and outside the walls' if walls else ''}, found {task!r}"
        )
    return place


def _is_free(place: Float[np.ndarray, " 2"]) -> bool:
    """Whether a goal there is clear of the cross of walls in the middle."""
    across, along = np.sort(np.abs(place))
    return bool(across >= CLEARANCE or along >= _WALL + CLEARANCE)


def register_hidden_tasks() -> None:
    """Adds the families to Gymnasium's registry; again does nothing."""
    for name, options in _FAMILIES.items():
        if name not in gymnasium.registry:
            gymnasium.register(
                name,
                entry_point="ring_rl.envs.hidden_tasks:HiddenTaskEnv",
                kwargs=dict(options),
                max_episode_steps=HORIZON,
            )


class HiddenTaskEnv(gymnasium.Env[Float[np.ndarray, " O"], Float[np.ndarray, " A"]]):
    """A body and one of its tasks; `task` is that of the next resets.

    Observations, actions and rewards are those of ExoRL's tasks of that domain; without
    a task, each reset draws one of `split_hidden_tasks`'s training tasks.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 25}

    def __init__(
        self,
        domain: str,
        task: str | None = None,
        render_mode: str | None = None,
        **options: Any,
    ):
        """Of one of ExoRL's domains.

        Args:
          domain: walker, cheetah or point_mass_maze.
          task: of the next resets.
          render_mode: None or `rgb_array`.
          **options: `step_seconds`, and of a point mass `walls` and `goal_radius`, see
            `exorl_tasks.make_environment`.

        Raises:
          ValueError: there is no such family, task or option.
        """
        walls = options.get("walls", True)
        families = {
            kind.get("walls", True): name
            for name, kind in _FAMILIES.items()
            if kind["domain"] == domain
        }
        if not families:
            domains = dict.fromkeys(kind["domain"] for kind in _FAMILIES.values())
            raise ValueError(
                f"domain: expected one of {', '.join(domains)}, found {domain!r}"
            )
        # Of a domain that has no walls, the body refuses the option.
        family = families.get(walls, families[True])
        self._domain, self._walls, self._options = domain, walls, options
        self.render_mode = render_mode
        self._training = split_hidden_tasks(family).training
        self._bodies: dict[str, DmControlEnv] = {}
        self._seed: int | None = None
        self._body = self._body_of(self._training[0])
        self.observation_space = self._body.observation_space
        self.action_space = self._body.action_space
        self.task = task

    @property
    def physics(self) -> Any:
        """dm_control's physics, of the body that acts now."""
        return self._body.physics

    @property
    def task(self) -> str | None:
        """Of the next resets; None (or "") draws one at each."""
        return self._task

    @task.setter
    def task(self, task: str | None) -> None:
        if task and self._domain == "point_mass_maze":
            _place(task, self._walls)
        elif task and task not in self._training:
            raise ValueError(
                f"task: expected one of {', '.join(self._training)}, found {task!r}"
            )
        self._task = task or None

    def _body_of(self, task: str) -> DmControlEnv:
        """The environment with the task's rewards, made when it is first needed."""
        maze = self._domain == "point_mass_maze"
        name = EXORL_TASKS[self._domain][0] if maze else task
        if name not in self._bodies:
            self._bodies[name] = DmControlEnv(
                "exorl",
                f"{self._domain}_{name}",
                render_mode=self.render_mode,
                **self._options,
            )
            if self._seed is not None:
                self._bodies[name].reset(seed=self._seed)
        body = self._bodies[name]
        if maze:
            place = body.physics.named.model.geom_pos
            place["target", ["x", "y"]] = _place(task, self._walls)
        return body

    def rewards(
        self,
        task: str,
        states: Float[np.ndarray, "n P"],
        actions: Float[np.ndarray, "n A"],
    ) -> Float[np.ndarray, " n"]:
        """What steps would have earned in a task: of the states after and the actions.

        The episode that may be under way is lost.

        Raises:
          ValueError: the states or actions are not possible.
        """
        body = self._body_of(task)
        body.reset()
        return rewards_of(body.environment, states, actions)

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
        observation, _ = self._body.reset()
        return observation, {"task": task}

    def step(
        self, action: Float[np.ndarray, " A"]
    ) -> tuple[Float[np.ndarray, " O"], float, bool, bool, dict[str, Any]]:
        """Takes an action for one step of control."""
        return self._body.step(action)

    def render(self) -> Any:
        """A picture of the body."""
        return self._body.render()

    def close(self) -> None:
        """Frees the bodies."""
        for body in self._bodies.values():
            body.close()
