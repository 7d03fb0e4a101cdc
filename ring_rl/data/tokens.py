"""From chains to rows of tokens.

*Interleaved*: each step is several tokens, one a field, in the order target return,
observation, action, reward, completion; the action is read out at the observation.
*Fused*: each step is one token that shows the target return, the observation, and the
action, reward and completion of the step before; at the start of a chain there is no
step before, across the ends of its episodes there is.

A token never shows its own step's action or anything that came of it.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Int64

from ring_rl.data.rows import ChainRow, Row, which
from ring_rl.types import Batch, Chain, Discrete, Spaces, Tokens

FIELDS = ("target_return", "observation", "action", "reward", "completion")
KNOWN_BEFORE_ACTING = ("target_return", "observation")
_ALIGNMENT = 64  # bytes
# Fields of `Chain` that they come from.
_COLUMNS = {
    "target_return": "target_returns",
    "observation": "observations",
    "action": "actions",
    "reward": "rewards",
    "completion": "completions",
}


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


def empty_batch(rows: int, length: int, spaces: Spaces) -> Batch:
    """Padding: NumPy arrays `[rows length ...]` that show nothing to nobody."""
    flat, action = (), (spaces.action.size,)
    kind: type = np.float32
    if isinstance(spaces.action, Discrete):
        action, kind = (), np.int32
    widths = Batch(
        Tokens(
            target_return=(flat, np.float32),
            observation=((spaces.observation,), np.float32),
            action=(action, kind),
            reward=(flat, np.float32),
            completion=(flat, np.float32),
            present=((len(FIELDS),), np.bool_),
            timestep=(flat, np.int32),
            positions=(flat, np.int32),
            segments=(flat, np.int32),
        ),
        label=(action, kind),
        weight=(flat, np.float32),
    )
    kinds = [*widths.tokens, widths.label, widths.weight]
    arrays = _zeros([((rows, length, *width), dtype) for width, dtype in kinds])
    tokens = Tokens(*arrays[:-2])
    tokens.segments[:] = -1
    return Batch(tokens, label=arrays[-2], weight=arrays[-1])


def _zeros(kinds: Sequence[tuple[tuple[int, ...], type]]) -> list[np.ndarray]:
    """Zeros of these shapes and types, in one piece of memory.

    NumPy asks for large pages where a piece is large, and JAX takes arrays as they lie
    where they are aligned. Apart, the first touch of their memory took a third of the
    time that a batch takes.
    """
    sizes = [math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in kinds]
    room = [size + -size % _ALIGNMENT for size in sizes]
    memory = np.zeros(sum(room) + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    arrays = []
    for (shape, dtype), size, step in zip(kinds, sizes, room, strict=True):
        arrays.append(memory[start : start + size].view(dtype).reshape(shape))
        start += step
    return arrays


@runtime_checkable
class Steps(Protocol):
    """The steps of a row, of one chain after another: a `Row`, or a `ChainRow`."""

    starts: Int64[np.ndarray, " chains"]
    steps: int

    def locate(self, steps: Int64[np.ndarray, " k"]) -> Any:
        """Places of steps of the row, which ascend."""
        ...

    def read(self, name: str, place: Any) -> np.ndarray:
        """`[k ...]` of a field of `Chain` at places."""
        ...


def fill(
    rows: Sequence[Steps],
    ranges: Sequence[range],
    config: TokenConfig,
    spaces: Spaces,
) -> Batch:
    """The tokens of `ranges` of each row, NumPy arrays `[rows length ...]`.

    A range counts tokens of a row in natural order; those beyond its end are padding.
    Chains of a row are segments that do not see each other. Nothing is read for other
    tokens, whatever the length of the row.
    """
    length = sum(map(len, ranges))
    batch = empty_batch(len(rows), length, spaces)
    for index, row in enumerate(rows):
        stop = 0
        for some in ranges:
            start, stop = stop, stop + len(some)
            end = min(some.stop, row.steps * config.tokens_per_step)
            some = range(some.start, end, some.step)
            part = slice(start, start + len(some))
            if some:
                columns = [array[index, part] for array in jax.tree.leaves(batch)]
                _fill_range(_like(batch, columns), row, some, config)
    return batch


def _like(batch: Batch, columns: list[np.ndarray]) -> Batch:
    """The columns in the structure of a batch."""
    return jax.tree.unflatten(jax.tree.structure(batch), columns)


def _fill_range(batch: Batch, row: Steps, some: range, config: TokenConfig) -> None:
    """Writes the tokens of a range into the arrays `[len(some) ...]` of a batch."""
    stride, tokens = config.tokens_per_step, batch.tokens
    index = np.arange(some.start, some.stop, some.step)
    steps = index // stride
    chain = which(row.starts, steps)
    starts = row.starts[chain]
    tokens.positions[:], tokens.segments[:] = _order(index, chain, starts, config)
    if config.layout == "fused":
        _fill_fused(batch, row, steps, starts, config)
    else:
        _fill_interleaved(batch, row, steps, index % stride, config)


def _order(
    index: np.ndarray, chain: np.ndarray, starts: np.ndarray, config: TokenConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Positions and segments of tokens, of the chains that they are in."""
    stride = config.tokens_per_step
    if config.memory == "chain":
        return index - starts * stride, chain
    return index % stride, index // stride


