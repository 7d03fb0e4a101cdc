"""Rollouts: many environments at once, each with its own context across its trials."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from ring_rl.agent import Agent
from ring_rl.evaluate.acting import Actor
from ring_rl.types import Chain, Rollouts, VectorEnvironment

Watch = Callable[
    [Int[np.ndarray, " B"], Bool[np.ndarray, " B"], Bool[np.ndarray, " B"]], None
]


def rollout(
    agent: Agent,
    model: Any,
    environment: VectorEnvironment,
    *,
    trials: int,
    target_return: float,
    temperature: float,
    seed: int,
    tasks: Sequence[Sequence[str]] | None = None,
    demonstrations: Sequence[Chain] | None = None,
    watch: Watch | None = None,
    progress: Callable[[int, str], None] | None = None,
) -> Rollouts:
    """Plays `trials` episodes in every row, one context a row.

    Rows end their episodes at different times and go on to the next at once; a row
    that has played all its trials rests, and neither acts nor remembers.

    Args:
      agent: how to act.
      model: its trained model.
      environment: the rows.
      trials: episodes a row.
      target_return: the return that every row is told to reach in every trial.
      temperature: of the sampled actions; 0 takes the likeliest.
      seed: of the sampling.
      tasks: `[rows][trials]` names of the tasks to play; None leaves the tasks to the
        environment, which then draws one at each row's first reset and keeps it.
      demonstrations: one chain a row that it reads before its first trial; they count
        as context, not as trials.
      watch: called after every reset and every step, while the environment stands as
        it was left: with the number of each row's trial, from 0, the rows that were
        reset or stepped, and those of them whose trial ended with that step.
      progress: called with trials finished and a line of text.

    Raises:
      ValueError: from the environment, or where a context cannot hold what it is to.
    """
    rows = environment.rows
    actor = Actor(
        agent,
        model,
        rows,
        trials=trials,
        steps=environment.max_episode_steps,
        target_return=target_return,
        temperature=temperature,
        seed=seed,
        demonstrations=demonstrations,
    )
    returns = np.zeros((rows, trials))
    lengths = np.zeros((rows, trials), np.int64)
    terminated = np.zeros((rows, trials), bool)
    trial = np.zeros(rows, np.int64)
    active = np.ones(rows, bool)

    def reset(mask):
        names = None
        if tasks is not None:
            last = trials - 1
            names = [tasks[row][min(int(trial[row]), last)] for row in range(rows)]
        observations = environment.reset(mask, names)
        if watch is not None:
            watch(trial, mask, np.zeros(rows, bool))
        return observations

    observations = reset(active)
    began, decoding, steps = time.perf_counter(), [], 0
    while active.any():
        asked = time.perf_counter()
        actions = actor.act(observations, active)
        decoding.append(time.perf_counter() - asked)
        observations, rewards, ends, cuts = environment.step(actions)
        ended = (ends | cuts) & active
        actor.observe(rewards, ended)
        index = np.flatnonzero(active)
        returns[index, trial[index]] += rewards[index]
        lengths[index, trial[index]] += 1
        terminated[index, trial[index]] = ends[index]
        steps += len(index)
        if watch is not None:
            watch(trial, active, ended)
        trial = trial + ended
        active = trial < trials
        if (ended & active).any():
            observations = reset(ended & active)
        if progress is not None:
            progress(int(trial.sum()), f"{steps} environment steps")
    seconds = time.perf_counter() - began
    return Rollouts(
        returns,
        lengths,
        terminated,
        tuple(tasks[row][-1] for row in range(rows)) if tasks else ("",) * rows,
        steps / seconds,
        float(np.median(decoding)) * 1e3,
    )
