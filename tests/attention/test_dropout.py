"""Dropout: as random as it should be, and the same however attention is computed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ring_rl.attention import Mask, attention, permutation, ring_attention
from ring_rl.attention.dropout import dropout_factor, make_dropout, row_keys
from ring_rl.mesh import MeshConfig, make_mesh

B, N, TOKENS = 2, 3, 1024
RATES = (0.01, 0.1, 0.5, 0.9)


@functools.cache
def _dropped(rate: float, seed: int = 0) -> np.ndarray:
    """Whether each weight of a sequence of itself is dropped, `[B N T S]`."""
    dropout = make_dropout(rate, jax.random.key(seed), B, N)
    tokens = jnp.tile(jnp.arange(TOKENS, dtype=jnp.int32), (B, 1))
    factor = jax.jit(dropout_factor, static_argnames="dtype")(
        dropout, tokens, tokens, dtype=jnp.float32
    )
    kept = np.float32(1 / (1 - rate))
    assert set(np.unique(factor)) == {np.float32(0), kept}
    return np.asarray(factor) == 0


def _standard(rate: float, seed: int = 0) -> np.ndarray:
    """The same with mean 0 and variance 1, were it random."""
    return (_dropped(rate, seed) - rate) / np.sqrt(rate * (1 - rate))


def _assert_sum_of_uncorrelated(products: np.ndarray):
    """A sum of n uncorrelated numbers of mean 0, variance 1: below 4.5 √n.

    A normal number exceeds 4.5 once in 150,000 times.
    """
    assert abs(products.sum()) < 4.5 * np.sqrt(products.size)


@pytest.mark.parametrize("rate", RATES)
def test_as_many_are_dropped_as_the_rate_says(rate):
    _assert_sum_of_uncorrelated(_standard(rate))


@pytest.mark.parametrize("axis", [-1, -2], ids=["queries", "keys"])
@pytest.mark.parametrize("rate", RATES)
def test_no_query_and_no_key_loses_more_than_by_chance(rate, axis):
    """Numbers dropped of each spread as binomial ones do: neither more nor less."""
    numbers = _standard(rate).sum(axis=axis).reshape(-1) / np.sqrt(TOKENS)
    # z² of a binomial number of 1024 has variance 2 + (1 / (p q) - 6) / 1024 < 2.1.
    assert abs((numbers**2 - 1).sum()) < 4.5 * np.sqrt(2.1 * numbers.size)


@pytest.mark.parametrize("apart", [1, 2, 3, 64, 512])
@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_two_queries_and_two_keys_meet_in_16_independent_ways(rate, apart):
    """A pair's hash is made of its query's and its key's, which must not show.

    Counts of the 16 patterns of 2 x 2 minors against those of independent draws.
    """
    whole = TOKENS // (2 * apart) * 2 * apart
    minors = _dropped(rate)[..., :whole, :whole]
    minors = minors.reshape(B * N, -1, 2, apart, whole // (2 * apart), 2, apart)
    corners = np.moveaxis(minors, (2, 5), (0, 1)).reshape(4, -1)
    patterns = np.bincount(corners.T @ (8, 4, 2, 1), minlength=16)
    sums = np.array([bin(pattern).count("1") for pattern in range(16)])
    expected = rate**sums * (1 - rate) ** (4 - sums) * corners.shape[1]
    chi_square = ((patterns - expected) ** 2 / expected).sum()
    # 16 degrees of freedom: 54 is exceeded once in 200,000 times.
    assert chi_square < 54


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_heads_rows_keys_and_transposes_are_independent(rate):
    one, other = _standard(rate), _standard(rate, seed=1)
    _assert_sum_of_uncorrelated(one * other)
    _assert_sum_of_uncorrelated(one[0] * one[1])
    for n in range(1, N):
        _assert_sum_of_uncorrelated(one[:, 0] * one[:, n])
    above = np.triu_indices(TOKENS, 1)
    _assert_sum_of_uncorrelated((one * one.swapaxes(-1, -2))[..., *above])


def test_the_factor_is_of_two_tokens_and_not_of_their_places():
    random = np.random.default_rng(0)
    dropout = make_dropout(0.3, jax.random.key(0), B, N)
    q_tokens = random.integers(-(2**31), 2**31, (B, 24)).astype(np.int32)
    k_tokens = random.integers(0, 2**31, (B, 40)).astype(np.int32)
    factor = jax.jit(functools.partial(dropout_factor, dropout, dtype=jnp.float32))
    whole = factor(q_tokens, k_tokens)
    queries, keys = random.permutation(24), random.permutation(40)
    np.testing.assert_array_equal(
        factor(q_tokens[:, queries], k_tokens[:, keys]),
        whole[:, :, queries][:, :, :, keys],
    )
    np.testing.assert_array_equal(
        factor(q_tokens[:, 5:11], k_tokens[:, 33:]), whole[:, :, 5:11, 33:]
    )


def test_a_part_of_the_rows_and_heads_has_the_seeds_of_that_part():
    key = jax.random.key(3)
    whole = make_dropout(0.3, key, 4, 6).seeds
    assert len(np.unique(whole.reshape(-1, 2), axis=0)) == 24
    part = row_keys(key, 4, 6)[1:3, 2:]
    np.testing.assert_array_equal(make_dropout(0.3, part, 2, 4).seeds, whole[1:3, 2:])


def test_a_rate_of_0_is_no_dropout():
    assert make_dropout(0.0, None, 2, 3) is None


# How attention uses it. As in test_exactness: f32's roundings leave 3e-7 and 1.2e-6.
FORWARD, GRADIENT = 2e-6, 1e-5
LENGTH, KEY = 48, 7


@functools.partial(
    jax.jit, static_argnames=("rate", "implementation", "mesh", "block_q", "block_k")
)
def _compute(inputs, mask, key, *, rate, implementation, mesh, block_q, block_k):
    options = {
        "dropout_rate": rate, "dropout_key": key, "block_q": block_q, "block_k": block_k
    }  # fmt: skip

    def attend(q, k, v):
        if implementation == "ring":
            axes = ("data",) if mesh.shape["data"] > 1 else ()
            return ring_attention(q, k, v, mask, mesh=mesh, batch_axes=axes, **options)
        return attention(q, k, v, mask, implementation=implementation, **options)

    output, pull_back = jax.vjp(attend, *inputs[:3])
    return output, *pull_back(inputs.g)


def _results(
    inputs, mask, implementation, devices=0, layout="contiguous", blocks=(None, None),
    *, data=1, rate=0.3, seed=KEY,
):  # fmt: skip
    """Output, dq, dk, dv in natural order; the mask's tokens are that order."""
    tokens = np.tile(np.arange(LENGTH, dtype=np.int32), (2, 1))
    mask = Mask.self_attention(
        mask.q_positions, mask.q_segments, tokens=tokens, causal=mask.causal,
        window=mask.window,
    )  # fmt: skip
    mesh = make_mesh(MeshConfig(data=data, sequence=devices)) if devices else None
    order = permutation(layout, LENGTH, devices or 1)
    inputs, mask = jax.tree.map(lambda x: x[:, order], (inputs, mask))
    with jax.default_matmul_precision("highest"):
        found = _compute(
            inputs, mask, jax.random.key(seed), rate=rate, mesh=mesh,
            implementation=implementation, block_q=blocks[0], block_k=blocks[1],
        )  # fmt: skip
    return [np.asarray(x)[:, np.argsort(order)] for x in found]


