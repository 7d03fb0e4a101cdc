"""Where the time of a training step goes: attention, feed-forward, and the rest."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ring_rl.attention import Mask
from ring_rl.bench.timing import Call, warm_up
from ring_rl.nn.trunk import ATTENTION_RESIDUALS
from ring_rl.types import Batch

PARTS = ("attention", "feed_forward")


def part_programs(model: Any, batch: Batch) -> dict[str, Call]:
    """Forward and backward of one block's parts, over the batch's tokens as they lie.

    As the step has them: what attention gives is kept, and the feed-forward computed
    again in the backward pass. Projections, norms, embeddings, loss and optimiser are
    in neither.

    Args:
      model: of a step, whose first block is like all others.
      batch: on its devices.
    """
    block, rules = model.trunk.blocks[0], model.rules
    mask = Mask.self_attention(batch.tokens.positions, batch.tokens.segments)
    dtype = jnp.dtype(block.config.dtype)
    random = np.random.default_rng(0)

    def draw(*shape: int) -> jax.Array:
        values = random.standard_normal((*batch.weight.shape, *shape), np.float32)
        return jax.device_put(values.astype(dtype), rules.sharding(rules.tokens))

    head_width = block.config.width // block.heads[0]
    heads = tuple(draw(count, head_width) for count in (*block.heads, block.heads[1]))
    x = draw(block.config.width)
    graph, parameters = nnx.split(block)
    policy = jax.checkpoint_policies.save_only_these_names(*ATTENTION_RESIDUALS)

    def attend(q, k, v):
        return block.attend(q, k, v, mask).astype(jnp.float32).sum()

    def feed_forward(parameters, x):
        added = nnx.merge(graph, rules.gather(parameters)).feed_forward_of(x)
        return added.astype(jnp.float32).sum()

    programs = {
        "attention": (jax.checkpoint(attend, policy=policy), (0, 1, 2), heads),
        "feed_forward": (
            jax.checkpoint(feed_forward, policy=policy),
            (0, 1),
            (parameters, x),
        ),
    }

    def call(function: Any, wanted: tuple[int, ...], arguments: Any) -> Call:
        compiled = jax.jit(jax.value_and_grad(function, argnums=wanted))
        return warm_up(lambda: compiled(*arguments))[1]

    return {name: call(*program) for name, program in programs.items()}
