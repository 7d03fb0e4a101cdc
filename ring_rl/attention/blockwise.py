"""Attention over tiles with an online softmax, forward and backward, in portable XLA.

The pairs of tiles that the mask leaves empty are not visited at all: `tiles` lists the
others, and loops with as many turns as there are pairs walk the lists, first without
mask arithmetic and then with. Forward goes from one tile of queries to the next, and
for each through its tiles of keys; backward goes from keys to keys. No [T, S] array
ever exists, and tiles are read straight from the arrays that attention was given,
written straight to those that it returns.

`forward` and `backward` fill the contract of a hop, see `kernels`: they know nothing of
devices.

Source: Rabe & Staats 2021 (arXiv 2112.05682); Dao et al. 2022 (arXiv 2205.14135);
Liu & Abbeel 2023, Blockwise Parallel Transformer (arXiv 2305.19370).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ring_rl.attention.dropout import (
    Dropout,
    hash_keys,
    hash_queries,
    pair_factor,
)
from ring_rl.attention.mask import Mask, visible
from ring_rl.attention.tiles import (
    Blocks,
    Lanes,
    choose_lanes,
    choose_tiles,
    list_visits,
    pad,
    pad_mask,
)


class _Pair(NamedTuple):
    """A pair of tiles: of which lanes, and where its queries and keys begin."""

    lanes: Lanes
    row_group: Any
    head_group: Any
    query: Any
    key: Any
    q: int
    k: int

    def at(self, tile, *, first: bool, keys_first: bool) -> "_Pair":
        """The pair with the given tile as the first, or the second, of the two."""
        if first == keys_first:
            return self._replace(key=tile * self.k)
        return self._replace(query=tile * self.q)

    @property
    def queries(self) -> tuple[Any, int]:
        """Where they begin and how many they are."""
        return self.query, self.q

    @property
    def keys(self) -> tuple[Any, int]:
        """Likewise."""
        return self.key, self.k


def _indices(*starts) -> list:
    """Of one type, as those of a slice must be: in 64-bit mode loops count in int64."""
    return [jnp.asarray(start, jnp.int32) for start in starts]


def _starts(array, pair: _Pair, tokens) -> tuple[list, int]:
    heads = array.shape[2] // pair.lanes.head_groups
    row, head = pair.row_group * pair.lanes.rows, pair.head_group * heads
    return _indices(row, tokens[0], head, *[0] * (array.ndim - 3)), heads


def _read(array, pair: _Pair, tokens: tuple[Any, int]):
    """A tile of `[B tokens heads ...]`: `[lanes, G · tokens, ...]`, G 1 for keys.

    The query heads that share a key head lie one after the other, so that they are one
    matrix product with it.
    """
    starts, heads = _starts(array, pair, tokens)
    rows, width = pair.lanes.rows, array.shape[3:]
    tile = jax.lax.dynamic_slice(array, starts, (rows, tokens[1], heads, *width))
    return jnp.moveaxis(tile, 1, 2).reshape(rows * pair.lanes.heads, -1, *width)


def _read_of_queries(array, pair: _Pair):
    """A tile of `[B N T]`: `[lanes, G · tokens]`, each lane's numbers side by side."""
    lanes = pair.lanes
    heads = array.shape[1] // lanes.head_groups
    starts = _indices(pair.row_group * lanes.rows, pair.head_group * heads, pair.query)
    tile = jax.lax.dynamic_slice(array, starts, (lanes.rows, heads, pair.q))
    return tile.reshape(lanes.rows * lanes.heads, -1)


def _write(array, tile, pair: _Pair, tokens: tuple[Any, int]):
    """The array with a tile put where `_read` finds it."""
    starts, heads = _starts(array, pair, tokens)
    tile = tile.reshape(pair.lanes.rows, heads, tokens[1], *array.shape[3:])
    return jax.lax.dynamic_update_slice(array, jnp.moveaxis(tile, 2, 1), starts)


