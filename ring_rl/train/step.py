"""One update: a pure function of state and batch, compiled once."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from ring_rl.agent import Agent
from ring_rl.mesh import ShardingRules
from ring_rl.train.interval import SKIPPED
from ring_rl.train.parts import Gradient, in_parts
from ring_rl.types import Batch


class TrainState(NamedTuple):
    """Everything that an update changes.

    Attributes:
      step: updates done, int32.
      parameters: NNX state of the model.
      optimiser: of optax.
      key: PRNG key data of the run; each update folds its step in.
      average: running average of the parameters, None where there is none.
    """

    step: Any
    parameters: Any
    optimiser: Any
    key: Any
    average: Any = None

    @property
    def evaluated(self) -> Any:
        """The parameters that an agent acts with: their average, where there is one."""
        return self.parameters if self.average is None else self.average


Metrics = dict[str, Any]
Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def initial_state(
    model: Any,
    optimiser: optax.GradientTransformation,
    rules: ShardingRules,
    *,
    seed: int,
    average: bool = False,
) -> TrainState:
    """The state before the first update, lying as the rules say.

    `average` says whether it has one of the parameters.
    """
    parameters = nnx.state(model)
    state = TrainState(
        jnp.zeros((), jnp.int32),
        parameters,
        optimiser.init(parameters),
        jax.random.key_data(jax.random.key(seed)),
        parameters if average else None,
    )
    # Copied: the step donates its argument, and the model keeps its own arrays.
    return jax.device_put(jax.tree.map(jnp.copy, state), rules.shardings(state))


def make_step(
    agent: Agent,
    model: Any,
    optimiser: optax.GradientTransformation,
    rules: ShardingRules,
    *,
    accumulate: int = 1,
    average: float = 0.0,
    skip_nonfinite: bool = False,
) -> Step:
    """Compiles the update of an agent's model; the old state is used up by it.

    Metrics are those of the agent's loss and `gradient_norm`, before clipping.

    Args:
      agent: whose loss it is.
      model: of the agent.
      optimiser: of the state.
      rules: where arrays lie.
      accumulate: parts that the rows of a batch are computed in, one after the other.
      average: decay of the running average of a state that has one. In update t it is
        at most (1 + t) / (10 + t), or the first parameters would long be in it.
      skip_nonfinite: whether an update whose loss, gradient or outcome is not finite
        changes nothing but the step; the metric `skipped`, 0 or 1, then tells.
    """
    graph = nnx.graphdef(model)

    def gradient(parameters, batch, key):
        def loss(parameters):
            return agent.loss(nnx.merge(graph, parameters), batch, key)

        return jax.grad(loss, has_aux=True)(parameters)

    compute: Gradient = gradient
    if accumulate > 1:
        compute = in_parts(gradient, accumulate, rules)

    # Its name is that by which its compilations are counted.
    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        gradients, metrics = compute(state.parameters, batch, key)
        updates, optimiser_state = optimiser.update(
            gradients, state.optimiser, state.parameters
        )
        parameters = optax.apply_updates(state.parameters, updates)
        metrics["gradient_norm"] = optax.tree.norm(gradients)
        new = TrainState(state.step + 1, parameters, optimiser_state, state.key)
        if state.average is not None:
            decay = jnp.minimum(average, (1 + state.step) / (10 + state.step))
            new = new._replace(
                average=jax.tree.map(
                    lambda old, one: (decay * old + (1 - decay) * one).astype(
                        one.dtype
                    ),
                    state.average,
                    parameters,
                )
            )
        if skip_nonfinite:
            good = all_finite((new, metrics))
            kept = jax.tree.map(
                lambda one, other: jnp.where(good, one, other), new, state
            )
            new = kept._replace(step=new.step)
            metrics[SKIPPED] = 1 - good.astype(jnp.float32)
        # As it came: else the next update would be compiled anew.
        new = jax.lax.with_sharding_constraint(new, rules.shardings(new))
        return new, metrics

    return jax.jit(train_step, donate_argnums=0)


def all_finite(tree: Any) -> jax.Array:
    """Whether all floating-point numbers of a tree are finite, on its devices."""
    return jnp.stack(
        [
            jnp.isfinite(leaf).all()
            for leaf in jax.tree.leaves(tree)
            if jnp.issubdtype(leaf.dtype, jnp.floating)
        ]
    ).all()
