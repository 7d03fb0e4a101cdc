"""Rollouts: many environments at once, each with its own context across its trials."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ring_rl.agent import Agent
from ring_rl.types import Rollouts, VectorEnvironment


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
      progress: called with trials finished and a line of text.
    """
    graph, parameters = nnx.split(model)
    rows = environment.rows

    # The state is used up by each call: the cache is updated where it lies.
    def advance(state, parameters, outcome, observations, active, turn, temperature):
        model = nnx.merge(graph, parameters)
        state = agent.observe(state, *outcome)
        key = jax.random.fold_in(jax.random.key(seed), turn)
        return agent.act(model, state, observations, active, key, temperature)

    advance = jax.jit(advance, donate_argnums=0)
    state = agent.start(
        model,
        np.full(rows, target_return, np.float32),
        steps=trials * environment.max_episode_steps,
    )

    returns = np.zeros((rows, trials))
    lengths = np.zeros((rows, trials), np.int64)
    terminated = np.zeros((rows, trials), bool)
    trial = np.zeros(rows, np.int64)
    active = np.ones(rows, bool)
    nothing = np.zeros(rows, bool)

    def reset(mask):
        if tasks is None:
            return environment.reset(mask)
        names = [tasks[row][min(trial[row], trials - 1)] for row in range(rows)]
        return environment.reset(mask, names)

    observations = reset(active)
    # A copy: the state, its own last action included, is used up by `advance`.
    actions: Any = np.array(state.action)
    outcome = (actions, np.zeros(rows, np.float32), nothing, nothing)
    began, decoding, steps = time.perf_counter(), [], 0
    warm = jnp.float32(temperature)
    while active.any():
        asked = time.perf_counter()
        actions, state = advance(
            state, parameters, outcome, observations, active,
            np.int32(len(decoding)), warm,
        )  # fmt: skip
        chosen = np.asarray(actions)
        decoding.append(time.perf_counter() - asked)
        observations, rewards, ends, cuts = environment.step(chosen)
        ended = (ends | cuts) & active
        index = np.flatnonzero(active)
        returns[index, trial[index]] += rewards[index]
        lengths[index, trial[index]] += 1
        terminated[index, trial[index]] = ends[index]
        steps += len(index)
        outcome = (actions, rewards.astype(np.float32), ended, active)
        trial = trial + ended
        active = trial < trials
        if (ended & active).any():
            observations = reset(ended & active)
        if progress is not None and ended.any():
            progress(int(trial.sum()), f"mean return {returns[:, 0].mean():.2f} first")
    seconds = time.perf_counter() - began
    return Rollouts(
        returns,
        lengths,
        terminated,
        tuple(tasks[row][-1] for row in range(rows)) if tasks else ("",) * rows,
        steps / seconds,
        float(np.median(decoding)) * 1e3,
    )
