"""The gradient of a batch that is too large for the memory, from parts of its rows."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from ring_rl.mesh import ShardingRules
from ring_rl.types import Batch

# Of parameters, batch and key: gradients, and metrics by name.
Gradient = Callable[[Any, Batch, jax.Array], tuple[Any, dict[str, jax.Array]]]

# The metric that counts the batch, and so is a sum over the parts.
_COUNT = "actions"


def in_parts(gradient: Gradient, parts: int, rules: ShardingRules) -> Gradient:
    """The same gradient and metrics, to rounding, from one part after the other.

    The activations are those of a part; the gradients are summed beside it. A loss
    and its metrics are means weighted by `batch.weight`, so that a part counts by its
    share of the weight, not by its rows: see `Agent.loss`. Dropout draws anew in each
    part, and so otherwise than for the whole batch.

    Args:
      gradient: of a loss as `Agent.loss` describes it.
      parts: k; the rows of a batch are a multiple of k times `data` times `fsdp`.
      rules: where rows and tokens lie.
    """
    spec = PartitionSpec(None, *rules.tokens)

    def cut(x: jax.Array) -> jax.Array:
        """`[B ...]` to `[k B/k ...]`: every k-th row, so none leaves its device."""
        rows = x.reshape(x.shape[0] // parts, parts, *x.shape[1:])
        return jax.lax.with_sharding_constraint(
            jnp.moveaxis(rows, 1, 0), rules.sharding(spec)
        )

    def whole(parameters: Any, batch: Batch, key: jax.Array) -> tuple[Any, Any]:
        total = _weight(batch)

        def one(sum_: Any, part: tuple[jax.Array, Batch]) -> tuple[Any, Any]:
            index, rows = part
            found, metrics = gradient(parameters, rows, jax.random.fold_in(key, index))
            share = _weight(rows) / total
            sum_ = jax.tree.map(lambda s, g: s + share * g, sum_, found)
            return sum_, (share, metrics)

        zeros = jax.tree.map(jnp.zeros_like, parameters)
        inputs = (jnp.arange(parts), jax.tree.map(cut, batch))
        gradients, (shares, metrics) = jax.lax.scan(one, zeros, inputs)
        return gradients, {
            name: values.sum() if name == _COUNT else (shares * values).sum()
            for name, values in metrics.items()
        }

    return whole


def _weight(batch: Batch) -> jax.Array:
    """What the loss of a batch is divided by."""
    return jnp.maximum(batch.weight.sum(), 1)
