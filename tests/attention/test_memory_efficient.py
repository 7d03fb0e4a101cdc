"""Rabe & Staats' attention against the f64 oracle, and the memory it takes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ring_rl.attention import Mask, attention

from .rounding import GRADIENT, assert_close

KINDS = ("plain", "padding", "segments", "steps")


# Chunks: chosen, one key, dividing, not dividing, longer than the sequence.
@pytest.mark.parametrize(
    ("blocks", "heads", "rule"),
    [
        ((None, None), (4, 2), {}),
        ((8, 1), (4, 2), {}),
        ((4, 8), (4, 4), {"causal": False}),
        ((5, 7), (4, 1), {"window": 5}),
        ((64, 10), (4, 2), {}),
    ],
    ids=str,
)
def test_it_is_exact(results, oracle, make_inputs, make_mask, blocks, heads, rule):
    inputs = make_inputs(T=48, N=heads[0], K=heads[1])
    for kind in KINDS:
        mask = make_mask(kind, 48, **rule)
        found = results(
            inputs, mask, "memory_efficient", block_q=blocks[0], block_k=blocks[1]
        )
        assert_close(found, oracle(inputs, mask))


def test_bfloat16_is_off_by_the_rounding_of_its_results_alone(
    results, oracle, make_inputs, make_mask
):
    """All between is f32, also the sums of gradients over chunks."""
    inputs = make_inputs(T=64, N=4, K=2, dtype=jnp.bfloat16)
    mask = make_mask("segments", 64)
    found = results(inputs, mask, "memory_efficient", block_q=8, block_k=8)
    for name, a, b in zip(found._fields, found, oracle(inputs, mask), strict=True):
        assert a.dtype == jnp.bfloat16
        # Half a unit in the last of 8 binary places, and f32's own error.
        bound = 2.0**-8 * np.abs(b) + GRADIENT * np.abs(b).max()
        assert (np.abs(a.astype(np.float64) - b) <= bound).all(), name


def test_no_array_has_all_scores():
    """Forward and backward take an eighth of it besides inputs and outputs."""
    T, N = 1024, 2

    def run(q, positions):
        mask = Mask.self_attention(positions, jnp.zeros_like(positions))
        attend = functools.partial(
            attention, mask=mask, implementation="memory_efficient",
            block_q=64, block_k=64,
        )  # fmt: skip
        output, pull_back = jax.vjp(attend, q, q, q)
        return pull_back(output)

    q = jax.ShapeDtypeStruct((1, T, N, 8), jnp.float32)
    positions = jax.ShapeDtypeStruct((1, T), jnp.int32)
    memory = jax.jit(run).lower(q, positions).compile().memory_analysis()
    # Measured: 0.9 MB, and 42 MB of `reference`.
    assert memory.temp_size_in_bytes < 4 * N * T**2 / 8
