"""What the compiler makes of the ring: what is sent, how often, and what it holds.

Read from the program for the CPU. It has no asynchronous collectives, so that sending
and computing overlap cannot be seen there; that neither waits for the other can.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from ring_rl.attention import Mask, ring_attention
from ring_rl.attention.tiles import (
    Tiles,
    choose_lanes,
    choose_tiles,
    list_visits,
    pad_mask,
)
from ring_rl.mesh import MeshConfig, make_mesh

from .program import TRIPS, executions, operation_of, read_computations

B, N, K, H = 2, 4, 2, 8
TOKENS = 64  # on each device


@functools.cache
def _lowered(devices: int, dtype: str, backward: bool, dropout: float = 0.0):
    mesh, key = make_mesh(MeshConfig(sequence=devices)), jax.random.key(0)
    sharding = NamedSharding(mesh, PartitionSpec(None, "sequence"))

    def abstract(*shape, dtype=dtype):
        shape = (B, TOKENS * devices, *shape)
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    def run(q, k, v, g, positions, segments):
        def attend(q, k, v):
            mask = Mask.self_attention(
                positions, segments, tokens=positions if dropout else None
            )
            return ring_attention(
                q, k, v, mask, mesh=mesh, block_q=16, block_k=16,
                dropout_rate=dropout, dropout_key=key if dropout else None,
            )  # fmt: skip

        if not backward:
            return attend(q, k, v)
        output, pull_back = jax.vjp(attend, q, k, v)
        return output, pull_back(g)

    q, k, order = abstract(N, H), abstract(K, H), abstract(dtype=jnp.int32)
    return jax.jit(run).lower(q, k, k, q, order, order)


@functools.cache
def _compiled(devices: int, backward: bool):
    return _lowered(devices, "float32", backward).compile()


# A device of R sends R - 1 blocks forward, as many again backward, and R gradients: a
# block is one vector of keys, values, positions and segments, a gradient one array.
BLOCK = f"u32[{B * TOKENS * (2 * K * H + 2)}]"
GRADIENT = f"f32[2,{B},{TOKENS},{K},{H}]"
EXPECTED = {
    (4, False): {BLOCK: 3},
    (4, True): {BLOCK: 3 + 3, GRADIENT: 4},
    (8, True): {BLOCK: 7 + 7, GRADIENT: 8},
}


@pytest.mark.parametrize(("devices", "backward"), EXPECTED)
def test_a_device_sends_its_keys_and_values_on_and_nothing_else(devices, backward):
    computations = read_computations(_compiled(devices, backward).as_text())
    times = {}
    for operation, kind, count, conditional in executions(computations):
        assert operation == "collective-permute"
        # Devices that disagree on the branch would wait for each other for ever.
        assert not conditional
        times[kind] = times.get(kind, 0) + count
    assert times == EXPECTED[devices, backward]


@pytest.mark.parametrize("backward", [False, True])
def test_hops_are_a_loop_in_which_sending_does_not_wait_for_computing(backward):
    computations = read_computations(_compiled(4, backward).as_text())
    loops = {
        re.search(r"body=%([\w.\-]+)", line)[1]: int(count[1])
        for lines in computations.values()
        for line in lines
        if (count := re.search(TRIPS, line))
    }
    bodies = {
        name: computations[name]
        for name in loops
        if any(operation_of(x) == "collective-permute" for x in computations[name])
    }
    # R - 1 hops; backward, the first and the last stand outside of the loop.
    assert sorted(loops[name] for name in bodies) == ([2, 3] if backward else [3])
    for lines in bodies.values():
        by_name = {line.removeprefix("ROOT ").split(" = ")[0]: line for line in lines}
        for line in lines:
            if operation_of(line) == "collective-permute":
                assert not _depends_on(line, "while", by_name)


def _depends_on(line, operation, by_name):
    names = re.findall(r"%[\w.\-]+", line.split(" = ")[1])
    sources = [by_name[name] for name in names if name in by_name]
    return any(
        operation_of(source) == operation or _depends_on(source, operation, by_name)
        for source in sources
    )


@pytest.mark.parametrize(("dtype", "width"), [("float32", 4), ("bfloat16", 2)])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_hop_sends_keys_and_values_in_their_type_and_12_bytes_a_key(
    dtype, width, dropout
):
    # 8 without dropout, which alone reads the tokens' indices. The compiler may not
    # widen what is sent: it is integers, also in the compiled program.
    lowered = _lowered(4, dtype, False, dropout)
    program = lowered.as_text()
    types = re.findall(r"collective_permute.*-> tensor<(\d+)xui(\d+)>", program)
    sent = sum(int(size) * int(bits) // 8 for size, bits in types)
    assert sent == B * TOKENS * (2 * K * H * width + (12 if dropout else 8))
    assert len(re.findall("collective_permute", program)) == len(types) == 1
    assert f"u{8 * width}[{sent // width}]" in lowered.compile().as_text()


def test_memory_of_a_device_does_not_grow_with_the_number_of_devices():
    """At a fixed number of tokens a device, forward and backward.

    5 % leaves room for another compiler's bookkeeping; one more block of keys and
    values would be more.
    """
    four, eight = (
        _compiled(R, True).memory_analysis().temp_size_in_bytes for R in (4, 8)
    )
    assert eight <= 1.05 * four


def _host_mask(T: int, lengths, **rule):
    """Segments of the given lengths, positions within each, the rest padding."""
    positions, segments = np.zeros((1, T), np.int32), np.full((1, T), -1, np.int32)
    start = 0
    for index, length in enumerate(lengths):
        positions[0, start : start + length] = np.arange(length)
        segments[0, start : start + length] = index
        start += length
    return jax.tree.map(jnp.asarray, Mask.self_attention(positions, segments, **rule))


def _seen(mask: Mask):
    mask = jax.tree.map(np.asarray, mask)
    ago = mask.q_positions[0][:, None] - mask.k_positions[0]
    seen = mask.q_segments[0][:, None] == mask.k_segments[0]
    seen &= (mask.k_segments[0] >= 0) & ((ago >= 0) | (not mask.causal))
    return seen if mask.window is None else seen & (ago < mask.window)


@pytest.mark.parametrize(
    ("lengths", "rule"),
    [
        ((80,), {}),
        ((80,), {"window": 20}),
        ((80,), {"causal": False}),
        ((64,), {"causal": False}),
        ((32,) * 3, {}),
        ((30, 41, 11), {"window": 7}),
    ],
    ids=str,
)
def test_pairs_are_visited_whole_or_in_pieces_or_not_at_all(lengths, rule):
    """Against the mask itself: what is visited whole, and that nothing is missed."""
    T, tile, piece = 100, 16, 4
    tiles = Tiles(tile, tile, tile // piece, tile // piece)
    mask = pad_mask(_host_mask(T, lengths, **rule), tiles)
    lanes, seen = choose_lanes(1, 1, 1, tiles), _seen(mask)
    whole, pieces = list_visits(mask, tiles, lanes)
    other_way = list_visits(mask, tiles, lanes, keys_first=True)

    def cells(visits, size):
        at = np.asarray(visits.pairs)[: int(visits.turns)]
        assert len(set(at.tolist())) == len(at)
        found = np.zeros((len(seen) // size,) * 2, bool)
        found[at // visits.second_tiles, at % visits.second_tiles] = True
        return np.kron(found, np.ones((size, size), bool))

    for visits, size, other in (
        (whole, tile, other_way[0]),
        (pieces, piece, other_way[1]),
    ):
        np.testing.assert_array_equal(cells(visits, size), cells(other, size).T)
        # And the list of each first tile begins where it should.
        counts = cells(visits, size)[::size, ::size].sum(axis=1)
        np.testing.assert_array_equal(np.diff(visits.starts), counts)
        # First tiles without work are passed over.
        busy = np.asarray(visits.busy)[: int(visits.busy_count)]
        np.testing.assert_array_equal(busy, np.flatnonzero(counts))
    in_tiles = seen.reshape(len(seen) // tile, tile, -1, tile)
    expected = np.kron(in_tiles.all(axis=(1, 3)), np.ones((tile, tile), bool))
    np.testing.assert_array_equal(cells(whole, tile), expected)
    in_pieces = seen.reshape(len(seen) // piece, piece, -1, piece)
    needed = np.kron(in_pieces.any(axis=(1, 3)), np.ones((piece, piece), bool))
    visited = cells(pieces, piece)
    assert (visited >= (needed & ~expected)).all() and not (visited & expected).any()
    # A piece with two segments has bounds that belong to neither; else they are sharp.
    if all(length % piece == 0 for length in lengths[:-1]):
        np.testing.assert_array_equal(visited, needed & ~expected)


def test_rows_with_masks_of_their_own_are_listed_apart():
    tiles = Tiles(16, 16)
    masks = [_host_mask(64, (64,)), _host_mask(64, (16,) * 4), _host_mask(64, ())]
    both = jax.tree.map(lambda *rows: jnp.concatenate(rows), *masks)
    lanes = choose_lanes(3, 1, 1, Tiles(1024, 1024))
    assert lanes.row_groups == 3
    whole, pieces = list_visits(both, tiles, lanes)
    per_row = np.bincount(np.asarray(whole.pairs)[: int(whole.turns)] // 16)
    np.testing.assert_array_equal(per_row, [6])
    per_row = np.bincount(np.asarray(pieces.pairs)[: int(pieces.turns)] // 16)
    np.testing.assert_array_equal(per_row, [4, 4])


def test_chosen_tiles_cover_the_length_and_pad_little():
    for T in (1, 7, 255, 256, 1000, 1024, 1025, 4097, 100_003):
        tiles = choose_tiles(T, 3 * T, 1, None, None)
        for length, tile, pieces in (
            (T, tiles.q, tiles.q_pieces),
            (3 * T, tiles.k, tiles.k_pieces),
        ):
            assert tile <= 1024 and tile % pieces == 0
            padded = -(-length // tile) * tile
            assert padded - length < pieces * -(-length // tile)
    for T in (64, 1000, 2048, 6000, 64_000):
        assert T % choose_tiles(T, T, 1, None, None).q == 0
        assert T % choose_tiles(T, T, 4, None, None).q == 0


@pytest.mark.parametrize("B", [1, 2, 6])
@pytest.mark.parametrize("K", [1, 4, 6])
@pytest.mark.parametrize("tile", [16, 100, 300, 1024])
def test_lanes_divide_the_rows_and_heads(B, K, tile):
    lanes = choose_lanes(B, K, 2 * K, Tiles(tile, tile))
    assert lanes.rows * lanes.row_groups == B
    assert lanes.heads * lanes.head_groups == K
    assert lanes.rows == 1 or lanes.head_groups == 1
    assert lanes.shared == 2
