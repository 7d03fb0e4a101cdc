"""Arguments that do not fit: the message names them, what was expected and found."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from ring_rl.attention import Mask, attention, ring_attention
from ring_rl.mesh import MeshConfig, make_mesh


def _heads(*shape):
    return jnp.zeros(shape)


def _tokens(B, T):
    return np.zeros((B, T), np.int32)


def _attend(q=(2, 6, 4, 8), k=(2, 5, 2, 8), v=None, mask=None, **arguments):
    if mask is None:
        mask = Mask(_tokens(2, 6), _tokens(2, 5), _tokens(2, 6), _tokens(2, 5))
    # Without the annotations, which in a test run complain first, in their own words.
    plain = inspect.unwrap(attention)
    return plain(_heads(*q), _heads(*k), _heads(*(v or k)), mask, **arguments)


def _attend_in_shard_map(axis_name):
    mesh = make_mesh(MeshConfig(1, 2))
    mask = Mask.self_attention(_tokens(2, 6), _tokens(2, 6))
    tokens = PartitionSpec(None, "sequence")
    attend = functools.partial(attention, implementation="ring", axis_name=axis_name)
    mapped = jax.shard_map(attend, mesh=mesh, in_specs=tokens, out_specs=tokens)
    return mapped(*(_heads(2, 6, 4, 8),) * 3, mask)


def _ring(**arguments):
    mask = Mask.self_attention(_tokens(2, 6), _tokens(2, 6))
    mesh = make_mesh(MeshConfig(1, 2))
    return ring_attention(*(_heads(2, 6, 4, 8),) * 3, mask, mesh=mesh, **arguments)


CASES = {
    "k and v": (
        lambda: _attend(v=(2, 4, 2, 8)),
        ("attention: k and v", "(2, 5, 2, 8)", "(2, 4, 2, 8)"),
    ),
    "batch of k": (
        lambda: _attend(k=(3, 5, 2, 8)),
        ("attention: k ", "[2, keys, heads, 8]", "(2, 6, 4, 8)", "(3, 5, 2, 8)"),
    ),
    "width of k": (
        lambda: _attend(k=(2, 5, 2, 6)),
        ("attention: k ", "[2, keys, heads, 8]", "(2, 6, 4, 8)", "(2, 5, 2, 6)"),
    ),
    "key heads": (
        lambda: _attend(k=(2, 5, 3, 8)),
        ("attention: ", "key heads", "divide the 4 query heads", "found 3"),
    ),
    "mask of the keys": (
        lambda: _attend(mask=Mask.self_attention(_tokens(2, 6), _tokens(2, 6))),
        ("attention: mask", "(2, 6) for queries", "(2, 5) for keys", "and (2, 6)"),
    ),
    "mask of the queries": (
        lambda: _attend(mask=Mask.self_attention(_tokens(2, 5), _tokens(2, 5))),
        ("attention: mask", "(2, 6) for queries", "(2, 5) for keys", "found (2, 5)"),
    ),
    "block_q": (
        lambda: _attend(block_q=0),
        ("attention: block_q", "at least 1", "found 0"),
    ),
    "block_k": (
        lambda: _attend(block_k=-3),
        ("attention: block_k", "at least 1", "found -3"),
    ),
    "implementation": (
        lambda: _attend(implementation="flash"),
        ("attention: implementation", "reference, blockwise, ring", "'flash'"),
    ),
    "ring without axis": (
        lambda: _attend(implementation="ring"),
        ("attention: axis_name", "'ring'", "found None"),
    ),
    "axis without ring": (
        lambda: _attend(axis_name="sequence"),
        ("attention: axis_name", "'ring'", "found 'sequence' for 'blockwise'"),
    ),
    "ring outside shard_map": (
        lambda: _attend(implementation="ring", axis_name="sequence"),
        ("attention: axis_name", "jax.shard_map ()", "found 'sequence'"),
    ),
    "another axis": (
        lambda: _attend_in_shard_map("time"),
        ("attention: axis_name", "'data', 'sequence'", "found 'time'"),
    ),
    "axis of the mesh": (
        lambda: _ring(axis_name="time"),
        ("ring_attention: axis_name", "('data', 'sequence')", "found 'time'"),
    ),
    "rank of positions": (
        lambda: Mask(*(np.zeros(6, np.int32),) * 4),
        ("Mask: q_positions and q_segments", "[batch, tokens]", "(6,)"),
    ),
    "query segments": (
        lambda: Mask(_tokens(2, 6), _tokens(2, 5), _tokens(2, 5), _tokens(2, 5)),
        ("Mask: q_positions and q_segments", "one shape", "(2, 6) and (2, 5)"),
    ),
    "key segments": (
        lambda: Mask(_tokens(2, 6), _tokens(2, 5), _tokens(2, 6), _tokens(2, 6)),
        ("Mask: k_positions and k_segments", "one shape", "(2, 5) and (2, 6)"),
    ),
    "batches": (
        lambda: Mask(_tokens(2, 6), _tokens(3, 5), _tokens(2, 6), _tokens(3, 5)),
        ("Mask: queries and keys", "same batch size", "found 2 and 3"),
    ),
    "window": (
        lambda: Mask.self_attention(_tokens(2, 6), _tokens(2, 6), window=0),
        ("Mask: window", "at least 1", "found 0"),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_error_names_argument_expected_and_found(case):
    call, parts = CASES[case]
    with pytest.raises(ValueError) as error:
        call()
    for part in parts:
        assert part in str(error.value), str(error.value)


def test_arguments_that_fit_raise_nothing():
    assert jax.eval_shape(_attend).shape == (2, 6, 4, 8)
