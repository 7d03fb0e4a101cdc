"""Runs a behaviour in an environment and hands out its episodes."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from ring_rl.types import Discrete, Episode, VectorEnvironment

State = TypeVar("State")


@runtime_checkable
class Behaviour(Protocol[State]):
    """Who acts while data is collected.

    What it needs to remember within an episode is a value of its own choosing, made
    once an episode and passed back to it at every step.
    """

    def begin(self, task: str, generator: np.random.Generator) -> State:
        """What acting in an episode of this task needs.

        The generator is the episode's own, and may be kept in the state.
        """
        ...

    def act(
        self, observations: Float[np.ndarray, "B O"], states: Sequence[State]
    ) -> Float[np.ndarray, "B A"] | Int[np.ndarray, " B"]:
        """Actions of the episodes that go on, one a row, each with its state."""
        ...


@runtime_checkable
class ContextPolicy(Protocol):
    """Who acts in all rows at once and remembers its earlier trials; as `ring_rl.load`.

    It was reset for as many rows and trials as it is to play.
    """

    def act(
        self, observations: Float[np.ndarray, "B O"]
    ) -> Float[np.ndarray, "B A"] | Int[np.ndarray, " B"]:
        """Actions, one a row; those of rows that have played all trials are ignored."""
        ...

    def observe(
        self,
        rewards: Float[np.ndarray, " B"],
        terminated: Bool[np.ndarray, " B"],
        truncated: Bool[np.ndarray, " B"],
    ) -> None:
        """What came of the last actions."""
        ...


class Recorded(NamedTuple):
    """An episode, and what an extra of it was before the first step.

    Attributes:
      episode: row i of its extras is what was there after action i.
      reset: `[...]` each, the same extras as the reset left them.
    """

    episode: Episode
    reset: dict[str, np.ndarray]


def record(
    environment: VectorEnvironment,
    behaviour: Behaviour,
    *,
    tasks: Iterable[str],
    seed: int,
) -> Iterator[Episode]:
    """The episodes of `record_with_resets`, alone."""
    recorded = record_with_resets(environment, behaviour, tasks=tasks, seed=seed)
    return (entry.episode for entry in recorded)


def record_with_resets(
    environment: VectorEnvironment,
    behaviour: Behaviour,
    *,
    tasks: Iterable[str],
    seed: int,
) -> Iterator[Recorded]:
    """Runs one episode for each entry of `tasks`, and yields them in that order.

    Rows are used side by side; a row whose episode ended takes the next task at once.
    Discounts are 1, and 0 at a step that terminates; an episode that terminates as its
    time is up is not truncated. An environment with a method `extras()`, arrays
    `[B ...]` by name, is asked after every reset and step, and the arrays become the
    episodes' extras.

    Args:
      environment: where; its rows are reset as they are needed.
      behaviour: who acts. The generator of episode i is seeded from (seed, i), so that
        its draws do not depend on the number of rows (the environment's own may).
      tasks: the task of each episode, "" leaving it to the environment, which may tell
        the names in `tasks`. Episode i has `episode_id` i. The next one is asked for
        when a row is free, after all the episodes that could be were yielded.
      seed: of the behaviour's draws; the environment has its own.

    Raises:
      ValueError: an episode is longer than the environment's `max_episode_steps`, or
        the behaviour's actions have another shape than the environment's.
    """
    rows = _Rows(environment)
    count = environment.rows
    names = iter(tasks)
    episode_of = np.full(count, -1)
    states: list = [None] * count
    task_of = [""] * count
    # Episodes that ended before one that began earlier.
    waiting: dict[int, Recorded] = {}
    begun = given = 0
    observations = np.zeros((count, environment.spaces.observation), np.float32)
    free, live = True, np.zeros(0, np.int64)

    while True:
        if free:
            fresh = np.zeros(count, bool)
            for row in np.flatnonzero(episode_of < 0).tolist():
                task = next(names, None)
                if task is None:
                    break
                task_of[row] = task
                generator = np.random.default_rng((seed, begun))
                states[row] = behaviour.begin(task, generator)
                episode_of[row] = begun
                fresh[row] = True
                begun += 1
            if fresh.any():
                observations = rows.reset(fresh, task_of)
            live = np.flatnonzero(episode_of >= 0)
            if not live.size:
                return
        chosen = behaviour.act(observations[live], [states[row] for row in live])
        observations, _, terminated, truncated = rows.step(chosen, live)
        ended = (terminated | truncated)[live]
        free = bool(ended.any())
        for row in live[ended].tolist():
            number = int(episode_of[row])
            waiting[number] = rows.take(row, number)
            episode_of[row], states[row] = -1, None
        while given in waiting:
            yield waiting.pop(given)
            given += 1


def record_trials(
    environment: VectorEnvironment,
    policy: ContextPolicy,
    *,
    tasks: Sequence[str],
    trials: int,
) -> Iterator[Recorded]:
    """Plays `trials` episodes in every row, each row in a context of its own.

    Yields the trials of a row in their order, and those of the next row after them;
    `episode_id` counts them. A row keeps its task for all its trials.

    Args:
      environment: where.
      policy: who acts, reset for these rows and trials.
      tasks: of each row, "" leaving it to the environment, which then draws one at the
        row's first reset and may tell its name in `tasks`.
      trials: episodes a row.

    Raises:
      ValueError: an episode is longer than the environment's `max_episode_steps`, or
        the policy's actions have another shape than the environment's.
    """
    rows = _Rows(environment)
    played = np.zeros(environment.rows, np.int64)
    # Episodes that ended before those of earlier rows.
    waiting: dict[int, Recorded] = {}
    given = 0
    observations = rows.reset(np.ones(environment.rows, bool), tasks)
    while (played < trials).any():
        live = np.flatnonzero(played < trials)
        chosen = policy.act(observations)[live]
        observations, rewards, terminated, truncated = rows.step(chosen, live)
        policy.observe(rewards, terminated, truncated)
        ended = (terminated | truncated) & (played < trials)
        for row in np.flatnonzero(ended).tolist():
            number = row * trials + int(played[row])
            waiting[number] = rows.take(row, number)
        while given in waiting:
            yield waiting.pop(given)
            given += 1
        played += ended
        again = ended & (played < trials)
        if again.any():
            observations = rows.reset(again, None)


class _Rows:
    """An environment's rows, and what has been seen in their episodes so far."""

    def __init__(self, environment: VectorEnvironment) -> None:
        self._environment = environment
        rows, limit = environment.rows, environment.max_episode_steps
        action, width = environment.spaces.action, environment.spaces.observation
        discrete = isinstance(action, Discrete)
        self._one_action = () if discrete else (action.size,)
        kind = np.int32 if discrete else np.float32
        self._limit = limit
        self._steps = np.zeros(rows, np.int64)
        self._actions = np.zeros((rows, *self._one_action), kind)
        self._seen = np.zeros((rows, limit + 1, width), np.float32)
        self._taken = np.zeros((rows, limit, *self._one_action), kind)
        self._gained = np.zeros((rows, limit), np.float32)
        self._ends: list[np.ndarray] = []
        self._tasks = [""] * rows
        self._look = getattr(environment, "extras", dict)
        self._extras: dict[str, np.ndarray] = {}

    def reset(
        self, rows: Bool[np.ndarray, " B"], tasks: Sequence[str] | None
    ) -> Float[np.ndarray, "B O"]:
        """Begins an episode in the rows of the mask; all rows' observations.

        Without tasks each row keeps the one that it has.
        """
        observations = self._environment.reset(rows, tasks)
        self._steps[rows] = 0
        if tasks is not None:
            drawn = getattr(self._environment, "tasks", tasks)
            for row in np.flatnonzero(rows).tolist():
                self._tasks[row] = tasks[row] or drawn[row]
        self._keep(observations, np.flatnonzero(rows))
        return observations

    def step(
        self,
        chosen: np.ndarray,
        live: Int[np.ndarray, " live"],
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Steps the live rows with their actions; what the environment's step gives.

        Gymnasium's TimeLimit says both where an episode terminates at its last step:
        nothing is cut there.
        """
        at = self._steps[live]
        if at.max() >= self._limit:
            raise ValueError(
                f"environment: expected episodes of at most {self._limit} steps "
                "(max_episode_steps), found a longer one"
            )
        expected = (live.size, *self._one_action)
        if chosen.shape != expected:
            raise ValueError(
                f"behaviour: expected actions of shape {expected}, found {chosen.shape}"
            )
        self._actions[live] = chosen.astype(self._actions.dtype, casting="same_kind")
        self._taken[live, at] = chosen
        observations, rewards, terminated, truncated = self._environment.step(
            self._actions
        )
        truncated = truncated & ~terminated
        self._ends = [terminated, truncated]
        self._gained[live, at] = rewards[live]
        self._steps[live] = at + 1
        self._keep(observations, live)
        return observations, rewards, terminated, truncated

    def take(self, row: int, number: int) -> Recorded:
        """The episode that has ended in a row, with the last step."""
        length = int(self._steps[row])
        terminated, truncated = (bool(ends[row]) for ends in self._ends)
        discounts = np.ones(length, np.float32)
        discounts[-1] = not terminated
        kept = {name: rows[row, : length + 1] for name, rows in self._extras.items()}
        episode = Episode(
            observations=self._seen[row, :length].copy(),
            actions=self._taken[row, :length].copy(),
            rewards=self._gained[row, :length].copy(),
            discounts=discounts,
            final_observation=self._seen[row, length].copy(),
            has_final_observation=True,
            terminated=terminated,
            truncated=truncated,
            task=self._tasks[row],
            episode_id=number,
            extras={name: values[1:].copy() for name, values in kept.items()},
        )
        return Recorded(
            episode, {name: values[0].copy() for name, values in kept.items()}
        )

    def _keep(self, observations: np.ndarray, rows: np.ndarray) -> None:
        """What rows show now, after so many steps."""
        steps = self._steps[rows]
        self._seen[rows, steps] = observations[rows]
        for name, values in self._look().items():
            if name not in self._extras:
                shape = (len(values), self._limit + 1, *values.shape[1:])
                self._extras[name] = np.zeros(shape, values.dtype)
            self._extras[name][rows, steps] = values[rows]
