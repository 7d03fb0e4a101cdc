"""A hop as fused kernels for Hopper GPUs (H100, H200), in Pallas for Mosaic GPU.

A program's warpgroups divide the work: one brings tiles into shared memory ahead of
time, the others multiply and take exponentials, so that no product waits for memory.
In forward, two of them take turns on the tensor cores, one multiplying while the other
is at its softmax. Which tiles there are and what the results are is as in `triton`,
which does what this cannot: 32-bit inputs, dropout, other widths.

Source: Shah et al. 2024, FlashAttention-3 (arXiv 2407.08608), sections 3.1 and 3.2.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu
from jaxtyping import Array, Float

from ring_rl.attention.dropout import Dropout
from ring_rl.attention.kernels import triton
from ring_rl.attention.kernels.runs import find_runs, walk
from ring_rl.attention.kernels.tuning import Launch, choose_launches, compute_capability
from ring_rl.attention.mask import Mask, earliest_position, sees
from ring_rl.attention.tiles import Blocks, Tiles, pad, pad_mask

# Its types are not for checkers.
plgpu: Any = mosaic_gpu

_LOG2_E = math.log2(math.e)
_WIDTHS = (64, 128)
# Registers of a thread that multiplies, and of one that copies.
_COMPUTE_REGISTERS = {1: 240, 2: 232, 3: 160}
_COPY_REGISTERS = 40
# An argument that `plgpu.load` had.
_NO_INDEX = ((),) if jax.__version_info__ < (0, 11) else ()


def supports(q: Float[Array, "B T N H"], dropout: Dropout | None) -> str | None:
    """None, or what such queries, or this machine, lack."""
    # Its instructions for products are of this kind of GPU alone.
    if compute_capability() != 9.0:
        found = jax.devices()[0].device_kind
        return f"needs a GPU of compute capability 9.0, found {found}"
    if q.dtype not in (jnp.bfloat16, jnp.float16):
        return f"takes bfloat16 and float16, found {q.dtype}"
    if q.shape[3] not in _WIDTHS:
        return f"takes heads of width 64 or 128, found {q.shape[3]}"
    if dropout is not None:
        return "does no dropout"
    return None


class _Rules(NamedTuple):
    """What is fixed when a kernel is compiled.

    Attributes:
      scale: of the scores.
      causal: of the mask.
      shared: G, query heads that share a key head.
      width: H.
      launch: tiles, warpgroups and stages.
      dtype: of the inputs.
    """

    scale: float
    causal: bool
    shared: int
    width: int
    launch: Launch
    dtype: Any

    @property
    def unit(self) -> float:
        """Products of queries and keys to scores in units of log 2."""
        return self.scale * _LOG2_E

    def heads(self, *leading: int):
        """Room for tiles `[*leading, H]` that tensor cores can read."""
        tiles = (plgpu.TilingTransform((8, 64)), plgpu.SwizzleTransform(128))
        return plgpu.SMEM((*leading, self.width), self.dtype, transforms=tiles)


class _Order(NamedTuple):
    """Of queries or keys: `[B tokens]`. `earliest` is the window's start, or None."""

    segments: Any
    positions: Any
    earliest: Any


def _rows(ref, layout_axis: int):
    """Numbers beside the rows (1) or the columns (0) of a matrix of scores."""
    layout = plgpu.Layout.WGMMA.reduce(layout_axis)
    return plgpu.load(ref, *_NO_INDEX, layout=layout, optimized=False)


def _spread(x, shape: tuple[int, int], axis: int):
    return jax.lax.broadcast_in_dim(x, shape, [axis])


def _zeros(*shape: int):
    return plgpu.layout_cast(jnp.full(shape, 0, jnp.float32), plgpu.Layout.WGMMA)


def _product(a, b_ref, shape: tuple[int, int]):
    """The product a b for tiles in shared memory."""

    def multiply(acc):
        plgpu.wgmma(acc, a, b_ref)
        return acc[...]

    return pl.run_scoped(multiply, plgpu.ACC(shape, jnp.float32))


