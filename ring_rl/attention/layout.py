"""In which order the tokens of a sequence lie on the devices of a ring.

The result of attention never depends on the layout, since positions and segments say
who sees whom; only the balance of the work does. Layouts are chosen and applied on
the host, once per run.

- *contiguous*: device r holds the r-th block. With a causal mask over one long
  sequence the first device is done early and the last is always busy; with many short
  segments it is the best there is, since most work is within a block.
- *zigzag*: the sequence is cut in 2R chunks and device r holds chunks r and 2R-1-r,
  which evens out a causal mask.
- *striped*: token t lies on device t mod R. That evens out a causal mask too, but a
  tile spans R times its length, so that more tiles are only partly seen.
"""

import itertools
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ring_rl.attention.mask import (
    Mask,
    TileSummary,
    classify,
    earliest_position,
    summarise,
)

LAYOUTS = ("contiguous", "zigzag", "striped")

# Pairs of tiles that are compared together, so that this takes megabytes and not more.
_PAIRS = 2**20


def permutation(layout: str, S: int, R: int) -> Int[np.ndarray, " S"]:
    """Order in which natural token indices are stored: `stored = natural[order]`.

    Raises:
      ValueError: an unknown layout, or a length it cannot cut evenly.
    """
    ranges = [some for r in range(R) for some in held(layout, S, R, r)]
    return np.concatenate([np.arange(some.start, some.stop, some.step) for some in
                           ranges])  # fmt: skip


def held(layout: str, S: int, R: int, r: int) -> list[range]:
    """Natural indices of the tokens that device r holds, in the order it holds them.

    Raises:
      ValueError: an unknown layout, or a length it cannot cut evenly.
    """
    if layout not in LAYOUTS:
        raise ValueError(
            f"layout must be one of {', '.join(LAYOUTS)}, found {layout!r}"
        )
    parts = _parts(layout, R)
    if S % parts:
        raise ValueError(
            f"layout {layout!r} over {R} devices cuts the sequence in {parts} equal "
            f"parts; {S} tokens are no multiple of {parts}"
        )
    if layout == "striped":
        return [range(r, S, R)]
    width = S // parts
    chunks = (r,) if layout == "contiguous" else (r, parts - 1 - r)
    return [range(chunk * width, (chunk + 1) * width) for chunk in chunks]


