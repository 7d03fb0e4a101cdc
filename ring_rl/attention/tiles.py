"""How attention is cut into tiles, and which pairs of tiles it visits.

There are two grains. A *tile* is as long as matrix products want it to be. Pairs of
tiles in which every query sees every key are *whole*: they need no mask arithmetic. Any
other pair is cut into *pieces*, of which those with something to see are visited and
masked; so the diagonal of a causal mask and the ends of segments cost little more than
they must. Both lists are made on the device, since positions and segments are data.

A *lane* is a batch row with a key head. The lanes of a tile are computed side by side:
one where tiles are long, many where sequences are short.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from ring_rl.attention.mask import Mask, classify, summarise

# Numbers in the scores of a tile, over all its lanes. 4 MB of f32, tiles of 1024 (512
# cost 11 % more, 2048 8 %) and pieces of 128 measured best on a CPU. What accelerators
# want of these portable tiles is a guess.
_CPU_SCORES = 2**20
_ACCELERATOR_SCORES = 2**24
_LONGEST_TILE = 1024
_SHORTEST_PIECE = 128


class Blocks(NamedTuple):
    """Tile lengths that were asked for; None leaves them to the kernel."""

    q: int | None = None
    k: int | None = None


class Tiles(NamedTuple):
    """How many queries and keys a tile has, and into how many pieces each is cut."""

    q: int
    k: int
    q_pieces: int = 1
    k_pieces: int = 1


def choose_tiles(
    T: int, S: int, shared: int, block_q: int | None, block_k: int | None
) -> Tiles:
    """Tile lengths for T queries of each of `shared` heads and S keys.

    Given lengths are only cut to fit. Chosen ones divide T and S if they can, since
    padding copies whole arrays; else they are equal up to rounding, to pad little.
    """
    # The heads that share a key head are in one tile.
    longest = max(_SHORTEST_PIECE, _LONGEST_TILE // shared)
    q, q_pieces = _cut(T, block_q, longest)
    k, k_pieces = _cut(S, block_k, _LONGEST_TILE)
    return Tiles(q, k, q_pieces, k_pieces)


def _cut(length: int, block: int | None, longest: int) -> tuple[int, int]:
    """A tile's length, and into how many equal pieces it can be cut."""

    def pieces_of(tile: int) -> int:
        most = max(1, tile // _SHORTEST_PIECE)
        return next(n for n in range(most, 0, -1) if tile % n == 0)

    if block:
        tile = min(block, length)
        return tile, pieces_of(tile)
    for tile in range(min(longest, length), longest // 2, -1):
        # A prime tile has one piece: better to pad a little than to mask all of it.
        if length % tile == 0 and tile // pieces_of(tile) <= 2 * _SHORTEST_PIECE:
            return tile, pieces_of(tile)
    tiles = -(-length // longest)
    pieces = max(1, -(-length // tiles) // _SHORTEST_PIECE)
    return -(-length // (tiles * pieces)) * pieces, pieces


class Lanes(NamedTuple):
    """The lanes of an array of B rows and K key heads, in groups.

    Attributes:
      rows: rows side by side.
      heads: key heads side by side; all K where `rows` is above 1.
      row_groups: B / rows.
      head_groups: K / heads.
      shared: G, query heads that share a key head.
    """

    rows: int
    heads: int
    row_groups: int
    head_groups: int
    shared: int

    def split_rows(self, array: Array) -> Array:
        """`[B ...]` as `[row groups, rows, ...]`."""
        return array.reshape(self.row_groups, self.rows, *array.shape[1:])


def scores_room(platform: str) -> int:
    """Numbers that the scores of a tile have room for, over all its lanes."""
    return _CPU_SCORES if platform == "cpu" else _ACCELERATOR_SCORES


def choose_lanes(B: int, K: int, N: int, tiles: Tiles) -> Lanes:
    """As many lanes side by side as the scores of a tile have room for."""
    room = scores_room(jax.default_backend())
    lanes = max(1, room // (N // K * tiles.q * tiles.k))

    def divisor(count: int, largest: int) -> int:
        return next(n for n in range(min(count, largest), 0, -1) if count % n == 0)

    heads = divisor(K, lanes)
    rows = divisor(B, lanes // K) if heads == K else 1
    return Lanes(rows, heads, B // rows, K // heads, N // K)


class Visits(NamedTuple):
    """A list of pairs of tiles, or of pieces, by the tile that comes first.

    Queries come first, unless said otherwise.

    Attributes:
      pairs: `(row group · first tiles + first tile) · second tiles + second tile`; only
        the first `turns` mean anything.
      starts: where the list of each row group and first tile begins, and the end.
      busy: `row group · first tiles + first tile` of those whose list is not empty;
        only the first `busy_count` mean anything.
      busy_count: how many those are.
      q: queries of a tile.
      k: keys of a tile.
      first_tiles: how many tiles the first ones are cut into.
      second_tiles: how many tiles the others are cut into.
    """

    pairs: Int[Array, " pairs"]
    starts: Int[Array, " starts"]
    busy: Int[Array, " lists"]
    busy_count: Int[Array, ""]
    q: int
    k: int
    first_tiles: int
    second_tiles: int

    @property
    def turns(self) -> Int[Array, ""]:
        """How many pairs are to be visited."""
        return self.starts[-1]


def list_visits(
    mask: Mask, tiles: Tiles, lanes: Lanes, *, keys_first: bool = False
) -> tuple[Visits, Visits]:
    """The whole pairs of tiles, and the pieces of the others that have work.

    `mask` is padded to multiples of the tiles already.
    """
    piece_q, piece_k = tiles.q // tiles.q_pieces, tiles.k // tiles.k_pieces

    def of_rows(queries, keys):
        return classify(queries, keys, causal=mask.causal, window=mask.window)

    needed, full = jax.vmap(of_rows)(
        jax.tree.map(
            lanes.split_rows, summarise(mask.q_positions, mask.q_segments, piece_q)
        ),
        jax.tree.map(
            lanes.split_rows, summarise(mask.k_positions, mask.k_segments, piece_k)
        ),
    )
    groups, q_count, k_count = full.shape
    apart = (
        groups, q_count // tiles.q_pieces, tiles.q_pieces,
        k_count // tiles.k_pieces, tiles.k_pieces,
    )  # fmt: skip
    whole = full.reshape(apart).all(axis=(2, 4), keepdims=True)
    pieces = needed & ~jnp.broadcast_to(whole, apart).reshape(full.shape)

    def places(chosen):
        found = jnp.nonzero(chosen, size=chosen.size, fill_value=0)[0]
        return found.astype(jnp.int32)

    def visits(chosen, q: int, k: int) -> Visits:
        chosen = chosen.reshape(groups, -1, mask.k_positions.shape[1] // k)
        if keys_first:
            chosen = jnp.swapaxes(chosen, 1, 2)
        counts = chosen.sum(axis=2, dtype=jnp.int32).reshape(-1)
        starts = jnp.cumsum(jnp.concatenate([jnp.zeros_like(counts[:1]), counts]))
        starts = starts.astype(jnp.int32)
        busy = counts > 0
        return Visits(
            places(chosen.reshape(-1)), starts,
            places(busy), busy.sum(dtype=jnp.int32),
            q, k, *chosen.shape[1:],
        )  # fmt: skip

    return visits(whole, tiles.q, tiles.k), visits(pieces, piece_q, piece_k)


def pad_mask(mask: Mask, tiles: Tiles) -> Mask:
    """The mask with padding at the end, up to multiples of the tiles."""
    T = -(-mask.q_positions.shape[1] // tiles.q) * tiles.q
    S = -(-mask.k_positions.shape[1] // tiles.k) * tiles.k
    leaves = (
        pad(mask.q_positions, T, 1), pad(mask.k_positions, S, 1),
        pad(mask.q_segments, T, 1, -1), pad(mask.k_segments, S, 1, -1),
    )  # fmt: skip
    tokens = (None, None)
    if mask.q_tokens is not None:
        tokens = pad(mask.q_tokens, T, 1), pad(mask.k_tokens, S, 1)
    return Mask.tree_unflatten((mask.causal, mask.window), (*leaves, *tokens))


def pad(array: Array, length: int, axis: int, value: int = 0) -> Array:
    """The array with `value` at the end of an axis, up to `length`."""
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, length - array.shape[axis])
    return jnp.pad(array, widths, constant_values=value)