def _run_of(bounds, row, tile):
    """First, first unmasked, end of unmasked, end.

    What is read is of the type of an array that differs by device; in this kind of
    kernel sums are not, and a loop's counter is to be of one type.
    """
    return [bounds[row, tile, i] + jnp.int32(0) for i in range(4)]


def _hide(scores, rows, columns, shape, rules: _Rules, *, keys_first: bool):
    """-inf where the mask hides a key; `rows` and `columns` are `_Order`s of tiles."""
    rows, columns = (
        _Order(*(None if x is None else _spread(x, shape, axis) for x in order))
        for axis, order in enumerate((rows, columns))
    )
    q, k = (columns, rows) if keys_first else (rows, columns)
    seen = sees(
        q.positions, q.segments, k.positions, k.segments,
        causal=rules.causal, earliest=q.earliest,
    )  # fmt: skip
    return jnp.where(seen, scores, -jnp.inf)


def _tile_of(order: _Order, row, start, length: int, layout_axis: int) -> _Order:
    return _Order(
        *(
            None if x is None else _rows(x.at[row, pl.ds(start, length)], layout_axis)
            for x in order
        )
    )


def _slot(step, rules: _Rules):
    return jax.lax.rem(step, jnp.array(rules.launch.stages, step.dtype))


class _Stream(NamedTuple):
    """What is copied together: pairs of a tile and slots of shared memory for it."""

    copies: list[tuple[Any, Any]]
    ready: Any
    free: Any


def _bring(steps, streams, rules: _Rules, before: Any = None):
    """The copying warpgroup: tiles into shared memory, as soon as their slot is free.

    `streams(index)` are copied in each of the steps, which come after others.
    """

    @pl.loop(jnp.int32(0), steps)
    def _(index):
        step = index if before is None else before + index
        slot = _slot(step, rules)
        for copies, ready, free in streams(index):

            @pl.when(step >= rules.launch.stages)
            def _(free=free):
                plgpu.barrier_wait(free.at[slot])

            for tile, slots in copies:
                plgpu.copy_gmem_to_smem(tile, slots.at[slot], ready.at[slot])


