"""From chains to rows of tokens.

*Interleaved*: each step is several tokens, one a field, in the order target return,
observation, action, reward, completion; the action is read out at the observation.
*Fused*: each step is one token that shows the target return, the observation, and the
action, reward and completion of the step before; at the start of a chain there is no
step before, across the ends of its episodes there is.

A token never shows its own step's action or anything that came of it.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from ring_rl.types import Batch, Chain, Discrete, Spaces, Tokens

FIELDS = ("target_return", "observation", "action", "reward", "completion")
KNOWN_BEFORE_ACTING = ("target_return", "observation")


@dataclasses.dataclass(frozen=True)
class TokenConfig:
    """How a step becomes tokens.

    Attributes:
      layout: `fused`, one token a step, or `interleaved`, one a field.
      fields: which fields the agent is shown, in the order of `FIELDS`; the
        observation is always one of them.
      memory: `chain`, the agent sees all of the chain so far, or `step`, only the
        step that it is in.
    """

    layout: Literal["interleaved", "fused"] = "fused"
    fields: tuple[str, ...] = FIELDS
    memory: Literal["chain", "step"] = "chain"

    def __post_init__(self):
        """Checks names and order."""
        if self.layout not in ("interleaved", "fused"):
            raise ValueError(
                f"tokens: layout must be interleaved or fused, found {self.layout!r}"
            )
        ordered = tuple(field for field in FIELDS if field in self.fields)
        if self.fields != ordered or "observation" not in self.fields:
            raise ValueError(
                f"tokens: fields must be some of {', '.join(FIELDS)} in that order, "
                f"observation among them, found {', '.join(self.fields)}"
            )
        later = [field for field in self.fields if field not in KNOWN_BEFORE_ACTING]
        if self.memory == "step" and later:
            raise ValueError(
                "tokens: with memory 'step' the fields can only be "
                f"{' and '.join(KNOWN_BEFORE_ACTING)}, found {', '.join(later)}"
            )

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one environment step."""
        return len(self.fields) if self.layout == "interleaved" else 1


def empty_tokens(rows: int, length: int, spaces: Spaces) -> Tokens:
    """Padding: NumPy arrays `[rows length ...]` that show nothing to nobody."""

    def zeros(*shape: int, dtype: type = np.float32):
        return np.zeros((rows, length, *shape), dtype)

    return Tokens(
        target_return=zeros(),
        observation=zeros(spaces.observation),
        action=empty_actions(rows, length, spaces),
        reward=zeros(),
        completion=zeros(),
        present=zeros(len(FIELDS), dtype=np.bool_),
        timestep=zeros(dtype=np.int32),
        positions=zeros(dtype=np.int32),
        segments=np.full((rows, length), -1, np.int32),
    )


def empty_actions(rows: int, length: int, spaces: Spaces) -> np.ndarray:
    """Zeros in the shape and type of `rows` x `length` actions."""
    if isinstance(spaces.action, Discrete):
        return np.zeros((rows, length), np.int32)
    return np.zeros((rows, length, spaces.action.size), np.float32)


def _previous(values: np.ndarray) -> np.ndarray:
    """Each step's value moved to the step after it; 0 at the start."""
    moved = np.zeros_like(values)
    moved[1:] = values[:-1]
    return moved


def write_chain(
    batch: Batch, row: int, start: int, segment: int, chain: Chain, config: TokenConfig
) -> int:
    """Writes a chain's tokens into a row of NumPy arrays; returns how many.

    `start` is the first token's place in the row, `segment` the chain's id there (of
    its first step, where each step is a segment of its own).
    """
    steps = len(chain.rewards)
    values = {
        "target_return": chain.target_returns,
        "observation": chain.observations,
        "action": chain.actions,
        "reward": chain.rewards,
        "completion": chain.completions,
    }
    stride = config.tokens_per_step
    count = steps * stride
    tokens = Tokens(*(array[row, start : start + count] for array in batch.tokens))
    acting = slice(None)
    for index, field in enumerate(FIELDS):
        if field not in config.fields:
            continue
        if config.layout == "interleaved":
            place = slice(config.fields.index(field), None, stride)
            getattr(tokens, field)[place] = values[field]
            tokens.present[place, index] = True
            if field == "observation":
                acting = place
        elif field in KNOWN_BEFORE_ACTING:
            getattr(tokens, field)[:] = values[field]
            tokens.present[:, index] = True
        else:
            getattr(tokens, field)[:] = _previous(values[field])
            tokens.present[1:, index] = True
    tokens.timestep[:] = np.repeat(chain.timesteps, stride)
    if config.memory == "chain":
        tokens.positions[:] = np.arange(count)
        tokens.segments[:] = segment
    else:
        tokens.positions[:] = np.tile(np.arange(stride), steps)
        tokens.segments[:] = segment + np.repeat(np.arange(steps), stride)
    batch.label[row, start : start + count][acting] = chain.actions
    batch.weight[row, start : start + count][acting] = chain.weights
    return count


def pack(
    chains: Sequence[tuple[int, Chain]],
    rows: int,
    length: int,
    config: TokenConfig,
    spaces: Spaces,
) -> Batch:
    """Rows `[rows length]` of tokens with each chain in the row it is paired with.

    Chains of a row follow each other from its start, as segments that do not see each
    other.
    """
    batch = Batch(
        empty_tokens(rows, length, spaces),
        label=empty_actions(rows, length, spaces),
        weight=np.zeros((rows, length), np.float32),
    )
    used = np.zeros(rows, np.int64)
    segments = np.zeros(rows, np.int64)
    for row, chain in chains:
        used[row] += write_chain(
            batch, row, int(used[row]), int(segments[row]), chain, config
        )
        segments[row] += 1 if config.memory == "chain" else len(chain.rewards)
    return batch
