"""Whether the ring's traffic hides behind its compute.

While a device attends to one block of C keys and values, the next is on its way. With
F floating-point operations and W bytes a second, K of N heads for keys and values, and
a share u of the pairs of query and key that is not masked, a hop hides if

    forward    4 C^2 N H u / F  >=  2 C K H itemsize / W
    backward  10 C^2 N H u / F  >=  2 C K H (itemsize + 4) / W

backward because the f32 gradients of a block travel behind it. For bf16, K = N and no
mask the first is the paper's C >= F / W.

Source: Liu, Zaharia & Abbeel 2023 (arXiv 2310.01889), section 3 and table 2.
"""

import math
from typing import NamedTuple

# Blocks that a device holds at once, by the paper's count: queries, output, keys and
# values, and those that arrive. Its smallest sequence is as many blocks.
BLOCKS_IN_SEQUENCE = 6


class Smallest(NamedTuple):
    """Blocks in tokens a device and row.

    Attributes:
      paper: F / W.
      forward: for these heads, this type and mask.
      backward: likewise.
    """

    paper: float
    forward: float
    backward: float

    @property
    def block(self) -> float:
        """What hides both passes."""
        return max(self.forward, self.backward)


def smallest_blocks(
    flops: float,
    link: float,
    *,
    heads: int = 1,
    kv_heads: int = 1,
    itemsize: int = 2,
    unmasked: float = 1.0,
) -> Smallest:
    """The smallest blocks that hide the ring's traffic.

    Args:
      flops: F, floating-point operations a second of a device.
      link: W, bytes a second that it sends.
      heads: N.
      kv_heads: K.
      itemsize: bytes of a number of keys and values.
      unmasked: u, the share of pairs that a hop computes.
    """
    intensity = flops / link
    shared = kv_heads / heads
    return Smallest(
        intensity,
        intensity * shared * itemsize / (2 * unmasked),
        intensity * shared * (itemsize + 4) / (5 * unmasked),
    )


def smallest_sequence(block: float) -> float:
    """Tokens a device of the smallest sequence, as the paper counts it."""
    return BLOCKS_IN_SEQUENCE * block


def unmasked_share(layout: str, devices: int) -> float:
    """The share u of a hop's slowest device, of one causal chain over all devices.

    A contiguous block is seen whole or not at all, and the ring waits for who sees it
    whole; under the other layouts every device sees about half of every block.
    """
    return 1.0 if layout == "contiguous" and devices > 1 else 0.5


def useful_share(layout: str, devices: int) -> float:
    """Share of the attention's time in which devices do not wait for the slowest.

    Of one causal chain. A contiguous ring takes R - 1/2 whole blocks of time for work
    of R / 2. The other layouts lose a little to tiles that are seen in part, see
    `ring_rl.attention.layout.balance`; that is not counted here.
    """
    if layout != "contiguous" or devices == 1:
        return 1.0
    return devices / (2 * devices - 1)


class Traffic(NamedTuple):
    """What a device sends in one attention, forward and backward, in bytes.

    Attributes:
      hop_forward: one block of keys and values, and its positions and segments.
      hop_backward: the same, and f32 gradients.
      hops: how often each is sent behind compute.
      exposed: sent when there is nothing more to compute.
    """

    hop_forward: int
    hop_backward: int
    hops: int
    exposed: int


def ring_traffic(
    tokens: int, *, kv_heads: int, head_width: int, itemsize: int, devices: int
) -> Traffic:
    """The traffic of one device whose block has `tokens`, rows included."""
    if devices == 1:
        return Traffic(0, 0, 0, 0)
    numbers = 2 * tokens * kv_heads * head_width
    block = numbers * itemsize + 8 * tokens
    gradients = 4 * numbers
    return Traffic(block, block + gradients, devices - 1, gradients)


def exposed(seconds_to_send: float, seconds_to_compute: float) -> float:
    """Seconds of a hop that compute does not hide."""
    return max(0.0, seconds_to_send - seconds_to_compute)


def round_up(tokens: float) -> int:
    """Whole tokens."""
    return math.ceil(tokens)