def balance(
    mask: Mask, layout: str, R: int, *, tile: int = 128
) -> tuple[Float[np.ndarray, " R"], float]:
    """Tiles that each device computes, and the useful share of the ring's time.

    At each hop every device waits for the slowest. The share is that of the pairs of a
    query and a key it sees among all pairs that R devices could compare while the
    slowest of each hop computes its tiles: what is lost to it is lost to imbalance and
    to tiles seen in part. Tiles of `tile` queries and keys of a row are counted from
    their bounds, as the kernel does. `mask` is on the host, in natural order.
    """
    work = _work(mask, layout, R, tile)
    time = _time(work)
    if not time:
        return work.sum(axis=1), 1.0
    T, S = mask.q_positions.shape[1], mask.k_positions.shape[1]
    pairs_of_tile = min(tile, T // R) * min(tile, S // R)
    return work.sum(axis=1), _visible_pairs(mask) / (R * time * pairs_of_tile)


def choose_layout(mask: Mask, R: int, *, tile: int = 128) -> str:
    """The layout under which the slowest device has least to do for this mask.

    `mask` is a host mask in natural order. Ties go to the first of `LAYOUTS`; those
    that cannot cut the sequence evenly are left out.

    Raises:
      ValueError: no layout cuts the sequence evenly.
    """
    T, S = mask.q_positions.shape[1], mask.k_positions.shape[1]
    fitting = [x for x in LAYOUTS if not (T % _parts(x, R) or S % _parts(x, R))]
    if not fitting:
        raise ValueError(
            f"no layout cuts {T} queries and {S} keys evenly over {R} devices: pad "
            f"both to multiples of {2 * R}"
        )
    # Not the best balanced: a layout that makes all devices visit more tiles is.
    return min(fitting, key=lambda layout: _time(_work(mask, layout, R, tile)))


def count_hops(mask: Mask, R: int) -> int:
    """The least number of hops of the ring after which no device misses a key it sees.

    `mask` is on the host, in layout order; a length that R does not divide counts as
    padded at its end. Judged like a tile by the bounds of each device's block, which
    is safe and not always sharp: a block with the end of one chain and the start of
    the next may seem to be seen by the block before it, R - 1 hops away.
    """
    queries = _bounds(mask.q_positions, mask.q_segments, R)
    keys = _bounds(mask.k_positions, mask.k_segments, R)
    needed, _ = classify(queries, keys, causal=mask.causal, window=mask.window)
    device, holder = np.nonzero(needed)
    return int(((device - holder) % R).max(initial=0))


def _parts(layout: str, R: int) -> int:
    """Into how many equal parts a layout cuts the sequence."""
    return 2 * R if layout == "zigzag" else R


def _bounds(
    positions: Any, segments: Any, R: int, tile: int | None = None
) -> TileSummary:
    """Summaries of the tiles of each device's block, or of the whole blocks.

    A block ends with a shorter tile where `tile` does not divide it.
    """
    positions, segments = np.asarray(positions), np.asarray(segments)
    B, S = positions.shape
    block = -(-S // R)
    length = block if tile is None else min(tile, block)

    def cut(array: np.ndarray, value: int) -> np.ndarray:
        end = ((0, 0), (0, block * R - S))
        blocks = np.pad(array, end, constant_values=value).reshape(B, R, block)
        end = ((0, 0), (0, 0), (0, -block % length))
        return np.pad(blocks, end, constant_values=value).reshape(B, -1)

    return summarise(cut(positions, 0), cut(segments, -1), length)


def _work(mask: Mask, layout: str, R: int, tile: int) -> Float[np.ndarray, "R R"]:
    """Tiles that each device computes at each hop, over all rows."""
    sides = []
    for positions, segments in (
        (mask.q_positions, mask.q_segments),
        (mask.k_positions, mask.k_segments),
    ):
        order = permutation(layout, positions.shape[1], R)
        positions, segments = np.asarray(positions), np.asarray(segments)
        sides.append(_bounds(positions[:, order], segments[:, order], R, tile))
    (B, q_tiles), k_tiles = sides[0].padded.shape, sides[1].padded.shape[1]
    # By query tile and by the device that holds the keys.
    counts = np.zeros((q_tiles, R))
    some = max(1, _PAIRS // k_tiles)
    for row, start in itertools.product(range(B), range(0, q_tiles, some)):
        part = slice(start, start + some)
        queries = TileSummary(*(bound[row, None, part] for bound in sides[0]))
        keys = TileSummary(*(bound[row, None] for bound in sides[1]))
        needed, _ = classify(queries, keys, causal=mask.causal, window=mask.window)
        counts[part] += needed.reshape(len(needed), R, -1).sum(axis=-1)
    counts = counts.reshape(R, -1, R).sum(axis=1)
    device = np.arange(R)[:, None]
    return counts[device, (device - np.arange(R)) % R]


def _time(work: Float[np.ndarray, "R R"]) -> float:
    """Tiles of the busiest device, summed over hops: how long the ring takes."""
    return float(work.max(axis=0).sum())


def _visible_pairs(mask: Mask) -> int:
    """How many pairs of a query and a key it sees there are, in all rows."""
    limit = np.iinfo(np.int32)

    def rank(segments: np.ndarray, positions: Any) -> np.ndarray:
        """One number that orders by segment, then by position."""
        return segments.astype(np.int64) * 2**32 + (positions - np.int64(limit.min))

    pairs = 0
    rows = (mask.q_positions, mask.q_segments, mask.k_positions, mask.k_segments)
    for q_positions, q_segments, k_positions, k_segments in zip(
        *map(np.asarray, rows), strict=True
    ):
        positions, segments = (x[q_segments >= 0] for x in (q_positions, q_segments))
        keys = np.sort(rank(k_segments, k_positions)[k_segments >= 0])
        first, last = limit.min, limit.max
        if mask.window is not None:
            first = earliest_position(positions, mask.window)
        if mask.causal:
            last = positions
        before = np.searchsorted(keys, rank(segments, first), "left")
        upto = np.searchsorted(keys, rank(segments, last), "right")
        pairs += int((upto - before).sum())
    return pairs
