"""Attention of a few new tokens to a long cache, as a fused kernel for GPUs.

What costs time is reading the cache, once. So its places are split over programs, as
many as fill the device, and what they find is merged by largest score and sum of
weights. Places outside the run that a row's tokens see are not read: time goes with
what is in the cache and not with its capacity.

Source: Dao et al. 2023, Flash-Decoding for long-context inference.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Float

from ring_rl.attention.kernels.triton import varying_over
from ring_rl.attention.kernels.tuning import (
    LEAST_CAPABILITY,
    DecodeLaunch,
    choose_decode_launch,
    compute_capability,
)
from ring_rl.attention.mask import Mask, earliest_position, sees, visible


class _Rules(NamedTuple):
    """What is fixed when the kernel is compiled.

    Attributes:
      scale: of the scores.
      causal: of the mask.
      window: of the mask.
      width: H.
      places: S.
      launch: tile lengths, splits, and how the kernel is compiled.
      precision: of products.
    """

    scale: float
    causal: bool
    window: int | None
    width: int
    places: int
    launch: DecodeLaunch
    precision: Any


def supports(
    q: Float[Array, "B T N H"], k: Float[Array, "B S K H"], v: Float[Array, "B S K H"]
) -> bool:
    """Whether there is a kernel for a cache of such numbers.

    It is asked where a GPU's program is made on another machine, too.
    """
    return (
        not 0 < compute_capability() < LEAST_CAPABILITY
        and q.dtype == k.dtype == v.dtype
        and q.dtype in (jnp.float32, jnp.bfloat16, jnp.float16)
        and q.shape[3] <= 128
    )


def _program(
    bounds, q_ref, k_ref, v_ref, q_positions, q_segments, k_positions, k_segments,
    o_ref, m_ref, l_ref, *, rules: _Rules,
):  # fmt: skip
    """One split of a row's places against some of the queries of one key head."""
    split, row = pl.program_id(0), pl.program_id(2)
    rows, length = rules.launch.queries, rules.launch.places
    tiles = pl.cdiv(q_ref.shape[2], rows)
    head, tile = pl.program_id(1) // tiles, pl.program_id(1) % tiles
    padded = pl.next_power_of_2(rules.width)
    of_head = pl.ds(0, padded)
    wide = (jnp.arange(padded) < rules.width)[None, :]
    here = pl.ds(tile * rows, rows)
    # Rows that only fill up the tile are neither read nor written.
    there = tile * rows + jnp.arange(rows) < q_ref.shape[2]
    filled = there[:, None] & wide
    q = plgpu.load(q_ref.at[row, head, here, of_head], mask=filled, other=0.0)
    at_position, of_segment = (
        plgpu.load(x.at[row, here], mask=there, other=-1)[:, None]
        for x in (q_positions, q_segments)
    )
    window = rules.window
    earliest = None if window is None else earliest_position(at_position, window)
    first, end = bounds[row, 0], bounds[row, 1]
    # Tiles of this split.
    each = pl.cdiv(end - first, rules.launch.splits)
    start = first + split * each
    stop = jnp.minimum(start + each, end)

    def visit(index, carry):
        o, m, l = carry
        at = pl.ds(index * length, length)
        inside = index * length + jnp.arange(length) < rules.places
        shown = inside[:, None] & wide
        k, v = (
            plgpu.load(x.at[row, head, at, of_head], mask=shown, other=0.0)
            for x in (k_ref, v_ref)
        )
        positions = plgpu.load(k_positions.at[row, at], mask=inside, other=0)
        segments = plgpu.load(k_segments.at[row, at], mask=inside, other=-1)
        scores = rules.scale * _product(q, k.T, rules)
        seen = sees(
            at_position, of_segment, positions[None, :], segments[None, :],
            causal=rules.causal, earliest=earliest,
        )  # fmt: skip
        scores = jnp.where(seen, scores, -jnp.inf)
        m_new = jnp.maximum(m, scores.max(axis=1))
        # Rows that have seen nothing yet: -inf - (-inf) would be NaN.
        m_safe = jnp.where(m_new == -jnp.inf, 0.0, m_new)
        p = jnp.exp(scores - m_safe[:, None])
        keep = jnp.exp(m - m_safe)
        l = keep * l + p.sum(axis=1)
        o = keep[:, None] * o + _product(p.astype(v.dtype), v, rules)
        return o, m_new, l

    o, m, l = jax.lax.fori_loop(
        start,
        stop,
        visit,
        (
            jnp.zeros((rows, padded), jnp.float32),
            jnp.full((rows,), -jnp.inf, jnp.float32),
            jnp.zeros((rows,), jnp.float32),
        ),
    )
    plgpu.store(o_ref.at[split, row, head, here, of_head], o, mask=filled)
    plgpu.store(m_ref.at[split, row, head, here], m, mask=there)
    plgpu.store(l_ref.at[split, row, head, here], l, mask=there)


