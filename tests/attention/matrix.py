"""Every combination that attention must be exact for, and what it is judged by.

Masks, layouts and the size of the numbers are data; the rest makes another program.
"""

import functools
import itertools
from collections.abc import Iterable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from ring_rl.attention import LAYOUTS, Mask

from .results import Inputs, Results, compute, draw_inputs, oracle, with_tokens
from .rounding import FLOAT32, bfloat16_shares, relative_errors, typical_errors


class Case(NamedTuple):
    """One combination.

    Attributes:
      devices: of the ring; 0 is `blockwise` without one.
      layout: of the tokens. On one device, it is that for four: an order like others.
      mask: a key of `MASKS`.
      heads: a key of `HEADS`.
      numbers: a key of `NUMBERS`.
      dropout: the rate.
    """

    devices: int
    layout: str
    mask: str
    heads: str
    numbers: str
    dropout: float

    def __str__(self) -> str:
        return "-".join(str(value) for value in self)


B, H, TILE_Q, TILE_K = 2, 8, 5, 7
DRAWS = 16
HEADS = {"equal": (4, 4), "grouped": (4, 2)}
# The type, and the standard deviation of inputs.
NUMBERS = {
    "f32": (np.float32, 1), "f32x3": (np.float32, 3), "f32x5": (np.float32, 5),
    "bf16": (jnp.bfloat16, 1),
}  # fmt: skip


def _rows(*ends_of_rows: tuple[int, ...], T: int):
    """Positions and segments of chains that end there, padded to T."""
    positions, segments = np.zeros((B, T), np.int32), np.full((B, T), -1, np.int32)
    for row, ends in enumerate(ends_of_rows):
        for index, (start, end) in enumerate(itertools.pairwise((0, *ends))):
            positions[row, start:end] = np.arange(end - start)
            segments[row, start:end] = index
    return positions, segments


def _causal(T: int) -> Mask:
    return Mask.self_attention(*_rows((T,), (T,), T=T))


