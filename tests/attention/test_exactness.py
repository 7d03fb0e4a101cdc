"""Every implementation against the f64 oracle, forward and backward."""

import itertools
import math

import jax.numpy as jnp
import numpy as np
import pytest

from ring_rl.attention import Mask

KINDS = ("plain", "padding", "segments", "steps")
RULES = ({}, {"window": 5}, {"causal": False})
# Unit-normal inputs in f32 leave 3e-7 forward and 1.2e-6 in the gradients: products of
# up to 8 numbers and sums over up to 100 keys, each rounded to 6e-8.
FORWARD, GRADIENT = 2e-6, 1e-5


def assert_close(found, expected, forward=FORWARD, gradient=GRADIENT):
    """Errors relative to the oracle's largest entry."""
    for name, a, b in zip(found._fields, found, expected, strict=True):
        error = np.abs(a.astype(np.float64) - b).max() / np.abs(b).max()
        bound = forward if name == "output" else gradient
        assert error < bound, f"{name}: {error:.2e}"


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


@pytest.mark.parametrize("S", [11, 40])
def test_blockwise_of_other_keys_than_the_queries(results, oracle, make_inputs, S):
    """Cross-attention, with positions in no order."""
    T, random = 23, np.random.default_rng(S)
    inputs = make_inputs(T=T, S=S, N=4, K=1)
    mask = Mask(
        random.integers(0, S, (2, T), np.int32),
        random.integers(0, S, (2, S), np.int32),
        random.integers(-1, 2, (2, T), np.int32),
        random.integers(-1, 2, (2, S), np.int32),
    )
    found = results(inputs, mask, block_q=4, block_k=6)
    assert_close(found, oracle(inputs, mask))


# Every value of every column, and the largest ring under every rule.
_DEFAULT = [
    # devices, layout, rule, heads (N, K), tiles
    (1, "contiguous", 0, (4, 2), (5, 7)),
    (2, "zigzag", 1, (4, 4), (5, 3)),
    (4, "zigzag", 0, (4, 1), (None, None)),
    (8, "contiguous", 2, (4, 2), (4, 4)),
    (8, "zigzag", 1, (4, 2), (None, 4)),
]
_ALL = [
    pytest.param(*case, marks=pytest.mark.slow)
    for case in itertools.product(
        (1, 2, 4, 8), ("contiguous", "zigzag"), (0, 1, 2), ((4, 4), (4, 2)), ((4, 5),)
    )
]


@pytest.mark.parametrize(
    ("devices", "layout", "rule", "heads", "blocks"), _DEFAULT + _ALL
)
def test_ring(
    results, oracle, make_inputs, make_mask, devices, layout, rule, heads, blocks
):
    # 48 tokens are 6 on each of 8 devices: tiles of 4 and 5 do not divide that.
    inputs = make_inputs(T=48, N=heads[0], K=heads[1])
    for kind in KINDS:
        mask = make_mask(kind, 48, **RULES[rule])
        found = results(
            inputs, mask, "ring", devices=devices, layout=layout,
            block_q=blocks[0], block_k=blocks[1],
        )  # fmt: skip
        assert_close(found, oracle(inputs, mask))


@pytest.mark.smoke
@pytest.mark.parametrize(
    "devices", [4, *(pytest.param(R, marks=pytest.mark.slow) for R in (2, 3, 6, 8))]
)
def test_ring_of_a_length_that_the_devices_do_not_divide(
    results, oracle, make_inputs, make_mask, devices
):
    inputs, mask = make_inputs(T=37), make_mask("segments", 37)
    found = results(inputs, mask, "ring", devices=devices, block_q=4, block_k=3)
    assert_close(found, oracle(inputs, mask))


def test_ring_beside_a_batch_that_is_sharded_too(
    results, oracle, make_inputs, make_mask
):
    inputs, mask = make_inputs(T=32), make_mask("segments", 32)
    # Rows that differ, so that a row on the wrong device shows.
    mask.q_positions[1], mask.q_segments[1] = np.arange(32), 0
    found = results(inputs, mask, "ring", devices=2, data=2)
    assert_close(found, oracle(inputs, mask))


@pytest.mark.parametrize("devices", [0, 4])
def test_bfloat16_is_off_by_its_roundings_alone(
    results, oracle, make_inputs, make_mask, devices
):
    """The bound is that of the roundings to bf16 that the kernel makes, no more.

    Sums and softmax are in f32. Each of these is rounded by a share of at most u:
    p before p·v, p before pᵀ·g, ds before ds·k and dsᵀ·q, the saved output, whose
    error enters through delta, and the four results.
    """
    u = 2.0**-8
    inputs = make_inputs(T=64, N=2, dtype=jnp.bfloat16)
    mask = make_mask("segments", 64)
    arguments = {"devices": 4} if devices else {}
    found = results(
        inputs, mask, "ring" if devices else "blockwise", **arguments, block_k=7
    )
    assert all(x.dtype == jnp.bfloat16 for x in found)
    exact = oracle(inputs, mask)

    q, k, v, g = (np.abs(x.astype(np.float64)) for x in inputs)
    p = _probabilities(inputs, mask)
    output_error = u * np.einsum("bnts,bsnh->btnh", p, v) + u * np.abs(exact.output)
    delta_error = np.einsum("btnh,btnh->bnt", g, output_error)
    scale = 8**-0.5
    ds = p * np.abs(
        np.einsum("btnh,bsnh->bnts", *(inputs[i].astype(np.float64) for i in (3, 2)))
        - np.einsum("btnh,btnh->bnt", inputs.g.astype(np.float64), exact.output)[
            ..., None
        ]
    )
    ds_error = u * ds + p * delta_error[..., None]
    bounds = (
        output_error,
        scale * np.einsum("bnts,bsnh->btnh", ds_error, k) + u * np.abs(exact.dq),
        scale * np.einsum("bnts,btnh->bsnh", ds_error, q) + u * np.abs(exact.dk),
        u * np.einsum("bnts,btnh->bsnh", p, g) + u * np.abs(exact.dv),
    )
    for name, a, b, bound in zip(found._fields, found, exact, bounds, strict=True):
        error = np.abs(a.astype(np.float64) - b)
        # 5 % for products of two roundings, and f32's own rounding.
        assert (error <= 1.05 * bound + 1e-5).all(), f"{name}: {error.max():.2e}"


def _probabilities(inputs, mask):
    q, k = (x.astype(np.float64) for x in inputs[:2])
    scores = np.einsum("btnh,bsnh->bnts", q, k) / math.sqrt(8)
    positions, segments = mask.q_positions, mask.q_segments
    seen = (segments[:, :, None] == segments[:, None]) & (segments[:, None] >= 0)
    seen &= positions[:, None] <= positions[:, :, None]
    p = np.exp(scores) * seen[:, None]
    return p / np.maximum(p.sum(-1, keepdims=True), 1e-300)
