"""Chains that a row reads before it acts, made into what it would have in its context.

A demonstration is read as if the row had acted it: told the row's own target return,
with completions to match, and cleared where the row would have cleared its context.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from ring_rl.attention import Mask, choose_layout, permutation
from ring_rl.data.tokens import TokenConfig, pack
from ring_rl.mesh import ShardingRules
from ring_rl.types import Chain, Spaces, Tokens

# Relative error of a sum of some thousand rewards in f32.
_ROUNDING = 1e-5


def reaches(earned: Any, told: Any) -> Any:
    """Whether rewards add up to the target return, to the rounding of their sum."""
    return earned >= told - _ROUNDING * abs(told)


def as_told(chain: Chain, told: float) -> Chain:
    """The same trials with the target returns and completions of a row told so."""
    targets = np.zeros(len(chain.rewards), np.float32)
    completions = np.zeros_like(targets)
    starts = np.flatnonzero(chain.timesteps == 0)
    ends = np.append(starts, len(targets))[1:]
    for start, end in zip(starts, ends, strict=True):
        earned = np.cumsum(chain.rewards[start:end], dtype=np.float64)
        targets[start] = told
        targets[start + 1 : end] = told - earned[:-1]
        completions[end - 1] = reaches(earned[-1], told)
    return chain._replace(target_returns=targets, completions=completions)


def trials_left(trials: int, config: TokenConfig, trials_in_context: int) -> int:
    """How many of so many whole trials, read or acted, are still in the context.

    A context is cleared after each step, or after so many trials (0: never).
    """
    if config.memory == "step":
        return 0
    return trials % trials_in_context if trials_in_context else trials


def take(chain: Chain, steps: slice | Int[np.ndarray, " _"]) -> Chain:
    """Some steps of a chain, in that order."""
    return Chain(*(field[steps] for field in chain))


def by_return(
    chain: Chain, trials: Sequence[Int[np.ndarray, " _"]], room: int
) -> list[Int[np.ndarray, " _"]]:
    """Trials of a chain, each its steps, ascending, equal ones as they were.

    Of more than `room` steps (0: there is room for all), without the worst trials, but
    always with the best.
    """
    returns = [chain.rewards[steps].sum(dtype=np.float64) for steps in trials]
    order = [trials[trial] for trial in np.argsort(returns, kind="stable")]
    while room and len(order) > 1 and sum(map(len, order)) > room:
        order.pop(0)
    return order


def read_tokens(
    chains: Sequence[Chain],
    config: TokenConfig,
    spaces: Spaces,
    rules: ShardingRules,
    places: int = 0,
) -> Tokens:
    """One row of tokens a chain, in layout order on the devices that they belong to.

    Left out is what comes after the last observation: it enters with the next one. Rows
    are padded to a power of two, but to `places` where that lies between.
    """
    stride = config.tokens_per_step
    lengths = np.array([len(chain.rewards) * stride for chain in chains])
    cut = max(1, int(lengths.max()))
    padded = 1 << (cut - 1).bit_length() if places else cut
    padded = places if cut <= places < padded else padded
    # A length that every layout can share out.
    length = -(-padded // (2 * rules.ring)) * 2 * rules.ring
    tokens = pack(list(enumerate(chains)), len(chains), length, config, spaces).tokens
    if config.layout == "interleaved":
        last = lengths - stride + config.fields.index("observation")
        later = np.arange(length)[None] > last[:, None]
        tokens.segments[later] = -1
    mask = Mask.self_attention(tokens.positions, tokens.segments)
    order = permutation(choose_layout(mask, rules.ring), length, rules.ring)
    ordered = jax.tree.map(lambda array: array[:, order], tokens)
    return jax.device_put(ordered, rules.sharding(rules.tokens))