def _product(a, b, rules: _Rules):
    return jnp.dot(
        a, b, precision=rules.precision, preferred_element_type=jnp.float32
    )  # fmt: skip


def decode_sums(
    q: Float[Array, "B K M H"],
    k: Float[Array, "B K S H"],
    v: Float[Array, "B K S H"],
    mask: Mask,
    *,
    scale: float,
    interpret: bool = False,
) -> tuple[Float[Array, "B K M H"], Float[Array, "B K M"], Float[Array, "B K M"]]:
    """Sums o of exp(score - m) times value, m, l of exp(score - m), in f32.

    The M queries of a key head are T tokens of each of the G query heads that share it,
    head by head; `mask` has the T tokens. m is -inf where nothing is seen.
    """
    B, K, M, H = q.shape
    S, shared = k.shape[2], M // mask.q_positions.shape[1]
    launch = choose_decode_launch(q, S)
    exact = q.dtype == jnp.float32
    rules = _Rules(
        scale, mask.causal, mask.window, H, S, launch,
        jax.lax.Precision.HIGHEST if exact else None,
    )  # fmt: skip
    of_queries = [jnp.tile(x, (1, shared)) for x in (mask.q_positions, mask.q_segments)]
    operands = (
        _bounds(mask, launch.places), q, k, v, *of_queries,
        mask.k_positions, mask.k_segments,
    )  # fmt: skip
    types = jax.sharding.ManualAxisType(varying=varying_over(*operands))
    rows = (launch.splits, B, K, M)
    o, m, l = pl.pallas_call(
        functools.partial(_program, rules=rules),
        out_shape=[
            jax.ShapeDtypeStruct(shape, jnp.float32, manual_axis_type=types)
            for shape in ((*rows, H), rows, rows)
        ],
        grid=(launch.splits, K * pl.cdiv(M, launch.queries), B),
        compiler_params=plgpu.CompilerParams(
            num_warps=launch.warps, num_stages=launch.stages
        ),
        interpret=interpret,
        name="decode",
    )(*operands)
    largest = m.max(axis=0)
    factor = jnp.exp(m - jnp.where(jnp.isneginf(largest), 0.0, largest)[None])
    return (factor[..., None] * o).sum(axis=0), largest, (factor * l).sum(axis=0)


def _bounds(mask: Mask, length: int):
    """`[B 2]`: the first tile of places of which any is seen, and the end of such."""
    seen = visible(
        mask.q_positions, mask.q_segments, mask.k_positions, mask.k_segments,
        causal=mask.causal, window=mask.window,
    ).any(axis=1)  # fmt: skip
    places = jnp.arange(mask.k_positions.shape[1], dtype=jnp.int32)
    end = jnp.where(seen, places + 1, 0).max(axis=1)
    first = jnp.minimum(jnp.where(seen, places, places.size).min(axis=1), end)
    return jnp.stack([first // length, pl.cdiv(end, length)], axis=1)