def _oracle(inputs, mask, **arguments):
    inputs = jax.tree.map(lambda x: np.asarray(x, np.float64), inputs)
    with jax.enable_x64(True):
        return _results(inputs, mask, "reference", **arguments)


def _assert_close(found, expected):
    names = ("output", "dq", "dk", "dv")
    for name, a, b in zip(names, found, expected, strict=True):
        error = np.abs(a.astype(np.float64) - b).max() / np.abs(b).max()
        assert error < (FORWARD if name == "output" else GRADIENT), (name, error)


def test_the_oracle_drops_weights_and_does_not_share_out_anew(make_inputs, make_mask):
    """The softmax's sum is of all weights that are seen, dropped ones too."""
    inputs, mask = make_inputs(T=LENGTH, N=4, K=2), make_mask("segments", LENGTH)
    q, k, v, _ = (x.astype(np.float64) for x in inputs)
    scores = np.einsum("btnh,bsnh->bnts", q, np.repeat(k, 2, axis=2)) / np.sqrt(8)
    positions, segments = mask.q_positions, mask.q_segments
    seen = (segments[:, :, None] == segments[:, None]) & (segments[:, None] >= 0)
    seen &= positions[:, None] <= positions[:, :, None]
    weights = np.exp(scores) * seen[:, None]
    weights /= np.maximum(weights.sum(axis=-1, keepdims=True), 1e-300)
    dropout = make_dropout(0.3, jax.random.key(KEY), 2, 4)
    tokens = jnp.tile(jnp.arange(LENGTH, dtype=jnp.int32), (2, 1))
    with jax.enable_x64(True):
        weights *= dropout_factor(dropout, tokens, tokens, jnp.float64)
    expected = np.einsum("bnts,bsnh->btnh", weights, np.repeat(v, 2, axis=2))
    found = _oracle(inputs, mask)[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)
    without = _oracle(inputs, mask, rate=0.0)[0]
    assert np.abs(without - expected).max() > 0.1
    # A key that drops others.
    assert np.abs(_oracle(inputs, mask, seed=1)[0] - expected).max() > 0.1


