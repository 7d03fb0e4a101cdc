"""Attention of new tokens to a cache that is spread over devices in any order."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from ring_rl.attention import Mask, decode_attention
from ring_rl.mesh import MeshConfig, make_mesh

B, T, N, K, H = 3, 2, 4, 2, 8
SCALE = H**-0.5
PLACES = PartitionSpec(None, "sequence")


@functools.cache
def _decode(devices: int, window: int | None = None):
    def local(q, k, v, q_positions, q_segments, k_positions, k_segments):
        mask = Mask(q_positions, k_positions, q_segments, k_segments, window=window)
        return decode_attention(q, k, v, mask, axis_name="sequence", scale=SCALE)

    same = PartitionSpec()
    return jax.jit(
        jax.shard_map(
            local,
            mesh=make_mesh(MeshConfig(sequence=devices)),
            in_specs=(same, PLACES, PLACES, same, same, PLACES, PLACES),
            out_specs=same,
        )
    )


def _cache(capacity: int, lengths, *, seed: int):
    """Rows of their own lengths, written to places in random order."""
    random = np.random.default_rng(seed)
    q = random.normal(size=(B, T, N, H)).astype(np.float32)
    k, v = random.normal(size=(2, B, capacity, K, H)).astype(np.float32)
    # What an empty place holds must not matter.
    positions = random.integers(0, 9, (B, capacity), np.int32)
    segments = np.full((B, capacity), -1, np.int32)
    for row, length in enumerate(lengths):
        places = random.permutation(capacity)[:length]
        positions[row, places] = np.arange(length)
        segments[row, places] = 0
    # The newest tokens are in the cache already; one sees itself, not the next.
    lengths = np.asarray(lengths, np.int32)[:, None]
    q_positions = lengths - np.arange(T, 0, -1, dtype=np.int32)
    q_segments = np.where(q_positions < 0, -1, 0).astype(np.int32)
    return q, k, v, q_positions, q_segments, positions, segments


def _expected(arguments, oracle, make_inputs, window=None):
    q, k, v, q_positions, q_segments, positions, segments = arguments
    inputs = make_inputs()._replace(q=q, k=k, v=v, g=np.zeros_like(q))
    mask = Mask(q_positions, positions, q_segments, segments, window=window)
    return oracle(inputs, mask).output


def _check(found, arguments, oracle, make_inputs, window=None):
    expected = _expected(arguments, oracle, make_inputs, window)
    error = np.abs(np.asarray(found) - expected).max() / np.abs(expected).max()
    # As in test_exactness: f32's roundings leave 3e-7.
    assert error < 2e-6
    # Rows without a past, and tokens that do not exist.
    np.testing.assert_array_equal(np.asarray(found)[arguments[4] < 0], 0)


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_the_same_as_all_at_once(devices, oracle, make_inputs):
    # A full row, one that some devices have nothing of, an empty one.
    for seed, lengths in enumerate([(40, 3, 0), (2, 0, 17), (1, 39, 8)]):
        arguments = _cache(40, lengths, seed=seed)
        found = _decode(devices)(*arguments)
        _check(found, arguments, oracle, make_inputs)


@pytest.mark.parametrize("devices", [1, 4])
def test_a_window_hides_what_is_further_back(devices, oracle, make_inputs):
    arguments = _cache(40, (40, 3, 0), seed=0)
    found = _decode(devices, 5)(*arguments)
    _check(found, arguments, oracle, make_inputs, 5)
    assert (np.asarray(found)[0] != np.asarray(_decode(devices)(*arguments))[0]).all()


def test_without_devices_to_ask(oracle, make_inputs):
    arguments = _cache(40, (40, 3, 0), seed=0)
    q, k, v, q_positions, q_segments, positions, segments = map(jnp.asarray, arguments)
    mask = Mask(q_positions, positions, q_segments, segments)
    found = decode_attention(q, k, v, mask, scale=SCALE)
    _check(found, arguments, oracle, make_inputs)


def test_bfloat16_is_added_up_in_float32(oracle, make_inputs):
    arguments = _cache(400, (400, 3, 0), seed=0)
    # Scores of size 8, which bf16 would round by 0.03.
    q, k, v = (jnp.asarray(x, jnp.bfloat16) for x in arguments[:3])
    found = _decode(4)(8 * q, k, v, *arguments[3:])
    assert found.dtype == jnp.bfloat16
    q, k, v = (np.asarray(x, np.float32) for x in (8 * q, k, v))
    expected = _expected((q, k, v, *arguments[3:]), oracle, make_inputs)
    # bf16 rounds by 2^-9 at most: the weights that values are multiplied by, and the
    # result. A hundredth is left for f32.
    sizes = _expected((q, k, np.abs(v), *arguments[3:]), oracle, make_inputs)
    error = np.abs(np.asarray(found, np.float32) - expected)
    assert (error <= 1.01 * 2**-9 * (sizes + np.abs(expected))).all()


def _collectives(capacity: int) -> list[tuple[str, str]]:
    """Operation and type of every collective of the program for 4 devices."""
    arguments = _cache(capacity, (0,) * B, seed=0)
    program = _decode(4).lower(*arguments).compile().as_text()
    return sorted(
        re.findall(
            r" = (.*?) (all-[\w\-]+|collective-[\w\-]+|reduce-scatter[\w\-]*)\(",
            program,
        )
    )


def test_what_is_sent_does_not_depend_on_the_length_of_the_cache():
    short, long = _collectives(40), _collectives(400)
    assert short == long
    assert {operation for _, operation in short} == {"all-reduce"}
    numbers = sum(
        np.prod([int(n) for n in shape.split(",")])
        for kind, _ in short
        for shape in re.findall(r"f32\[([\d,]+)\]", kind)
    )
    # The output, and for each head of each token its maximum and its sum.
    assert numbers == B * T * N * (H + 2)


@pytest.mark.parametrize(("rows", "tokens"), [(1, 1), (3, 1), (1, 5), (3, 5)])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_keys_and_values_are_read_where_they_lie(rows, tokens, kv_heads):
    places, width = 4096, 64

    def local(q, k, v, q_positions, k_positions):
        mask = Mask(q_positions, k_positions, q_positions, 0 * k_positions)
        k, v = jnp.swapaxes(k, 1, 2), jnp.swapaxes(v, 1, 2)
        return decode_attention(q, k, v, mask, axis_name="sequence", scale=0.125)

    # As caches are stored: the places behind the heads.
    same, heads = PartitionSpec(), PartitionSpec(None, None, "sequence")
    mesh = make_mesh(MeshConfig(sequence=2))
    step = jax.jit(
        jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(same, heads, heads, same, PLACES),
            out_specs=same,
        )
    )

    def abstract(*shape, spec=same, dtype=jnp.float32):
        sharding = NamedSharding(mesh, spec)
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    k = abstract(rows, kv_heads, places, width, spec=heads)
    program = step.lower(
        abstract(rows, tokens, N, width),
        k,
        k,
        abstract(rows, tokens, dtype=jnp.int32),
        abstract(rows, places, spec=PLACES, dtype=jnp.int32),
    ).compile()
    # Less than a device's keys, let alone those of all N heads, or the values too. Of
    # scores, a sixteenth of the keys for each head and token here, several are held.
    keys = k.size * 4 // 2
    assert program.memory_analysis().temp_size_in_bytes < 0.7 * keys
