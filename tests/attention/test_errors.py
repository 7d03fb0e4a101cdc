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


def _heads(*shape, dtype=jnp.float32):
    return jnp.zeros(shape, dtype)


def _tokens(B, T):
    return np.zeros((B, T), np.int32)


def _plain(function):
    """Without its annotations, which in a test run complain first, in other words."""
    return inspect.unwrap(function)


def _attend(q=(2, 6, 4, 8), k=(2, 5, 2, 8), v=None, mask=None, **arguments):
    if mask is None:
        mask = Mask(_tokens(2, 6), _tokens(2, 5), _tokens(2, 6), _tokens(2, 5))
    heads = (_heads(*x) if isinstance(x, tuple) else x for x in (q, k, v or k))
    return _plain(attention)(*heads, mask, **arguments)


def _attend_to_types(q, k, v):
    mask = Mask.self_attention(_tokens(2, 6), _tokens(2, 6))
    heads = (_heads(2, 6, 4, 8, dtype=dtype) for dtype in (q, k, v))
    return _plain(attention)(*heads, mask)


def _attend_in_shard_map(axis_name="sequence", **arguments):
    mesh = make_mesh(MeshConfig(sequence=2))
    mask = Mask.self_attention(_tokens(2, 6), _tokens(2, 6))
    tokens = PartitionSpec(None, "sequence")
    attend = functools.partial(
        _plain(attention), implementation="ring", axis_name=axis_name, **arguments
    )
    mapped = jax.shard_map(attend, mesh=mesh, in_specs=tokens, out_specs=tokens)
    return mapped(*(_heads(2, 6, 4, 8),) * 3, mask)


def _drop(rate, key, *, tokens=True):
    arrays = (_tokens(2, 6), _tokens(2, 5), _tokens(2, 6), _tokens(2, 5))
    q_tokens, k_tokens = arrays[:2] if tokens else (None, None)
    mask = Mask(*arrays, q_tokens=q_tokens, k_tokens=k_tokens)
    return _attend(mask=mask, dropout_rate=rate, dropout_key=key)


def _mask(window):
    mask = object.__new__(Mask)
    _plain(Mask.__init__)(mask, *(_tokens(2, 6),) * 4, window=window)
    return mask


def _ring(tensor=1, **arguments):
    mask = Mask.self_attention(_tokens(2, 6), _tokens(2, 6))
    mesh = make_mesh(MeshConfig(sequence=2, tensor=tensor))
    return ring_attention(*(_heads(2, 6, 4, 8),) * 3, mask, mesh=mesh, **arguments)


