"""Attention of a few new tokens to a cache whose keys are spread over devices.

The queries are the same on all devices; each attends to the part of the cache that it
holds, on a GPU with a fused kernel. Devices agree on the largest score of each query by
`pmax` and add up outputs and sums of weights by `psum`: O(B·T·N·H) numbers a device,
independent of the length of the context. Keys and values never move.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ring_rl.attention.kernels.decode import decode_sums, supports
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
    in at least f32, but in a fused kernel. A token that sees nothing has output 0.

    Keys and values are read where they lie, once, if their memory is in the order
    `[B K S H]` (a cache stored so is handed over with `jnp.swapaxes(k, 1, 2)`): the
    products are then one matrix product a row and key head. In the order of the
    arguments, a compiler is free to copy all of them first.
    """
    B, T, N, H = q.shape
    K = k.shape[2]
    # The G query heads that share a key head are rows of one product with it.
    q_BKMH = q.reshape(B, T, K, N // K, H)
    q_BKMH = jnp.moveaxis(q_BKMH, 1, 3).reshape(B, K, -1, H)
    k_BKSH, v_BKSH = jnp.swapaxes(k, 1, 2), jnp.swapaxes(v, 1, 2)
    arguments = q_BKMH, k_BKSH, v_BKSH, mask
    portable = functools.partial(_sums, scale=scale)
    if supports(q, k, v):
        fused = functools.partial(decode_sums, scale=scale)
        o_BKMH, m_BKM, l_BKM = jax.lax.platform_dependent(
            *arguments, cuda=fused, default=portable
        )
    else:
        o_BKMH, m_BKM, l_BKM = portable(*arguments)
    if axis_name is not None:
        largest_BKM = jax.lax.pmax(m_BKM, axis_name)
        # A token that sees nothing: -inf - (-inf) would be NaN.
        factor_BKM = jnp.exp(
            m_BKM - jnp.where(jnp.isneginf(largest_BKM), 0.0, largest_BKM)
        )
        o_BKMH, l_BKM = jax.lax.psum(
            (factor_BKM[..., None] * o_BKMH, factor_BKM * l_BKM), axis_name
        )
    o_BKMH /= jnp.where(l_BKM == 0, 1.0, l_BKM)[..., None]
    o_BKGTH = o_BKMH.reshape(B, K, N // K, T, H)
    return jnp.moveaxis(o_BKGTH, 3, 1).reshape(q.shape).astype(q.dtype)


def _sums(
    q_BKMH: Float[Array, "B K M H"],
    k_BKSH: Float[Array, "B K S H"],
    v_BKSH: Float[Array, "B K S H"],
    mask: Mask,
    *,
    scale: float,
) -> tuple[Float[Array, "B K M H"], Float[Array, "B K M"], Float[Array, "B K M"]]:
    """What `decode_sums` says, in portable XLA."""
    dtype = jnp.promote_types(jnp.float32, q_BKMH.dtype)
    product = functools.partial(jnp.einsum, preferred_element_type=dtype)
    seen_BTS = mask.seen()
    scores_BKMS = scale * product("BKMH,BKSH->BKMS", q_BKMH, k_BKSH)
    B, K, M, S = scores_BKMS.shape
    scores_BKGTS = scores_BKMS.reshape(B, K, -1, seen_BTS.shape[1], S)
    scores_BKGTS = jnp.where(seen_BTS[:, None, None], scores_BKGTS, -jnp.inf)
    scores_BKMS = scores_BKGTS.reshape(B, K, M, S)
    m_BKM = scores_BKMS.max(axis=-1)
    p_BKMS = jnp.exp(
        scores_BKMS - jnp.where(jnp.isneginf(m_BKM), 0.0, m_BKM)[..., None]
    )
    o_BKMH = product("BKMS,BKSH->BKMH", p_BKMS.astype(v_BKSH.dtype), v_BKSH)
    return o_BKMH, m_BKM, p_BKMS.sum(axis=-1)