def _forward_program(
    bounds, q_ref, k_ref, v_ref, q_order: _Order, k_order: _Order, o_ref, m_ref, l_ref,
    scratch, *, rules: _Rules,
):  # fmt: skip
    """Some tiles of queries of one head, one for each of two warpgroups."""
    row, head, tile = (jax.lax.axis_index(x) for x in ("rows", "heads", "tiles"))
    group = jax.lax.axis_index("group")
    (q_smem, k_smem, v_smem, m_smem, l_smem), barriers = scratch
    q_ready, k_ready, v_ready, k_free, v_free, turn = barriers
    bq, bk = rules.launch.q, rules.launch.k
    run = _run_of(bounds, row, tile)
    steps = run[3] - run[0]
    key_head = head if rules.shared == 1 else jax.lax.div(head, rules.shared)

    def take_turns():
        plgpu.barrier_arrive(turn)
        plgpu.barrier_wait(turn)

    @pl.when(group < 2)
    def _():
        plgpu.set_max_registers(_COMPUTE_REGISTERS[2], action="increase")
        start = (tile * 2 + group) * bq
        q_tile = q_smem.at[group]
        plgpu.copy_gmem_to_smem(
            q_ref.at[row, pl.ds(start, bq), head], q_tile, q_ready.at[group]
        )
        rows = _tile_of(q_order, row, start, bq, 1)
        plgpu.barrier_wait(q_ready.at[group])
        # The second group is half a turn behind the first.
        pl.when(group == 1)(take_turns)

        def visit(index, carry, *, masked: bool):
            o, m, l = carry
            slot = _slot(index - run[0], rules)
            plgpu.barrier_wait(k_ready.at[slot])

            def multiply(acc):
                plgpu.wgmma(acc, q_tile, k_smem.at[slot].transpose((1, 0)))
                take_turns()
                return acc[...]

            scores = pl.run_scoped(multiply, plgpu.ACC((bq, bk), jnp.float32))
            plgpu.barrier_arrive(k_free.at[slot])
            unit = rules.unit
            if unit <= 0:
                # The largest product would not be the largest score.
                scores, unit = scores * unit, 1.0
            if masked:
                columns = _tile_of(k_order, row, index * bk, bk, 0)
                scores = _hide(scores, rows, columns, (bq, bk), rules, keys_first=False)
            m_new = jnp.maximum(m, scores.max(axis=1) * unit)
            # Rows that have seen nothing yet: -inf - (-inf) would be NaN.
            m_safe = jnp.where(m_new == -jnp.inf, 0.0, m_new) if masked else m_new
            keep = jnp.exp2(m - m_safe)
            p = jnp.exp2(scores * unit - _spread(m_safe, (bq, bk), 0))
            o *= _spread(keep, (bq, rules.width), 0)
            weights = p.astype(rules.dtype)
            l = keep * l + p.sum(axis=1)
            # All of this before the tensor cores are asked for.
            o, m_new, l, weights = jax.lax.optimization_barrier((o, m_new, l, weights))
            plgpu.barrier_arrive(turn)
            plgpu.barrier_wait(v_ready.at[slot])
            plgpu.barrier_wait(turn)

            def add(acc):
                plgpu.wgmma(acc, weights, v_smem.at[slot])

            o = pl.run_state(add)(plgpu.ACC.init(o))
            plgpu.barrier_arrive(v_free.at[slot])
            return o, m_new, l

        beside = plgpu.Layout.WGMMA.reduce(1)
        o, m, l = walk(
            run,
            visit,
            (
                _zeros(bq, rules.width),
                plgpu.layout_cast(jnp.full((bq,), -jnp.inf, jnp.float32), beside),
                plgpu.layout_cast(jnp.full((bq,), 0, jnp.float32), beside),
            ),
        )
        pl.when(group == 0)(take_turns)
        here = pl.ds(start, bq)
        o_ref.at[row, here, head][...] = o
        m_smem.at[group][...] = m * (1 / _LOG2_E)
        l_smem.at[group][...] = l
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(m_smem.at[group], m_ref.at[row, head, here])
        plgpu.copy_smem_to_gmem(l_smem.at[group], l_ref.at[row, head, here])
        plgpu.wait_smem_to_gmem(0)

    @pl.when(group == 2)
    def _():
        plgpu.set_max_registers(_COPY_REGISTERS, action="decrease")

        def of_keys(step):
            here = (row, pl.ds((run[0] + step) * bk, bk), key_head)
            keys = _Stream([(k_ref.at[here], k_smem)], k_ready, k_free)
            return keys, _Stream([(v_ref.at[here], v_smem)], v_ready, v_free)

        _bring(steps, of_keys, rules)


def _forward_scratch(rules: _Rules):
    bq, bk, stages, _ = rules.launch
    ready, one = plgpu.Barrier(num_barriers=stages), plgpu.Barrier(num_barriers=2)
    free = plgpu.Barrier(num_arrivals=2, num_barriers=stages)
    return (
        (
            rules.heads(2, bq),
            rules.heads(stages, bk),
            rules.heads(stages, bk),
            plgpu.SMEM((2, bq), jnp.float32),
            plgpu.SMEM((2, bq), jnp.float32),
        ),
        (one, ready, ready, free, free, plgpu.Barrier(num_arrivals=2)),
    )


