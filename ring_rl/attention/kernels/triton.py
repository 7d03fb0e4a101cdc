"""A hop as fused kernels for GPUs, in Pallas for Triton: any mask, type and length.

Forward goes from one tile of queries to the next and through each one's run of tiles of
keys. Backward makes two passes, of queries for dq and of keys for dk and dv: seven
products a pair of tiles and not five, but no two programs add to the same numbers, so
that results are the same to the last bit from run to run. Sums are f32; products take
their operands in the inputs' own type.

Lengths and widths need not be multiples of anything: the arrays of the mask are padded,
queries, keys and values are read as they lie.

Source: Dao 2023, FlashAttention-2 (arXiv 2307.08691).
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Float

from ring_rl.attention.dropout import Dropout, hash_keys, hash_queries, pair_factor
from ring_rl.attention.kernels.runs import find_runs, walk
from ring_rl.attention.kernels.tuning import (
    Launch,
    choose_launches,
    cut_for_triton,
)
from ring_rl.attention.mask import Mask, earliest_position, sees
from ring_rl.attention.tiles import Blocks, Tiles, pad_mask

_LOG2_E = math.log2(math.e)


class _Rules(NamedTuple):
    """What is fixed when a kernel is compiled.

    Attributes:
      scale: of the scores.
      causal: of the mask.
      window: of the mask.
      rate: of dropout.
      shared: G, query heads that share a key head.
      width: H.
      queries: T.
      keys: S.
      launch: tile lengths, and how the kernel is compiled.
      exact: whether the inputs are f32. Exponentials are then of base e, since scores
        in units of log 2 would be rounded once more, products are not of TF32, and
        scores are the same to the last bit in all passes.
    """

    scale: float
    causal: bool
    window: int | None
    rate: float
    shared: int
    width: int
    queries: int
    keys: int
    launch: Launch
    exact: bool

    def product(self, a, b, *, of_rows: bool = False):
        """The product a b, or with `of_rows` a bᵀ."""
        contract = ((1,), (1 if of_rows else 0,))
        precision = jax.lax.Precision.HIGHEST if self.exact else None
        return jax.lax.dot_general(
            a, b, (contract, ((), ())), precision=precision,
            preferred_element_type=jnp.float32,
        )  # fmt: skip

    @property
    def unit(self) -> float:
        """Scores, largest scores and log-sum-exps are multiplied by it in a kernel."""
        return 1.0 if self.exact else _LOG2_E

    def exp(self, x):
        """Of numbers in that unit."""
        return jnp.exp(x) if self.exact else jnp.exp2(x)


class _Side(NamedTuple):
    """References of queries, or of keys, of all rows: what the mask needs of them."""

    positions: Any
    segments: Any
    hashes: Any


def _tile(ref, row, start, length: int, head, limit: int, rules: _Rules, edge: bool):
    """`[length, H]` of `[B tokens heads H]`, the width padded to a power of two.

    `edge` says that tokens may lie behind the end, at `limit`: zeros.
    """
    padded = pl.next_power_of_2(rules.width)
    view = ref.at[row, pl.ds(start, length), head, pl.ds(0, padded)]
    inside = None
    if padded != rules.width:
        inside = (jnp.arange(padded) < rules.width)[None, :]
    if edge and limit % length:
        tokens = (start + jnp.arange(length) < limit)[:, None]
        inside = tokens if inside is None else tokens & inside
    if inside is None:
        return plgpu.load(view)
    return plgpu.load(view, mask=inside, other=0.0)


def _put(ref, row, start, length: int, head, limit: int, rules: _Rules, tile):
    """Writes what `_tile` reads."""
    padded = pl.next_power_of_2(rules.width)
    view = ref.at[row, pl.ds(start, length), head, pl.ds(0, padded)]
    inside = (start + jnp.arange(length) < limit)[:, None]
    inside &= (jnp.arange(padded) < rules.width)[None, :]
    plgpu.store(view, tile.astype(ref.dtype), mask=inside)


def _numbers(ref, row, start, length: int, head, limit: int):
    """`[length]` of `[B heads tokens]`; zeros behind the end."""
    view = ref.at[row, head, pl.ds(start, length)]
    return plgpu.load(view, mask=start + jnp.arange(length) < limit, other=0.0)


def _seen(queries: _Side, keys: _Side, row, q_start, k_start, rules: _Rules):
    """`[queries, keys]`; the arrays of the mask are padded, no read is behind them."""
    q, k = rules.launch.q, rules.launch.k
    positions, segments = (x[row, pl.ds(q_start, q)][:, None] for x in queries[:2])
    of_k = (x[row, pl.ds(k_start, k)][None, :] for x in keys[:2])
    window = rules.window
    earliest = None if window is None else earliest_position(positions, window)
    return sees(positions, segments, *of_k, causal=rules.causal, earliest=earliest)


def _factor(queries: _Side, keys: _Side, row, head, q_start, k_start, rules: _Rules):
    """`[queries, keys]`, of dropout."""
    q_hashes = queries.hashes[row, head, pl.ds(q_start, rules.launch.q)]
    k_hashes = keys.hashes[row, head, pl.ds(k_start, rules.launch.k)]
    return pair_factor(rules.rate, q_hashes, k_hashes, jnp.float32)


def _run_of(bounds, row, tile):
    return [bounds[row, tile, i] for i in range(4)]


def _forward_program(
    bounds, q_ref, k_ref, v_ref, *refs: Any, rules: _Rules, row, head, tile
):
    """One tile of queries of one head."""
    queries, keys, (o_ref, m_ref, l_ref) = _split(refs, rules)
    bq, bk = rules.launch.q, rules.launch.k
    start, key_head = tile * bq, head // rules.shared
    q = _tile(q_ref, row, start, bq, head, rules.queries, rules, edge=True)

    def visit(index, carry, *, masked: bool):
        o, m, l = carry
        at = index * bk
        k, v = (
            _tile(x, row, at, bk, key_head, rules.keys, rules, edge=masked)
            for x in (k_ref, v_ref)
        )
        scores = rules.product(q, k, of_rows=True)
        if rules.scale * rules.unit != 1:
            scores = scores * (rules.scale * rules.unit)
        if masked:
            seen = _seen(queries, keys, row, start, at, rules)
            scores = jnp.where(seen, scores, -jnp.inf)
        m_new = jnp.maximum(m, scores.max(axis=1))
        # Rows that have seen nothing yet: -inf - (-inf) would be NaN.
        m_safe = jnp.where(m_new == -jnp.inf, 0.0, m_new) if masked else m_new
        p = rules.exp(scores - m_safe[:, None])
        keep = rules.exp(m - m_safe)
        l = keep * l + p.sum(axis=1)
        if rules.rate:
            p = p * _factor(queries, keys, row, head, start, at, rules)
        o = keep[:, None] * o + rules.product(p.astype(v.dtype), v)
        return o, m_new, l

    o = jnp.zeros((bq, pl.next_power_of_2(rules.width)), jnp.float32)
    m = jnp.full((bq,), -jnp.inf, jnp.float32)
    l = jnp.zeros((bq,), jnp.float32)
    o, m, l = walk(_run_of(bounds, row, tile), visit, (o, m, l))
    _put(o_ref, row, start, bq, head, rules.queries, rules, o)
    inside = start + jnp.arange(bq) < rules.queries
    plgpu.store(m_ref.at[row, head, pl.ds(start, bq)], m / rules.unit, mask=inside)
    plgpu.store(l_ref.at[row, head, pl.ds(start, bq)], l, mask=inside)


def _queries_program(
    bounds, q_ref, k_ref, v_ref, g_ref, shift_ref, delta_ref, *refs: Any,
    rules: _Rules, row, head, tile,
):  # fmt: skip
    """The dq of one tile of queries of one head."""
    queries, keys, (dq_ref,) = _split(refs, rules)
    bq, bk = rules.launch.q, rules.launch.k
    start, key_head = tile * bq, head // rules.shared
    q, g = (
        _tile(x, row, start, bq, head, rules.queries, rules, edge=True)
        for x in (q_ref, g_ref)
    )
    shift, delta = (
        _numbers(x, row, start, bq, head, rules.queries) for x in (shift_ref, delta_ref)
    )
    shift = shift * rules.unit

    def visit(index, dq, *, masked: bool):
        at = index * bk
        k, v = (
            _tile(x, row, at, bk, key_head, rules.keys, rules, edge=masked)
            for x in (k_ref, v_ref)
        )
        scores = rules.product(q, k, of_rows=True) * (rules.scale * rules.unit)
        p = rules.exp(scores - shift[:, None])
        if masked:
            p = jnp.where(_seen(queries, keys, row, start, at, rules), p, 0.0)
        dp = rules.product(g, v, of_rows=True)
        if rules.rate:
            dp = dp * _factor(queries, keys, row, head, start, at, rules)
        ds = p * (dp - delta[:, None])
        return dq + rules.product(ds.astype(k.dtype), k)

    dq = jnp.zeros((bq, pl.next_power_of_2(rules.width)), jnp.float32)
    dq = walk(_run_of(bounds, row, tile), visit, dq)
    _put(dq_ref, row, start, bq, head, rules.queries, rules, dq * rules.scale)


def _keys_program(
    bounds, q_ref, k_ref, v_ref, g_ref, shift_ref, delta_ref, *refs: Any,
    rules: _Rules, row, head, tile,
):  # fmt: skip
    """The dk and dv of one tile of keys of one key head: scores are held keys first."""
    queries, keys, (dk_ref, dv_ref) = _split(refs, rules)
    bq, bk = rules.launch.q, rules.launch.k
    start = tile * bk
    k, v = (
        _tile(x, row, start, bk, head, rules.keys, rules, edge=True)
        for x in (k_ref, v_ref)
    )

    def of_head(shared, carry):
        q_head = head * rules.shared + shared

        def visit(index, carry, *, masked: bool):
            dk, dv = carry
            at = index * bq
            q, g = (
                _tile(x, row, at, bq, q_head, rules.queries, rules, edge=masked)
                for x in (q_ref, g_ref)
            )
            shift, delta = (
                _numbers(x, row, at, bq, q_head, rules.queries)
                for x in (shift_ref, delta_ref)
            )
            if rules.exact:
                scores = rules.product(q, k, of_rows=True).T
            else:
                scores = rules.product(k, q, of_rows=True)
            scores = scores * (rules.scale * rules.unit)
            p = rules.exp(scores - (shift * rules.unit)[None, :])
            if masked:
                p = jnp.where(_seen(queries, keys, row, at, start, rules).T, p, 0.0)
            dp, dropped = rules.product(v, g, of_rows=True), p
            if rules.rate:
                factor = _factor(queries, keys, row, q_head, at, start, rules).T
                dp, dropped = dp * factor, p * factor
            dv = dv + rules.product(dropped.astype(g.dtype), g)
            ds = p * (dp - delta[None, :])
            return dk + rules.product(ds.astype(q.dtype), q), dv

        return walk(_run_of(bounds, row, tile), visit, carry)

    zeros = jnp.zeros((bk, pl.next_power_of_2(rules.width)), jnp.float32)
    if rules.shared == 1:
        dk, dv = of_head(0, (zeros, zeros))
    else:
        dk, dv = jax.lax.fori_loop(0, rules.shared, of_head, (zeros, zeros))
    _put(dk_ref, row, start, bk, head, rules.keys, rules, dk * rules.scale)
    _put(dv_ref, row, start, bk, head, rules.keys, rules, dv)


def _split(refs, rules: _Rules) -> tuple[_Side, _Side, tuple[Any, ...]]:
    """References of the mask's arrays, and those of the results."""
    count = 3 if rules.rate else 2
    sides = (refs[:count], refs[count : 2 * count])
    of_q, of_k = (_Side(x[0], x[1], x[2] if rules.rate else None) for x in sides)
    return of_q, of_k, refs[2 * count :]


