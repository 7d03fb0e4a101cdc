"""Bytes of a training step on one device, from what is alive when it needs most.

That is while a block of the transformer is differentiated, in one of two moments: in a
chunk of its feed-forward, or in a hop of its attention; or, of a model with many
logits, in a chunk of the loss. What each moment holds is counted here array by array.
All blocks are one loop, so their parameters are stacked (a copy) and so are their
gradients, and the optimiser's update needs less than that.

The counts are those of XLA on a CPU, which spreads the factors of a normalisation out
to whole arrays and makes the zeros of a gradient before it needs them. Compilers that
fuse these need some arrays `[tokens D]` of the block less: on other devices than CPUs,
where nobody has compared, read the sum as what is enough.
"""

import math
from typing import NamedTuple

from ring_rl.attention.memory_efficient import choose_chunks
from ring_rl.attention.tiles import Tiles, choose_tiles, scores_room
from ring_rl.plan.sizes import F32, Sizes

IMPLEMENTATIONS = ("reference", "memory_efficient", "blockwise", "ring")


class Bytes(NamedTuple):
    """Bytes of one device, by what they are for.

    Attributes:
      parameters: in f32, and their copy as one array for all blocks.
      gradients: of the parameters, f32.
      optimiser: Adam's moments.
      batch: tokens, labels and weights, and the angles of their positions.
      kept: what each block keeps of the forward pass for the backward pass.
      block: arrays of the block that is differentiated, its weights included.
      in_flight: keys, values and their gradients that travel.
      chunks: of the feed-forward or the loss, and the tiles of attention.
    """

    parameters: int
    gradients: int
    optimiser: int
    batch: int
    kept: int
    block: int
    in_flight: int
    chunks: int

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self)


class _Moment(NamedTuple):
    """What one moment holds beside what is held throughout."""

    block: int
    in_flight: int
    chunks: int


def predict(sizes: Sizes, implementation: str = "ring") -> Bytes:
    """The bytes of one device.

    Args:
      sizes: of the model and of the device's tokens.
      implementation: of attention, one of `IMPLEMENTATIONS`; all but `ring` have whole
        rows on a device.
    """
    trunk = sizes.model.trunk
    moments = [
        _in_feed_forward(sizes, implementation),
        _in_loss(sizes),
        *_in_attention(sizes, implementation),
    ]
    most = max(moments, key=sum)
    return Bytes(
        # Without rematerialisation blocks are no loop, and nothing is stacked.
        parameters=sizes.parameters
        + (0 if trunk.remat == "none" else sizes.block_parameters),
        gradients=sizes.parameters,
        optimiser=sizes.moments,
        batch=sizes.batch + sizes.batch_chunks + sizes.angles,
        kept=_kept(sizes, implementation),
        block=most.block + sizes.weights_at_hand,
        in_flight=most.in_flight,
        chunks=most.chunks,
    )


def _kept(sizes: Sizes, implementation: str) -> int:
    """Of all blocks: what rematerialisation does not compute again.

    `block` keeps each block's input and, where attention names them, its output and
    sums; `all` keeps the input alone. `none` keeps all that `_held` of every block,
    and of the feed-forward its input in chunks, or all its arrays if it is one chunk.
    """
    trunk = sizes.model.trunk
    named = implementation in ("blockwise", "ring")
    each = sizes.wide
    if trunk.remat == "none":
        each = _held(sizes) + sizes.attention_sums
        if sizes.ring > 1:
            each += sizes.block
        if sizes.chunked:
            each += _in_chunks(sizes)
        else:
            # The input normalised, the three factors, and the hidden layer.
            each += sizes.wide + 3 * sizes.wide_sum + 3 * _hidden(sizes)
    elif trunk.remat == "block" and named:
        each += sizes.wide + sizes.attention_sums
    return trunk.layers * each


def _held(sizes: Sizes) -> int:
    """What a block has computed when the backward pass reaches it.

    Its input, that normalised and the three factors this needs, queries, keys, values,
    attention's output as the projection and as attention take it, and zeros for the
    gradients of queries, keys and values.
    """
    return 5 * sizes.wide + 4 * sizes.wide_sum + 2 * sizes.narrow + 2 * sizes.narrow_sum


def _in_chunks(sizes: Sizes) -> int:
    """Bytes of an array `[tokens D]` cut in chunks, the last one padded."""
    return sizes.wide * sizes.padded // sizes.tokens


def _in_feed_forward(sizes: Sizes, implementation: str) -> _Moment:
    """In the last chunk of a block's feed-forward, backward.

    The block is held, and the gradient of its output.
    """
    trunk = sizes.model.trunk
    block, in_flight = sizes.wide, 0
    if trunk.remat != "none":
        block += _held(sizes)
    if sizes.chunked:
        # The input and the gradient of the output in chunks, and the input's gradient.
        block += 3 * _in_chunks(sizes)
    if sizes.ring > 1 and implementation == "ring":
        # Packed for attention's forward pass, which backward runs again; and nothing
        # keeps the compiler from sending it before a feed-forward that is no loop.
        if trunk.remat == "all" or (trunk.remat == "block" and not sizes.chunked):
            in_flight = sizes.block
    if implementation == "memory_efficient":
        block += _chunk_sums(sizes)
    # Of a chunk: the input and its normalisation as above, and the gradient; of the
    # hidden layer: before and after the activation, its tanh, and a gradient of each.
    inputs, hidden = 6, 6
    if trunk.remat == "none" and not sizes.chunked:
        # The others are kept already.
        inputs, hidden = 2, 3
    chunk = inputs * sizes.wide * sizes.chunk // sizes.tokens
    return _Moment(block, in_flight, chunk + hidden * _hidden(sizes))


