"""Attention of a few new tokens to a cache whose keys are spread over devices.

The queries are the same on all devices; each attends to the part of the cache that it
holds, and outputs are merged by their log-sum-exps. Bytes on the wire per device:
O(B·T·N·H), independent of the length of the context. Keys and values never move.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ring_rl.attention.mask import Mask
from ring_rl.attention.reference import reference_attention


def decode_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    mask: Mask,
    *,
    axis_name: str | None = None,
    scale: float,
) -> Float[Array, "B T N H"]:
    """Output for T new tokens, the same on all devices of `axis_name`.

    `k`, `v` and the keys of `mask` are this device's part of the cache, in whatever
    order it was written. T is small: scores `[B N T S]` of the part are held at once.
    """
    output, lse = reference_attention(q, k, v, mask, scale=scale)
    if axis_name is None:
        return output.astype(q.dtype)
    largest = jax.lax.pmax(lse, axis_name)
    largest = jnp.where(jnp.isneginf(largest), 0.0, largest)
    weight = jnp.exp(lse - largest)
    total = jax.lax.psum(weight, axis_name)
    output = jax.lax.psum(weight[..., None] * output, axis_name)
    divisor = jnp.where(total == 0, 1.0, total)
    return (output / divisor[..., None]).astype(q.dtype)