def order_tokens(
    rows: Sequence[Steps], length: int, config: TokenConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Positions and segments `[rows length]` int32, as `fill` has them.

    All that who-sees-whom depends on, for 8 bytes a token: no other field is read.
    """
    positions = np.zeros((len(rows), length), np.int32)
    segments = np.full((len(rows), length), -1, np.int32)
    for row, steps in enumerate(rows):
        index = np.arange(min(length, steps.steps * config.tokens_per_step))
        chain = which(steps.starts, index // config.tokens_per_step)
        order = _order(index, chain, steps.starts[chain], config)
        positions[row, : len(index)], segments[row, : len(index)] = order
    return positions, segments


def _fill_fused(
    batch: Batch, row: Steps, steps: np.ndarray, starts: np.ndarray, config: TokenConfig
) -> None:
    """One token a step; `starts` are the first steps of the chains that they are in."""
    tokens, place = batch.tokens, row.locate(steps)
    # A first step has none before it: itself is read instead, and 0 written over it.
    before = row.locate(np.maximum(steps - 1, starts))
    first = np.flatnonzero(steps == starts)
    tokens.present[:] = [field in config.fields for field in FIELDS]
    for number, field in enumerate(FIELDS):
        if field not in config.fields:
            continue
        known = field in KNOWN_BEFORE_ACTING
        values = getattr(tokens, field)
        values[:] = row.read(_COLUMNS[field], place if known else before)
        if not known:
            values[first] = 0
            tokens.present[first, number] = False
    tokens.timestep[:] = row.read("timesteps", place)
    batch.label[:] = row.read("actions", place)
    batch.weight[:] = row.read("weights", place)


def _fill_interleaved(
    batch: Batch, row: Steps, steps: np.ndarray, which_field: np.ndarray,
    config: TokenConfig,
) -> None:  # fmt: skip
    """One token a field of each step."""
    tokens = batch.tokens
    for turn, field in enumerate(config.fields):
        here = np.flatnonzero(which_field == turn)
        place = row.locate(steps[here])
        getattr(tokens, field)[here] = row.read(_COLUMNS[field], place)
        tokens.present[here, FIELDS.index(field)] = True
        tokens.timestep[here] = row.read("timesteps", place)
        if field == "observation":
            batch.label[here] = row.read("actions", place)
            batch.weight[here] = row.read("weights", place)


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
    members: list[list[Chain]] = [[] for _ in range(rows)]
    for row, chain in chains:
        members[row].append(chain)
    steps = [ChainRow(some) if some else Row([], []) for some in members]
    return fill(steps, [range(length)], config, spaces)
