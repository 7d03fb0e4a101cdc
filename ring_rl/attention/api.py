"""The one entry to attention: the same arguments and results, whatever does the work.

Every implementation is exact; they differ in memory and in where the sequence lies.
"""

import math

import jax
from jaxtyping import Array, Float

from ring_rl.attention.blockwise import blockwise_attention, choose_tiles
from ring_rl.attention.mask import Mask
from ring_rl.attention.reference import reference_attention
from ring_rl.attention.ring import ring_attention_shard

IMPLEMENTATIONS = ("reference", "blockwise", "ring")


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
) -> Float[Array, "B T N H"]:
    """softmax(scale · q kᵀ) v over the keys that `mask` shows, in q's type.

    Args:
      q: queries.
      k: keys; K divides N, and consecutive groups of N / K query heads share one.
      v: values.
      mask: who sees whom. A row that sees nothing has output and gradient 0.
      implementation: `reference` (all scores in memory, the oracle), `blockwise`
        (tiles, one device) or `ring` (called on shards inside `jax.shard_map`).
      axis_name: the mesh axis of the sequence; for `ring`, and only for it.
      scale: 1 / sqrt(H) if None.
      block_q: queries a tile; chosen by device kind if None.
      block_k: keys a tile; likewise.

    Raises:
      ValueError: an argument that does not fit, named, with what was expected.
    """
    _check(q, k, v, mask, implementation, axis_name, block_q, block_k)
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    if implementation == "reference":
        return reference_attention(q, k, v, mask, scale=scale)[0].astype(q.dtype)
    tiles = choose_tiles(q.shape, k.shape[1], block_q, block_k)
    if implementation == "blockwise":
        return blockwise_attention(q, k, v, mask, scale, tiles)
    assert axis_name is not None
    return ring_attention_shard(
        q, k, v, mask, axis_name=axis_name, scale=scale, tiles=tiles
    )


def _check(q, k, v, mask, implementation, axis_name, block_q, block_k) -> None:
    B, T, N, H = q.shape
    S, K = k.shape[1], k.shape[2]
    if k.shape != v.shape:
        raise ValueError(
            f"attention: k and v must have one shape, found {k.shape} and {v.shape}"
        )
    if (k.shape[0], k.shape[3]) != (B, H):
        raise ValueError(
            f"attention: k must be [{B}, keys, heads, {H}] as q is {q.shape}, found "
            f"{k.shape}"
        )
    if N % K:
        raise ValueError(
            f"attention: the number of key heads must divide the {N} query heads, "
            f"found {K}"
        )
    found = (tuple(mask.q_positions.shape), tuple(mask.k_positions.shape))
    if found != ((B, T), (B, S)):
        raise ValueError(
            f"attention: mask must have positions of shape {(B, T)} for queries and "
            f"{(B, S)} for keys, found {found[0]} and {found[1]}"
        )
    for name, block in (("block_q", block_q), ("block_k", block_k)):
        if block is not None and block < 1:
            raise ValueError(f"attention: {name} must be at least 1, found {block}")
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"attention: implementation must be one of {', '.join(IMPLEMENTATIONS)}, "
            f"found {implementation!r}"
        )
    if (implementation == "ring") != (axis_name is not None):
        raise ValueError(
            "attention: axis_name names the mesh axis of the sequence for "
            f"implementation 'ring' and is None otherwise, found {axis_name!r} for "
            f"{implementation!r}"
        )
    if axis_name is not None:
        manual = jax.sharding.get_abstract_mesh().manual_axes
        if axis_name not in manual:
            raise ValueError(
                f"attention: axis_name must be an axis of the enclosing jax.shard_map "
                f"{tuple(manual)}, found {axis_name!r}"
            )