def varying_over(*arrays: Array) -> frozenset:
    """Inside `jax.shard_map`: the axes of the mesh over which any of them differs."""
    return frozenset().union(*(jax.typeof(x).manual_axis_type.varying for x in arrays))


class _Call(NamedTuple):
    """A hop's inputs as its kernels take them.

    Attributes:
      arrays: q, k, v.
      mask: padded to whole tiles of all kernels.
      sides: what the mask, and dropout, need of queries and then of keys.
      rules: those of all kernels, with the tiles of forward.
      interpret: whether kernels are run by JAX, on any device.
    """

    arrays: tuple[Array, Array, Array]
    mask: Mask
    sides: tuple[Array, ...]
    rules: _Rules
    interpret: bool

    def run(self, program, launch: Launch, extras, shapes, *, of_keys: bool = False):
        """A program for each tile, head and row; `shapes` are those of the results."""
        rules = self.rules._replace(launch=launch)
        found = find_runs(self.mask, launch.q, launch.k)
        bounds = found.of_keys if of_keys else found.of_queries
        tiles = bounds.shape[1]
        heads = self.arrays[1 if of_keys else 0].shape[2]
        operands = (bounds, *self.arrays, *extras, *self.sides)
        types = jax.sharding.ManualAxisType(varying=varying_over(*operands))

        def kernel(*refs):
            # The longest runs first, where time goes on: a last one would be alone.
            tile = pl.program_id(0)
            tile = tile if of_keys else tiles - 1 - tile
            program(
                *refs, rules=rules,
                head=pl.program_id(1), row=pl.program_id(2), tile=tile,
            )  # fmt: skip

        # What profiles and compilers call it.
        kernel.__name__ = name = program.__name__.strip("_")
        return pl.pallas_call(
            kernel,
            out_shape=[
                jax.ShapeDtypeStruct(shape, jnp.float32, manual_axis_type=types)
                for shape in shapes
            ],
            grid=(tiles, heads, self.mask.q_positions.shape[0]),
            compiler_params=plgpu.CompilerParams(
                num_warps=launch.groups, num_stages=launch.stages
            ),
            interpret=self.interpret,
            name=name,
        )(*operands)


