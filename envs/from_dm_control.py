"""dm_control's environments behind Gymnasium's interface.

`dmc/walker-walk` is a task of the DeepMind Control Suite, `exorl/walker_flip` one of
ExoRL's; `gymnasium.make` and `make_vector` take both. Nothing is rendered unless asked,
and dm_control is imported when the first environment is made.

Source: Tassa et al. 2018, DeepMind Control Suite, arXiv 1801.00690.
"""

import math
from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Float, UInt8

from ring_rl.envs.exorl import exorl_tasks, make_exorl

_DOMAINS = {
    "acrobot": "swingup swingup_sparse",
    "ball_in_cup": "catch",
    "cartpole": "balance balance_sparse swingup swingup_sparse two_poles three_poles",
    "cheetah": "run",
    "dog": "stand walk trot run fetch",
    "finger": "spin turn_easy turn_hard",
    "fish": "upright swim",
    "hopper": "stand hop",
    "humanoid": "stand walk run run_pure_state",
    "humanoid_CMU": "stand walk run",
    "lqr": "lqr_2_1 lqr_6_2",
    "manipulator": "bring_ball bring_peg insert_ball insert_peg",
    "pendulum": "swingup",
    "point_mass": "easy hard",
    "quadruped": "walk run escape fetch",
    "reacher": "easy hard",
    "stacker": "stack_2 stack_4",
    "swimmer": "swimmer6 swimmer15",
    "walker": "stand walk run",
}
# Of the suite's tasks; its linear regulators end by themselves alone, or never.
HORIZON = 1000
_PICTURE = (240, 320)  # height and width


def suite_tasks() -> tuple[tuple[str, str], ...]:
    """Domain and task of all tasks of the suite."""
    return tuple(
        (domain, task) for domain, tasks in _DOMAINS.items() for task in tasks.split()
    )


def register_dm_control() -> None:
    """Adds the tasks to Gymnasium's registry; again does nothing."""
    places: dict[str, tuple[dict[str, str], int]] = {
        f"dmc/{domain}-{task}": ({"domain": domain, "task": task}, HORIZON)
        for domain, task in suite_tasks()
    }
    for task in exorl_tasks():
        # Ten seconds of the arm, of 0.04 s a step.
        horizon = 250 if task.startswith("jaco_") else HORIZON
        places[f"exorl/{task}"] = ({"domain": "exorl", "task": task}, horizon)
    for name, (options, horizon) in places.items():
        if name not in gymnasium.registry:
            gymnasium.register(
                name,
                entry_point="ring_rl.envs.from_dm_control:DmControlEnv",
                kwargs=options,
                max_episode_steps=horizon,
            )


class DmControlEnv(gymnasium.Env[Float[np.ndarray, " O"], Float[np.ndarray, " A"]]):
    """One of dm_control's environments.

    Observations are the arrays of its observation in the order in which it lists them,
    each flattened, float32. Where an episode ends with a discount of 0 it terminated,
    else it was truncated.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 25}

    def __init__(
        self,
        domain: str,
        task: str,
        render_mode: str | None = None,
        **options: Any,
    ):
        """A task of the suite; of the domain `exorl`, one of ExoRL's by its name.

        Raises:
          ValueError: there is no such task, or it has no such option (`make_exorl`).
        """
        if options and domain != "exorl":
            raise ValueError(f"options: expected none for {domain}, found {options}")
        if domain != "exorl" and (domain, task) not in suite_tasks():
            raise ValueError(
                f"task: expected a domain among exorl, {', '.join(_DOMAINS)} and one "
                f"of its tasks, found {domain!r} and {task!r}"
            )
        self._name, self._options = (domain, task), options
        self.render_mode = render_mode
        self._environment, self._closed = self._make(0), False
        specs = self._environment.observation_spec().values()
        ends = np.cumsum([math.prod(spec.shape) for spec in specs]).tolist()
        # Where each array is in the flat observation.
        self._parts = [
            slice(end - math.prod(spec.shape), end)
            for spec, end in zip(specs, ends, strict=True)
        ]
        action = self._environment.action_spec()
        self.observation_space = gymnasium.spaces.Box(
            -np.inf, np.inf, (ends[-1],), np.float32
        )
        self.action_space = gymnasium.spaces.Box(
            np.broadcast_to(action.minimum, action.shape).astype(np.float32),
            np.broadcast_to(action.maximum, action.shape).astype(np.float32),
            dtype=np.float32,
        )

    @property
    def environment(self) -> Any:
        """dm_control's own, a `dm_env.Environment`."""
        return self._environment

    @property
    def physics(self) -> Any:
        """dm_control's physics."""
        return self._environment.physics

    def _make(self, seed: int) -> Any:
        domain, task = self._name
        if domain == "exorl":
            return make_exorl(task, seed=seed, **self._options)
        from dm_control import suite

        return suite.load(domain, task, task_kwargs={"random": seed})

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Float[np.ndarray, " O"], dict[str, Any]]:
        """Starts an episode; with a seed, all that follow are drawn from it."""
        super().reset(seed=seed)
        if seed is not None:
            # Made anew: where its generator is kept differs from kind to kind.
            self._environment = self._make(seed % 2**32)
        return self._flat(self._environment.reset()), {}

    def step(
        self, action: Float[np.ndarray, " A"]
    ) -> tuple[Float[np.ndarray, " O"], float, bool, bool, dict[str, Any]]:
        """Takes an action for one step of control."""
        step = self._environment.step(action)
        ended = step.last()
        terminated = bool(ended and step.discount == 0)
        return (
            self._flat(step), float(step.reward), terminated,
            bool(ended and not terminated), {},
        )  # fmt: skip

    def render(self) -> UInt8[np.ndarray, "height width 3"] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """A picture from the task's first camera (mode "rgb_array").

        MuJoCo chooses how to render when it is imported, by `MUJOCO_GL` in the
        environment: `egl` needs no display.
        """
        if self.render_mode != "rgb_array":
            return None
        camera = 0 if self.physics.model.ncam else -1
        return self.physics.render(*_PICTURE, camera_id=camera)

    def close(self) -> None:
        """Frees the physics; again does nothing."""
        if not self._closed:
            self._closed = True
            self._environment.close()

    def _flat(self, step: Any) -> Float[np.ndarray, " O"]:
        # Written into one array, since joining them took a tenth of a step's time.
        flat = np.empty(self._parts[-1].stop, np.float32)
        for part, values in zip(self._parts, step.observation.values(), strict=True):
            flat[part] = values if np.ndim(values) < 2 else np.ravel(values)
        return flat