def test_the_oracles_gradients_are_differences(make_inputs, make_mask):
    inputs, mask = make_inputs(T=LENGTH, N=4, K=2), make_mask("segments", LENGTH)
    gradients = _oracle(inputs, mask)[1:]
    random = np.random.default_rng(1)
    for index, gradient in enumerate(gradients):
        direction = random.normal(size=gradient.shape)

        def moved(step, index=index, direction=direction):
            values = [x.astype(np.float64) for x in inputs]
            values[index] = values[index] + step * direction
            return (_oracle(type(inputs)(*values), mask)[0] * inputs.g).sum()

        slope = (moved(1e-5) - moved(-1e-5)) / 2e-5
        # Central differences: 1e-10 of curvature and 1e-16 / 1e-5 of rounding.
        np.testing.assert_allclose((gradient * direction).sum(), slope, rtol=1e-7)


@pytest.mark.parametrize(
    ("implementation", "devices", "layout", "blocks"),
    [
        ("reference", 0, "contiguous", (None, None)),
        ("memory_efficient", 0, "contiguous", (None, None)),
        ("memory_efficient", 0, "contiguous", (5, 7)),
        ("blockwise", 0, "contiguous", (None, None)),
        ("blockwise", 0, "contiguous", (5, 7)),
        ("blockwise", 0, "striped", (64, 1)),
        ("ring", 1, "contiguous", (8, 4)),
        ("ring", 4, "zigzag", (5, 7)),
        ("ring", 8, "striped", (4, 4)),
        ("ring", 8, "zigzag", (None, None)),
    ],
)
def test_all_implementations_drop_the_same_weights(
    make_inputs, make_mask, implementation, devices, layout, blocks
):
    inputs = make_inputs(T=LENGTH, N=4, K=2)
    # Masks are data: one compilation.
    for kind in ("plain", "padding", "segments", "steps"):
        mask = make_mask(kind, LENGTH)
        found = _results(inputs, mask, implementation, devices, layout, blocks)
        _assert_close(found, _oracle(inputs, mask))


@pytest.mark.parametrize("rule", [{"window": 5}, {"causal": False}], ids=str)
def test_with_other_rules(make_inputs, make_mask, rule):
    inputs, mask = (
        make_inputs(T=LENGTH, N=4, K=1),
        make_mask("segments", LENGTH, **rule),
    )
    expected = _oracle(inputs, mask, rate=0.1)
    _assert_close(_results(inputs, mask, "blockwise", rate=0.1), expected)
    _assert_close(_results(inputs, mask, "ring", 4, "striped", rate=0.1), expected)


def test_rows_of_the_batch_on_other_devices_keep_their_keys(make_inputs, make_mask):
    inputs, mask = make_inputs(T=LENGTH), make_mask("plain", LENGTH)
    found = _results(inputs, mask, "ring", 2, data=2)
    _assert_close(found, _oracle(inputs, mask))