def _hidden(sizes: Sizes) -> int:
    """Bytes of a chunk of the feed-forward's hidden layer."""
    return sizes.chunk * sizes.model.feed_forward * sizes.itemsize


def _in_loss(sizes: Sizes) -> _Moment:
    """In a chunk of the loss, backward: two of its arrays of logits in f32.

    Of the last normalisation its input, output and factors, and the features and their
    gradient in chunks.
    """
    logits = sizes.chunk * sizes.model.outputs * F32
    return _Moment(6 * sizes.wide, 0, 2 * logits)


def _in_attention(sizes: Sizes, implementation: str) -> list[_Moment]:
    """In a block's attention, backward: when sending begins, and in a hop.

    The block is held, and the gradients of its output and of attention's. Attention's
    own output is needed up to the first hop only.
    """
    trunk, lists = sizes.model.trunk, _lists(sizes)
    output = 2 * sizes.wide
    held = 2 * sizes.wide
    if trunk.remat == "none":
        output = 0
    else:
        held += _held(sizes) - output
    if implementation == "reference":
        # Every pair's score, weight, their gradients, and what each is made of.
        pairs = sizes.rows * sizes.length**2
        scores = pairs * (6 * trunk.heads * F32 + 1)
        return [_Moment(held, 0, scores)]
    if implementation == "memory_efficient":
        # Of keys and values the gradients of a chunk's queries, and of all so far.
        held += output // 2 + 2 * sizes.narrow_sum
        return [_Moment(held, 0, 4 * _chunk_scores(sizes) + _chunk_sums(sizes))]
    # Which pairs of tiles are visited: while it is found out, as numbers as they lie,
    # in order and transposed, their running sum, and the list with the zeros it is
    # made of.
    making = 6 * lists
    # Scores, and the gradients of weights and of scores; where one tile is all there
    # is, which is no loop, scores and gradients with a mask and without.
    alive = 4 if _tiles(sizes).q >= sizes.length else 3
    tiles = alive * _tile_scores(sizes) + lists
    if sizes.ring == 1:
        return [_Moment(held, 0, max(making, tiles))]
    # The block is held as it is, packed, and as it arrives.
    first = _Moment(held + output, 2 * sizes.block, making)
    # The block and the gradients that arrive, and the hop's part of dq. Who sends while
    # computing, which XLA on a CPU does not, holds what leaves as well.
    copies = 1 if sizes.platform == "cpu" else 2
    travelling = copies * (sizes.block + 2 * sizes.narrow_sum)
    return [first, _Moment(held + sizes.wide_sum, travelling, tiles)]


def _tiles(sizes: Sizes) -> Tiles:
    """How attention cuts a row of the device, as queries and as keys."""
    trunk, length = sizes.model.trunk, sizes.length
    shared = trunk.heads // sizes.model.kv_heads
    return choose_tiles(
        length, length, shared, trunk.block or None, trunk.block or None
    )


def _tile_scores(sizes: Sizes) -> int:
    """Bytes of the scores of a tile, over its lanes."""
    tiles, kv_heads = _tiles(sizes), sizes.model.kv_heads
    of_lane = sizes.model.trunk.heads // kv_heads * tiles.q * tiles.k
    lanes = max(1, scores_room(sizes.platform) // of_lane)
    return min(lanes, sizes.rows * kv_heads) * of_lane * F32


def _lists(sizes: Sizes) -> int:
    """Bytes of the lists of the pairs of tiles, and of pieces, that are visited."""
    tiles, length = _tiles(sizes), sizes.length
    pairs = math.ceil(length / tiles.q) * math.ceil(length / tiles.k)
    return sizes.rows * 4 * pairs * (1 + tiles.q_pieces * tiles.k_pieces)


def _chunk_scores(sizes: Sizes) -> int:
    """Bytes of the scores of a chunk of memory-efficient attention, of all heads."""
    q, k = choose_chunks(sizes.platform, sizes.model.trunk.block or None)
    pairs = min(q, sizes.length) * min(k, sizes.length)
    return sizes.rows * sizes.model.trunk.heads * pairs * F32


def _chunk_sums(sizes: Sizes) -> int:
    """What autodiff of memory-efficient attention keeps for each chunk of keys.

    Of every query and head its share and its sum of weights.
    """
    _, k = choose_chunks(sizes.platform, sizes.model.trunk.block or None)
    return sizes.attention_sums * math.ceil(sizes.length / k)
