"""Attention of new tokens to a cache that is spread over devices in any order."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from ring_rl.attention import Mask, decode_attention
from ring_rl.mesh import MeshConfig, make_mesh

B, T, N, K, H = 3, 2, 4, 2, 8
SCALE = H**-0.5
PLACES = PartitionSpec(None, "sequence")


@functools.cache
def _decode(devices: int):
    def local(q, k, v, q_positions, q_segments, k_positions, k_segments):
        mask = Mask(q_positions, k_positions, q_segments, k_segments)
        return decode_attention(q, k, v, mask, axis_name="sequence", scale=SCALE)

    same = PartitionSpec()
    return jax.jit(
        jax.shard_map(
            local,
            mesh=make_mesh(MeshConfig(1, devices)),
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


def _check(found, arguments, oracle, make_inputs):
    q, k, v, q_positions, q_segments, positions, segments = arguments
    inputs = make_inputs()._replace(q=q, k=k, v=v, g=np.zeros_like(q))
    mask = Mask(q_positions, positions, q_segments, segments)
    expected = oracle(inputs, mask).output
    error = np.abs(np.asarray(found) - expected).max() / np.abs(expected).max()
    # As in test_exactness: f32's roundings leave 3e-7.
    assert error < 2e-6
    # Rows without a past, and tokens that do not exist.
    np.testing.assert_array_equal(np.asarray(found)[q_segments < 0], 0)


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_the_same_as_all_at_once(devices, oracle, make_inputs):
    # A full row, one that some devices have nothing of, an empty one.
    for seed, lengths in enumerate([(40, 3, 0), (2, 0, 17), (1, 39, 8)]):
        arguments = _cache(40, lengths, seed=seed)
        found = _decode(devices)(*arguments)
        _check(found, arguments, oracle, make_inputs)


def test_without_devices_to_ask(oracle, make_inputs):
    arguments = _cache(40, (40, 3, 0), seed=0)
    q, k, v, q_positions, q_segments, positions, segments = map(jnp.asarray, arguments)
    mask = Mask(q_positions, positions, q_segments, segments)
    found = decode_attention(q, k, v, mask, scale=SCALE)
    _check(found, arguments, oracle, make_inputs)


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
