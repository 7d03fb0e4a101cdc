"""The order of tokens on the ring, and the balance of work that it brings."""

import jax
import numpy as np
import pytest

from ring_rl.attention import Mask, choose_layout, permutation
from ring_rl.attention.blockwise import Tiles, _walk
from ring_rl.attention.layout import LAYOUTS, balance


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


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("spiral", 8, 2), ("layout", "contiguous, zigzag", "'spiral'")),
        (("contiguous", 10, 4), ("'contiguous'", "4 devices", "10", "multiple of 4")),
        (("zigzag", 12, 4), ("'zigzag'", "4 devices", "12", "multiple of 8")),
    ],
)
def test_errors_say_what_was_expected_and_found(arguments, parts):
    with pytest.raises(ValueError) as error:
        permutation(*arguments)
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rule", [{}, {"window": 9}, {"causal": False}], ids=str)
def test_balance_counts_the_tiles_that_have_a_visible_pair(layout, rule):
    """For one sequence the bounds of a tile are sharp, so a count of pairs agrees."""
    S, R, tile = 64, 4, 4
    work, share = balance(_packed([S], **rule), layout, R, tile=tile)
    order = permutation(layout, S, R)
    ago = order[:, None] - order
    seen = np.ones((S, S), bool)
    if rule.get("causal", True):
        seen &= ago >= 0
    if "window" in rule:
        seen &= ago < rule["window"]
    blocks = seen.reshape(R, S // R // tile, tile, R, S // R // tile, tile)
    counts = blocks.any(axis=(2, 5)).sum(axis=(1, 3))
    np.testing.assert_array_equal(work, counts.sum(axis=1))
    hops = [[counts[r, (r - hop) % R] for r in range(R)] for hop in range(R)]
    slowest = sum(max(devices) for devices in hops)
    assert share == pytest.approx(counts.sum() / R / slowest, abs=1e-12)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_balance_counts_the_tiles_that_the_kernel_visits(layout):
    """Turns of the kernel's loop, of every device at every hop, with packed rows."""
    S, R, tile = 96, 2, 8
    rows = [_packed([40, 9, 30, 17]), _packed([5, 60, 31])]
    mask = jax.tree.map(lambda *x: np.concatenate(x), *rows)
    mask.q_segments[:, -6:] = -1
    mask = Mask.self_attention(mask.q_positions, mask.q_segments)
    work, _ = balance(mask, layout, R, tile=tile)
    order = permutation(layout, S, R)
    blocks = [
        (mask.q_positions[:, part], mask.q_segments[:, part])
        for part in np.split(order, R)
    ]
    turns = [
        [int(_walk(Mask(qp, kp, qs, ks), Tiles(tile, tile)).turns) for kp, ks in blocks]
        for qp, qs in blocks
    ]
    np.testing.assert_array_equal(work, np.sum(turns, axis=1))


def test_balance_of_one_causal_sequence():
    """8 devices, 32k tokens, tiles of 128: arithmetic.

    Contiguous, the busiest device has 32·33/2 tiles at the first hop and 32² at the
    seven others, of 256·257/2 / 8 = 4112 on average. Zigzag is even at every hop.
    """
    mask = _packed([32_768])
    assert balance(mask, "contiguous", 8)[1] == pytest.approx(4112 / 7696, abs=1e-12)
    assert balance(mask, "zigzag", 8)[1] == 1.0


def test_balance_of_packed_trajectories():
    """Zigzag tears them apart: what was one device's own is then between devices."""
    mask = _packed([4000] * 8 + [768])
    contiguous, zigzag = (balance(mask, layout, 8)[1] for layout in LAYOUTS)
    assert contiguous > 0.75 > 0.66 > zigzag


@pytest.mark.parametrize("R", [2, 4, 8])
def test_the_layout_chosen_suits_the_mask(R):
    assert choose_layout(_packed([4096]), R) == "zigzag"
    assert choose_layout(_packed([16] * 64), R) == "contiguous"
    # Without a causal rule all devices are busy all the time: a tie.
    assert choose_layout(_packed([1024], causal=False), R) == "contiguous"


def test_the_layout_chosen_takes_least_time_and_not_the_evenest():
    """Zigzag chunks shorter than a tile: all devices visit all tiles, in balance."""
    mask = _packed([25] * 20 + [12])
    assert balance(mask, "zigzag", 4)[1] == 1.0 > balance(mask, "contiguous", 4)[1]
    assert choose_layout(mask, 4) == "contiguous"


def test_one_device_has_no_choice():
    assert choose_layout(_packed([64]), 1) == "contiguous"
    assert balance(_packed([64]), "contiguous", 1)[1] == 1.0
