"""What all tests of attention share: inputs, masks, results and the oracle's."""

from collections.abc import Callable

import numpy as np
import pytest

from ring_rl.attention import Mask

from .results import Inputs, Results, compute, draw_inputs
from .results import oracle as compute_oracle


@pytest.fixture(scope="session")
def results() -> Callable[..., Results]:
    """Output and gradients of an implementation, as NumPy arrays in natural order."""
    return compute


@pytest.fixture(scope="session")
def oracle() -> Callable[..., Results]:
    """The reference implementation in f64."""
    return compute_oracle


@pytest.fixture(scope="session")
def make_inputs() -> Callable[..., Inputs]:
    """Unit-normal inputs from a seed."""
    return draw_inputs


@pytest.fixture(scope="session")
def make_mask() -> Callable[..., Mask]:
    """Masks of self-attention by the kind of their tokens, the same in every row."""

    def make(
        kind: str, T: int, B: int = 2, *, causal: bool = True, window: int | None = None
    ) -> Mask:
        positions = np.arange(T, dtype=np.int32)
        segments = np.zeros(T, np.int32)
        if kind == "padding":
            # In the middle too: padding need not be at the end.
            segments[T // 3 : T // 2] = -1
            segments[-3:] = -1
        elif kind == "segments":
            # Three chains of uneven lengths and a padded end.
            ends = [0, T // 5, T // 2, T - 2, T]
            for index, (start, end) in enumerate(zip(ends, ends[1:], strict=False)):
                segments[start:end] = index if index < 3 else -1
                positions[start:end] = np.arange(end - start)
        elif kind == "steps":
            # Three tokens share a position, as those known before acting may.
            positions = positions // 3
        else:
            assert kind == "plain", kind
        rows = [np.tile(x, (B, 1)) for x in (positions, segments)]
        return Mask.self_attention(*rows, causal=causal, window=window)

    return make
