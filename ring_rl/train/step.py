"""One update: a pure function of state and batch, compiled once."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from ring_rl.agent import Agent
from ring_rl.mesh import ShardingRules
from ring_rl.types import Batch


class TrainState(NamedTuple):
    """Everything that an update changes.

    Attributes:
      step: updates done, int32.
      parameters: NNX state of the model.
      optimiser: of optax.
      key: PRNG key data of the run; each update folds its step in.
    """

    step: Any
    parameters: Any
    optimiser: Any
    key: Any


Metrics = dict[str, Any]
Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def initial_state(
    model: Any,
    optimiser: optax.GradientTransformation,
    rules: ShardingRules,
    *,
    seed: int,
) -> TrainState:
    """The state before the first update, lying as the rules say."""
    parameters = nnx.state(model)
    state = TrainState(
        jnp.zeros((), jnp.int32),
        parameters,
        optimiser.init(parameters),
        jax.random.key_data(jax.random.key(seed)),
    )
    # Copied: the step donates its argument, and the model keeps its own arrays.
    return jax.device_put(jax.tree.map(jnp.copy, state), rules.shardings(state))


def make_step(
    agent: Agent, model: Any, optimiser: optax.GradientTransformation
) -> Step:
    """Compiles the update of an agent's model; the old state is used up by it.

    Metrics are those of the agent's loss and `gradient_norm`, before clipping.
    """
    graph = nnx.graphdef(model)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)

        def loss(parameters):
            return agent.loss(nnx.merge(graph, parameters), batch, key)

        gradients, metrics = jax.grad(loss, has_aux=True)(state.parameters)
        updates, optimiser_state = optimiser.update(
            gradients, state.optimiser, state.parameters
        )
        parameters = optax.apply_updates(state.parameters, updates)
        metrics["gradient_norm"] = optax.tree.norm(gradients)
        new = TrainState(state.step + 1, parameters, optimiser_state, state.key)
        # As it came: else the next update would be compiled anew.
        new = jax.lax.with_sharding_constraint(new, model.rules.shardings(new))
        return new, metrics

    return jax.jit(step, donate_argnums=0)
