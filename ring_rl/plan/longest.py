"""The longest context that fits, for each implementation of attention."""

import dataclasses

from ring_rl.plan.context import Context
from ring_rl.plan.memory import IMPLEMENTATIONS, predict
from ring_rl.plan.models import Model
from ring_rl.plan.sizes import Sizes

# Tokens of a device beyond which the search does not go.
_MOST = 2**34


def longest(
    model: Model, context: Context, memory: float, *, platform: str = "gpu"
) -> dict[str, int]:
    """Tokens of the longest row, by the name of the implementation; 0: none fits.

    All but `ring` have each row on one device; the other devices then only hold other
    rows, and, with `fsdp`, a part of the parameters. The feed-forward and the loss are
    in chunks for all four.

    Args:
      model: the model.
      context: how many devices, and rows on each; its own length is not looked at.
      memory: bytes of a device.
      platform: see `Sizes`.
    """
    here = Sizes.of(model, context, platform)
    found = {}
    for name in IMPLEMENTATIONS:
        ring = context.ring if name == "ring" else 1
        of_name = dataclasses.replace(here, ring=ring)
        found[name] = ring * _longest_part(of_name, name, memory)
    return found


def _longest_part(sizes: Sizes, implementation: str, memory: float) -> int:
    """Tokens of a row on one device, an even number, as zigzag cuts it in two."""

    def fits(length: int) -> bool:
        some = dataclasses.replace(sizes, length=length)
        return predict(some, implementation).total <= memory

    if not fits(2):
        return 0
    length = 2
    while length < _MOST and fits(2 * length):
        length *= 2
    # In pairs of tokens: `low` of them fit, `high` do not.
    low, high = length // 2, length
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(2 * middle) else (low, middle)
    return 2 * low
