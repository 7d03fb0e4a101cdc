"""Attention of random masks in random shapes, and what does not change its result."""

from typing import NamedTuple

import hypothesis
import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, PartitionSpec

from ring_rl.attention import Mask, attention
from ring_rl.attention.dropout import row_keys

from .results import DROPOUT_SEED, Results, compute, draw_inputs, oracle, with_tokens
from .rounding import assert_close

INT32 = np.iinfo(np.int32)


class Shape(NamedTuple):
    """What is compiled: sizes, tiles, rules, the rate of dropout and devices."""

    B: int
    T: int
    S: int
    N: int
    K: int
    H: int
    tiles: tuple[int | None, int | None]
    causal: bool
    window: int | None
    dropout: float
    devices: int = 0


SHAPES = [
    Shape(3, 23, 38, 4, 2, 6, (5, 7), True, None, 0.0),
    Shape(1, 40, 9, 3, 1, 16, (None, 4), True, 3, 0.2),
    Shape(2, 1, 31, 2, 2, 4, (8, None), False, None, 0.0),
    Shape(2, 17, 1, 6, 3, 2, (3, 1), False, 9, 0.5),
    Shape(2, 30, 30, 4, 4, 8, (16, 8), True, INT32.max, 0.0),
]
RINGS = [
    Shape(2, 26, 19, 4, 1, 8, (4, 3), True, 6, 0.0, 3),
    Shape(1, 21, 33, 2, 2, 4, (None, 2), True, None, 0.3, 4),
]


@st.composite
def _tokens(draw, B: int, length: int):
    """Positions in no order and segments, some of which are padding."""
    near = st.integers(-5, 20)
    limits = st.integers(0, 9).flatmap(
        lambda apart: st.sampled_from((INT32.min + apart, INT32.max - apart))
    )
    position = draw(st.sampled_from((near, near, st.one_of(near, limits))))
    segment = draw(
        st.sampled_from((st.just(0), st.integers(-1, 1), st.integers(-9, 4)))
    )
    return (
        draw(arrays.arrays(np.int32, (B, length), elements=position)),
        draw(arrays.arrays(np.int32, (B, length), elements=segment)),
    )


class Problem(NamedTuple):
    """What hypothesis draws, and shows where it fails."""

    shape: Shape
    queries: tuple[np.ndarray, np.ndarray]
    keys: tuple[np.ndarray, np.ndarray]
    seed: int


@st.composite
def _problems(draw, shapes):
    shape = draw(st.sampled_from(shapes))
    queries = draw(_tokens(shape.B, shape.T))
    keys = draw(_tokens(shape.B, shape.S))
    return Problem(shape, queries, keys, draw(st.integers(0, 2**32 - 1)))


def _posed(problem: Problem):
    shape, (q_positions, q_segments), (k_positions, k_segments), seed = problem
    mask = Mask(
        q_positions, k_positions, q_segments, k_segments,
        causal=shape.causal, window=shape.window,
    )  # fmt: skip
    return draw_inputs(*shape[:6], seed=seed), with_tokens(mask)


def _results(inputs, mask, shape: Shape) -> Results:
    block_q, block_k = shape.tiles
    return compute(
        inputs, mask, "ring" if shape.devices else "blockwise", devices=shape.devices,
        block_q=block_q, block_k=block_k, dropout_rate=shape.dropout,
    )  # fmt: skip


def _check(problem: Problem):
    inputs, mask = _posed(problem)
    found = _results(inputs, mask, problem.shape)
    exact = oracle(inputs, mask, dropout_rate=problem.shape.dropout)
    assert_close(found, exact, least=1)


@hypothesis.settings(deadline=None, max_examples=25, derandomize=True)
@hypothesis.given(_problems(SHAPES))
def test_any_mask_is_exact(problem):
    _check(problem)


@pytest.mark.slow
@hypothesis.settings(deadline=None, max_examples=200, derandomize=True)
@hypothesis.given(_problems(SHAPES + RINGS))
def test_any_mask_is_exact_with_and_without_a_ring(problem):
    _check(problem)


@hypothesis.settings(deadline=None, max_examples=10, derandomize=True)
@hypothesis.given(_problems(RINGS), st.integers(0, 2**32 - 1))
def test_devices_tiles_and_the_order_of_tokens_do_not_change_the_result(problem, seed):
    """Any order, of which layouts are three."""
    inputs, mask = _posed(problem)
    shape, random = problem.shape, np.random.default_rng(seed)
    queries, keys = random.permutation(shape.T), random.permutation(shape.S)
    found = _results(*_reordered(inputs, mask, queries, keys), shape)
    found = Results(
        *(
            x[:, np.argsort(order)]
            for x, order in zip(found, (queries, queries, keys, keys), strict=True)
        )
    )
    other = shape._replace(devices=0, tiles=(None, None))
    assert_close(found, _results(inputs, mask, other), least=1)


def _reordered(inputs, mask, queries, keys):
    q, k, v, g = inputs
    leaves, static = mask.tree_flatten()
    orders = (queries, keys) * 3
    leaves = (x[:, order] for x, order in zip(leaves, orders, strict=True))
    return (
        type(inputs)(q[:, queries], k[:, keys], v[:, keys], g[:, queries]),
        Mask.tree_unflatten(static, tuple(leaves)),
    )


# Rows, tokens and heads, each over two devices.
_ROWS, _TOKENS, _HEADS = "data", "sequence", "tensor"


@pytest.mark.parametrize(
    ("implementation", "causal", "dropout_rate"),
    [("ring", True, 0.2), ("blockwise", False, 0.0)],
)
def test_heads_may_be_on_devices_of_their_own(implementation, causal, dropout_rate):
    """The mask is the same for all of them: its type inside `shard_map` differs.

    `blockwise` has rows and heads on devices, and whole sequences.
    """
    devices = np.array(jax.devices()[:8]).reshape(2, 2, 2)
    mesh = Mesh(devices, (_ROWS, _TOKENS, _HEADS), axis_types=(AxisType.Auto,) * 3)
    inputs = draw_inputs(4, 22, 26, 8, 4, 8)
    random = np.random.default_rng(0)
    mask = with_tokens(
        Mask(
            *(random.integers(0, 26, (4, n), np.int32) for n in (22, 26)),
            *(random.integers(-1, 2, (4, n), np.int32) for n in (22, 26)),
            causal=causal,
        )
    )
    keys = row_keys(jax.random.key(DROPOUT_SEED), 4, 8)
    axis_name = _TOKENS if implementation == "ring" else None
    of_heads = PartitionSpec(_ROWS, axis_name, _HEADS)
    of_tokens = PartitionSpec(_ROWS, axis_name)

    def attend(q, k, v, mask, keys):
        return attention(
            q, k, v, mask, implementation=implementation, axis_name=axis_name,
            block_q=4, block_k=3, dropout_rate=dropout_rate,
            dropout_key=keys if dropout_rate else None,
        )  # fmt: skip

    sharded = jax.shard_map(
        attend, mesh=mesh, out_specs=of_heads,
        in_specs=(*[of_heads] * 3, of_tokens, PartitionSpec(_ROWS, _HEADS)),
    )  # fmt: skip

    @jax.jit
    def run(inputs, mask, keys):
        output, pull_back = jax.vjp(
            lambda q, k, v: sharded(q, k, v, mask, keys), *inputs[:3]
        )
        return Results(output, *pull_back(inputs.g))

    with jax.default_matmul_precision("highest"):
        found = run(inputs, mask, keys)
    exact = oracle(inputs, mask, dropout_rate=dropout_rate)
    assert_close(jax.tree.map(np.asarray, found), exact)
