"""Attention in float64 NumPy, for the rows that are looked at: the measure of errors.

It shares no code with what it judges.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

# Above this many tokens a sample of the queries is compared.
ALL_ROWS = 4096
_SAMPLE = 64
# Scores of this many pairs are held at a time.
_PAIRS = 1 << 22

# Which keys some queries see, `[rows S]` bool, and what dropout makes of each pair,
# `[B N rows S]` or None.
Seen = Callable[[np.ndarray], np.ndarray]
Factors = Callable[[np.ndarray], np.ndarray | None]


class Inputs(NamedTuple):
    """`[B tokens heads H]` each, in natural order; `g` is the output's cotangent."""

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    g: np.ndarray


def sample_rows(tokens: int) -> np.ndarray:
    """Natural indices of the queries that are compared, both ends among them."""
    if tokens <= ALL_ROWS:
        return np.arange(tokens)
    between = np.random.default_rng(0).choice(tokens - 2, _SAMPLE - 2, replace=False)
    return np.sort(np.concatenate([[0], 1 + between, [tokens - 1]]))


def expected(
    inputs: Inputs,
    rows: np.ndarray,
    seen: Seen,
    *,
    backward: bool,
    factors: Factors = lambda rows: None,
) -> dict[str, np.ndarray]:
    """Exact values at query rows: `output`, with `backward` also `dq`.

    `dk` and `dv` need every query: they are there if `rows` are all of them.

    Args:
      inputs: what attention is of.
      rows: natural indices of queries.
      seen: the mask.
      backward: whether gradients are wanted.
      factors: dropout of some rows.

    Returns:
      `[B rows N H]` each, and `[B S K H]`.
    """
    q, k, v, g = (np.asarray(x, np.float64) for x in inputs)
    B, _, N, _ = q.shape
    S, K = k.shape[1], k.shape[2]
    whole = backward and len(rows) == q.shape[1]
    output, dq = np.zeros_like(q[:, rows]), np.zeros_like(q[:, rows])
    dk, dv = np.zeros_like(k), np.zeros_like(v)
    step = max(1, _PAIRS // S)
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        here = rows[part]
        hidden, dropped = ~seen(here), factors(here)
        for b, n in np.ndindex(B, N):
            head = n // (N // K)
            some = (b, slice(None), head)
            p = _softmax(q[b, here, n] @ k[some].T / np.sqrt(q.shape[-1]), hidden)
            D = 1.0 if dropped is None else dropped[b, n]
            output[b, part, n] = o = (p * D) @ v[some]
            if not backward:
                continue
            above = g[b, here, n]
            delta = (above * o).sum(axis=-1, keepdims=True)
            ds = p * (D * (above @ v[some].T) - delta) / np.sqrt(q.shape[-1])
            dq[b, part, n] = ds @ k[some]
            if whole:
                dk[some] += ds.T @ q[b, here, n]
                dv[some] += (p * D).T @ above
    found = {"output": output}
    if backward:
        found["dq"] = dq
    if whole:
        found |= {"dk": dk, "dv": dv}
    return found


def _softmax(scores: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """Of each row; hidden entries are 0, and so are rows that see nothing."""
    scores[hidden] = -np.inf
    largest = scores.max(axis=-1, keepdims=True)
    p = np.exp(scores - np.where(np.isneginf(largest), 0, largest))
    total = p.sum(axis=-1, keepdims=True)
    return p / np.where(total == 0, 1, total)


def largest_errors(
    found: dict[str, np.ndarray], exact: dict[str, np.ndarray], rows: np.ndarray
) -> dict[str, float]:
    """Largest absolute error of each exact array; `found` has all rows."""
    errors = {}
    for name, right in exact.items():
        values = np.asarray(found[name], np.float64)
        if name in ("output", "dq"):
            values = values[:, rows]
        errors[name] = float(np.abs(values - right).max())
    return errors