def _queries_program(
    bounds, q_ref, k_ref, v_ref, g_ref, shift_ref, delta_ref,
    q_order: _Order, k_order: _Order, dq_ref, scratch, *, rules: _Rules,
):  # fmt: skip
    """The dq of a tile of queries of one head for each computing warpgroup."""
    row, head, tile = (jax.lax.axis_index(x) for x in ("rows", "heads", "tiles"))
    group, groups = jax.lax.axis_index("group"), rules.launch.groups
    (q_smem, g_smem, k_smem, v_smem), barriers = scratch
    q_ready, k_ready, v_ready, k_free, v_free = barriers
    bq, bk = rules.launch.q, rules.launch.k
    run = _run_of(bounds, row, tile)
    key_head = head if rules.shared == 1 else jax.lax.div(head, rules.shared)

    @pl.when(group < groups)
    def _():
        plgpu.set_max_registers(_COMPUTE_REGISTERS[groups], action="increase")
        start = (tile * groups + group) * bq
        here = pl.ds(start, bq)
        for ref, smem in ((q_ref, q_smem), (g_ref, g_smem)):
            plgpu.copy_gmem_to_smem(
                ref.at[row, here, head], smem.at[group], q_ready.at[group]
            )
        rows = _tile_of(q_order, row, start, bq, 1)
        shift = _rows(shift_ref.at[row, head, here], 1) * _LOG2_E
        delta = _rows(delta_ref.at[row, head, here], 1)
        plgpu.barrier_wait(q_ready.at[group])

        def visit(index, dq, *, masked: bool):
            slot, shape = _slot(index - run[0], rules), (bq, bk)
            plgpu.barrier_wait(k_ready.at[slot])
            scores = _product(
                q_smem.at[group], k_smem.at[slot].transpose((1, 0)), shape
            )
            if masked:
                columns = _tile_of(k_order, row, index * bk, bk, 0)
                scores = _hide(scores, rows, columns, shape, rules, keys_first=False)
            p = jnp.exp2(scores * rules.unit - _spread(shift, shape, 0))
            plgpu.barrier_wait(v_ready.at[slot])
            dp = _product(g_smem.at[group], v_smem.at[slot].transpose((1, 0)), shape)
            plgpu.barrier_arrive(v_free.at[slot])
            ds = (p * (dp - _spread(delta, shape, 0))).astype(rules.dtype)

            def add(acc):
                plgpu.wgmma(acc, ds, k_smem.at[slot])

            dq = pl.run_state(add)(plgpu.ACC.init(dq))
            plgpu.barrier_arrive(k_free.at[slot])
            return dq

        dq = walk(run, visit, _zeros(bq, rules.width))
        dq_ref.at[row, here, head][...] = dq * rules.scale

    @pl.when(group == groups)
    def _():
        plgpu.set_max_registers(_COPY_REGISTERS, action="decrease")

        def of_keys(step):
            here = (row, pl.ds((run[0] + step) * bk, bk), key_head)
            keys = _Stream([(k_ref.at[here], k_smem)], k_ready, k_free)
            return keys, _Stream([(v_ref.at[here], v_smem)], v_ready, v_free)

        _bring(run[3] - run[0], of_keys, rules)


def _queries_scratch(rules: _Rules):
    bq, bk, stages, groups = rules.launch
    ready = plgpu.Barrier(num_barriers=stages)
    free = plgpu.Barrier(num_arrivals=groups, num_barriers=stages)
    return (
        (
            rules.heads(groups, bq), rules.heads(groups, bq),
            rules.heads(stages, bk), rules.heads(stages, bk),
        ),
        (plgpu.Barrier(num_arrivals=2, num_barriers=groups), ready, ready, free, free),
    )  # fmt: skip


