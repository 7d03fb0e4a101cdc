"""The oracle by the book, and implementations against it, forward and backward.

`test_cover` goes on from here.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ring_rl.attention import Mask, ring_attention
from ring_rl.attention.blockwise import _rounds_alike
from ring_rl.mesh import MeshConfig, make_mesh

from .rounding import assert_close

KINDS = ("plain", "padding", "segments", "steps")
RULES = ({}, {"window": 5}, {"causal": False})


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_the_oracle_is_attention_by_the_book(
    oracle, make_inputs, make_mask, kind, rule
):
    inputs = make_inputs(T=12, N=4, K=2)
    mask = make_mask(kind, 12, **rule)
    output = oracle(inputs, mask).output
    positions, segments = mask.q_positions, mask.q_segments
    for b, i, n in np.ndindex(output.shape[:3]):
        weights, values = [], []
        for j in range(12):
            ago = positions[b, i] - positions[b, j]
            if segments[b, i] != segments[b, j] or segments[b, j] < 0:
                continue
            if mask.causal and ago < 0:
                continue
            if mask.window is not None and ago >= mask.window:
                continue
            # Two query heads share a key head.
            score = math.fsum(inputs.q[b, i, n].astype(float) * inputs.k[b, j, n // 2])
            weights.append(math.exp(score / math.sqrt(8)))
            values.append(inputs.v[b, j, n // 2].astype(float))
        expected = np.zeros(8)
        for weight, value in zip(weights, values, strict=True):
            expected += weight / math.fsum(weights) * value
        np.testing.assert_allclose(output[b, i, n], expected, rtol=0, atol=1e-14)


def test_the_oracles_gradients_are_differences(oracle, make_inputs, make_mask):
    inputs, mask = make_inputs(T=12, N=4, K=2), make_mask("segments", 12)
    gradients = oracle(inputs, mask)
    random = np.random.default_rng(1)
    for index, gradient in enumerate(gradients[1:]):
        direction = random.normal(size=gradient.shape)

        def moved(step, index=index, direction=direction):
            values = [x.astype(np.float64) for x in inputs]
            values[index] = values[index] + step * direction
            output = oracle(
                inputs._replace(**dict(zip("qkvg", values, strict=True))), mask
            )
            return (output.output * inputs.g).sum()

        slope = (moved(1e-5) - moved(-1e-5)) / 2e-5
        # Central differences: 1e-10 of curvature and 1e-16 / 1e-5 of rounding.
        np.testing.assert_allclose((gradient * direction).sum(), slope, rtol=1e-7)


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_reference(results, oracle, make_inputs, make_mask, kind, rule):
    inputs, mask = make_inputs(T=48, N=4, K=2), make_mask(kind, 48, **rule)
    assert_close(results(inputs, mask, "reference"), oracle(inputs, mask))


# Tile lengths: chosen, one key, dividing, not dividing, longer than the sequence.
@pytest.mark.parametrize(
    ("blocks", "rule"),
    [
        ((None, None), {}),
        ((8, 1), {}),
        ((4, 8), {"causal": False}),
        ((5, 7), {"window": 5}),
        ((64, 10), {}),
    ],
    ids=str,
)
def test_blockwise(results, oracle, make_inputs, make_mask, blocks, rule):
    inputs = make_inputs(T=48, N=4, K=2)
    for kind in KINDS:
        mask = make_mask(kind, 48, **rule)
        found = results(inputs, mask, block_q=blocks[0], block_k=blocks[1])
        assert_close(found, oracle(inputs, mask))


@pytest.mark.parametrize("implementation", ["blockwise", "memory_efficient"])
@pytest.mark.parametrize("S", [11, 40])
def test_other_keys_than_the_queries(results, oracle, make_inputs, S, implementation):
    """Cross-attention, with positions in no order; some rows see nothing."""
    T, random = 23, np.random.default_rng(S)
    inputs = make_inputs(T=T, S=S, N=4, K=1)
    mask = Mask(
        random.integers(0, S, (2, T), np.int32),
        random.integers(0, S, (2, S), np.int32),
        random.integers(-1, 2, (2, T), np.int32),
        random.integers(-1, 2, (2, S), np.int32),
    )
    found = results(inputs, mask, implementation, block_q=4, block_k=6)
    assert_close(found, oracle(inputs, mask))


@pytest.mark.parametrize("devices", [0, 2])
def test_a_given_scale(results, oracle, make_inputs, make_mask, devices):
    inputs, mask, scale = make_inputs(N=4, K=2), make_mask("segments", 32), -0.7
    implementation = "ring" if devices else "blockwise"
    found = results(inputs, mask, implementation, devices=devices, scale=scale)
    # As if the queries were larger.
    times = scale * math.sqrt(8)
    exact = oracle(inputs._replace(q=times * inputs.q.astype(np.float64)), mask)
    assert_close(found, exact._replace(dq=times * exact.dq))


def test_a_key_without_dropout_is_not_used(make_inputs, make_mask):
    q, k, v, _ = map(jnp.asarray, make_inputs(T=8))
    mask = jax.tree.map(jnp.asarray, make_mask("plain", 8))
    attend = functools.partial(ring_attention, mesh=make_mesh(MeshConfig(sequence=2)))
    key = jax.random.key(0)
    np.testing.assert_array_equal(
        jax.jit(attend)(q, k, v, mask, dropout_key=key), jax.jit(attend)(q, k, v, mask)
    )


@pytest.mark.smoke
def test_ring_of_a_length_that_the_devices_do_not_divide(
    results, oracle, make_inputs, make_mask
):
    inputs, mask = make_inputs(T=37), make_mask("segments", 37)
    found = results(inputs, mask, "ring", devices=4, block_q=4, block_k=3)
    assert_close(found, oracle(inputs, mask))


def test_ring_beside_a_batch_that_is_sharded_too(
    results, oracle, make_inputs, make_mask
):
    inputs, mask = make_inputs(T=32), make_mask("segments", 32)
    # Rows that differ, so that a row on the wrong device shows.
    mask.q_positions[1], mask.q_segments[1] = np.arange(32), 0
    found = results(inputs, mask, "ring", devices=2, data=2)
    assert_close(found, oracle(inputs, mask))


@pytest.mark.parametrize(
    ("queries", "keys", "width"),
    [
        (192, 64, 8),
        (64, 448, 16),
        (1024, 128, 64),
        (320, 1024, 32),
        (9, 9, 64),
        (16, 16, 128),
        (250, 250, 8),
    ],
)
def test_scores_of_backward_are_those_of_forward_to_the_last_bit(queries, keys, width):
    """Where tiles are multiplied keys first, it is as good as queries first."""
    assert _rounds_alike(queries, keys)
    random = np.random.default_rng(0)
    q, k = (
        random.normal(size=(2, n, width)).astype(np.float32) for n in (queries, keys)
    )
    forward = jax.jit(functools.partial(jnp.einsum, "LTH,LSH->LTS"))(q, k)
    backward = jax.jit(functools.partial(jnp.einsum, "LSH,LTH->LST"))(k, q)
    np.testing.assert_array_equal(forward, np.swapaxes(backward, 1, 2))


def test_tiles_that_might_round_otherwise_are_multiplied_as_forward_does():
    assert not _rounds_alike(10, 7) and not _rounds_alike(1000, 90)
    assert not _rounds_alike(32, 7) and not _rounds_alike(7, 32)
    assert not _rounds_alike(64, 16) and not _rounds_alike(80, 1024)
