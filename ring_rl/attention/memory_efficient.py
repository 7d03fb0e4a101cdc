"""Memory-efficient attention: chunks of queries against chunks of keys, by autodiff.

A row of the paper's comparison, in its authors' form: one chunk of queries after the
other is compared with all chunks of keys, whose scores backward computes again. No
chunk is left out, also where the mask hides all of it.

Source: Rabe & Staats 2021 (arXiv 2112.05682), sections 2 and 3, figure 1.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ring_rl.attention.dropout import Dropout, hash_keys, hash_queries, pair_factor
from ring_rl.attention.mask import Mask, visible

# Queries and keys of a chunk. Elsewhere the authors' choice; CPUs took half the time
# with scores that fit their caches.
_CHUNKS_CPU = 256, 1024
_CHUNKS = 1024, 4096


def choose_chunks(platform: str, block: int | None = None) -> tuple[int, int]:
    """Queries and keys of a chunk, where they are not given."""
    if block:
        return block, block
    return _CHUNKS_CPU if platform == "cpu" else _CHUNKS


class _Tokens(NamedTuple):
    """Queries, or keys and values, `[B C ...]`; all chunks of them: `[chunks B C ...]`.

    `hashes` are those of dropout, `[B C N]`, or None.
    """

    heads: Any
    positions: Any
    segments: Any
    hashes: Any


def memory_efficient_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    mask: Mask,
    *,
    scale: float,
    block_q: int | None = None,
    block_k: int | None = None,
    dropout: Dropout | None = None,
) -> Float[Array, "B T N H"]:
    """Output in q's type, computed in at least f32.

    Memory besides inputs and outputs: a few arrays `[B N block_q block_k]` and q, k
    and v in at least f32; for backward also S / block_k outputs of every query.
    """
    (B, T, N, H), (S, K) = q.shape, k.shape[1:3]
    dtype = jnp.promote_types(jnp.float32, q.dtype)
    q_hashes = k_hashes = None
    if dropout is not None:
        q_hashes = hash_queries(dropout, mask.q_tokens).mT
        k_hashes = hash_keys(dropout, mask.k_tokens).mT
    # Widened as a whole, since backward sums over chunks in the type of the whole.
    queries = _Tokens(
        q.astype(dtype).reshape(B, T, K, N // K, H),
        mask.q_positions, mask.q_segments, q_hashes,
    )  # fmt: skip
    keys = _Tokens(
        (k.astype(dtype), v.astype(dtype)),
        mask.k_positions, mask.k_segments, k_hashes,
    )  # fmt: skip
    of_device = choose_chunks(jax.default_backend())
    key_chunks = _cut(keys, min(block_k or of_device[1], S))

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def partial(queries: _Tokens, keys: _Tokens):
        """Largest score, and sums of weights and weighted values, over some keys."""
        scores = scale * jnp.einsum("BTKGH,BSKH->BKGTS", queries.heads, keys.heads[0])
        seen = visible(
            queries.positions, queries.segments, keys.positions, keys.segments,
            causal=mask.causal, window=mask.window,
        )  # fmt: skip
        scores = jnp.where(seen[:, None, None], scores, -jnp.inf)
        # The result does not depend on it, and neither does the gradient.
        largest = jax.lax.stop_gradient(scores.max(axis=-1))
        weights = jnp.exp(scores - _finite(largest)[..., None])
        total = weights.sum(axis=-1)
        if dropout is not None:
            factor = pair_factor(
                dropout.rate, queries.hashes.mT, keys.hashes.mT, weights.dtype
            )
            weights *= factor.reshape(weights.shape)
        return largest, total, jnp.einsum("BKGTS,BSKH->BKGTH", weights, keys.heads[1])

    def attend(queries: _Tokens):
        of_chunk = functools.partial(partial, queries)
        largest, total, weighted = jax.lax.map(of_chunk, key_chunks)
        share = jnp.exp(largest - _finite(largest.max(axis=0))[None])
        total = (share * total).sum(axis=0)
        weighted = (share[..., None] * weighted).sum(axis=0)
        # Rows that see nothing.
        return weighted / jnp.where(total == 0, 1.0, total)[..., None]

    output = jax.lax.map(attend, _cut(queries, min(block_q or of_device[0], T)))
    # [chunks B K G C H] to [B chunks C K G H]
    output = output.transpose(1, 0, 4, 2, 3, 5).reshape(B, -1, N, H)
    return output[:, :T].astype(q.dtype)


def _finite(largest: Array) -> Array:
    """0 for rows that see nothing: -inf - (-inf) would be NaN."""
    return jnp.where(jnp.isneginf(largest), 0.0, largest)


def _cut(tokens: _Tokens, chunk: int) -> _Tokens:
    """Chunks of equal length, the last one padded at its end."""

    def cut(array: Array, value: int = 0) -> Array:
        widths = ((0, 0), (0, -array.shape[1] % chunk)) + ((0, 0),) * (array.ndim - 2)
        array = jnp.pad(array, widths, constant_values=value)
        return array.reshape(array.shape[0], -1, chunk, *array.shape[2:]).swapaxes(0, 1)

    chunks = jax.tree.map(cut, tokens)
    return chunks._replace(segments=cut(tokens.segments, -1))