def _keys_program(
    bounds, q_ref, k_ref, v_ref, g_ref, shift_ref, delta_ref,
    q_order: _Order, k_order: _Order, dk_ref, dv_ref, scratch, *, rules: _Rules,
):  # fmt: skip
    """The dk and dv of a tile of keys for each computing warpgroup."""
    row, head, tile = (jax.lax.axis_index(x) for x in ("rows", "heads", "tiles"))
    group, groups = jax.lax.axis_index("group"), rules.launch.groups
    (k_smem, v_smem, q_smem, g_smem, shift_smem, delta_smem), barriers = scratch
    k_ready, q_ready, g_ready, q_free, g_free = barriers
    bq, bk = rules.launch.q, rules.launch.k
    run = _run_of(bounds, row, tile)
    steps = run[3] - run[0]

    @pl.when(group < groups)
    def _():
        plgpu.set_max_registers(_COMPUTE_REGISTERS[groups], action="increase")
        start = (tile * groups + group) * bk
        here = pl.ds(start, bk)
        for ref, smem in ((k_ref, k_smem), (v_ref, v_smem)):
            plgpu.copy_gmem_to_smem(
                ref.at[row, here, head], smem.at[group], k_ready.at[group]
            )
        rows, shape = _tile_of(k_order, row, start, bk, 1), (bk, bq)
        plgpu.barrier_wait(k_ready.at[group])

        def of_head(shared, carry):
            def visit(index, carry, *, masked: bool):
                dk, dv = carry
                slot = _slot(shared * steps + index - run[0], rules)
                plgpu.barrier_wait(q_ready.at[slot])
                scores = _product(
                    k_smem.at[group], q_smem.at[slot].transpose((1, 0)), shape
                )
                if masked:
                    columns = _tile_of(q_order, row, index * bq, bq, 0)
                    scores = _hide(scores, rows, columns, shape, rules, keys_first=True)
                shift = _rows(shift_smem.at[slot], 0) * _LOG2_E
                p = jnp.exp2(scores * rules.unit - _spread(shift, shape, 1))
                weights = p.astype(rules.dtype)
                plgpu.barrier_wait(g_ready.at[slot])

                def multiply(accs):
                    dv, dp = accs
                    plgpu.wgmma(dv, weights, g_smem.at[slot])
                    plgpu.wgmma(dp, v_smem.at[group], g_smem.at[slot].transpose((1, 0)))

                dv, dp = pl.run_state(multiply)(
                    (plgpu.ACC.init(dv), plgpu.ACC.init(_zeros(*shape)))
                )
                delta = _rows(delta_smem.at[slot], 0)
                plgpu.barrier_arrive(g_free.at[slot])
                ds = (p * (dp - _spread(delta, shape, 1))).astype(rules.dtype)

                def add(acc):
                    plgpu.wgmma(acc, ds, q_smem.at[slot])

                dk = pl.run_state(add)(plgpu.ACC.init(dk))
                plgpu.barrier_arrive(q_free.at[slot])
                return dk, dv

            return walk(run, visit, carry)

        carry = _zeros(bk, rules.width), _zeros(bk, rules.width)
        if rules.shared == 1:
            dk, dv = of_head(0, carry)
        else:
            dk, dv = jax.lax.fori_loop(0, rules.shared, of_head, carry)
        dk_ref.at[row, here, head][...] = dk * rules.scale
        dv_ref.at[row, here, head][...] = dv

    @pl.when(group == groups)
    def _():
        plgpu.set_max_registers(_COPY_REGISTERS, action="decrease")

        def of_head(shared):
            q_head = head * rules.shared + shared

            def of_queries(index):
                here = pl.ds((run[0] + index) * bq, bq)
                return (
                    _Stream(
                        [
                            (q_ref.at[row, here, q_head], q_smem),
                            (shift_ref.at[row, q_head, here], shift_smem),
                        ],
                        q_ready,
                        q_free,
                    ),
                    _Stream(
                        [
                            (g_ref.at[row, here, q_head], g_smem),
                            (delta_ref.at[row, q_head, here], delta_smem),
                        ],
                        g_ready,
                        g_free,
                    ),
                )

            _bring(steps, of_queries, rules, before=shared * steps)

        if rules.shared == 1:
            of_head(jnp.int32(0))
        else:
            pl.loop(jnp.int32(0), jnp.int32(rules.shared))(of_head)


def _keys_scratch(rules: _Rules):
    bq, bk, stages, groups = rules.launch
    ready = plgpu.Barrier(num_arrivals=2, num_barriers=stages)
    free = plgpu.Barrier(num_arrivals=groups, num_barriers=stages)
    numbers = plgpu.SMEM((stages, bq), jnp.float32)
    return (
        (
            rules.heads(groups, bk), rules.heads(groups, bk),
            rules.heads(stages, bq), rules.heads(stages, bq), numbers, numbers,
        ),
        (plgpu.Barrier(num_arrivals=2, num_barriers=groups), ready, ready, free, free),
    )  # fmt: skip


