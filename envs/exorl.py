"""ExoRL's tasks: their names, and their rewards from recorded states.

ExoRL's data was collected without a task, and is given one afterwards: a reward is a
function of the physics after a step and of the action that led there. It is computed
by dm_control itself, so it is the one that the environment would have given.

Source: Yarats et al. 2022, ExoRL, arXiv 2201.13425, section 4.
"""

import dataclasses
import functools
import importlib.metadata
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

from ring_rl.types import Episode

_CORNERS = (
    "reach_top_left",
    "reach_top_right",
    "reach_bottom_left",
    "reach_bottom_right",
)
EXORL_TASKS = {
    "cartpole": ("balance", "balance_sparse", "swingup", "swingup_sparse"),
    "cheetah": ("run", "run_backward"),
    "jaco": _CORNERS,
    "point_mass_maze": _CORNERS,
    "quadruped": ("walk", "run"),
    "walker": ("stand", "walk", "run", "flip"),
}
_LIBRARIES = ("dm-control", "mujoco")
_LARGEST = 1e10  # MuJoCo's mjMAXVAL: beyond it a simulation has diverged

RewardFunction = Callable[
    [Float[np.ndarray, "n P"], Float[np.ndarray, "n A"]], Float[np.ndarray, " n"]
]


def exorl_tasks() -> tuple[str, ...]:
    """Names `domain_task` of all tasks."""
    return tuple(
        f"{domain}_{task}" for domain, tasks in EXORL_TASKS.items() for task in tasks
    )


def make_exorl(task: str, *, seed: int = 0, **options: Any) -> Any:
    """dm_control's environment of a task, a `dm_env.Environment`.

    MuJoCo looks for a display when this imports it, unless `MUJOCO_GL` is set to
    `disabled` in the environment.

    Args:
      task: one of `exorl_tasks()`.
      seed: of the starts of episodes.
      **options: where it is not to be quite ExoRL's: `step_seconds`, `walls` and
        `goal_radius` of `exorl_tasks.make_environment`.

    Raises:
      ValueError: there is no task of this name, or it has no such option.
    """
    if task not in exorl_tasks():
        raise ValueError(
            f"task: expected one of {', '.join(exorl_tasks())}, found {task!r}"
        )
    from ring_rl.envs.exorl_tasks import make_environment

    domain = next(name for name in EXORL_TASKS if task.startswith(f"{name}_"))
    return make_environment(domain, task.removeprefix(f"{domain}_"), seed, **options)


def reward_function(task: str) -> RewardFunction:
    """Rewards `[n]` float64 of states `[n P]` float64 and the actions `[n A]` before.

    A state is positions, velocities and activations, as dm_control's
    `physics.get_state()` has them. The action counts where the reward looks at the
    control: in cartpole and point_mass_maze.

    Raises:
      ValueError: there is no task of this name; by the function, for states or actions
        of another width, that are not finite or beyond 1e10, or that MuJoCo refuses.
    """
    environment = make_exorl(task)
    environment.reset()  # puts a target in its place
    return functools.partial(rewards_of, environment)


def rewards_of(
    environment: Any,
    states: np.ndarray,
    actions: np.ndarray,
) -> Float[np.ndarray, " n"]:
    """Rewards of states and actions, of dm_control's environment as it stands."""
    from dm_control.rl.control import PhysicsError

    physics, task = environment.physics, environment.task
    for name, values, width in (
        ("physics", states, len(physics.state())),
        ("actions", actions, physics.model.nu),
    ):
        if values.shape != (len(states), width):
            raise ValueError(
                f"{name}: expected {[len(states), width]}, found {list(values.shape)}"
            )
        sound = np.abs(values) <= _LARGEST  # false for NaN too
        if not sound.all():
            row, column = np.argwhere(~sound)[0]
            raise ValueError(
                f"{name}: expected numbers up to {_LARGEST:g}, found "
                f"{values[row, column]} in row {row}"
            )
    found = np.empty(len(states))
    for row, (state, action) in enumerate(zip(states, actions, strict=True)):
        try:
            physics.set_state(state)
            physics.data.ctrl[:] = action
            physics.forward()
        except PhysicsError as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"physics: expected a possible state in row {row}, found {reason}"
            ) from error
        found[row] = task.get_reward(physics)
    return found


@dataclasses.dataclass(frozen=True)
class ExorlRewards:
    """Gives episodes with `physics` one of ExoRL's tasks; a `data.Relabelling`.

    Attributes:
      name: of the task, one of `exorl_tasks()`.
    """

    name: str

    def __post_init__(self):
        """Checks the name."""
        if self.name not in exorl_tasks():
            raise ValueError(
                f"task: expected one of {', '.join(exorl_tasks())}, found {self.name!r}"
            )

    def identity(self) -> str:
        """The task, and the versions of what computes it."""
        versions = (f"{name} {importlib.metadata.version(name)}" for name in _LIBRARIES)
        return f"exorl {self.name}, {', '.join(versions)}"

    def task(self, episode: Episode) -> str:
        """The task, whatever the episode."""
        del episode
        return self.name

    def inputs(self, episode: Episode) -> tuple[np.ndarray, ...]:
        """The states after each step, and the actions.

        Raises:
          ValueError: the episode has no physics.
        """
        if "physics" not in episode.extras:
            raise ValueError(
                "extras: expected 'physics', the state after each step, found "
                f"{sorted(episode.extras)}"
            )
        states = episode.extras["physics"]
        return states.reshape(len(states), -1).astype(np.float64), episode.actions

    def rewards(self, *inputs: np.ndarray) -> Float[np.ndarray, " n"]:
        """Rewards `[n]` of the inputs."""
        return _cached_function(self.name)(*inputs)


# A process relabels episodes of one task after the other: its model is made once.
@functools.lru_cache(maxsize=4)
def _cached_function(task: str) -> RewardFunction:
    return reward_function(task)
