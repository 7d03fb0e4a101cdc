"""What the compiler says of the training step: compiled from shapes, nothing run."""

import time
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import nnx

from ring_rl.data.tokens import empty_batch
from ring_rl.mesh import MeshConfig, ShardingRules, make_mesh
from ring_rl.plan.context import Context
from ring_rl.plan.models import Model
from ring_rl.train.optimiser import OptimiserConfig, make_optimiser
from ring_rl.train.step import TrainState, initial_state, make_step
from ring_rl.types import Continuous, Scaling, Spaces


class Compiled(NamedTuple):
    """The compiler's account of one device, in bytes.

    Attributes:
      arguments: parameters, optimiser and batch; results take their place.
      temporary: beside them.
      seconds: that compiling took.
    """

    arguments: int
    temporary: int
    seconds: float

    @property
    def total(self) -> int:
        """Of both."""
        return self.arguments + self.temporary


def compile_step(model: Model, context: Context) -> Compiled:
    """Compiles an update of the model on as many devices as the context has.

    Raises:
      ValueError: there are not so many devices.
    """
    began = time.perf_counter()
    analysis = trace_step(model, context).lower().compile().memory_analysis()
    return Compiled(
        analysis.argument_size_in_bytes,
        analysis.temp_size_in_bytes,
        time.perf_counter() - began,
    )


def trace_step(model: Model, context: Context) -> Any:
    """An update of the model, traced from shapes: no parameter and no batch is made.

    Raises:
      ValueError: there are not as many devices as the context has.
    """
    rules = ShardingRules(
        make_mesh(MeshConfig(data=context.data, sequence=context.ring))
    )
    agent, optimiser = model.agent(), make_optimiser(OptimiserConfig(), 1)
    spaces = Spaces(
        model.observation, Continuous((-1.0,) * model.action, (1.0,) * model.action)
    )
    scaling = Scaling((0.0,) * model.observation, (1.0,) * model.observation, 1.0, 1.0)
    graphs = []

    def start() -> TrainState:
        built = agent.build(spaces, scaling, rules, seed=0)
        graphs.append(nnx.graphdef(built))
        return initial_state(built, optimiser, rules, seed=0)

    def some_tokens():
        return jax.tree.map(jnp.asarray, empty_batch(context.rows, 1, spaces))

    def whole_row(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        shape = (context.rows, context.tokens, *x.shape[2:])
        return _placed(shape, x.dtype, rules, rules.tokens)

    state = jax.tree.map(
        lambda x: _placed(x.shape, x.dtype, rules, rules.replicated),
        jax.eval_shape(start),
    )
    batch = jax.tree.map(whole_row, jax.eval_shape(some_tokens))
    shapes = nnx.merge(graphs[0], state.parameters)
    # The step is a jitted function, which its type does not say.
    step = cast(Any, make_step(agent, shapes, optimiser, rules))
    return step.trace(state, batch)


def _placed(shape: tuple[int, ...], dtype: Any, rules: ShardingRules, spec: Any):
    """A shape and where its array would lie."""
    return jax.ShapeDtypeStruct(shape, dtype, sharding=rules.sharding(spec))
