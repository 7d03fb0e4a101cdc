"""What attention's arguments must be: each check says what it expected and found.

They are `Any` here, since whoever checks nothing else may hand over anything.
"""

import math
import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ring_rl.attention.mask import Mask

IMPLEMENTATIONS = ("reference", "memory_efficient", "blockwise", "ring")


def check_arrays(q: Any, k: Any, v: Any, mask: Any) -> None:
    """Raises ValueError where queries, keys, values and mask do not fit together."""
    for name, array in (("q", q), ("k", k), ("v", v)):
        shape = np.shape(array)
        if len(shape) != 4 or 0 in shape:
            raise ValueError(
                f"attention: {name} must be [batch, tokens, heads, width], none of "
                f"them 0, found shape {shape}"
            )
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(
                f"attention: {name} must hold floating-point numbers, found "
                f"{array.dtype}"
            )
        if array.dtype != q.dtype:
            raise ValueError(
                f"attention: {name} must have the type of q, {q.dtype}, found "
                f"{array.dtype}"
            )
    (B, T, N, H), (S, K) = q.shape, k.shape[1:3]
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
    if not isinstance(mask, Mask):
        raise ValueError(f"attention: mask must be a Mask, found {type(mask).__name__}")
    found = (tuple(mask.q_positions.shape), tuple(mask.k_positions.shape))
    if found != ((B, T), (B, S)):
        raise ValueError(
            f"attention: mask must have positions of shape {(B, T)} for queries and "
            f"{(B, S)} for keys, found {found[0]} and {found[1]}"
        )


def check_options(
    implementation: Any,
    axis_name: Any,
    hops: Any,
    scale: Any,
    blocks: dict[str, Any],
    kernel: Any,
) -> None:
    """Raises ValueError for a choice that there is not, or not for this implementation.

    `blocks` are tile lengths by the names of their arguments.
    """
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"attention: implementation must be one of {', '.join(IMPLEMENTATIONS)}, "
            f"found {implementation!r}"
        )
    if scale is not None and not (
        isinstance(scale, numbers.Real) and math.isfinite(scale)
    ):
        raise ValueError(
            f"attention: scale must be None or a finite number, found {scale!r}"
        )
    for name, block in blocks.items():
        if block is not None and not (_is_int(block) and block >= 1):
            raise ValueError(
                f"attention: {name} must be None or an int of at least 1, found "
                f"{block!r}"
            )
    if kernel is not None and implementation not in ("blockwise", "ring"):
        raise ValueError(
            "attention: kernel is for implementations 'blockwise' and 'ring' and None "
            f"otherwise, found {kernel!r} for {implementation!r}"
        )
    if (implementation == "ring") != (axis_name is not None):
        raise ValueError(
            "attention: axis_name names the mesh axis of the sequence for "
            f"implementation 'ring' and is None otherwise, found {axis_name!r} for "
            f"{implementation!r}"
        )
    if axis_name is None:
        if hops is not None:
            raise ValueError(
                "attention: hops is for implementation 'ring' and None otherwise, "
                f"found {hops!r} for {implementation!r}"
            )
        return
    manual = jax.sharding.get_abstract_mesh().manual_axes
    if axis_name not in manual:
        raise ValueError(
            "attention: axis_name must be an axis of the enclosing jax.shard_map "
            f"({', '.join(manual) or 'there is none'}), found {axis_name!r}"
        )
    most = jax.lax.axis_size(axis_name) - 1
    if hops is not None and not (_is_int(hops) and 0 <= hops <= most):
        raise ValueError(
            f"attention: hops must be None or an int from 0 to {most}, one less than "
            f"the devices of {axis_name!r}, found {hops!r}"
        )


def _is_int(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
