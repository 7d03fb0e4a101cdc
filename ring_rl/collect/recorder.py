"""Runs a behaviour in an environment and hands out its episodes."""

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

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


def record(
    environment: VectorEnvironment,
    behaviour: Behaviour,
    *,
    tasks: Sequence[str],
    seed: int,
) -> Iterator[Episode]:
    """Runs one episode for each entry of `tasks`, and yields them in that order.

    Rows are used side by side; a row whose episode ended takes the next task at once.
    Discounts are 1, and 0 at a step that terminates.

    Args:
      environment: where; its rows are reset as they are needed.
      behaviour: who acts. The generator of episode i is seeded from (seed, i), so that
        its draws do not depend on the number of rows (the environment's own may).
      tasks: the task of each episode, "" leaving it to the environment. Episode i has
        `episode_id` i.
      seed: of the behaviour's draws; the environment has its own.

    Raises:
      ValueError: an episode is longer than the environment's `max_episode_steps`, or
        the behaviour's actions have another shape than the environment's.
    """
    rows, limit = environment.rows, environment.max_episode_steps
    action = environment.spaces.action
    discrete = isinstance(action, Discrete)
    one_action = () if discrete else (action.size,)
    kind = np.int32 if discrete else np.float32
    seen = np.zeros((rows, limit, environment.spaces.observation), np.float32)
    taken = np.zeros((rows, limit, *one_action), kind)
    gained = np.zeros((rows, limit), np.float32)
    steps = np.zeros(rows, np.int64)
    episode_of = np.full(rows, -1)
    states: list = [None] * rows
    # Episodes that ended before one that began earlier.
    waiting: dict[int, Episode] = {}
    begun = given = 0
    observations = np.zeros((rows, environment.spaces.observation), np.float32)
    actions = np.zeros((rows, *one_action), kind)

    while given < len(tasks):
        fresh = np.flatnonzero(episode_of < 0)[: len(tasks) - begun]
        if fresh.size:
            row_tasks = [""] * rows
            for row in fresh.tolist():
                row_tasks[row] = tasks[begun]
                generator = np.random.default_rng((seed, begun))
                states[row] = behaviour.begin(tasks[begun], generator)
                episode_of[row] = begun
                begun += 1
            steps[fresh] = 0
            mask = np.zeros(rows, bool)
            mask[fresh] = True
            observations = environment.reset(mask, row_tasks)

        live = np.flatnonzero(episode_of >= 0)
        if (steps[live] >= limit).any():
            raise ValueError(
                f"environment: expected episodes of at most {limit} steps "
                "(max_episode_steps), found a longer one"
            )
        chosen = behaviour.act(observations[live], [states[row] for row in live])
        if chosen.shape != (live.size, *one_action):
            raise ValueError(
                f"behaviour: expected actions of shape {(live.size, *one_action)}, "
                f"found {chosen.shape}"
            )
        actions[live] = chosen.astype(kind, casting="same_kind")
        seen[live, steps[live]] = observations[live]
        taken[live, steps[live]] = actions[live]
        observations, rewards, terminated, truncated = environment.step(actions)
        gained[live, steps[live]] = rewards[live]
        steps[live] += 1

        for row in live[(terminated | truncated)[live]].tolist():
            length, episode_id = int(steps[row]), int(episode_of[row])
            discounts = np.ones(length, np.float32)
            discounts[-1] = not terminated[row]
            waiting[episode_id] = Episode(
                observations=seen[row, :length].copy(),
                actions=taken[row, :length].copy(),
                rewards=gained[row, :length].copy(),
                discounts=discounts,
                final_observation=observations[row].copy(),
                has_final_observation=True,
                terminated=bool(terminated[row]),
                truncated=bool(truncated[row]),
                task=tasks[episode_id],
                episode_id=episode_id,
                extras={},
            )
            episode_of[row], states[row] = -1, None
        while given in waiting:
            yield waiting.pop(given)
            given += 1
