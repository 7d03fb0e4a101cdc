"""Mean and variance of columns: in one pass, in float64, and of several datasets."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64

_CHUNK_ROWS = 1 << 16  # looked at together: bounds the memory of a pass


class Moments(NamedTuple):
    """Mean and population variance `[O]` of each of O columns, and of how many rows."""

    rows: int
    mean: Float64[np.ndarray, " O"]
    variance: Float64[np.ndarray, " O"]


def compute_moments(values: Float[np.ndarray, "rows O"]) -> Moments:
    """The moments of at least one row."""
    count, mean = 0, np.zeros(values.shape[1])
    squares = np.zeros(values.shape[1])
    for start in range(0, len(values), _CHUNK_ROWS):
        # Chan, Golub, LeVeque 1979: merging chunk means is stable, a running sum of
        # squares is not.
        chunk = values[start : start + _CHUNK_ROWS].astype(np.float64)
        chunk_mean = chunk.mean(axis=0)
        delta, total = chunk_mean - mean, count + len(chunk)
        squares = (
            squares
            + np.square(chunk - chunk_mean).sum(axis=0)
            + np.square(delta) * (count * len(chunk) / total)
        )
        mean = mean + delta * (len(chunk) / total)
        count = total
    return Moments(count, mean, squares / count)


def combine_moments(parts: Sequence[Moments]) -> Moments:
    """The moments of the rows of all parts together."""
    if len(parts) == 1:
        return parts[0]
    counts = [part.rows for part in parts]
    mean = np.average([part.mean for part in parts], axis=0, weights=counts)
    about = [part.variance + np.square(part.mean - mean) for part in parts]
    return Moments(sum(counts), mean, np.average(about, axis=0, weights=counts))


def mean_and_deviation(
    moments: Moments, *, floor: float = 1e-3
) -> tuple[Float64[np.ndarray, " O"], Float64[np.ndarray, " O"]]:
    """Mean and standard deviation `[O]` to scale by.

    The standard deviation (of the population) is at least `floor`: a column that never
    changes in the data would otherwise blow up the first time it does at test time.
    """
    return moments.mean, np.maximum(np.sqrt(moments.variance), floor)
