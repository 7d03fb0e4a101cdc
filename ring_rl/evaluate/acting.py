"""Acting with a trained model, one batch of rows at a time."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Bool, Float, Int

from ring_rl import processes
from ring_rl.agent import Agent
from ring_rl.evaluate.played import Played
from ring_rl.types import Chain


class Actor:
    """Rows that act, each in a context of its own that it keeps across its trials.

    Call `act` and `observe` in turn. The outcome that `observe` is told enters the
    context together with the next observation, in one compiled call; where the agent's
    `recall` has its trials in another order than played, rows whose trial has ended
    read all of them anew before that.
    """

    def __init__(
        self,
        agent: Agent,
        model: Any,
        rows: int,
        *,
        trials: int,
        steps: int,
        target_return: float,
        temperature: float,
        seed: int,
        demonstrations: Sequence[Chain] | None = None,
    ):
        """Rows that have seen nothing but demonstrations.

        Args:
          agent: how to act.
          model: its trained model.
          rows: B.
          trials: episodes that each row will play in this context.
          steps: environment steps that an episode has at most.
          target_return: the return that every trial is told to reach.
          temperature: of the sampled actions; 0 takes the likeliest.
          seed: of the sampling.
          demonstrations: one chain a row that it reads before it acts, as if it had
            acted them itself; they are no trials of its own.

        Raises:
          ValueError: as the agent's `prefill`, which an agent whose `recall` is not
            `played` needs for every trial.
        """
        self._agent, self._model = agent, model
        chains = demonstrations or ()
        episodes = [np.diff(_bounds(chain)) for chain in chains]
        most = max((len(lengths) for lengths in episodes), default=0)
        longest = max((int(lengths.max(initial=0)) for lengths in episodes), default=0)
        graph, self._parameters = nnx.split(model)
        self._key = jax.random.key(seed)
        self._state = agent.start(
            model,
            jnp.full(rows, target_return, jnp.float32),
            trials=trials + most,
            steps=max(steps, longest),
        )
        if demonstrations is not None:
            self._state = agent.prefill(model, self._state, chains)
        self._read = max((len(chain.rewards) for chain in chains), default=0)
        # Only where contexts are read again.
        again = agent.recall != "played"
        self._played = Played(rows, chains) if again else None
        if again:
            model.check_rows(rows)
        # The state is used up by each call: the cache is updated where it lies. It
        # comes back as it was placed, so that the second call compiles nothing.
        placed, structure = jax.tree.flatten(self._state)
        shardings = tuple(x.sharding for x in placed)
        self._placed = jax.tree.unflatten(structure, shardings)
        self._shapes: Any = None
        self._advance = _make_advance(agent, graph, structure, shardings)
        self._temperature = jnp.float32(temperature)
        self._turn = 0
        nothing = np.zeros(rows, bool)
        # Rows that have to read their contexts anew before they act again.
        self._ended = nothing
        # A copy: the state, its own last action included, is used up.
        self._actions = np.array(self._state.action)
        self._active = nothing
        self._outcome = (np.zeros(rows, np.float32), nothing)

    def act(
        self, observations: Float[np.ndarray, "B O"], active: Bool[np.ndarray, " B"]
    ) -> Float[np.ndarray, "B A"] | Int[np.ndarray, " B"]:
        """Actions of the active rows; the others' mean nothing and leave no trace.

        Raises:
          ValueError: a row's context has lost what it should remember.
        """
        rewards, ended = self._outcome
        self._state = self._agent.make_room(
            self._model, self._state, steps=self._read + self._turn + 1
        )
        unread, due = self._active & ~self._ended, self._ended & active
        if self._played is not None and due.any():
            # What rows that rest have in their contexts is not needed any more.
            state = self._agent.remember(
                self._model, self._state, self._played.chains(due), self._ended
            )
            self._state = jax.device_put(state, self._placed)
            self._ended = self._ended & ~due
        arguments = (
            self._state,
            self._parameters,
            (self._actions, rewards, ended, unread),
            observations,
            active,
            self._key,
            np.int32(self._turn),
            self._temperature,
        )
        shapes = jax.tree.map(np.shape, self._state)
        if shapes != self._shapes:
            self._ready = processes.compiled(self._advance, *arguments)
            self._shapes = shapes
        actions, self._state = self._ready(*arguments)
        self._agent.check(self._state)
        self._turn += 1
        self._actions, self._active = np.asarray(actions), active
        if self._played is not None:
            self._played.act(observations, self._actions, active)
        return self._actions

    def observe(
        self, rewards: Float[np.ndarray, " B"], ended: Bool[np.ndarray, " B"]
    ) -> None:
        """What came of the last actions; rows that ended begin a new trial."""
        rewards, ended = rewards.astype(np.float32), ended & self._active
        if self._played is not None:
            self._played.observe(rewards, ended)
            self._ended = self._ended | ended
        self._outcome = (rewards, ended)


@functools.lru_cache(maxsize=16)
def _make_advance(agent: Agent, graph: Any, structure: Any, shardings: tuple) -> Any:
    """The compiled step; seeds of one configuration share it.

    `structure` and `shardings` are those of the state.
    """

    def advance(state, parameters, outcome, observations, active, key, turn, warm):
        state = agent.observe(state, *outcome)
        model = nnx.merge(graph, parameters)
        turn_key = jax.random.fold_in(key, turn)
        return agent.act(model, state, observations, active, turn_key, warm)

    placed = jax.tree.unflatten(structure, shardings)
    return jax.jit(advance, donate_argnums=0, out_shardings=(None, placed))


def _bounds(chain: Chain) -> Int[np.ndarray, " bounds"]:
    """Where a chain's episodes begin, and where the last ends."""
    return np.append(np.flatnonzero(chain.timesteps == 0), len(chain.rewards))
