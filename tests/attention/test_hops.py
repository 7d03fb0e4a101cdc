"""A static number of hops: exact where the mask needs no more, NaN where it does."""

import collections
import functools

import jax
import numpy as np
import pytest

from ring_rl.attention import Mask, count_hops, ring_attention
from ring_rl.mesh import MeshConfig, make_mesh

from .program import executions, read_computations
from .results import Results, attend_and_pull_back, draw_inputs, oracle
from .rounding import assert_close

B, BLOCK, N, K, H = 2, 16, 4, 2, 8
# In the compiled program: keys, values, positions and segments; and both gradients.
SENT_BLOCK = f"u32[{B * BLOCK * (2 * K * H + 2)}]"
SENT_GRADIENT = f"f32[2,{B},{BLOCK},{K},{H}]"


def _problem(devices: int, segments=None, *, window: int | None):
    """A causal mask of whole blocks."""
    T = BLOCK * devices
    inputs = draw_inputs(B, T, N=N, K=K, H=H)
    positions = np.tile(np.arange(T, dtype=np.int32), (B, 1))
    segments = np.zeros_like(positions) if segments is None else segments(positions)
    return inputs, Mask.self_attention(positions, segments, window=window)


@functools.cache
def _compiled(devices: int, window: int | None, hops: int):
    """Forward and backward."""
    with jax.default_matmul_precision("highest"):
        return attend_and_pull_back.lower(
            *_problem(devices, window=window), implementation="ring",
            mesh=make_mesh(MeshConfig(sequence=devices)), block_q=5, block_k=7,
            hops=hops,
        ).compile()  # fmt: skip


def _results(inputs, mask, devices: int, hops: int) -> Results:
    found = _compiled(devices, mask.window, hops)(inputs, mask)
    return jax.tree.map(np.asarray, found)


def _permutes(compiled) -> dict[str, float]:
    """How often each type is sent."""
    times = collections.Counter()
    for operation, kind, count, _ in executions(read_computations(compiled.as_text())):
        if operation == "collective-permute":
            times[kind] += count
        # Bounds of the blocks that are out of reach, a few numbers a device.
        assert operation in ("collective-permute", "all-reduce")
    return times


def _slow(*case):
    return pytest.param(*case, marks=pytest.mark.slow)


# A block has 16 positions: with a window of 17, its first query sees one block back.
@pytest.mark.parametrize(
    ("devices", "window", "hops"),
    [
        (4, 18, 2),
        (8, 17, 1),
        _slow(4, 1, 0),
        _slow(4, 17, 1),
        _slow(4, 34, 3),
        _slow(8, 1, 0),
        _slow(8, 18, 2),
        _slow(8, 81, 5),
        _slow(8, 97, 6),
    ],
)
def test_a_window_needs_as_many_hops_as_it_is_blocks_long(devices, window, hops):
    inputs, mask = _problem(devices, window=window)
    assert count_hops(mask, devices) == hops
    assert_close(_results(inputs, mask, devices, hops), oracle(inputs, mask), least=1)
    times = _permutes(_compiled(devices, window, hops))
    # The gradients also go home.
    assert times.pop(SENT_GRADIENT, 0) == (hops + 1 if hops else 0)
    # Forward and backward; a compiler may see that a single hop, in no loop, is the
    # same in both.
    assert times.pop(SENT_BLOCK, 0) in ((1, 2) if hops == 1 else (2 * hops,))
    assert not times


@pytest.mark.parametrize("hops", [2, _slow(0), _slow(1)])
def test_forward_alone_sends_a_block_once_a_hop(hops):
    mesh = make_mesh(MeshConfig(sequence=4))

    @jax.jit
    def run(inputs, mask):
        return ring_attention(*inputs[:3], mask, mesh=mesh, hops=hops)

    program = run.lower(*_problem(4, window=18)).compile()
    assert _permutes(program) == ({SENT_BLOCK: hops} if hops else {})


def test_no_hop_is_needed_where_segments_lie_within_devices():
    def chains_of_8(positions):
        return positions // 8

    inputs, mask = _problem(4, chains_of_8, window=None)
    assert count_hops(mask, 4) == 0
    assert_close(_results(inputs, mask, 4, 0), oracle(inputs, mask))
    assert not _permutes(_compiled(4, None, 0))


@pytest.mark.parametrize(
    ("devices", "window", "hops"),
    [
        (4, None, 0),
        # Two tokens share a position: the window is twice as long in tokens.
        (8, 17, 1),
        _slow(4, 18, 2),
    ],
)
def test_too_few_hops_leave_no_number_that_could_pass_for_a_result(
    devices, window, hops
):
    inputs, mask = _problem(devices, window=window)
    # The other row would not need more hops.
    mask.q_positions[1] = mask.k_positions[1] = mask.q_positions[1] // 2
    mask.q_segments[0] = mask.k_segments[0] = mask.q_positions[0] // BLOCK
    assert count_hops(mask, devices) > hops
    for result in _results(inputs, mask, devices, hops):
        assert np.isnan(result).all()