def _run(
    program, scratch, launch: Launch, arrays, extras, mask: Mask, shapes, scale, of_keys
):
    """A program for each tile, head and row; all lengths are whole tiles."""
    q, k, _ = arrays
    tiles = _tiles(launch, of_keys=of_keys)
    runs = find_runs(mask, tiles.q, tiles.k)
    bounds = runs.of_keys if of_keys else runs.of_queries
    rules = _Rules(
        scale,
        mask.causal,
        q.shape[2] // k.shape[2],
        q.shape[3],
        launch,
        q.dtype,
    )
    q_order = [mask.q_segments, mask.q_positions]
    if mask.window is not None:
        q_order.append(earliest_position(mask.q_positions, mask.window))
    operands = (
        bounds, *arrays, *extras, *q_order, mask.k_segments, mask.k_positions
    )  # fmt: skip
    varying = triton.varying_over(*operands)
    count = len(q_order)

    def body(bounds, *refs):
        inputs, refs = refs[: 3 + len(extras)], refs[3 + len(extras) :]
        of_q = _Order(refs[0], refs[1], refs[2] if count == 3 else None)
        of_k = _Order(refs[count], refs[count + 1], None)
        *outputs, scratch = refs[count + 2 :]
        program(bounds, *inputs, of_q, of_k, *outputs, scratch, rules=rules)

    def entry(*refs):
        pl.run_scoped(
            lambda *scratch: body(*refs, scratch),
            *scratch(rules),
            collective_axes="group",
        )

    kernel = plgpu.kernel(
        entry,
        out_type=[jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes],
        grid=(k.shape[2] if of_keys else q.shape[2], bounds.shape[1], q.shape[0]),
        grid_names=("heads", "tiles", "rows"),
        num_threads=launch.groups + 1,
        thread_name="group",
        compiler_params=plgpu.CompilerParams(
            approx_math=True, lowering_semantics=plgpu.LoweringSemantics.Lane
        ),
        kernel_name=program.__name__.strip("_"),
    )
    # Its results have lost that they differ by device.
    return [
        jax.lax.pcast(x, tuple(varying), to="varying") if varying else x
        for x in kernel(*operands)
    ]


def _padded(arrays, mask: Mask, tiles: Tiles):
    """Queries' arrays, keys' arrays and the mask with whole tiles."""
    queries, keys = arrays
    mask = pad_mask(mask, tiles)
    T, S = mask.q_positions.shape[1], mask.k_positions.shape[1]
    return [pad(x, T, 1) for x in queries], [pad(x, S, 1) for x in keys], mask


def _tiles(launch: Launch, *, of_keys: bool) -> Tiles:
    """Queries and keys of a program: each of its groups has a tile of one side."""
    q, k, _, groups = launch
    return Tiles(q, k * groups) if of_keys else Tiles(q * groups, k)


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
    """Sum of weighted values, largest score and sum of weights, in f32."""
    del dropout, blocks
    (B, T, N, _) = q.shape
    launch = choose_launches("hopper", q).forward
    (q,), (k, v), mask = _padded(([q], [k, v]), mask, _tiles(launch, of_keys=False))
    of_rows = (B, N, q.shape[1])
    o, m, l = _run(
        _forward_program, _forward_scratch, launch, (q, k, v), (), mask,
        (q.shape, of_rows, of_rows), scale, of_keys=False,
    )  # fmt: skip
    return o[:, :T], m.mT[:, :T], l.mT[:, :T]


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
    del dropout, blocks
    T, S, launches = q.shape[1], k.shape[1], choose_launches("hopper", q)
    programs = (
        _tiles(launches.queries, of_keys=False), _tiles(launches.keys, of_keys=True)
    )  # fmt: skip
    tiles = Tiles(*(math.lcm(*lengths) for lengths in zip(*programs, strict=True)))
    (q, g, shift, delta), (k, v), mask = _padded(
        ([q, g, shift, delta], [k, v]), mask, tiles
    )
    arrays, extras = (q, k, v), (g, shift.mT, delta.mT)
    (dq,) = _run(
        _queries_program, _queries_scratch, launches.queries, arrays, extras, mask,
        [q.shape], scale, of_keys=False,
    )  # fmt: skip
    dk, dv = _run(
        _keys_program, _keys_scratch, launches.keys, arrays, extras, mask,
        [k.shape, v.shape], scale, of_keys=True,
    )  # fmt: skip
    return dq[:, :T], dk[:, :S], dv[:, :S]
