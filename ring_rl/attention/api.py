"""The one entry to attention: the same arguments and results, whatever does the work.

Every implementation is exact; they differ in memory, in time, and in where the sequence
lies.
"""

import math
from typing import Any

import jax
from jaxtyping import Array, Float

from ring_rl.attention.checks import check_arrays, check_options
from ring_rl.attention.dropout import make_dropout
from ring_rl.attention.kernels import choose_kernel
from ring_rl.attention.mask import Mask
from ring_rl.attention.memory_efficient import memory_efficient_attention
from ring_rl.attention.reference import reference_attention
from ring_rl.attention.ring import Plan, planned_attention
from ring_rl.attention.tiles import Blocks


def attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    mask: Mask,
    *,
    implementation: str = "blockwise",
    axis_name: str | None = None,
    scale: float | None = None,
    block_q: int | None = None,
    block_k: int | None = None,
    dropout_rate: float = 0.0,
    dropout_key: Any = None,
    hops: int | None = None,
    kernel: str | None = None,
) -> Float[Array, "B T N H"]:
    """softmax(scale · q kᵀ) v over the keys that `mask` shows, in q's type.

    Args:
      q: queries.
      k: keys; K divides N, and consecutive groups of N / K query heads share one.
      v: values.
      mask: who sees whom. A row that sees nothing has output and gradient 0.
      implementation: `reference` (all scores in memory, the oracle),
        `memory_efficient` (Rabe & Staats: chunks, by autodiff), `blockwise` (tiles,
        one device) or `ring` (called on shards inside `jax.shard_map`).
      axis_name: the mesh axis of the sequence; for `ring`, and only for it.
      scale: 1 / sqrt(H) if None.
      block_q: queries a tile; chosen by device kind if None. `reference` has no tiles.
      block_k: keys a tile; likewise.
      dropout_rate: the probability that a weight is 0; the others are divided by its
        complement. Above 0 it needs a key and the mask's tokens.
      dropout_key: one key for all rows and heads, or, where rows or heads are spread
        over devices, this device's part `[B N]` of `dropout.row_keys`. The same
        weights are dropped whatever the implementation, devices, layout and tiles.
      hops: how many times the ring passes keys on; for `ring`, and only for it. All
        R - 1 times if None; `count_hops` says how many of them a mask needs. Too few
        make all results NaN.
      kernel: what computes a hop of `blockwise` or `ring`, and only of them:
        `blockwise`, `triton` or `hopper`, see `kernels`; if None, the fastest of the
        kind of device that can do this.

    Raises:
      ValueError: an argument that does not fit, named, with what was expected.
    """
    check_arrays(q, k, v, mask)
    blocks = {"block_q": block_q, "block_k": block_k}
    check_options(implementation, axis_name, hops, scale, blocks, kernel)
    dropout = make_dropout(dropout_rate, dropout_key, q.shape[0], q.shape[2])
    if dropout is not None and mask.q_tokens is None:
        raise ValueError(
            "attention: mask must have q_tokens and k_tokens where dropout_rate is "
            f"above 0, found none and {dropout_rate}"
        )
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else float(scale)
    if implementation == "reference":
        output, _ = reference_attention(q, k, v, mask, scale=scale, dropout=dropout)
        return output.astype(q.dtype)
    if implementation == "memory_efficient":
        return memory_efficient_attention(
            q, k, v, mask, scale=scale, dropout=dropout, **blocks
        )
    plan = Plan(scale, Blocks(block_q, block_k), choose_kernel(kernel, q, dropout))
    if axis_name is not None:
        furthest = jax.lax.axis_size(axis_name) - 1
        plan = plan._replace(
            axis_name=axis_name, hops=furthest if hops is None else hops
        )
    return planned_attention(q, k, v, mask, dropout, plan)
