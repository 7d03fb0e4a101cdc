"""The order of tokens on the ring, and the balance of work that it brings."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ring_rl.attention import (
    LAYOUTS,
    Mask,
    balance,
    choose_layout,
    count_hops,
    permutation,
)
from ring_rl.attention.mask import classify, summarise


def _packed(lengths, rows: int = 1, **rule) -> Mask:
    """Chains of these lengths, one after the other."""
    positions = np.concatenate([np.arange(n, dtype=np.int32) for n in lengths])
    segments = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    return Mask.self_attention(
        np.tile(positions, (rows, 1)), np.tile(segments, (rows, 1)), **rule
    )


@pytest.mark.parametrize("R", [1, 2, 3, 8])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_token_lies_on_one_device(layout, R):
    order = permutation(layout, 48, R)
    np.testing.assert_array_equal(np.sort(order), np.arange(48))


def test_what_lies_where():
    np.testing.assert_array_equal(permutation("contiguous", 8, 2), np.arange(8))
    # Device 0 has chunks 0 and 3, device 1 has 1 and 2.
    np.testing.assert_array_equal(permutation("zigzag", 8, 2), [0, 1, 6, 7, 2, 3, 4, 5])
    np.testing.assert_array_equal(
        permutation("striped", 8, 2), [0, 2, 4, 6, 1, 3, 5, 7]
    )


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("spiral", 8, 2), ("layout", "contiguous, zigzag, striped", "'spiral'")),
        (("contiguous", 10, 4), ("'contiguous'", "4 devices", "10", "multiple of 4")),
        (("striped", 10, 4), ("'striped'", "4 devices", "10", "multiple of 4")),
        (("zigzag", 12, 4), ("'zigzag'", "4 devices", "12", "multiple of 8")),
    ],
)
def test_errors_say_what_was_expected_and_found(arguments, parts):
    with pytest.raises(ValueError) as error:
        permutation(*arguments)
    for part in parts:
        assert part in str(error.value)


def _seen(mask: Mask, order) -> np.ndarray:
    """Who sees whom in the one row of a mask, tokens in this order."""
    positions, segments = (x[0, order] for x in (mask.q_positions, mask.q_segments))
    ago = positions[:, None] - positions
    seen = (segments[:, None] == segments) & (segments >= 0)
    seen &= (ago >= 0) | (not mask.causal)
    return seen & (ago < (mask.window or len(ago)))


def _hops(of_blocks: np.ndarray) -> list[list]:
    """`[device, holder]` as lists by hop: whose block a device has then."""
    R = len(of_blocks)
    return [[of_blocks[r, (r - hop) % R] for r in range(R)] for hop in range(R)]


# 64 tokens are whole tiles of 4; with 56 each device's last tile is short.
@pytest.mark.parametrize(
    ("layout", "S"),
    [*((layout, 64) for layout in LAYOUTS), ("contiguous", 56), ("striped", 56)],
)
@pytest.mark.parametrize("rule", [{}, {"window": 9}, {"causal": False}], ids=str)
def test_balance_counts_the_tiles_that_have_a_visible_pair(layout, rule, S):
    """For one sequence the bounds of a tile are sharp, so a count of pairs agrees."""
    R, tile = 4, 4
    mask = _packed([S], **rule)
    work, share = balance(mask, layout, R, tile=tile)
    seen = _seen(mask, permutation(layout, S, R))
    blocks = np.pad(
        seen.reshape(R, S // R, R, S // R), ((0, 0), (0, -S // R % tile)) * 2
    )
    length = blocks.shape[1]
    blocks = blocks.reshape(R, length // tile, tile, R, length // tile, tile)
    counts = blocks.any(axis=(2, 5)).sum(axis=(1, 3))
    np.testing.assert_array_equal(work, counts.sum(axis=1))
    slowest = sum(max(devices) for devices in _hops(counts))
    useful = seen.sum() / R / (slowest * tile**2)
    assert share == pytest.approx(useful, abs=1e-12)


@pytest.mark.parametrize("rule", [{}, {"window": 6}, {"causal": False}], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_balance_counts_the_tiles_that_a_kernel_finds_needed(layout, rule):
    """Of every device at every hop, with packed rows and padding."""
    S, R, tile = 96, 2, 8
    rows = [_packed([40, 9, 30, 17]), _packed([5, 60, 31])]
    mask = jax.tree.map(lambda *x: np.concatenate(x), *rows)
    mask.q_segments[:, -6:] = -1
    mask = Mask.self_attention(mask.q_positions, mask.q_segments, **rule)
    work, share = balance(mask, layout, R, tile=tile)
    parts = np.split(permutation(layout, S, R), R)

    def visits(queries, keys) -> int:
        """Of a device with these queries in a hop with these keys, row by row."""
        on_device = jax.tree.map(jnp.asarray, mask)
        positions, segments = on_device.q_positions, on_device.q_segments
        summaries = (
            summarise(positions[:, part], segments[:, part], tile)
            for part in (queries, keys)
        )
        by_row = (jax.tree.map(lambda x: x[:, None], part) for part in summaries)
        of_row = functools.partial(classify, causal=mask.causal, window=mask.window)
        return int(jax.vmap(of_row)(*by_row)[0].sum())

    turns = np.array([[visits(queries, keys) for keys in parts] for queries in parts])
    np.testing.assert_array_equal(work, turns.sum(axis=1))
    pairs = sum(
        _seen(jax.tree.map(lambda x: x[row, None], mask), np.arange(S)).sum()  # noqa: B023
        for row in range(2)
    )
    slowest = sum(max(devices) for devices in _hops(turns))
    assert share == pytest.approx(pairs / R / (slowest * tile**2), abs=1e-12)


def test_balance_of_one_causal_sequence():
    """8 devices, 32k tokens, tiles of 256: arithmetic.

    A device has 16 tiles. Contiguous, the busiest computes 16·17/2 pairs of them at the
    first hop and 16² at the seven others. Zigzag, each computes 8·9/2 · 2 + 8² at the
    first and 16²/2 at the others; striped, 16·17/2 at all.
    """
    mask = _packed([32_768])
    useful = 32_768 * 32_769 / 2 / 8 / 256**2
    expected = (useful / 1928, useful / 1032, useful / 1088)
    for layout, share in zip(LAYOUTS, expected, strict=True):
        assert balance(mask, layout, 8, tile=256)[1] == pytest.approx(share, abs=1e-12)
    assert [round(share, 2) for share in expected] == [0.53, 0.99, 0.94]


def test_balance_of_packed_trajectories():
    """8 devices, 32k tokens, trajectories of 4000, tiles of 128: measured.

    Other layouts tear them apart: what was one device's own is then between devices.
    Where the first trajectory begins moves the shares by 0.08; this is their mean.
    """
    shares = []
    for first in range(250, 4001, 250):
        lengths = [first, *[4000] * 7]
        mask = _packed([*lengths, 32_768 - sum(lengths)])
        shares.append([balance(mask, layout, 8, tile=128)[1] for layout in LAYOUTS])
    np.testing.assert_allclose(np.mean(shares, axis=0), [0.69, 0.49, 0.38], atol=0.01)


def test_the_longest_context_is_weighed_in_seconds():
    """The paper's 512,000 tokens: neither [tokens, tokens] nor [tiles, tiles, rows]."""
    assert choose_layout(_packed([4000] * 128), 8) == "contiguous"
    assert choose_layout(_packed([512_000]), 8) == "zigzag"


