"""The kernel for decoding: run by JAX against the oracle, and lowered for CUDA."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from ring_rl.attention import Mask, decode, decode_attention
from ring_rl.attention.kernels.decode import decode_sums
from ring_rl.attention.kernels.tuning import choose_decode_launch
from ring_rl.mesh import MeshConfig, make_mesh

from .lowering import lower_for_gpu
from .results import Inputs, draw_inputs, oracle

# What rounding leaves, relative to the largest entry: bf16 has the weights', the
# output's, and in the values' own type the products are exact.
BOUNDS = {jnp.float32: 2e-6, jnp.bfloat16: 2.0**-7}


@functools.partial(jax.jit, static_argnames="scale")
def _attend(q, k, v, mask, *, scale):
    """The output `[B T N H]` from the kernel's sums."""
    B, T, N, H = q.shape
    K = k.shape[2]
    q = jnp.moveaxis(q.reshape(B, T, K, N // K, H), 1, 3).reshape(B, K, -1, H)
    k, v = jnp.swapaxes(k, 1, 2), jnp.swapaxes(v, 1, 2)
    o, m, total = decode_sums(q, k, v, mask, scale=scale, interpret=True)
    assert o.dtype == m.dtype == total.dtype == jnp.float32
    o /= jnp.where(total == 0, 1.0, total)[..., None]
    return jnp.moveaxis(o.reshape(B, K, N // K, T, H), 3, 1).reshape(B, T, N, H)


def _cache(B: int, T: int, S: int, lengths, window: int | None = None, seed: int = 0):
    """A mask of rows that have so many tokens, in places in no order."""
    random = np.random.default_rng(seed)
    positions = random.integers(0, 9, (B, S), np.int32)
    segments = np.full((B, S), -1, np.int32)
    for row, length in enumerate(lengths):
        places = random.permutation(length)
        positions[row, places] = np.arange(length)
        segments[row, places] = 0
    q_positions = np.asarray(lengths, np.int32)[:, None] - np.arange(T, 0, -1)
    q_positions = q_positions.astype(np.int32)
    q_segments = np.where(q_positions < 0, -1, 0).astype(np.int32)
    return Mask(q_positions, positions, q_segments, segments, window=window)


CASES = list(itertools.product(BOUNDS, (1, 3), ((4, 4), (4, 1)), (32, 48, 128)))


@pytest.mark.parametrize(
    "dtype,T,heads,H",
    CASES,
    ids=["-".join(map(str, (np.dtype(d), *x))) for d, *x in CASES],
)
def test_the_same_as_all_at_once(dtype, T, heads, H):
    (N, K), S = heads, 301
    inputs = draw_inputs(3, T, S, N, K, H, dtype=dtype)
    # A full row, one of a few tokens, an empty one.
    mask = _cache(3, T, S, (S, 40, 0), window=50 if T == 3 else None)
    found = np.asarray(_attend(*inputs[:3], mask, scale=H**-0.5), np.float64)
    exact = oracle(inputs, mask).output
    assert np.abs(found - exact).max() <= BOUNDS[dtype] * np.abs(exact).max()
    np.testing.assert_array_equal(found[mask.q_segments < 0], 0)


@pytest.mark.parametrize("causal,window", [(True, None), (True, 9), (False, None)])
@pytest.mark.parametrize("heads,T", [((4, 1), 4), ((32, 1), 3)])
def test_segments_that_alternate(causal, window, heads, T):
    # Of 96 rows that share a key head there are two tiles, the last one filled up.
    (N, K), S = heads, 150
    inputs = draw_inputs(2, T, S, N, K, 32)
    random = np.random.default_rng(1)
    positions, segments = (
        random.integers(low, 40, (2, S), np.int32) % high
        for low, high in ((0, 40), (0, 3))
    )
    segments[:, 70:] = -1
    q_positions = np.tile(np.arange(30, 30 + T, dtype=np.int32), (2, 1))
    q_segments = np.arange(2 * T, dtype=np.int32).reshape(2, T) % 4 - 1
    mask = Mask(
        q_positions, positions, q_segments, segments, causal=causal, window=window
    )
    found = np.asarray(_attend(*inputs[:3], mask, scale=0.2))
    exact = oracle(inputs, mask, scale=0.2).output
    assert np.abs(found - exact).max() <= BOUNDS[jnp.float32] * np.abs(exact).max()
    np.testing.assert_array_equal(found[q_segments < 0], 0)


@pytest.mark.parametrize("devices", [2, 8])
def test_merged_over_devices(devices, monkeypatch):
    interpreted = functools.partial(decode_sums, interpret=True)
    monkeypatch.setattr(decode, "_sums", interpreted)
    T, S = 2, 8 * 37
    inputs, mask = draw_inputs(3, T, S, 4, 2, 48), _cache(3, T, S, (S, 40, 0))

    def local(q, k, v, *sides):
        q_positions, k_positions, q_segments, k_segments = sides
        part = Mask(q_positions, k_positions, q_segments, k_segments)
        return decode_attention(q, k, v, part, axis_name="sequence", scale=48**-0.5)

    same, places = PartitionSpec(), PartitionSpec(None, "sequence")
    attend = jax.shard_map(
        local,
        mesh=make_mesh(MeshConfig(sequence=devices)),
        in_specs=(same, places, places, same, places, same, places),
        out_specs=same,
        # JAX's interpreter of kernels fails the checks; lowering, below, has them.
        check_vma=False,
    )
    sides = (mask.q_positions, mask.k_positions, mask.q_segments, mask.k_segments)
    found = np.asarray(jax.jit(attend)(*inputs[:3], *sides), np.float64)
    exact = oracle(inputs, mask).output
    assert np.abs(found - exact).max() <= BOUNDS[jnp.float32] * np.abs(exact).max()
    np.testing.assert_array_equal(found[mask.q_segments < 0], 0)


@pytest.mark.parametrize("window", [None, 100])
def test_places_outside_what_is_seen_are_not_read(window):
    lengths, (S, H) = (70, 300), (512, 64)
    inputs = draw_inputs(2, 1, S, 2, 2, H)
    places = np.tile(np.arange(S, dtype=np.int32), (2, 1))
    end = np.asarray(lengths, np.int32)[:, None]
    segments = np.where(places < end, 0, -1).astype(np.int32)
    mask = Mask(end - 1, places, 0 * end, segments, window=window)
    launch = choose_decode_launch(jnp.zeros((2, 2, 1, H)), S)
    assert launch.splits > 1
    hidden = inputs.k.copy(), inputs.v.copy()
    for row, length in enumerate(lengths):
        start = 0 if window is None else max(0, length - window)
        start = start // launch.places * launch.places
        stop = -(-length // launch.places) * launch.places
        for x in hidden:
            x[row, :start] = x[row, stop:] = np.nan
    found = _attend(inputs.q, *hidden, mask, scale=H**-0.5)
    exact = oracle(inputs, mask).output
    assert np.abs(found - exact).max() <= BOUNDS[jnp.float32] * np.abs(exact).max()


@pytest.mark.parametrize("rows", [1, 32])
def test_programs_fill_a_gpu_and_every_split_has_a_tile(rows):
    q = jnp.zeros((rows, 4, 1, 64), jnp.bfloat16)
    launch = choose_decode_launch(q, 131072)
    assert 132 * 4 <= rows * 4 * launch.splits
    assert launch.splits <= 131072 // launch.places
    short = choose_decode_launch(q, 70)
    assert short.splits <= -(-70 // short.places)


SHAPES = list(
    itertools.product(
        (jnp.float32, jnp.bfloat16, jnp.float16), (32, 48, 64, 128), (1, 8), (1, 5)
    )
)


def _shapes(dtype, H: int, shared: int, T: int):
    B, S, K = 2, 1000, 2
    q = jax.ShapeDtypeStruct((B, T, K * shared, H), dtype)
    k = jax.ShapeDtypeStruct((B, S, K, H), dtype)
    sides = [jax.ShapeDtypeStruct((B, n), jnp.int32) for n in (T, S, T, S)]
    return q, k, k, *sides


def _decode(q, k, v, *sides):
    q_positions, k_positions, q_segments, k_segments = sides
    mask = Mask(q_positions, k_positions, q_segments, k_segments, window=300)
    return decode_attention(q, k, v, mask, scale=0.125)


@pytest.mark.parametrize(
    "dtype,H,shared,T",
    SHAPES,
    ids=["-".join(map(str, (np.dtype(d), *x))) for d, *x in SHAPES],
)
def test_lowers_for_every_class_of_shapes(dtype, H, shared, T):
    text = lower_for_gpu(_decode, *_shapes(dtype, H, shared, T))
    assert text.count("custom_call @__gpu$xla.gpu.triton") == 1


def test_lowers_for_a_cache_that_is_spread_over_devices():
    same, places = PartitionSpec(), PartitionSpec(None, "sequence")

    def local(q, k, v, *sides):
        q_positions, k_positions, q_segments, k_segments = sides
        mask = Mask(q_positions, k_positions, q_segments, k_segments)
        return decode_attention(q, k, v, mask, axis_name="sequence", scale=0.125)

    spread = jax.shard_map(
        local,
        mesh=make_mesh(MeshConfig(sequence=2)),
        in_specs=(same, places, places, same, places, same, places),
        out_specs=same,
    )
    text = lower_for_gpu(spread, *_shapes(jnp.bfloat16, 64, 2, 1))
    assert text.count("custom_call @__gpu$xla.gpu.triton") == 1


def test_lowers_inside_a_scan():
    def steps(q, *rest):
        return jax.lax.scan(lambda q, _: (_decode(q, *rest), None), q, length=3)[0]

    text = lower_for_gpu(steps, *_shapes(jnp.bfloat16, 64, 2, 1))
    assert text.count("custom_call @__gpu$xla.gpu.triton") == 1


@pytest.mark.parametrize("change", ["width", "types"])
def test_what_the_kernel_cannot_do_is_left_to_the_compiler(change):
    q, k, *rest = _shapes(jnp.bfloat16, 192 if change == "width" else 64, 1, 1)
    if change == "types":
        q = jax.ShapeDtypeStruct(q.shape, jnp.float32)
    assert "custom_call @__gpu" not in lower_for_gpu(_decode, q, k, *rest)


# With a second tile of queries that is not full: of one key head, next to another's.
ON_GPU = [*CASES, *itertools.product(BOUNDS, (3,), ((64, 2),), (48, 128))]


@pytest.mark.gpu
@pytest.mark.parametrize(
    "dtype,T,heads,H",
    ON_GPU,
    ids=["-".join(map(str, (np.dtype(d), *x))) for d, *x in ON_GPU],
)
def test_on_a_gpu(dtype, T, heads, H):
    (N, K), S = heads, 5000
    drawn = draw_inputs(3, T, S, N, K, H, dtype=dtype)
    mask = _cache(3, T, S, (S, 40, 0), window=2000 if T == 3 else None)
    exact = oracle(Inputs(*drawn), mask).output
    attend = jax.jit(functools.partial(decode_attention, scale=H**-0.5))
    with jax.default_matmul_precision("highest"):
        found = np.asarray(attend(*drawn[:3], mask), np.float64)
    assert np.abs(found - exact).max() <= BOUNDS[dtype] * np.abs(exact).max()
