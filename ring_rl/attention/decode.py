"""Attention of a few new tokens to a cache whose keys are spread over devices.

The queries are the same on all devices; each attends to the part of the cache that it
holds. Devices agree on the largest score of each query by `pmax` and add up outputs
and sums of weights by `psum`: O(B·T·N·H) numbers a device, independent of the length of
the context. Keys and values never move.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ring_rl.attention.mask import Mask


def decode_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    mask: Mask,
    *,
    axis_name: str | None = None,
    scale: float,
) -> Float[Array, "B T N H"]:
    """Output for T new tokens, the same on all devices of `axis_name`, in q's type.

    `k`, `v` and the keys of `mask` are this device's part of the cache, in whatever
    order it was written. T is small: scores `[B N T S]` of the part are held at once,
    in at least f32. A token that sees nothing has output 0.

    Keys and values are read where they lie, once, if their memory is in the order
    `[B K S H]` (a cache stored so is handed over with `jnp.swapaxes(k, 1, 2)`): the
    products are then one matrix product a row and key head. In the order of the
    arguments, a compiler is free to copy all of them first.
    """
    B, T, N, H = q.shape
    K = k.shape[2]
    dtype = jnp.promote_types(jnp.float32, q.dtype)
    product = functools.partial(jnp.einsum, preferred_element_type=dtype)
    # The G query heads that share a key head are rows of one product with it.
    q_BTKGH = q.reshape(B, T, K, N // K, H)
    seen_BTS = mask.seen()
    scores_BKGTS = scale * product("BTKGH,BSKH->BKGTS", q_BTKGH, k)
    scores_BKGTS = jnp.where(seen_BTS[:, None, None], scores_BKGTS, -jnp.inf)
    largest_BKGT = scores_BKGTS.max(axis=-1)
    if axis_name is not None:
        largest_BKGT = jax.lax.pmax(largest_BKGT, axis_name)
    # A token that sees nothing: -inf - (-inf) would be NaN.
    largest_BKGT = jnp.where(jnp.isneginf(largest_BKGT), 0.0, largest_BKGT)
    p_BKGTS = jnp.exp(scores_BKGTS - largest_BKGT[..., None])
    total_BKGT = p_BKGTS.sum(axis=-1)
    output_BKGTH = product("BKGTS,BSKH->BKGTH", p_BKGTS.astype(v.dtype), v)
    if axis_name is not None:
        output_BKGTH, total_BKGT = jax.lax.psum((output_BKGTH, total_BKGT), axis_name)
    divisor_BKGT = jnp.where(total_BKGT == 0, 1.0, total_BKGT)
    output_BKGTH /= divisor_BKGT[..., None]
    return jnp.moveaxis(output_BKGTH, 3, 1).reshape(q.shape).astype(q.dtype)
