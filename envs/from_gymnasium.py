"""Any Gymnasium environment as a `VectorEnvironment`: rows stepped together.

The rows are plain environments in one process. Gymnasium's SyncVectorEnv, its automatic
reset off, refuses a step while any row has ended and not been reset, so rows of
different lengths could not wait for each other.
"""

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from jaxtyping import Bool, Float, Int, UInt8

from ring_rl.envs.flat_spaces import action_space, make_flatten, observation_width
from ring_rl.envs.point_maze import register_point_maze
from ring_rl.envs.registry import check_known
from ring_rl.types import Discrete, Spaces


def make_vector(
    env_id: str, rows: int, *, seed: int, **options: Any
) -> "GymnasiumRows":
    """Makes `rows` environments of one kind that are stepped together.

    Box observations are flattened to float32, Discrete ones become one-hot, a Dict is
    its entries in the order of their names. Actions are a Box with finite bounds
    (flattened) or Discrete (counted from 0, whatever the environment's own first action
    is). They are passed on as they are, not clipped.

    Args:
      env_id: a name that Gymnasium knows, or "module:name".
      rows: how many.
      seed: row i's generator is seeded from (seed, i) at its first reset and goes on
        from there at later ones: the same seed, tasks and actions give the same
        episodes.
      **options: passed to `gymnasium.make`, such as `max_episode_steps` (environment
        steps) or the environment's own.

    Raises:
      ValueError: the environment is unknown, lacks a dependency, refuses its options,
        has no time limit, or has spaces of another kind.
    """
    if rows < 1:
        raise ValueError(f"rows: expected at least 1, found {rows}")
    if seed < 0:
        raise ValueError(f"seed: expected 0 or more, found {seed}")
    environments = [_make(env_id, options) for _ in range(rows)]
    return GymnasiumRows(env_id, environments, seed, options)


