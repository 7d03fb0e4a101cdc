"""Work on tokens one by one, in chunks of the device's own part of the sequence.

Each device applies a function of single tokens to its own block chunk by chunk, and
computes it again in the backward pass: activation memory is that of one chunk. A block
that is a single chunk is computed once, since there is nothing to save.

Source: Liu & Abbeel 2023, Blockwise Parallel Transformer (arXiv 2305.19370).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ring_rl.mesh import ShardingRules


def over_tokens(
    function: Callable[..., Any],
    parameters: Any,
    *arrays: Any,
    rules: ShardingRules,
    chunk: int,
    specs: Any = None,
) -> Any:
    """`function(parameters, *arrays)` for arrays `[B T ...]`, chunk by chunk.

    `function` must treat tokens independently and return arrays `[B T ...]`.
    `chunk` is in tokens, rows included.

    `parameters` are the same on all devices, or as `specs` say; `function` then has its
    part of them, and returns the same on all devices that share them out.
    """

    def local(parameters, *arrays):
        rows, length = arrays[0].shape[:2]
        size = min(length, max(1, chunk // rows))
        chunks = -(-length // size)
        if chunks == 1:
            return function(parameters, *arrays)

        def split(x):
            missing = chunks * size - length
            x = jnp.pad(x, ((0, 0), (0, missing)) + ((0, 0),) * (x.ndim - 2))
            return jnp.moveaxis(x.reshape(rows, chunks, size, *x.shape[2:]), 1, 0)

        def join(x):
            x = jnp.moveaxis(x, 0, 1)
            return x.reshape(rows, chunks * size, *x.shape[3:])[:, :length]

        one = jax.checkpoint(lambda xs: function(parameters, *xs))
        return jax.tree.map(join, jax.lax.map(one, tuple(map(split, arrays))))

    return jax.shard_map(
        local,
        mesh=rules.mesh,
        in_specs=(
            rules.replicated if specs is None else specs,
            *(rules.tokens for _ in arrays),
        ),
        out_specs=rules.tokens,
    )(parameters, *arrays)
