"""Any Gymnasium environment as a `VectorEnvironment`: rows stepped together.

The rows are plain environments in one process. Gymnasium's SyncVectorEnv, its automatic
reset off, refuses a step while any row has ended and not been reset, so rows of
different lengths could not wait for each other.
"""

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from jaxtyping import Bool, Float, Int

from ring_rl.envs.registry import check_known
from ring_rl.types import ActionSpace, Continuous, Discrete, Spaces


def make_vector(
    env_id: str, rows: int, *, seed: int, **options: Any
) -> "GymnasiumRows":
    """Makes `rows` environments of one kind that are stepped together.

    Box observations are flattened to float32, Discrete ones become one-hot. Actions are
    a Box with finite bounds (flattened) or Discrete (counted from 0, whatever the
    environment's own first action is). They are passed on as they are, not clipped.

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
    return GymnasiumRows(env_id, environments, seed)


class GymnasiumRows:
    """Rows of one Gymnasium environment; a `ring_rl.types.VectorEnvironment`.

    A row that was never reset counts as ended. A task that the environment drew itself
    is kept too at later resets without `tasks`, if its reset reports it (`"task"`).

    Attributes:
      rows: B, how many environments.
      spaces: what each shows and accepts.
      max_episode_steps: most environment steps of an episode.
      tasks: the task of each row, "" where the environment names none.
    """

    def __init__(
        self, env_id: str, environments: Sequence[gymnasium.Env], seed: int
    ) -> None:
        """Takes the environments over; `make_vector` makes them."""
        first = environments[0]
        limit = first.spec.max_episode_steps if first.spec else None
        if limit is None:
            raise ValueError(f"{env_id}: has no time limit; give max_episode_steps")
        self._env_id = env_id
        self._environments = list(environments)
        self.rows = len(environments)
        self.max_episode_steps = limit
        self.spaces = Spaces(
            _observation_width(env_id, first.observation_space),
            _action_space(env_id, first.action_space),
        )
        self.tasks = [""] * self.rows
        # Some environments keep an object of their own as `task`: not ours to set.
        self._own_tasks = [getattr(e.unwrapped, "task", 0) for e in environments]
        self._takes_tasks = isinstance(self._own_tasks[0], str | None)
        self._seeds: list[int | None] = [
            int(np.random.SeedSequence((seed, row)).generate_state(1)[0])
            for row in range(self.rows)
        ]
        self._live = np.zeros(self.rows, bool)
        self._observations = np.zeros((self.rows, self.spaces.observation), np.float32)

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
            this one, or it shows a number that is not finite.
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
            observation, information = environment.reset(seed=self._seeds[row])
            self._seeds[row] = None
            if self._takes_tasks:
                self.tasks[row] = str(information.get("task", self.tasks[row]))
            self._observations[row] = _flat(observation, environment.observation_space)
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
            environment gives a number that is not finite.
        """
        live = self._live.copy()
        native = self._native_actions(actions, live)
        rewards = np.zeros(self.rows, np.float32)
        terminated = np.zeros(self.rows, bool)
        truncated = np.zeros(self.rows, bool)
        for row in np.flatnonzero(live).tolist():
            environment = self._environments[row]
            observation, rewards[row], terminated[row], truncated[row], _ = (
                environment.step(native[row])
            )
            self._observations[row] = _flat(observation, environment.observation_space)
        self._live &= ~(terminated | truncated)
        self._check_finite(live, rewards)
        return self._observations.copy(), rewards, terminated, truncated

    def close(self) -> None:
        """Frees what the environments hold."""
        for environment in self._environments:
            environment.close()

    def _set_task(self, row: int, task: str) -> None:
        if self._takes_tasks:
            own = self._own_tasks[row]
            # setattr, since gymnasium.Env declares no task.
            setattr(self._environments[row].unwrapped, "task", task or own)  # noqa: B010
        elif task:
            raise ValueError(
                f"{self._env_id}, row {row}: expected '' since it takes no task, "
                f"found {task!r}"
            )
        self.tasks[row] = task

    def _native_actions(self, actions: np.ndarray, live: np.ndarray) -> np.ndarray:
        space, native = self.spaces.action, self._environments[0].action_space
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
                f"actions of {self._env_id}: expected {numbers} numbers of shape "
                f"{expected}, found {actions.dtype} of shape {actions.shape}"
            )
        bad = live & ~good.reshape(self.rows, -1).all(axis=1)
        if bad.any():
            row = int(np.argmax(bad))
            raise ValueError(
                f"actions of {self._env_id}, row {row}: expected {rule}, found "
                f"{actions[row]}"
            )
        if isinstance(native, spaces.Discrete):
            return actions.astype(np.int64) + native.start
        return actions.astype(native.dtype).reshape(self.rows, *native.shape or ())

    def _check_finite(self, rows: np.ndarray, rewards: np.ndarray) -> None:
        for what, good in (
            ("observation", np.isfinite(self._observations).all(axis=1)),
            ("reward", np.isfinite(rewards)),
        ):
            bad = rows & ~good
            if bad.any():
                row = int(np.argmax(bad))
                raise ValueError(
                    f"{self._env_id}, row {row}: expected finite numbers from the "
                    f"environment, found NaN or infinity in the {what}"
                )


def _make(env_id: str, options: dict[str, Any]) -> gymnasium.Env:
    check_known(env_id)
    try:
        # Without the checker of every step: the rows check what matters here.
        return gymnasium.make(env_id, disable_env_checker=True, **options)
    except (gymnasium.error.Error, ImportError, TypeError, ValueError) as error:
        given = f" with {options}" if options else ""
        raise ValueError(f"{env_id}{given}: cannot be made: {error}") from error


def _observation_width(env_id: str, space: gymnasium.Space) -> int:
    if isinstance(space, spaces.Box):
        return int(np.prod(space.shape))
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    raise ValueError(
        f"observations of {env_id}: expected a Box or Discrete space, found {space}"
    )


def _action_space(env_id: str, space: gymnasium.Space) -> ActionSpace:
    if isinstance(space, spaces.Discrete):
        return Discrete(int(space.n))
    if (
        isinstance(space, spaces.Box)
        and np.issubdtype(space.dtype, np.floating)
        and space.is_bounded()
    ):
        low, high = space.low.ravel().tolist(), space.high.ravel().tolist()
        return Continuous(tuple(low), tuple(high))
    raise ValueError(
        f"actions of {env_id}: expected a Discrete space or a Box of real numbers with "
        f"finite bounds, found {space}"
    )


def _flat(observation: Any, space: gymnasium.Space) -> Float[np.ndarray, " O"]:
    if isinstance(space, spaces.Discrete):
        return (np.arange(space.n) == observation - space.start).astype(np.float32)
    return np.asarray(observation, np.float32).reshape(-1)
