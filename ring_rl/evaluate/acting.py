"""Acting with a trained model, one batch of rows at a time."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Bool, Float, Int

from ring_rl.agent import Agent


class Actor:
    """Rows that act, each in a context of its own that it keeps across its trials.

    Call `act` and `observe` in turn. The outcome that `observe` is told enters the
    context together with the next observation, in one compiled call.
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
    ):
        """Rows that have seen nothing.

        Args:
          agent: how to act.
          model: its trained model.
          rows: B.
          trials: episodes that each row will play in this context.
          steps: environment steps that an episode has at most.
          target_return: the return that every trial is told to reach.
          temperature: of the sampled actions; 0 takes the likeliest.
          seed: of the sampling.
        """
        self._agent, self._model = agent, model
        graph, self._parameters = nnx.split(model)
        key = jax.random.key(seed)

        def advance(state, parameters, outcome, observations, active, turn, warm):
            state = agent.observe(state, *outcome)
            model = nnx.merge(graph, parameters)
            turn_key = jax.random.fold_in(key, turn)
            return agent.act(model, state, observations, active, turn_key, warm)

        self._state = agent.start(
            model,
            jnp.full(rows, target_return, jnp.float32),
            trials=trials,
            steps=steps,
        )
        # The state is used up by each call: the cache is updated where it lies. It
        # comes back as it was placed, so that the second call compiles nothing.
        placed = jax.tree.map(lambda x: x.sharding, self._state)
        self._advance = jax.jit(advance, donate_argnums=0, out_shardings=(None, placed))
        self._temperature = jnp.float32(temperature)
        self._turn = 0
        nothing = np.zeros(rows, bool)
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
            self._model, self._state, steps=self._turn + 1
        )
        actions, self._state = self._advance(
            self._state,
            self._parameters,
            (self._actions, rewards, ended, self._active),
            observations,
            active,
            np.int32(self._turn),
            self._temperature,
        )
        self._agent.check(self._state)
        self._turn += 1
        self._actions, self._active = np.asarray(actions), active
        return self._actions

    def observe(
        self, rewards: Float[np.ndarray, " B"], ended: Bool[np.ndarray, " B"]
    ) -> None:
        """What came of the last actions; rows that ended begin a new trial."""
        self._outcome = (rewards.astype(np.float32), ended & self._active)
