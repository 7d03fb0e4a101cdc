"""Attention over tiles with an online softmax, forward and backward, in portable XLA.

The pairs of tiles that the mask leaves empty are not visited at all: the others are
listed first (positions and segments are data, so the list is made on the device), and
one loop with as many turns as there are pairs walks it. No [T, S] array ever exists.

`forward` and `backward` fill the contract of a hop of the ring: they know nothing of
devices. `blockwise_attention` is the same for a sequence on one device.

Source: Rabe & Staats 2021 (arXiv 2112.05682); Dao et al. 2022 (arXiv 2205.14135);
Liu & Abbeel 2023, Blockwise Parallel Transformer (arXiv 2305.19370).
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from ring_rl.attention.mask import Mask, classify, summarise, visible

# Where the caller names no tile length, the scores of one tile, all rows and heads of
# it, have at most this many numbers: on a CPU they then stay in the second-level cache
# (1 MB of f32); accelerators want larger products.
_CPU_SCORES = 2**18
_ACCELERATOR_SCORES = 2**24
_SHORTEST, _LONGEST = 32, 512


class Tiles(NamedTuple):
    """How many queries and keys a tile has."""

    q: int
    k: int


def choose_tiles(
    q_shape: tuple[int, ...], S: int, block_q: int | None, block_k: int | None
) -> Tiles:
    """Tile lengths for queries `[B T N H]` and S keys; given ones are cut to fit.

    Chosen ones cut the length into tiles that are equal up to rounding, so that
    little is padded.
    """
    B, T, N, _ = q_shape
    scores = _CPU_SCORES if jax.default_backend() == "cpu" else _ACCELERATOR_SCORES
    longest = min(max(math.isqrt(scores // (B * N)), _SHORTEST), _LONGEST)

    def cut(length: int, block: int | None) -> int:
        if block:
            return min(block, length)
        return -(-length // -(-length // longest))

    return Tiles(cut(T, block_q), cut(S, block_k))


def _accumulator(shape_like, dtype, value: float, *inputs):
    """`value` in the shape of an array, varying over the manual axes of all inputs.

    Loops want carries whose types do not change, and inside `shard_map` an array's
    type says over which mesh axes it differs between devices. `zeros_like` keeps that
    part of the type, so a zero scalar of each input, added, passes it on.
    """
    zero = sum(jnp.zeros_like(x.reshape(-1)[0]).astype(dtype) for x in inputs)
    return jnp.full_like(shape_like, value, dtype) + zero


def _pad(array, length: int, value):
    """Pads axis 1 at its end to `length`."""
    widths = [(0, 0)] * array.ndim
    widths[1] = (0, length - array.shape[1])
    return jnp.pad(array, widths, constant_values=value)


class _Walk(NamedTuple):
    """The tiles' positions and segments and the list of pairs of tiles to visit.

    Attributes:
      q_positions, q_segments: `[query tiles, B, C]`.
      k_positions, k_segments: `[key tiles, B, C]`.
      pairs: query tile · key tiles + key tile, those with work first.
      full: whether a pair needs no mask arithmetic, `[query tiles · key tiles]`.
      turns: how many pairs have work.
    """

    q_positions: Int[Array, "q B C"]
    q_segments: Int[Array, "q B C"]
    k_positions: Int[Array, "k B C"]
    k_segments: Int[Array, "k B C"]
    pairs: Int[Array, " pairs"]
    full: Array
    turns: Int[Array, ""]


def _walk(mask: Mask, tiles: Tiles) -> _Walk:
    q_length = -(-mask.q_positions.shape[1] // tiles.q) * tiles.q
    k_length = -(-mask.k_positions.shape[1] // tiles.k) * tiles.k
    q_positions = _pad(mask.q_positions, q_length, 0)
    k_positions = _pad(mask.k_positions, k_length, 0)
    q_segments = _pad(mask.q_segments, q_length, -1)
    k_segments = _pad(mask.k_segments, k_length, -1)
    needed, full = classify(
        summarise(q_positions, q_segments, tiles.q),
        summarise(k_positions, k_segments, tiles.k),
        causal=mask.causal,
        window=mask.window,
    )
    needed = needed.reshape(-1)

    def split(array, tile: int):
        return jnp.moveaxis(array.reshape(array.shape[0], -1, tile), 1, 0)

    return _Walk(
        split(q_positions, tiles.q),
        split(q_segments, tiles.q),
        split(k_positions, tiles.k),
        split(k_segments, tiles.k),
        jnp.argsort(~needed, stable=True).astype(jnp.int32),
        full.reshape(-1),
        needed.sum(dtype=jnp.int32),
    )


def _split_queries(array, K: int, tile: int):
    """`[B T N ...]` to `[tiles, B, K, G·C, ...]`: the G heads of a group are rows.

    Queries that share a key head share one matrix product with it.
    """
    B, T, N = array.shape[:3]
    n = -(-T // tile)
    array = _pad(array, n * tile, 0)
    array = array.reshape(B, n, tile, K, N // K, *array.shape[3:])
    array = jnp.moveaxis(array, (1, 3, 4), (0, 2, 3))
    return array.reshape(n, B, K, (N // K) * tile, *array.shape[5:])


def _join_queries(array, T: int, N: int):
    """Undoes `_split_queries`."""
    n, B, K, rows = array.shape[:4]
    G = N // K
    array = array.reshape(n, B, K, G, rows // G, *array.shape[4:])
    array = jnp.moveaxis(array, (0, 2, 3), (1, 3, 4))
    return array.reshape(B, n * (rows // G), N, *array.shape[5:])[:, :T]


def _split_keys(array, tile: int):
    """`[B S K H]` to `[tiles, B, K, C, H]`."""
    B, S, K, H = array.shape
    n = -(-S // tile)
    array = _pad(array, n * tile, 0).reshape(B, n, tile, K, H)
    return jnp.moveaxis(array, (1, 3), (0, 2))


def _join_keys(array, S: int):
    """Undoes `_split_keys`."""
    n, B, K, tile, H = array.shape
    return jnp.moveaxis(array, (0, 2), (1, 3)).reshape(B, n * tile, K, H)[:, :S]


def _at(array, index):
    return jax.lax.dynamic_index_in_dim(array, index, keepdims=False)


def _put(array, value, index):
    return jax.lax.dynamic_update_index_in_dim(array, value, index, 0)


def _scores(q_tile, k_tile, walk: _Walk, pair, i, j, mask: Mask, scale: float):
    """Scaled scores `[B K G·C C]` of a pair of tiles, -inf where masked."""
    dtype = jnp.promote_types(jnp.float32, q_tile.dtype)
    scores = scale * jnp.einsum(
        "BKTH,BKSH->BKTS", q_tile, k_tile, preferred_element_type=dtype
    )

    def masked(scores):
        seen = visible(
            _at(walk.q_positions, i),
            _at(walk.q_segments, i),
            _at(walk.k_positions, j),
            _at(walk.k_segments, j),
            causal=mask.causal,
            window=mask.window,
        )
        B, K, rows, C = scores.shape
        grouped = scores.reshape(B, K, rows // seen.shape[1], seen.shape[1], C)
        grouped = jnp.where(seen[:, None, None], grouped, -jnp.inf)
        return grouped.reshape(scores.shape)

    return jax.lax.cond(_at(walk.full, pair), lambda scores: scores, masked, scores)


def forward(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    mask: Mask,
    *,
    scale: float,
    tiles: Tiles,
) -> tuple[Float[Array, "B T N H"], Float[Array, "B T N"]]:
    """Normalised output and log-sum-exp, both at least f32.

    Memory besides inputs and outputs: copies of them in tile order, and one tile of
    scores `[B N C C]`. A row that sees nothing has output 0 and log-sum-exp -inf.
    """
    (T, N), (S, K) = q.shape[1:3], k.shape[1:3]
    dtype = jnp.promote_types(jnp.float32, q.dtype)
    walk = _walk(mask, tiles)
    q_tiles = _split_queries(q, K, tiles.q)
    k_tiles, v_tiles = _split_keys(k, tiles.k), _split_keys(v, tiles.k)
    key_tiles = -(-S // tiles.k)

    def visit(turn, carry):
        o_all, m_all, l_all = carry
        pair = _at(walk.pairs, turn)
        i, j = pair // key_tiles, pair % key_tiles
        scores = _scores(
            _at(q_tiles, i), _at(k_tiles, j), walk, pair, i, j, mask, scale
        )
        m_old = _at(m_all, i)
        m_new = jnp.maximum(m_old, scores.max(axis=-1))
        # Rows that have seen nothing yet: -inf - (-inf) would be NaN.
        m_safe = jnp.where(jnp.isneginf(m_new), 0.0, m_new)
        p = jnp.exp(scores - m_safe[..., None])
        keep = jnp.exp(m_old - m_safe)
        weighted = jnp.einsum(
            "BKTS,BKSH->BKTH",
            p.astype(v.dtype),
            _at(v_tiles, j),
            preferred_element_type=dtype,
        )
        o_new = keep[..., None] * _at(o_all, i) + weighted
        l_new = keep * _at(l_all, i) + p.sum(axis=-1)
        return _put(o_all, o_new, i), _put(m_all, m_new, i), _put(l_all, l_new, i)

    inputs = (q, k, v, walk.turns)
    o = _accumulator(q_tiles, dtype, 0.0, *inputs)
    m = _accumulator(q_tiles[..., 0], dtype, -jnp.inf, *inputs)
    l = _accumulator(q_tiles[..., 0], dtype, 0.0, *inputs)
    o, m, l = jax.lax.fori_loop(0, walk.turns, visit, (o, m, l))
    empty = l == 0
    divisor = jnp.where(empty, 1.0, l)
    output = o / divisor[..., None]
    lse = jnp.where(empty, -jnp.inf, m + jnp.log(divisor))
    return _join_queries(output, T, N), _join_queries(lse, T, N)


def backward(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    g: Float[Array, "B T N H"],
    lse: Float[Array, "B T N"],
    delta: Float[Array, "B T N"],
    mask: Mask,
    *,
    scale: float,
    tiles: Tiles,
) -> tuple[Float[Array, "B T N H"], Float[Array, "B S K H"], Float[Array, "B S K H"]]:
    """Gradients dq, dk, dv, at least f32, in one pass of five products a tile.

    `g` is the output's cotangent, `lse` the log-sum-exp over *all* keys of the row
    (of every hop), and `delta` the row sums of `g * output`.
    """
    (T, N), (S, K) = q.shape[1:3], k.shape[1:3]
    dtype = jnp.promote_types(jnp.float32, q.dtype)
    walk = _walk(mask, tiles)
    q_tiles = _split_queries(q, K, tiles.q)
    g_tiles = _split_queries(g.astype(q.dtype), K, tiles.q)
    # A row that sees nothing has scores of -inf only: any finite shift gives p = 0.
    lse_tiles = _split_queries(jnp.where(jnp.isneginf(lse), 0.0, lse), K, tiles.q)
    delta_tiles = _split_queries(delta, K, tiles.q)
    k_tiles, v_tiles = _split_keys(k, tiles.k), _split_keys(v, tiles.k)
    key_tiles = -(-S // tiles.k)
    product = functools.partial(jnp.einsum, preferred_element_type=dtype)

    def visit(turn, carry):
        dq_all, dk_all, dv_all = carry
        pair = _at(walk.pairs, turn)
        i, j = pair // key_tiles, pair % key_tiles
        q_tile, g_tile = _at(q_tiles, i), _at(g_tiles, i)
        k_tile, v_tile = _at(k_tiles, j), _at(v_tiles, j)
        scores = _scores(q_tile, k_tile, walk, pair, i, j, mask, scale)
        p = jnp.exp(scores - _at(lse_tiles, i)[..., None])
        dp = product("BKTH,BKSH->BKTS", g_tile, v_tile)
        ds = (p * (dp - _at(delta_tiles, i)[..., None])).astype(q.dtype)
        dv = product("BKTS,BKTH->BKSH", p.astype(q.dtype), g_tile)
        dk = scale * product("BKTS,BKTH->BKSH", ds, q_tile)
        dq = scale * product("BKTS,BKSH->BKTH", ds, k_tile)
        return (
            _put(dq_all, _at(dq_all, i) + dq, i),
            _put(dk_all, _at(dk_all, j) + dk, j),
            _put(dv_all, _at(dv_all, j) + dv, j),
        )

    inputs = (q, k, v, g, lse, walk.turns)
    gradients = tuple(
        _accumulator(x, dtype, 0.0, *inputs) for x in (q_tiles, k_tiles, v_tiles)
    )
    dq, dk, dv = jax.lax.fori_loop(0, walk.turns, visit, gradients)
    return _join_queries(dq, T, N), _join_keys(dk, S), _join_keys(dv, S)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def blockwise_attention(q, k, v, mask: Mask, scale: float, tiles: Tiles):
    """Attention of one device's queries to its own keys, `[B T N H]` in q's type."""
    return _blockwise_forward(q, k, v, mask, scale, tiles)[0]


def _blockwise_forward(q, k, v, mask, scale, tiles):
    output, lse = forward(q, k, v, mask, scale=scale, tiles=tiles)
    output = checkpoint_name(output.astype(q.dtype), "attention_output")
    lse = checkpoint_name(lse, "attention_lse")
    return output, (q, k, v, mask, output, lse)


def _blockwise_backward(scale, tiles, residuals, g):
    q, k, v, mask, output, lse = residuals
    delta = rowsum(g, output)
    dq, dk, dv = backward(q, k, v, g, lse, delta, mask, scale=scale, tiles=tiles)
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None


blockwise_attention.defvjp(_blockwise_forward, _blockwise_backward)


def rowsum(
    g: Float[Array, "B T N H"], output: Float[Array, "B T N H"]
) -> Float[Array, "B T N"]:
    """`delta` of the backward pass: sums of g · output over the head's width."""
    dtype = jnp.promote_types(jnp.float32, output.dtype)
    return (g.astype(dtype) * output.astype(dtype)).sum(axis=-1)