class _Problem:
    """What forward and backward have in common: the inputs, cut into lanes and tiles.

    Attributes:
      q: `[B T N H]`, T padded to whole tiles; likewise k and v.
      dtype: of sums.
    """

    def __init__(
        self, q, k, v, mask: Mask, dropout, *, scale: float, blocks: Blocks,
        keys_first: bool,
    ):  # fmt: skip
        self.dtype = jnp.promote_types(jnp.float32, q.dtype)
        self.scale = scale
        tiles = choose_tiles(q.shape[1], k.shape[1], q.shape[2] // k.shape[2], *blocks)
        self.lanes = choose_lanes(q.shape[0], k.shape[2], q.shape[2], tiles)
        mask = pad_mask(mask, tiles)
        self.keys_first = keys_first
        self.visits = list_visits(mask, tiles, self.lanes, keys_first=keys_first)
        self.padded = mask.q_positions.shape[1], mask.k_positions.shape[1]
        self.q = self.queries(q)
        self.k, self.v = (pad(x, self.padded[1], 1) for x in (k, v))
        self.mask = jax.tree.map(self.lanes.split_rows, mask)
        self.rate = 0.0 if dropout is None else dropout.rate
        if dropout is not None:
            hashes = (
                hash_queries(dropout, mask.q_tokens), hash_keys(dropout, mask.k_tokens)
            )  # fmt: skip
            self.q_hashes, self.k_hashes = (jnp.swapaxes(x, 1, 2) for x in hashes)

    def queries(self, array):
        """`[B T N ...]` padded to whole tiles."""
        return pad(array, self.padded[0], 1)

    def accumulator(self, like, value: float):
        """`value` in the shape of an array, of type `dtype`.

        Through a 0 that only this block's mask gives: else the compiler makes it once
        for all hops, long before it is needed, and holds it all the while. The zeros of
        the inputs are for the types inside `shard_map`, which say over which mesh axes
        an array differs: a loop's carry must have from the first all that it will get.
        """
        zero = jnp.minimum(sum(visits.turns for visits in self.visits), 0)
        zero = zero.astype(self.dtype)
        for x in (self.q, self.k, self.v):
            zero += jnp.zeros_like(x[0, 0, 0, 0]).astype(self.dtype)
        return jnp.full_like(like, value, self.dtype) + zero

    def walk(self, work: Callable, carry):
        """`carry = work(pair, masked, partners, carry)` for first tiles that meet any.

        `partners(visit, own)` is `own = visit(pair, own)` for every tile that it meets.
        """
        lanes = self.lanes
        for visits, masked in zip(self.visits, (False, True), strict=True):

            def turn(index, carry, visits=visits, masked=masked):
                first = visits.busy[index // lanes.head_groups]
                row_group, tile = (
                    first // visits.first_tiles,
                    first % visits.first_tiles,
                )
                head_group = index % lanes.head_groups
                pair = _Pair(lanes, row_group, head_group, 0, 0, visits.q, visits.k)
                pair = pair.at(tile, first=True, keys_first=self.keys_first)

                def partners(visit, own):
                    def one(place, own):
                        tile = visits.pairs[place] % visits.second_tiles
                        return visit(
                            pair.at(tile, first=False, keys_first=self.keys_first), own
                        )

                    starts = visits.starts
                    return jax.lax.fori_loop(starts[first], starts[first + 1], one, own)

                return work(pair, masked, partners, carry)

            turns = visits.busy_count * lanes.head_groups
            carry = jax.lax.fori_loop(0, turns, turn, carry)
        return carry

    def product(self, equation: str, a, b):
        """Matrix products of a pair of tiles, accumulated in `dtype`."""
        return jnp.einsum(equation, a, b, preferred_element_type=self.dtype)

    def scores(self, q_tile, k_tile, pair: _Pair, masked: bool):
        """Products times the scale, -inf where masked; `LTS` or, keys first, `LST`."""
        if self.keys_first and _rounds_alike(q_tile.shape[1], k_tile.shape[1]):
            scores = self.product("LSH,LTH->LST", k_tile, q_tile)
        else:
            scores = self.product("LTH,LSH->LTS", q_tile, k_tile)
            if self.keys_first:
                # Behind a barrier: the compiler would turn the product round.
                scores = jnp.swapaxes(jax.lax.optimization_barrier(scores), 1, 2)
        scores = scores if self.scale == 1 else scores * self.scale
        if not masked:
            return scores
        mask = self.mask
        q_positions, k_positions = self._sides(pair, mask.q_positions, mask.k_positions)
        q_segments, k_segments = self._sides(pair, mask.q_segments, mask.k_segments)
        seen = visible(
            q_positions, q_segments, k_positions, k_segments,
            causal=mask.causal, window=mask.window,
        )  # fmt: skip
        seen = seen[:, None, None]

        def hide(scores, seen):
            return jnp.where(seen, scores, -jnp.inf)

        return self._with_pairs(hide, scores, seen, pair.lanes)

    def drop(self, weights, pair: _Pair):
        """Weights times the factor of dropout."""
        if not self.rate:
            return weights
        lanes = pair.lanes
        queries = _read(self.q_hashes, pair, pair.queries)
        keys = _read(self.k_hashes, pair, pair.keys)
        factor = pair_factor(
            self.rate,
            queries.reshape(lanes.rows, -1, pair.q),
            keys.reshape(lanes.rows, -1, pair.k),
            self.dtype,
        )
        factor = factor.reshape(lanes.rows, lanes.heads, lanes.shared, pair.q, pair.k)
        return self._with_pairs(jnp.multiply, weights, factor, lanes)

    def _sides(self, pair: _Pair, queries, keys):
        """`[rows, tokens]` of the queries and of the keys of a pair."""

        def read(array, tokens):
            at = _indices(pair.row_group, 0, tokens[0])
            sizes = 1, array.shape[1], tokens[1]
            return jax.lax.dynamic_slice(array, at, sizes)[0]

        return read(queries, pair.queries), read(keys, pair.keys)

    def _with_pairs(self, function: Callable, scores, of_pairs, lanes: Lanes):
        """`function(scores, of_pairs)`, the latter `[rows, heads, G, q, k]` or 1s."""
        q, k, shape = *of_pairs.shape[3:], scores.shape
        if self.keys_first:
            of_pairs = jnp.moveaxis(of_pairs, 4, 2)
            scores = scores.reshape(lanes.rows, lanes.heads, k, lanes.shared, q)
        else:
            scores = scores.reshape(lanes.rows, lanes.heads, lanes.shared, q, k)
        return function(scores, of_pairs).reshape(shape)


# Lengths of which a CPU's vectors and the blocks of its products are divisors.
_ALIGNED = 64


def _rounds_alike(queries: int, keys: int) -> bool:
    """Whether a product of tiles is the same to the last bit with its sides exchanged.

    Backward computes the scores of forward again, and weights are exp(score - m) / l:
    where the scores differ in their last bits, p is off by as much as the score is
    times that, and its rows no longer add up to 1. Libraries sum over the width in
    blocks that depend on the lengths and on which comes first: with AVX2, of 10 queries
    and 7 keys more than half of the scores differed, and at inputs of five times unit
    normal errors of dv were up to 10 times those of `reference`; with AVX-512, of 64
    and 16. Equal lengths and multiples of 64 were the same with both.
    """
    return queries == keys or not (queries % _ALIGNED or keys % _ALIGNED)


def supports(q: Float[Array, "B T N H"], dropout: Dropout | None) -> None:
    """None: there is nothing it cannot do."""
    del q, dropout


def forward(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    mask: Mask,
    dropout: Dropout | None = None,
    *,
    scale: float,
    blocks: Blocks,
) -> tuple[Float[Array, "B T N H"], Float[Array, "B T N"], Float[Array, "B T N"]]:
    """Sum of weighted values, largest score and sum of weights, all at least f32.

    Memory besides inputs and outputs: a few tiles of scores. A row that sees nothing
    has sums 0 and largest score -inf.
    """
    problem = _Problem(
        q, k, v, mask, dropout, scale=scale, blocks=blocks, keys_first=False
    )

    def of_queries(pair: _Pair, masked: bool, partners, carry):
        q_tile = _read(problem.q, pair, pair.queries)

        def visit(pair: _Pair, own):
            o, m, l = own
            k_tile, v_tile = (_read(x, pair, pair.keys) for x in (problem.k, problem.v))
            scores = problem.scores(q_tile, k_tile, pair, masked)
            m_new = jnp.maximum(m, scores.max(axis=-1))
            # Rows that have seen nothing yet: -inf - (-inf) would be NaN.
            m_safe = jnp.where(jnp.isneginf(m_new), 0.0, m_new) if masked else m_new
            p = jnp.exp(scores - m_safe[..., None])
            keep = jnp.exp(m - m_safe)
            l_new = keep * l + p.sum(axis=-1)
            p = problem.drop(p, pair).astype(v.dtype)
            o_new = keep[..., None] * o + problem.product("LTS,LSH->LTH", p, v_tile)
            return o_new, m_new, l_new

        own = partners(visit, tuple(_read(x, pair, pair.queries) for x in carry))
        return tuple(
            _write(x, tile, pair, pair.queries)
            for x, tile in zip(carry, own, strict=True)
        )

    o = problem.accumulator(problem.q, 0.0)
    m = problem.accumulator(problem.q[..., 0], -jnp.inf)
    l = problem.accumulator(problem.q[..., 0], 0.0)
    o, m, l = problem.walk(of_queries, (o, m, l))
    return o[:, : q.shape[1]], m[:, : q.shape[1]], l[:, : q.shape[1]]


def backward(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    g: Float[Array, "B T N H"],
    shift: Float[Array, "B T N"],
    delta: Float[Array, "B T N"],
    mask: Mask,
    dropout: Dropout | None = None,
    *,
    scale: float,
    blocks: Blocks,
) -> tuple[Float[Array, "B T N H"], Float[Array, "B S K H"], Float[Array, "B S K H"]]:
    """Gradients dq, dk, dv, at least f32, in one pass of five products a tile.

    Weights are exp(score - shift); what `g` and `delta` then are, see `HopKernel`.
    """
    problem = _Problem(
        q, k, v, mask, dropout, scale=scale, blocks=blocks, keys_first=True
    )
    product = problem.product
    # A row that sees nothing has scores of -inf only: any finite shift gives p = 0.
    g_all = problem.queries(g)
    # Tokens last: every row of scores is combined with them as they lie.
    shift_all, delta_all = (
        jnp.swapaxes(problem.queries(x), 1, 2) for x in (shift, delta)
    )

    # Scores are held keys first, and dq comes width first: in this way no product has
    # to transpose a matrix of scores, which would cost more than the product itself.
    # Keys are turned once, not in each product; of bf16, which XLA does not multiply in
    # that form on a CPU, they are left as they lie.
    turned = q.dtype == problem.dtype
    keys_by_ds = "LHS,LST->LHT" if turned else "LSH,LST->LHT"

    def of_keys(pair: _Pair, masked: bool, partners, carry):
        k_tile, v_tile, dk, dv = (
            _read(x, pair, pair.keys) for x in (problem.k, problem.v, *carry[1:])
        )
        k_left = jnp.swapaxes(k_tile, 1, 2) if turned else k_tile

        def visit(pair: _Pair, own):
            dq_all, dk, dv = own
            q_tile, g_tile, dq = (
                _read(x, pair, pair.queries) for x in (problem.q, g_all, dq_all)
            )
            shift_tile, delta_tile = (
                _read_of_queries(x, pair) for x in (shift_all, delta_all)
            )
            scores = problem.scores(q_tile, k_tile, pair, masked)
            p = jnp.exp(scores - shift_tile[:, None])
            dp = problem.drop(product("LSH,LTH->LST", v_tile, g_tile), pair)
            ds = (p * (dp - delta_tile[:, None])).astype(q.dtype)
            p = problem.drop(p, pair).astype(q.dtype)
            dq += jnp.swapaxes(product(keys_by_ds, k_left, ds), 1, 2)
            return (
                _write(dq_all, dq, pair, pair.queries),
                dk + product("LST,LTH->LSH", ds, q_tile),
                dv + product("LST,LTH->LSH", p, g_tile),
            )

        dq_all, dk, dv = partners(visit, (carry[0], dk, dv))
        return (
            dq_all,
            _write(carry[1], dk, pair, pair.keys),
            _write(carry[2], dv, pair, pair.keys),
        )

    sums = tuple(problem.accumulator(x, 0.0) for x in (problem.q, problem.k, problem.v))
    sums = problem.walk(of_keys, sums)
    dq, dk, dv = (
        x[:, : like.shape[1]] for x, like in zip(sums, (q, k, v), strict=True)
    )
    return (dq, dk, dv) if scale == 1 else (scale * dq, scale * dk, dv)