AXES = "('data', 'fsdp', 'sequence', 'tensor')"
CASES = {
    "rank of q": (
        lambda: _attend(q=(2, 6, 4)),
        ("attention: q ", "[batch, tokens, heads, width]", "(2, 6, 4)"),
    ),
    "rank of v": (
        lambda: _attend(v=(5, 2, 8)),
        ("attention: v ", "[batch, tokens, heads, width]", "(5, 2, 8)"),
    ),
    "no keys": (
        lambda: _attend(k=(2, 0, 2, 8)),
        ("attention: k ", "none of them 0", "(2, 0, 2, 8)"),
    ),
    "integers": (
        lambda: _attend_to_types(jnp.int32, jnp.float32, jnp.float32),
        ("attention: q ", "floating-point", "found int32"),
    ),
    "type of k": (
        lambda: _attend_to_types(jnp.bfloat16, jnp.float32, jnp.bfloat16),
        ("attention: k ", "type of q, bfloat16", "found float32"),
    ),
    "type of v": (
        lambda: _attend_to_types(jnp.float32, jnp.float32, jnp.float16),
        ("attention: v ", "type of q, float32", "found float16"),
    ),
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
    "no mask": (
        lambda: _attend(mask="causal"),
        ("attention: mask must be a Mask", "found str"),
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
        lambda: _attend(block_k=-3, implementation="memory_efficient"),
        ("attention: block_k", "at least 1", "found -3"),
    ),
    "half a tile": (
        lambda: _attend(block_k=2.5),
        ("attention: block_k", "an int", "found 2.5"),
    ),
    "implementation": (
        lambda: _attend(implementation="flash"),
        (
            "attention: implementation",
            "reference, memory_efficient, blockwise, ring",
            "'flash'",
        ),
    ),
    "kernel": (
        lambda: _attend(kernel="flash"),
        ("attention: kernel", "blockwise", "found 'flash'"),
    ),
    "kernel of no use": (
        lambda: _attend(kernel="blockwise", implementation="reference"),
        ("attention: kernel", "None otherwise", "'blockwise' for 'reference'"),
    ),
    "scale": (
        lambda: _attend(scale=float("nan")),
        ("attention: scale", "finite number", "found nan"),
    ),
    "scale of words": (
        lambda: _attend(scale="small"),
        ("attention: scale", "finite number", "found 'small'"),
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
        ("attention: axis_name", "jax.shard_map (there is none)", "found 'sequence'"),
    ),
    "another axis": (
        lambda: _attend_in_shard_map("time"),
        ("attention: axis_name", "data, fsdp, sequence, tensor", "found 'time'"),
    ),
    "hops without ring": (
        lambda: _attend(hops=1),
        ("attention: hops", "'ring'", "found 1 for 'blockwise'"),
    ),
    "too many hops": (
        lambda: _attend_in_shard_map(hops=2),
        ("attention: hops", "from 0 to 1", "devices of 'sequence'", "found 2"),
    ),
    "hops backwards": (
        lambda: _attend_in_shard_map(hops=-1),
        ("attention: hops", "from 0 to 1", "found -1"),
    ),
    "axis of the mesh": (
        lambda: _ring(axis_name="time"),
        ("ring_attention: axis_name", AXES, "found 'time'"),
    ),
    "batch axes of the mesh": (
        lambda: _ring(batch_axes=("rows",)),
        ("ring_attention: batch_axes", AXES, "found 'rows'"),
    ),
    "head axis of the mesh": (
        lambda: _ring(head_axis="heads"),
        ("ring_attention: head_axis", AXES, "found 'heads'"),
    ),
    "heads that cannot be shared out": (
        lambda: _ring(tensor=3, head_axis="tensor"),
        ("heads must be multiples of 3", "head_axis='tensor'", "found 4 and 4"),
    ),
    "rate of 1": (
        lambda: _drop(1.0, jax.random.key(0)),
        ("attention: dropout_rate", "at least 0 and below 1", "found 1.0"),
    ),
    "rate below 0": (
        lambda: _drop(-0.1, jax.random.key(0)),
        ("attention: dropout_rate", "at least 0 and below 1", "found -0.1"),
    ),
    "rate of words": (
        lambda: _drop("much", jax.random.key(0)),
        ("attention: dropout_rate", "a number", "found 'much'"),
    ),
    "no key": (
        lambda: _drop(0.1, None),
        ("attention: dropout_key", "jax.random.key", "0.1", "found None"),
    ),
    "number for a key": (
        lambda: _drop(0.1, jnp.zeros(2, jnp.uint32)),
        ("attention: dropout_key", "jax.random.key", "found uint32 of shape (2,)"),
    ),
    "keys of other rows": (
        lambda: _drop(0.1, jax.random.split(jax.random.key(0), (3, 4))),
        ("attention: dropout_key", "of shape (2, 4)", "of shape (3, 4)"),
    ),
    "no tokens": (
        lambda: _drop(0.1, jax.random.key(0), tokens=False),
        ("attention: mask", "q_tokens and k_tokens", "found none and 0.1"),
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
    "tokens": (
        lambda: Mask.self_attention(*(_tokens(2, 6),) * 2, tokens=_tokens(2, 5)),
        ("Mask: q_tokens", "shape of q_positions, (2, 6)", "found (2, 5)"),
    ),
    "tokens of one side": (
        lambda: Mask(*(_tokens(2, 6),) * 4, k_tokens=_tokens(2, 6)),
        ("Mask: q_tokens and k_tokens", "together", "only k_tokens"),
    ),
    "fractions": (
        lambda: Mask.self_attention(_tokens(2, 6) / 2, _tokens(2, 6)),
        ("Mask: q_positions", "int32", "found float64"),
    ),
    "positions that int32 lacks": (
        lambda: Mask.self_attention(np.array([[2**31, -5]]), _tokens(1, 2)),
        ("Mask: q_positions", "int32", "found int64 from -5 to 2147483648"),
    ),
    "a list": (
        lambda: Mask.self_attention([[1, 2]], _tokens(1, 2)),
        ("Mask: q_positions", "an array of int32", "found list"),
    ),
    "batches": (
        lambda: Mask(_tokens(2, 6), _tokens(3, 5), _tokens(2, 6), _tokens(3, 5)),
        ("Mask: queries and keys", "same batch size", "found 2 and 3"),
    ),
    "window": (
        lambda: Mask.self_attention(_tokens(2, 6), _tokens(2, 6), window=0),
        ("Mask: window", "at least 1", "found 0"),
    ),
    "window beyond all positions": (
        lambda: Mask.self_attention(_tokens(2, 6), _tokens(2, 6), window=2**31),
        ("Mask: window", "at most 2147483647", "found 2147483648"),
    ),
    "half a window": (
        lambda: _mask(window=2.5),
        ("Mask: window", "an int", "found 2.5"),
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
