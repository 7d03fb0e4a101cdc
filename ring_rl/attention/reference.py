"""The oracle: softmax(QKᵀ)V with the whole score matrix in memory."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ring_rl.attention.dropout import Dropout, dropout_factor
from ring_rl.attention.mask import Mask


def reference_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    mask: Mask,
    *,
    scale: float,
    dropout: Dropout | None = None,
) -> tuple[Float[Array, "B T N H"], Float[Array, "B T N"]]:
    """Output and log-sum-exp in the inputs' type, at least f32.

    Memory and time grow with B·N·T·S. A row that sees nothing has output 0 and
    log-sum-exp -inf. Dropout changes the output only, not the log-sum-exp.
    """
    dtype = jnp.promote_types(jnp.float32, q.dtype)
    groups = q.shape[2] // k.shape[2]
    q_BTNH = q.astype(dtype)
    k_BSNH = jnp.repeat(k.astype(dtype), groups, axis=2)
    v_BSNH = jnp.repeat(v.astype(dtype), groups, axis=2)
    seen_BTS = mask.seen()
    seen_BNTS = jnp.broadcast_to(
        seen_BTS[:, None], (q.shape[0], q.shape[2], q.shape[1], k.shape[1])
    )
    scores_BNTS = jnp.einsum("BTNH,BSNH->BNTS", q_BTNH, k_BSNH) * scale
    # Two `where`s, before and after exp: autodiff through a masked -inf gives NaN.
    largest = jnp.where(seen_BNTS, scores_BNTS, -jnp.inf).max(axis=-1, keepdims=True)
    largest = jnp.where(jnp.isneginf(largest), 0.0, largest)
    shifted = jnp.where(seen_BNTS, scores_BNTS - largest, 0.0)
    p_BNTS = jnp.where(seen_BNTS, jnp.exp(shifted), 0.0)
    total_BNT1 = p_BNTS.sum(axis=-1, keepdims=True)
    empty = total_BNT1 == 0
    divisor = jnp.where(empty, 1.0, total_BNT1)
    weights_BNTS = p_BNTS / divisor
    if dropout is not None:
        weights_BNTS *= dropout_factor(dropout, mask.q_tokens, mask.k_tokens, dtype)
    output = jnp.einsum("BNTS,BSNH->BTNH", weights_BNTS, v_BSNH)
    lse = jnp.where(empty, -jnp.inf, jnp.log(divisor) + largest)[..., 0]
    return output, jnp.moveaxis(lse, 1, 2)
