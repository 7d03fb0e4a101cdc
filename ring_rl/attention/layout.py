"""In which order the tokens of a sequence lie on the devices of a ring.

The result of attention never depends on the layout, since positions and segments say
who sees whom; only the balance of the work does. Layouts are chosen and applied on
the host, once per run.

- *contiguous*: device r holds the r-th block. With a causal mask over one long
  sequence the first device is done early and the last is always busy; with many short
  segments it is the best there is, since most work is within a block.
- *zigzag*: the sequence is cut in 2R chunks and device r holds chunks r and 2R-1-r,
  which evens out a causal mask.
"""

import numpy as np
from jaxtyping import Float, Int

from ring_rl.attention.mask import Mask

LAYOUTS = ("contiguous", "zigzag")


def permutation(layout: str, S: int, R: int) -> Int[np.ndarray, " S"]:
    """Order in which natural token indices are stored: `stored = natural[order]`.

    Raises:
      ValueError: an unknown layout, or a length it cannot cut evenly.
    """
    if layout not in LAYOUTS:
        raise ValueError(
            f"layout must be one of {', '.join(LAYOUTS)}, found {layout!r}"
        )
    chunks = R if layout == "contiguous" else 2 * R
    if S % chunks:
        raise ValueError(
            f"layout {layout!r} over {R} devices cuts the sequence in {chunks} equal "
            f"parts; {S} tokens are no multiple of {chunks}"
        )
    order = np.arange(S)
    if layout == "contiguous":
        return order
    parts = order.reshape(chunks, -1)
    return np.concatenate(
        [np.concatenate([parts[r], parts[chunks - 1 - r]]) for r in range(R)]
    )


def balance(
    mask: Mask, layout: str, R: int, *, tile: int = 128
) -> tuple[Float[np.ndarray, " R"], float]:
    """Tiles that each device computes, and the useful share of the slowest's time.

    The share is (mean work) / (sum over hops of the busiest device's work): at each
    hop every device waits for the slowest. Tiles are counted at `tile` tokens from
    their bounds, as the kernel does. `mask` is on the host, in natural order.
    """
    work = _work(mask, layout, R, tile)
    time = _time(work)
    return work.sum(axis=1), float(work.sum() / R / time) if time else 1.0


def choose_layout(mask: Mask, R: int) -> str:
    """The layout under which the slowest device has least to do for this mask.

    `mask` is a host mask of self-attention in natural order, whose length every
    layout can cut. Ties go to the first of `LAYOUTS`.
    """
    # Not the best balanced: a layout that makes all devices visit more tiles is.
    return min(LAYOUTS, key=lambda layout: _time(_work(mask, layout, R, 128)))


def _work(mask: Mask, layout: str, R: int, tile: int) -> Float[np.ndarray, "R R"]:
    """Tiles that each device computes at each hop."""
    positions, segments = np.asarray(mask.q_positions), np.asarray(mask.q_segments)
    S = positions.shape[1]
    order = permutation(layout, S, R)
    tile = _divisor(S // R, tile)
    shape = (positions.shape[0], R, S // R // tile, tile)
    # In 64 bits, so that an all-padding tile's bounds and the window do not overflow.
    positions = positions[:, order].reshape(shape).astype(np.int64)
    segments = segments[:, order].reshape(shape).astype(np.int64)
    valid = segments >= 0
    high, low = np.iinfo(np.int64).max // 2, np.iinfo(np.int64).min // 2
    least_p = np.where(valid, positions, high).min(-1)
    largest_p = np.where(valid, positions, low).max(-1)
    least_s = np.where(valid, segments, high).min(-1)
    largest_s = np.where(valid, segments, low).max(-1)
    work = np.zeros((R, R))
    for device in range(R):
        for hop in range(R):
            q, k = device, (device - hop) % R
            needed = (
                least_s[:, q, :, None] <= largest_s[:, k, None, :]
            ) & (least_s[:, k, None, :] <= largest_s[:, q, :, None])  # fmt: skip
            if mask.causal:
                needed &= least_p[:, k, None, :] <= largest_p[:, q, :, None]
            if mask.window is not None:
                needed &= (
                    least_p[:, q, :, None] < largest_p[:, k, None, :] + mask.window
                )
            work[device, hop] = needed.any(axis=0).sum()
    return work


def _time(work: Float[np.ndarray, "R R"]) -> float:
    """Tiles of the busiest device, summed over hops: how long the ring takes."""
    return float(work.max(axis=0).sum())


def _divisor(length: int, largest: int) -> int:
    """The largest divisor of `length` that is at most `largest`."""
    return next(n for n in range(min(length, largest), 0, -1) if length % n == 0)