@pytest.mark.parametrize("R", [2, 4, 8])
def test_the_layout_chosen_suits_the_mask(R):
    assert choose_layout(_packed([4096]), R) == "zigzag"
    assert choose_layout(_packed([16] * 64), R) == "contiguous"
    # Without a causal rule all devices are busy all the time: a tie.
    assert choose_layout(_packed([1024], causal=False), R) == "contiguous"


def test_the_layout_chosen_takes_least_time_and_not_the_evenest():
    """Zigzag chunks shorter than a tile: all devices visit all tiles, in balance."""
    mask = _packed([25] * 20 + [12])
    even, uneven = (balance(mask, layout, 4)[0] for layout in ("zigzag", "contiguous"))
    assert np.ptp(even) == 0 < np.ptp(uneven)
    assert choose_layout(mask, 4) == "contiguous"


def test_layouts_that_cannot_cut_the_sequence_are_not_chosen():
    assert choose_layout(_packed([4096 + 8]), 8) == "striped"
    with pytest.raises(ValueError, match="81 queries and 81 keys.*8 .*multiples of 16"):
        choose_layout(_packed([81]), 8)


def test_one_device_has_no_choice():
    assert choose_layout(_packed([64]), 1) == "contiguous"
    assert balance(_packed([64]), "contiguous", 1, tile=1)[1] == 1.0


def test_nothing_to_see_takes_no_time():
    mask = Mask.self_attention(*np.full((2, 1, 16), -1, np.int32))
    work, share = balance(mask, "zigzag", 4)
    assert not work.any() and share == 1.0
    assert count_hops(mask, 4) == 0


@pytest.mark.parametrize(
    ("mask", "hops"),
    [
        # 64 tokens on each of 8 devices.
        (_packed([512]), 7),
        (_packed([512], causal=False), 7),
        (_packed([64] * 8), 0),
        (_packed([64] * 8, causal=False), 0),
        (_packed([512], window=1), 0),
        (_packed([512], window=2), 1),
        (_packed([512], window=65), 1),
        (_packed([512], window=66), 2),
        # The second device has a 0 of the next chain too: for all that the bounds
        # say, the first might see that.
        (_packed([65] + [64] * 6 + [63]), 7),
    ],
)
def test_hops_reach_as_far_back_as_anybody_sees(mask, hops):
    assert count_hops(mask, 8) == hops


def test_a_window_without_a_causal_rule_needs_the_whole_ring():
    """A query sees all that is ahead; what is next is the furthest round the ring."""
    assert count_hops(_packed([512], causal=False, window=1), 8) == 7


_TOKENS = st.lists(
    st.tuples(st.integers(-3, 9), st.integers(-1, 2)), min_size=1, max_size=13
)


@hypothesis.settings(deadline=None, max_examples=200, derandomize=True)
@hypothesis.given(
    _TOKENS, st.integers(1, 5), st.booleans(), st.sampled_from((None, 1, 3))
)
def test_no_pair_is_beyond_the_hops_counted(tokens, R, causal, window):
    """For any tokens in any order, R need not divide them."""
    positions, segments = np.array(tokens, np.int32).T[:, None]
    mask = Mask.self_attention(positions, segments, causal=causal, window=window)
    length = len(tokens)
    device = np.arange(length) // -(-length // R)
    ago = (device[:, None] - device) % R
    order = np.arange(length)
    assert (ago[_seen(mask, order)] <= count_hops(mask, R)).all()
