"""Which tiles have work, and rows that see nothing."""

import hypothesis
import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ring_rl.attention import Mask
from ring_rl.attention.mask import classify, summarise, visible

B, T, S = 2, 12, 10
TILE_Q, TILE_K = 4, 5


def _classified_on_host(
    q_positions, q_segments, k_positions, k_segments, *, causal, window
):
    return classify(
        summarise(q_positions, q_segments, TILE_Q),
        summarise(k_positions, k_segments, TILE_K),
        causal=causal,
        window=window,
    )


_classified = jax.jit(_classified_on_host, static_argnames=("causal", "window"))


def _seen(q_positions, q_segments, k_positions, k_segments, *, causal, window):
    """The definition, pair by pair."""
    seen = np.zeros((B, q_positions.shape[1], k_positions.shape[1]), bool)
    for b, i, j in np.ndindex(seen.shape):
        ago = int(q_positions[b, i]) - int(k_positions[b, j])
        seen[b, i, j] = (
            q_segments[b, i] == k_segments[b, j] >= 0
            and (not causal or ago >= 0)
            and (window is None or ago < window)
        )
    return seen


def _tiles(seen):
    """`[query tiles, key tiles, pairs]`, the batch among the pairs."""
    tiles = seen.reshape(B, T // TILE_Q, TILE_Q, S // TILE_K, TILE_K)
    return tiles.transpose(1, 3, 0, 2, 4).reshape(T // TILE_Q, S // TILE_K, -1)


SMALL = st.integers(0, 9)
INT32 = np.iinfo(np.int32)
ANY = st.one_of(
    SMALL,
    st.integers(INT32.min, INT32.min + 5),
    st.integers(INT32.max - 5, INT32.max),
)


def _tokens(length: int, tile: int, positions=SMALL):
    """Positions and segments: any, or in runs of a tile, which can be full."""

    def values(elements):
        runs = arrays.arrays(np.int32, (B, length // tile), elements=elements)
        return st.one_of(
            arrays.arrays(np.int32, (B, length), elements=elements),
            runs.map(lambda x: np.repeat(x, tile, axis=1)),
        )

    return st.tuples(values(positions), values(st.integers(-1, 1)))


# A few windows only: each is a compilation.
@hypothesis.settings(deadline=None, max_examples=200, derandomize=True)
@hypothesis.given(
    _tokens(T, TILE_Q), _tokens(S, TILE_K), st.booleans(), st.sampled_from((None, 1, 4))
)
def test_tiles_left_out_are_empty_and_full_tiles_are_full(
    queries, keys, causal, window
):
    arguments = (*queries, *keys)
    seen = _seen(*arguments, causal=causal, window=window)
    np.testing.assert_array_equal(
        visible(*map(jnp.asarray, arguments), causal=causal, window=window), seen
    )
    needed, full = _classified(*arguments, causal=causal, window=window)
    tiles = _tiles(seen)
    assert not (tiles.any(-1) & ~np.asarray(needed)).any()
    assert not (np.asarray(full) & ~tiles.all(-1)).any()


@hypothesis.settings(deadline=None, max_examples=200, derandomize=True)
@hypothesis.given(
    _tokens(T, TILE_Q, ANY), _tokens(S, TILE_K, ANY), st.booleans(),
    st.sampled_from((None, 1, 7, 2**31 - 2, 2**31 - 1)),
)  # fmt: skip
def test_no_position_is_too_large_and_the_host_judges_as_the_device_does(
    queries, keys, causal, window
):
    arguments, rule = (*queries, *keys), {"causal": causal, "window": window}
    seen = _seen(*arguments, **rule)
    on_device = map(jnp.asarray, arguments)
    np.testing.assert_array_equal(visible(*on_device, **rule), seen)
    np.testing.assert_array_equal(visible(*arguments, **rule), seen)
    found, on_host = (
        _classified(*arguments, **rule),
        _classified_on_host(*arguments, **rule),
    )
    for a, b in zip(found, on_host, strict=True):
        assert isinstance(b, np.ndarray)
        np.testing.assert_array_equal(a, b)
    needed, full = on_host
    tiles = _tiles(seen)
    assert not (tiles.any(-1) & ~needed).any()
    assert not (full & ~tiles.all(-1)).any()


@pytest.mark.parametrize("window", [None, 1, 4])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("shift", [-4, 0, 3, 20, 2**31 - 16])
def test_tiles_of_one_sequence_are_told_apart_exactly(causal, window, shift):
    """The bounds are then not only safe but sharp: no tile is visited in vain."""
    zeros = np.zeros((B, T), np.int32)
    arguments = (
        np.tile(np.arange(shift, shift + T, dtype=np.int32), (B, 1)),
        zeros,
        np.tile(np.arange(S, dtype=np.int32), (B, 1)),
        zeros[:, :S],
    )
    tiles = _tiles(_seen(*arguments, causal=causal, window=window))
    needed, full = _classified(*arguments, causal=causal, window=window)
    np.testing.assert_array_equal(needed, tiles.any(-1))
    np.testing.assert_array_equal(full, tiles.all(-1))


def test_a_mask_is_a_pytree_with_its_rules_beside_the_leaves():
    x = np.zeros((2, 3), np.int32)
    mask = Mask.self_attention(x, x, causal=False, window=7)
    leaves, structure = jax.tree.flatten(mask)
    assert len(leaves) == 4
    again = jax.tree.unflatten(structure, leaves)
    assert (again.causal, again.window) == (False, 7)
    assert again.q_tokens is None and again.k_tokens is None
    keys = mask.replace_keys(x + 1, x - 1)
    assert (keys.causal, keys.window) == (False, 7)
    assert keys.q_positions is x
    np.testing.assert_array_equal(keys.k_positions, 1)
    np.testing.assert_array_equal(keys.k_segments, -1)


def test_tokens_go_with_the_other_arrays():
    x = np.zeros((2, 3), np.int32)
    mask = Mask(x, x + 1, x + 2, x + 3, q_tokens=x + 4, k_tokens=x + 5)
    leaves, structure = jax.tree.flatten(mask)
    assert [leaf[0, 0] for leaf in leaves] == [0, 1, 2, 3, 4, 5]
    again = jax.tree.unflatten(structure, leaves)
    np.testing.assert_array_equal(again.q_tokens, 4)
    np.testing.assert_array_equal(again.k_tokens, 5)
    keys = mask.replace_keys(x, x, x + 6)
    np.testing.assert_array_equal(keys.q_tokens, 4)
    np.testing.assert_array_equal(keys.k_tokens, 6)
    # Both or neither.
    keys = mask.replace_keys(x, x)
    assert keys.q_tokens is None and keys.k_tokens is None
    own = Mask.self_attention(x, x, tokens=x + 4)
    assert own.q_tokens is own.k_tokens is not None


def test_integers_of_numpy_that_fit_become_int32():
    wide = np.array([[0, 2**31 - 1, -(2**31)]])
    assert wide.dtype == np.int64
    mask = Mask.self_attention(wide, np.zeros((1, 3), np.uint8), tokens=wide)
    for array in jax.tree.leaves(mask):
        assert array.dtype == np.int32
    np.testing.assert_array_equal(mask.q_positions, wide)
    np.testing.assert_array_equal(mask.k_tokens, wide)


IMPLEMENTATIONS = [
    ("reference", {}),
    ("memory_efficient", {}),
    ("blockwise", {}),
    ("ring", {"devices": 1}),
    ("ring", {"devices": 4}),
    pytest.param("ring", {"devices": 2}, marks=pytest.mark.slow),
    pytest.param("ring", {"devices": 8}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("implementation", "arguments"), IMPLEMENTATIONS)
def test_rows_that_see_nothing_have_output_and_gradients_of_exactly_0(
    results, oracle, make_inputs, implementation, arguments
):
    length = 48
    positions = np.tile(np.arange(length, dtype=np.int32), (2, 1))
    segments = np.zeros((2, length), np.int32)
    # Keys: a padded stretch, and one that no query can see.
    k_positions, k_segments = positions.copy(), segments.copy()
    k_segments[0, 5:9], k_segments[0, 20:30] = -1, 5
    # Queries: padding, a segment without keys, and before all keys.
    q_positions, q_segments = positions.copy(), segments.copy()
    q_segments[0, :3], q_segments[0, 40:44], q_positions[0, 30:33] = -1, 7, -1
    # Nobody in the second row sees anybody.
    q_segments[1] = k_segments[1] = -1
    blind = np.ones((2, length), bool)
    blind[0] = (q_segments[0] != 0) | (q_positions[0] < 0)
    unseen = k_segments != 0

    # One key head, no tile lengths: a compilation that test_exactness has made.
    inputs = make_inputs(T=length, N=4, K=1)
    mask = Mask(q_positions, k_positions, q_segments, k_segments)
    found = results(inputs, mask, implementation, **arguments)
    assert all(np.isfinite(x).all() for x in found)
    for name, rows in (
        ("output", blind),
        ("dq", blind),
        ("dk", unseen),
        ("dv", unseen),
    ):
        values = getattr(found, name)
        assert (values[rows] == 0).all(), name
        # Nor is anything else 0, by way of a kernel that computes nothing.
        others = values[~rows]
        # The first key's own query sees it alone: its score's gradient is 0.
        assert (np.abs(others).max(axis=(-2, -1)) > 0).all(), name
    expected = oracle(inputs, mask)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


@pytest.mark.parametrize(("implementation", "arguments"), IMPLEMENTATIONS)
def test_a_mask_that_shows_nothing_at_all(
    results, make_inputs, implementation, arguments
):
    inputs = make_inputs(T=48, N=4, K=1)
    padding = np.full((2, 48), -1, np.int32)
    mask = Mask.self_attention(np.zeros_like(padding), padding)
    for values in results(inputs, mask, implementation, **arguments):
        np.testing.assert_array_equal(values, 0)
