"""Which tiles a fused kernel visits: of every tile, one run of tiles of the other kind.

A kernel's loop over a run needs no list and no branch, so that loads run ahead of
products. In all orders of tokens in use (one after the other, packed chains, windows, a
device's part of a ring in any layout) what a tile may see *is* one run, with one run of
tiles that need no mask arithmetic inside it. Of any other order the result is the same:
empty tiles within the run cost time, and are masked.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from ring_rl.attention.mask import AnyArray, Mask, classify, summarise


class Runs(NamedTuple):
    """Bounds of runs for the queries' tiles and for the keys'.

    The last axis is: the first tile that may be seen, the first of those that need no
    mask, the end of those, and the end of all. Between the second and the third there
    is no mask arithmetic to do.
    """

    of_queries: Int[Array, "B q 4"]
    of_keys: Int[Array, "B k 4"]


def find_runs(mask: Mask, q: int, k: int) -> Runs:
    """Runs of tiles of q queries and k keys, which divide the lengths of the mask."""

    def of_row(mask: Mask):
        return classify(
            summarise(mask.q_positions, mask.q_segments, q),
            summarise(mask.k_positions, mask.k_segments, k),
            causal=mask.causal,
            window=mask.window,
        )

    rows = jax.tree.map(lambda x: x[:, None], mask)
    needed, full = jax.vmap(of_row)(rows)
    return Runs(_bounds(needed, full), _bounds(needed.mT, full.mT))


def _bounds(
    needed: Bool[AnyArray, "B first second"], full: Bool[AnyArray, "B first second"]
) -> Int[Array, "B first 4"]:
    count = needed.shape[-1]
    index = jnp.arange(count, dtype=jnp.int32)[None, None]

    def least(chosen, otherwise):
        return jnp.where(chosen, index, otherwise).min(axis=-1)

    end = jnp.where(needed, index + 1, 0).max(axis=-1)
    first = jnp.minimum(least(needed, count), end)
    full_first = jnp.minimum(least(full, count), end)
    after = index >= full_first[..., None]
    full_end = jnp.minimum(least(after & ~full, count), end)
    return jnp.stack([first, full_first, full_end, end], axis=-1).astype(jnp.int32)


def walk(run: Sequence[Any], visit: Callable[..., Any], carry: Any) -> Any:
    """Through a run, in a kernel: `carry = visit(tile, carry, masked=...)`."""
    first, full_first, full_end, end = run
    masked = functools.partial(visit, masked=True)
    carry = jax.lax.fori_loop(first, full_first, masked, carry)
    carry = jax.lax.fori_loop(
        full_first, full_end, functools.partial(visit, masked=False), carry
    )
    return jax.lax.fori_loop(full_end, end, masked, carry)