def _steps(T: int) -> Mask:
    """Three tokens a step, which no tile is a multiple of, share a position."""
    positions, segments = _rows((T,), (T,), T=T)
    return Mask.self_attention(positions // 3, segments)


def _segments(T: int) -> Mask:
    """Chains of uneven lengths and padding at the end."""
    return Mask.self_attention(
        *_rows((T // 5, T // 2, T - 2), (T // 3, T - 8, T - 7), T=T)
    )


def _window(T: int) -> Mask:
    return Mask.self_attention(*_rows((T,), (T // 4, T), T=T), window=20)


def _padding(T: int) -> Mask:
    """Padding at the start and in the middle, and queries that see nothing."""
    positions, segments = _rows((T,), (T,), T=T)
    keys, queries = segments.copy(), segments.copy()
    # The first queries come before all keys there are.
    keys[:, :4] = -1
    keys[0, T // 3 : T // 2] = queries[0, T // 3 : T // 2] = -1
    # No key is of this segment.
    queries[1, T // 2 : T // 2 + 9] = 1
    return Mask(positions, positions, queries, keys)


def _full(T: int) -> Mask:
    return Mask.self_attention(*_rows((T,), (T // 4, T), T=T), causal=False)


def _cross(T: int) -> Mask:
    """Other keys than the queries, more or fewer, in no order, some of them padding."""
    S, random = (144 if T == 96 else 45), np.random.default_rng(T)
    positions = [random.integers(0, S, (B, n), np.int32) for n in (T, S)]
    segments = [random.integers(-1, 2, (B, n), np.int32) for n in (T, S)]
    return Mask(*positions, *segments)


MASKS = {
    "causal": _causal, "steps": _steps, "segments": _segments, "padding": _padding,
    "window": _window, "full": _full, "cross": _cross,
}  # fmt: skip
FACTORS = Case(
    devices=(0, 1, 2, 3, 4, 6, 8), layout=LAYOUTS, mask=tuple(MASKS),
    heads=tuple(HEADS), numbers=tuple(NUMBERS), dropout=(0.0, 0.1),
)  # fmt: skip


def all_cases() -> list[Case]:
    """The whole product, those that share a program one after the other."""
    return sorted(itertools.starmap(Case, itertools.product(*FACTORS)), key=program)


def program(case: Case):
    """What is compiled for a case: the others of the same program cost little."""
    rule = case.mask if case.mask in ("window", "full", "cross") else "causal"
    of_type = "bf16" if case.numbers == "bf16" else "f32"
    return case.devices, rule, case.heads, of_type, case.dropout


def pairwise_cover() -> list[Case]:
    """Cases with every two values of two factors in one of them, in few programs.

    Greedily: all that a program can add, then the program of the case that adds most.
    """
    cases = [(case, _pairs(case), program(case)) for case in all_cases()]
    missing = set().union(*(pairs for _, pairs, _ in cases))
    chosen, current = [], None

    def gain(case):
        _, pairs, of_case = case
        new = len(pairs & missing)
        return (new > 0 and of_case == current, new)

    while missing:
        best, pairs, current = max(cases, key=gain)
        missing -= pairs
        chosen.append(best)
    return chosen


def _pairs(case: Case) -> frozenset:
    return frozenset(itertools.combinations(enumerate(case), 2))


class Verdict(NamedTuple):
    """Errors of the output and the gradients, and what they may be at most.

    Of unit-normal inputs in f32, the largest error relative to the oracle's largest
    entry. In bf16, the largest share, at any entry, of what roundings explain there.

    Of larger inputs, root mean squares over `DRAWS` draws, and twice those of
    `reference`. Weights are then close to 0 or 1, and errors are those of the few rows
    where they are not: the largest error of a draw differs up to threefold between two
    orders of summation, and the root mean square of 4 draws by a tenth.
    """

    errors: Results
    bounds: Results

    @property
    def good(self) -> bool:
        """NaN is not."""
        return all(e <= b for e, b in zip(self.errors, self.bounds, strict=True))


class _Problem(NamedTuple):
    """What is computed, however it is; see `Case`."""

    T: int
    mask: str
    heads: str
    numbers: str
    dropout: float


def judge(case: Case, kernel: str = "blockwise") -> Verdict:
    """Computes a case, its hops by this kernel, and compares it with the oracle."""
    # Both lengths meet both values of every factor. The layouts cut 96 evenly for any
    # of these numbers of devices, and 89 is a prime: devices and tiles leave a rest.
    T = 96 if (case.heads == "grouped") == bool(case.dropout) else 89
    problem = _Problem(T, *case[2:])
    inputs, mask, exact = _solved(problem)
    found = _together(
        compute(
            of_draw, mask, "ring" if case.devices else "blockwise",
            devices=case.devices, layout=case.layout,
            laid_out_for=case.devices if case.devices > 1 else 4,
            block_q=TILE_Q, block_k=TILE_K, dropout_rate=case.dropout,
            kernel=kernel,
        )
        for of_draw in inputs
    )  # fmt: skip
    assert all(x.dtype == inputs[0].q.dtype for x in found)
    if case.numbers == "bf16":
        shares = bfloat16_shares(found, exact, inputs[0], mask, case.dropout)
        return Verdict(shares, Results(1.0, 1.0, 1.0, 1.0))
    if case.numbers == "f32":
        return Verdict(relative_errors(found, exact), FLOAT32)
    return Verdict(typical_errors(found, exact), _twice_of_reference(problem))


@functools.cache
def _solved(problem: _Problem) -> tuple[list[Inputs], Mask, Results]:
    """Inputs of each draw, the mask, and the oracle's results of all draws."""
    (N, K), (dtype, times) = HEADS[problem.heads], NUMBERS[problem.numbers]
    mask = with_tokens(MASKS[problem.mask](problem.T))
    S = mask.k_positions.shape[1]
    inputs = [
        draw_inputs(
            B, problem.T, S, N, K, H, dtype=dtype, seed=seed, times=times
        )
        for seed in range(1 if times == 1 else DRAWS)
    ]  # fmt: skip
    exact = _together(oracle(x, mask, dropout_rate=problem.dropout) for x in inputs)
    return inputs, mask, exact


@functools.cache
def _twice_of_reference(problem: _Problem) -> Results:
    """Twice the errors of `reference` in f32."""
    inputs, mask, exact = _solved(problem)
    found = _together(
        compute(x, mask, "reference", dropout_rate=problem.dropout) for x in inputs
    )
    return Results(*(2 * error for error in typical_errors(found, exact)))


def _together(draws: Iterable[Results]) -> Results:
    """The rows of all draws."""
    return Results(*map(np.concatenate, zip(*draws, strict=True)))