def _prepare(q, k, v, mask: Mask, dropout, scale, launches, interpret) -> _Call:
    T, S = q.shape[1], k.shape[1]
    q_lengths, k_lengths = {x.q for x in launches}, {x.k for x in launches}
    mask = pad_mask(mask, Tiles(math.lcm(*q_lengths), math.lcm(*k_lengths)))
    sides = [(mask.q_positions, mask.q_segments), (mask.k_positions, mask.k_segments)]
    if dropout is not None:
        hashes = (
            hash_queries(dropout, mask.q_tokens), hash_keys(dropout, mask.k_tokens)
        )  # fmt: skip
        sides = [(*side, x) for side, x in zip(sides, hashes, strict=True)]
    rules = _Rules(
        scale, mask.causal, mask.window, 0.0 if dropout is None else dropout.rate,
        q.shape[2] // k.shape[2], q.shape[3], T, S, launches[0],
        exact=q.dtype == jnp.float32,
    )  # fmt: skip
    return _Call((q, k, v), mask, (*sides[0], *sides[1]), rules, interpret)


def _by_platform(function):
    """The function with its keyword `interpret`: True but on a GPU."""

    def run(*arguments):
        return jax.lax.platform_dependent(
            *arguments,
            cuda=functools.partial(function, interpret=False),
            default=functools.partial(function, interpret=True),
        )

    return run