class GymnasiumRows:
    """Rows of one Gymnasium environment; a `ring_rl.types.VectorEnvironment`.

    A row that was never reset counts as ended. A task that the environment drew itself
    is kept too at later resets without `tasks`, if its reset reports it (`"task"`).

    Attributes:
      rows: B, how many environments.
      spaces: what each shows and accepts.
      max_episode_steps: most environment steps of an episode.
      tasks: the task of each row, "" where the environment names none.
      env_id: its name.
    """

    def __init__(
        self,
        env_id: str,
        environments: Sequence[gymnasium.Env],
        seed: int,
        options: dict[str, Any] | None = None,
    ) -> None:
        """Takes the environments over; `make_vector` makes them, with `options`."""
        first = environments[0]
        limit = first.spec.max_episode_steps if first.spec else None
        if limit is None:
            raise ValueError(f"{env_id}: has no time limit; give max_episode_steps")
        self.env_id, self._seed, self._options = env_id, seed, options or {}
        self._environments = list(environments)
        self.rows = len(environments)
        self.max_episode_steps = limit
        self.spaces = Spaces(
            observation_width(env_id, first.observation_space),
            action_space(env_id, first.action_space),
        )
        self.tasks = [""] * self.rows
        # Some environments keep an object of their own as `task`: not ours to set.
        self._own_tasks = [getattr(e.unwrapped, "task", 0) for e in environments]
        physics = getattr(first.unwrapped, "physics", None)
        self._has_physics = hasattr(physics, "get_state")
        self._takes_tasks = isinstance(self._own_tasks[0], str | None)
        self._flatten = make_flatten(first.observation_space)
        self._native = first.action_space
        self._native_shape = (self.rows, *(self._native.shape or ()))
        self._live = np.zeros(self.rows, bool)
        self._observations = np.zeros((self.rows, self.spaces.observation), np.float32)
        self._steps = np.zeros(self.rows, np.int64)
        self.number_from(0)

    @property
    def again(self) -> "Callable[[int], GymnasiumRows]":
        """Makes so many rows of the same kind and seed; it can be pickled."""
        return functools.partial(
            make_vector, self.env_id, seed=self._seed, **self._options
        )

    def number_from(self, first: int) -> None:
        """Makes these the rows `first`, `first` + 1, ... of several, before any reset.

        They are seeded, and called in messages, by these numbers.
        """
        self._first = first
        self._seeds: list[int | None] = [
            int(np.random.SeedSequence((self._seed, row)).generate_state(1)[0])
            for row in range(first, first + self.rows)
        ]

    def reset(
        self, rows: Bool[np.ndarray, " B"], tasks: Sequence[str] | None = None
    ) -> Float[np.ndarray, "B O"]:
        """Starts an episode in the rows of the mask; all rows' observations.

        Args:
          rows: which rows.
          tasks: one name a row, "" leaving the choice to the environment; without, each
            row keeps the task it has.

        Raises:
          ValueError: a shape is wrong, the environment takes no task, or does not know
            this one, it raises something, or shows a number that is not finite.
        """
        if rows.shape != (self.rows,):
            raise ValueError(f"rows: expected shape ({self.rows},), found {rows.shape}")
        if tasks is not None and len(tasks) != self.rows:
            raise ValueError(
                f"tasks: expected one for each of {self.rows} rows, found {len(tasks)}"
            )
        for row in np.flatnonzero(rows).tolist():
            self._set_task(row, self.tasks[row] if tasks is None else tasks[row])
            environment = self._environments[row]
            try:
                observation, information = environment.reset(seed=self._seeds[row])
            except Exception as error:
                raise self._raised(row, "at a reset", error) from error
            self._seeds[row] = None
            self._steps[row] = 0
            if self._takes_tasks:
                self.tasks[row] = str(information.get("task", self.tasks[row]))
            self._observations[row] = self._flatten(observation)
        self._live |= rows
        self._check_finite(rows, np.zeros(self.rows, np.float32))
        return self._observations.copy()

    def step(
        self, actions: Float[np.ndarray, "B A"] | Int[np.ndarray, " B"]
    ) -> tuple[
        Float[np.ndarray, "B O"],
        Float[np.ndarray, " B"],
        Bool[np.ndarray, " B"],
        Bool[np.ndarray, " B"],
    ]:
        """Steps the rows whose episode goes on; the others keep their observation.

        Returns:
          Observations, rewards, terminated, truncated; 0, False where ended before.

        Raises:
          ValueError: the actions' shape or a live row's action is wrong, or the
            environment raises something or gives a number that is not finite.
        """
        live = self._live.copy()
        native = self._native_actions(actions, live)
        rewards = np.zeros(self.rows, np.float32)
        terminated = np.zeros(self.rows, bool)
        truncated = np.zeros(self.rows, bool)
        for row in np.flatnonzero(live).tolist():
            environment = self._environments[row]
            try:
                observation, rewards[row], terminated[row], truncated[row], _ = (
                    environment.step(native[row])
                )
            except Exception as error:
                where = f"at step {self._steps[row] + 1} of an episode"
                raise self._raised(row, where, error) from error
            self._observations[row] = self._flatten(observation)
        self._steps += live
        self._live &= ~(terminated | truncated)
        self._check_finite(live, rewards)
        return self._observations.copy(), rewards, terminated, truncated

    def extras(self) -> dict[str, np.ndarray]:
        """What to record beside the observations, `[B ...]` each, as it is now.

        `physics` float64 `[B P]` where the environment has dm_control's: positions,
        velocities and activations.
        """
        if not self._has_physics:
            return {}
        states = [e.unwrapped.physics.get_state() for e in self._environments]  # pyright: ignore[reportAttributeAccessIssue]
        return {"physics": np.array(states, np.float64)}

    def show(self, rows: Sequence[int]) -> None:
        """Makes these rows anew so that they can be drawn, before their first reset.

        Raises:
          ValueError: the environment draws no pictures.
        """
        modes = self._environments[0].metadata.get("render_modes") or []
        if "rgb_array" not in modes:
            known = ", ".join(map(str, modes)) or "none"
            raise ValueError(
                f"video: {self.env_id} draws no pictures; expected rgb_array among its "
                f"render modes, found {known}"
            )
        options = {**self._options, "render_mode": "rgb_array"}
        for row in rows:
            self._environments[row].close()
            self._environments[row] = _make(self.env_id, options)

    def render(self, row: int) -> UInt8[np.ndarray, "height width 3"]:
        """A picture of a row that `show` was told of, after its first reset.

        Raises:
          ValueError: there is no renderer on this machine, or none that works.
        """
        try:
            return np.asarray(self._environments[row].render(), np.uint8)
        except Exception as error:
            raise ValueError(
                f"video: {self.env_id} cannot be drawn on this machine "
                f"({type(error).__name__}: {error}); for MuJoCo set MUJOCO_GL to egl, "
                "osmesa or glfw in the environment, or leave --video out"
            ) from error

    def close(self) -> None:
        """Frees what the environments hold."""
        for environment in self._environments:
            environment.close()

    def _raised(self, row: int, when: str, error: Exception) -> ValueError:
        return ValueError(
            f"{self.env_id}, row {self._first + row}: the environment raised "
            f"{type(error).__name__} {when}: {error}"
        )

    def _set_task(self, row: int, task: str) -> None:
        if self._takes_tasks:
            own = self._own_tasks[row]
            # setattr, since gymnasium.Env declares no task.
            setattr(self._environments[row].unwrapped, "task", task or own)  # noqa: B010
        elif task:
            raise ValueError(
                f"{self.env_id}, row {self._first + row}: expected '' since it takes "
                f"no task, found {task!r}"
            )
        self.tasks[row] = task

    def _native_actions(self, actions: np.ndarray, live: np.ndarray) -> np.ndarray:
        space, native = self.spaces.action, self._native
        if isinstance(space, Discrete):
            expected, kind, numbers = (self.rows,), "iu", "whole"
            good = (actions >= 0) & (actions < space.size)
            rule = f"0 to {space.size - 1}"
        else:
            expected, kind, numbers = (self.rows, space.size), "f", "real"
            good = np.isfinite(actions)
            rule = "finite numbers"
        if actions.shape != expected or actions.dtype.kind not in kind:
            raise ValueError(
                f"actions of {self.env_id}: expected {numbers} numbers of shape "
                f"{expected}, found {actions.dtype} of shape {actions.shape}"
            )
        # Row by row only where there is one to be found.
        bad = live if good.all() else live & ~good.reshape(self.rows, -1).all(axis=1)
        if bad is not live and bad.any():
            row = int(np.argmax(bad))
            raise ValueError(
                f"actions of {self.env_id}, row {self._first + row}: expected {rule}, "
                f"found {actions[row]}"
            )
        if isinstance(native, spaces.Discrete):
            return actions.astype(np.int64) + native.start
        return actions.astype(native.dtype).reshape(self._native_shape)

    def _check_finite(self, rows: np.ndarray, rewards: np.ndarray) -> None:
        if np.isfinite(self._observations).all() and np.isfinite(rewards).all():
            return
        for what, good in (
            ("observation", np.isfinite(self._observations).all(axis=1)),
            ("reward", np.isfinite(rewards)),
        ):
            bad = rows & ~good
            if bad.any():
                row = int(np.argmax(bad))
                raise ValueError(
                    f"{self.env_id}, row {self._first + row}: expected finite numbers "
                    f"from the environment, found NaN or infinity in the {what}"
                )


def _make(env_id: str, options: dict[str, Any]) -> gymnasium.Env:
    register_point_maze(env_id)
    check_known(env_id)
    try:
        # Without the checker of every step: the rows check what matters here.
        return gymnasium.make(env_id, disable_env_checker=True, **options)
    except Exception as error:
        given = f" with {options}" if options else ""
        renderer, hint = os.environ.get("MUJOCO_GL", "disabled"), ""
        # So an import of MuJoCo fails for want of a renderer.
        if isinstance(error, AttributeError | RuntimeError) and renderer != "disabled":
            hint = f"; MUJOCO_GL is {renderer!r}, is that renderer there?"
        raise ValueError(f"{env_id}{given}: cannot be made: {error}{hint}") from error