def supports(q: Float[Array, "B T N H"], dropout: Dropout | None) -> str | None:
    """None, or what such queries lack. Of other widths a power of two is made."""
    del dropout
    if q.dtype not in (jnp.float32, jnp.bfloat16, jnp.float16):
        return f"takes float32, bfloat16 and float16, found {q.dtype}"
    if q.shape[3] > 128:
        return f"takes heads of a width up to 128, found {q.shape[3]}"
    return None


def forward(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    mask: Mask,
    dropout: Dropout | None = None,
    *,
    scale: float,
    blocks: Blocks,
) -> tuple[Float[Array, "B T N H"], Float[Array, "B T N"], Float[Array, "B T N"]]:
    """Sum of weighted values, largest score and sum of weights, in f32.

    On a device that is no GPU the kernel is run by JAX, slowly, for tests.
    """
    launch = cut_for_triton(choose_launches("triton", q).forward, q, k, blocks)
    (B, T, N, _) = q.shape

    def run(q, k, v, mask, dropout, *, interpret: bool):
        call = _prepare(q, k, v, mask, dropout, scale, [launch], interpret)
        shapes = (q.shape, (B, N, T), (B, N, T))
        o, m, l = call.run(_forward_program, launch, (), shapes)
        return o, m.mT, l.mT

    return _by_platform(run)(q, k, v, mask, dropout)


def backward(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    g: Float[Array, "B T N H"],
    shift: Float[Array, "B T N"],
    delta: Float[Array, "B T N"],
    mask: Mask,
    dropout: Dropout | None = None,
    *,
    scale: float,
    blocks: Blocks,
) -> tuple[Float[Array, "B T N H"], Float[Array, "B S K H"], Float[Array, "B S K H"]]:
    """Gradients dq, dk, dv in f32; what `g`, `shift`, `delta` are, see `HopKernel`."""
    chosen = choose_launches("triton", q)
    of_queries, of_keys = (
        cut_for_triton(x, q, k, blocks) for x in (chosen.queries, chosen.keys)
    )

    def run(q, k, v, g, shift, delta, mask, dropout, *, interpret: bool):
        both = [of_queries, of_keys]
        call = _prepare(q, k, v, mask, dropout, scale, both, interpret)
        extras = (g, shift.mT, delta.mT)
        (dq,) = call.run(_queries_program, of_queries, extras, [q.shape])
        dk, dv = call.run(
            _keys_program, of_keys, extras, [k.shape, v.shape], of_keys=True
        )
        return dq, dk, dv

    return _by_platform(run)(q, k, v, g, shift, delta, mask, dropout)
