"""Fused kernels for GPUs: run by JAX against the oracle, and lowered for CUDA."""

import functools
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ring_rl.attention import Mask, ring_attention
from ring_rl.attention.dropout import make_dropout
from ring_rl.attention.kernels import choose_kernel, hopper, triton, tuning
from ring_rl.attention.kernels.runs import find_runs
from ring_rl.attention.tiles import Blocks, Tiles, pad_mask
from ring_rl.mesh import MeshConfig, make_mesh

from .lowering import lower_for_gpu
from .matrix import MASKS, judge, pairwise_cover, program
from .results import compute, draw_inputs, oracle
from .rounding import assert_close, bfloat16_shares

COVER = pairwise_cover()
QUICK = list(dict.fromkeys(map(program, COVER)))[:8]


@pytest.fixture
def interpreted(monkeypatch):
    """`jax.shard_map` without checks: JAX's interpreter of kernels fails them.

    On a GPU it is not used; `test_a_ring_and_its_gradients_lower` has the checks.
    """
    unchecked = functools.partial(jax.shard_map, check_vma=False)
    monkeypatch.setattr(jax, "shard_map", unchecked)


def _marks(case):
    return [] if program(case) in QUICK else [pytest.mark.slow]


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize(
    "case", [pytest.param(case, id=str(case), marks=_marks(case)) for case in COVER]
)
def test_a_case_is_off_by_its_roundings_alone(case):
    verdict = judge(case, "triton")
    assert verdict.good, verdict


@pytest.mark.parametrize("H", [24, 96])
def test_widths_that_are_no_power_of_two(H):
    inputs, mask = draw_inputs(2, 20, N=4, K=2, H=H), MASKS["segments"](20)
    found = compute(inputs, mask, kernel="triton", block_q=16, block_k=16)
    assert_close(found, oracle(inputs, mask))


def test_the_shipped_tiles():
    inputs, mask = draw_inputs(2, 200, N=2, H=32), MASKS["segments"](200)
    assert_close(compute(inputs, mask, kernel="triton"), oracle(inputs, mask))


# Every tile is visited, from the first to the last that anything is seen of.
@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("tiles", [(8, 8), (16, 4)])
def test_runs_hold_what_is_seen_and_leave_unmasked_what_all_see(name, tiles):
    mask = jax.tree.map(jnp.asarray, MASKS[name](96))
    mask = pad_mask(mask, Tiles(*tiles))
    seen = np.asarray(mask.seen())
    B, T, S = seen.shape
    q, k = tiles
    of_tiles = seen.reshape(B, T // q, q, S // k, k).transpose(0, 1, 3, 2, 4)
    some, all_ = of_tiles.any(axis=(3, 4)), of_tiles.all(axis=(3, 4))
    runs = find_runs(mask, q, k)
    of_tiles = (runs.of_queries, some, all_), (runs.of_keys, some.mT, all_.mT)
    for bounds, seen_in, full in of_tiles:
        first, full_first, full_end, end = np.moveaxis(np.asarray(bounds), -1, 0)
        assert (first <= full_first).all()
        assert (full_first <= full_end).all()
        assert (full_end <= end).all()
        index = np.arange(seen_in.shape[2])
        inside = (index >= first[..., None]) & (index < end[..., None])
        unmasked = (index >= full_first[..., None]) & (index < full_end[..., None])
        assert not (seen_in & ~inside).any()
        assert not (unmasked & ~full).any()
        if name == "causal":
            np.testing.assert_array_equal(inside, seen_in)


def test_a_causal_mask_skips_half_and_masks_the_diagonal_alone():
    runs = find_runs(MASKS["causal"](32), 8, 8)
    # Where none is unmasked, that run is empty, at the end.
    queries = [[0, 1, 1, 1], [0, 0, 1, 2], [0, 0, 2, 3], [0, 0, 3, 4]]
    np.testing.assert_array_equal(runs.of_queries[0], queries)
    keys = [[0, 1, 4, 4], [1, 2, 4, 4], [2, 3, 4, 4], [3, 4, 4, 4]]
    np.testing.assert_array_equal(runs.of_keys[0], keys)


def _hop(kernel, mask: Mask, rate: float):
    """Both passes of a hop as a function of arrays, and their shapes."""

    def run(q, k, v, g, shift, delta, of_q, of_k):
        (q_positions, q_segments, q_tokens), (k_positions, k_segments, k_tokens) = (
            of_q, of_k
        )  # fmt: skip
        given = Mask(
            q_positions, k_positions, q_segments, k_segments, q_tokens=q_tokens,
            k_tokens=k_tokens, causal=mask.causal, window=mask.window,
        )  # fmt: skip
        key = jax.random.key(0)
        dropout = make_dropout(rate, key, *q.shape[::2]) if rate else None
        rules = {"scale": 0.125, "blocks": Blocks()}
        sums = kernel.forward(q, k, v, given, dropout, **rules)
        gradients = kernel.backward(
            q, k, v, g, shift, delta, given, dropout, **rules
        )  # fmt: skip
        return sums, gradients

    return run


def _shapes(dtype, N: int, K: int, H: int, T: int = 200, S: int = 328, B: int = 2):
    def heads(tokens, count):
        return jax.ShapeDtypeStruct((B, tokens, count, H), dtype)

    q, k = heads(T, N), heads(S, K)
    row = jax.ShapeDtypeStruct((B, T, N), jnp.float32)
    sides = [(jax.ShapeDtypeStruct((B, n), jnp.int32),) * 3 for n in (T, S)]
    return (q, k, k, q, row, row, *sides)


RULES = {"causal": (True, None), "full": (False, None), "window": (True, 77)}


def _of_rules(rules: str) -> Mask:
    causal, window = RULES[rules]
    empty = np.zeros((1, 1), np.int32)
    return Mask.self_attention(empty, empty, causal=causal, window=window)


TRITON = list(
    itertools.product(
        (jnp.float32, jnp.bfloat16, jnp.float16), (32, 48, 64, 96, 128), (1, 4)
    )
)


@pytest.mark.parametrize(
    "dtype,H,shared", TRITON, ids=[f"{np.dtype(d)}-{H}-{G}" for d, H, G in TRITON]
)
def test_triton_lowers_for_every_class_of_shapes(dtype, H, shared):
    # All rules and both rates meet all widths and types.
    index = TRITON.index((dtype, H, shared))
    rules, rate = list(RULES)[index % 3], 0.1 * (index % 2)
    shapes = _shapes(dtype, 4, 4 // shared, H)
    text = lower_for_gpu(_hop(triton, _of_rules(rules), rate), *shapes)
    assert text.count("custom_call @__gpu$xla.gpu.triton") == 3


HOPPER = list(itertools.product((jnp.bfloat16, jnp.float16), (64, 128), (1, 4), RULES))


@pytest.mark.parametrize(
    "dtype,H,shared,rules",
    HOPPER,
    ids=["-".join(map(str, (np.dtype(d), *x))) for d, *x in HOPPER],
)
def test_hopper_lowers_for_every_class_of_shapes(dtype, H, shared, rules):
    shapes = _shapes(dtype, 4, 4 // shared, H)
    text = lower_for_gpu(_hop(hopper, _of_rules(rules), 0.0), *shapes)
    assert text.count("custom_call @mosaic_gpu_v2") == 3


@pytest.mark.parametrize("kernel", ["triton", "hopper"])
@pytest.mark.parametrize("devices", [1, 4])
def test_a_ring_and_its_gradients_lower(kernel, devices, monkeypatch):
    """With the checks of types that say what differs by device."""
    monkeypatch.setattr(hopper, "supports", lambda q, dropout: None)
    mesh = make_mesh(MeshConfig(sequence=devices))

    def run(q, k, v, g, positions, segments):
        def attend(q, k, v):
            mask = Mask.self_attention(positions, segments)
            return ring_attention(q, k, v, mask, mesh=mesh, kernel=kernel)

        output, pull_back = jax.vjp(attend, q, k, v)
        return output, pull_back(g)

    q, k, v, g, *_ = _shapes(jnp.bfloat16, 4, 2, 64, T=512, S=512)
    row = jax.ShapeDtypeStruct((2, 512), jnp.int32)
    text = lower_for_gpu(run, q, k, v, g, row, row)
    assert text.count("custom_call @") >= 3


def test_a_gpu_takes_the_fastest_kernel_that_can_do_it(monkeypatch):
    class Gpu:
        device_kind, compute_capability = "NVIDIA H100 80GB HBM3", "9.0"

    def queries(dtype, H):
        return jnp.zeros((1, 1, 1, H), dtype)

    dropout = make_dropout(0.1, jax.random.key(0), 1, 1)
    half = queries(jnp.bfloat16, 64)
    assert choose_kernel(None, half, None) == "blockwise"
    monkeypatch.setattr(jax, "devices", lambda: [Gpu()])
    assert choose_kernel(None, half, None) == "hopper"
    assert choose_kernel(None, half, dropout) == "triton"
    assert choose_kernel(None, queries(jnp.bfloat16, 32), None) == "triton"
    assert choose_kernel(None, queries(jnp.float32, 64), None) == "triton"
    assert choose_kernel(None, queries(jnp.float32, 256), None) == "blockwise"
    assert choose_kernel("hopper", half, None) == "hopper"
    with pytest.raises(ValueError, match="'hopper' takes heads of width 64 or 128"):
        choose_kernel("hopper", queries(jnp.bfloat16, 96), None)
    Gpu.compute_capability = "8.0"
    assert choose_kernel(None, half, None) == "triton"
    # Of an older one, and of another maker's.
    for capability in ("7.5", "gfx942"):
        Gpu.compute_capability = capability
        assert choose_kernel(None, half, None) == "blockwise"
    with pytest.raises(ValueError, match="compute capability 9.0, found NVIDIA"):
        choose_kernel("hopper", half, None)


@pytest.fixture
def launches(tmp_path, monkeypatch):
    """Where measured launches are kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "ring_rl" / "launches.json"


def test_measured_launches_are_kept_and_taken(launches):
    q = jnp.zeros((1, 4096, 2, 48), jnp.bfloat16)
    shipped = tuning.choose_launches("triton", q)
    measured = tuning.Launches(*[tuning.Launch(32, 64, 3, 8)] * 3)
    assert tuning.keep_launches(tuning.shape_class("triton", q), measured) == launches
    assert tuning.choose_launches("triton", q) == measured != shipped
    # Another class, and then one more in the file.
    narrow = q[..., :32]
    before = tuning.choose_launches("triton", narrow)
    assert before not in (measured, None)
    tuning.keep_launches(tuning.shape_class("triton", narrow), shipped)
    assert tuning.choose_launches("triton", narrow) == shipped
    assert tuning.choose_launches("triton", q) == measured
    assert list(launches.parent.iterdir()) == [launches]


def _kept(launches, name="triton, 16 bits, width 64"):
    return json.dumps({"cpu": {name: launches}})


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "3", '{"cpu": 1}', _kept([[64, 64, 2, 4]]), _kept(7),
        _kept([[64, 64, 2, 4]] * 3, name="triton"),
        _kept([[64, 64.0, 2, 4]] * 3), _kept([[64, 64, 2, True]] * 3),
        _kept([[64, 63, 2, 4]] * 3), _kept([[1 << 20, 64, 2, 4]] * 3),
        # Its forward is two warpgroups that take turns.
        _kept([[64, 64, 2, 3]] * 3, name="hopper, 16 bits, width 64"),
    ],
)  # fmt: skip
def test_a_file_of_something_else_is_refused_and_left(launches, text):
    launches.parent.mkdir()
    launches.write_text(text)
    q = jnp.zeros((1, 64, 2, 64), jnp.bfloat16)
    for use in (
        lambda: tuning.choose_launches("triton", q),
        lambda: tuning.keep_launches(
            tuning.shape_class("triton", q), tuning.choose_launches("triton", q)
        ),
    ):
        with pytest.raises(ValueError, match=r"launches\.json: expected .* remove"):
            use()
    assert launches.read_text() == text


def test_without_a_home_launches_are_those_shipped(monkeypatch):
    def fail():
        raise RuntimeError("Could not determine home directory.")

    q = jnp.zeros((1, 64, 2, 64), jnp.bfloat16)
    shipped = tuning.choose_launches("triton", q)
    monkeypatch.setattr(tuning, "user_cache", fail)
    assert tuning.choose_launches("triton", q) == shipped


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.parametrize("H", [32, 64, 96, 128])
@pytest.mark.parametrize("kernel", ["triton", "hopper"])
def test_on_a_gpu(kernel, H, dtype):
    T, window = 1000, 300
    inputs = draw_inputs(2, T, N=4, K=2, H=H, dtype=dtype)
    queries = jnp.asarray(inputs.q)
    if reason := {"triton": triton, "hopper": hopper}[kernel].supports(queries, None):
        pytest.skip(reason)
    for name, of in {**MASKS, "long window": None}.items():
        mask = of(T) if of else MASKS["causal"](T)
        if of is None:
            positions, segments = mask.q_positions, mask.q_segments
            mask = Mask.self_attention(positions, segments, window=window)
        if mask.k_positions.shape[1] != T:
            continue
        found, exact = compute(inputs, mask, kernel=kernel), oracle(inputs, mask)
        if dtype == jnp.float32:
            assert_close(found, exact)
        else:
            # A float16 has three digits more.
            shares = bfloat16_shares(found, exact, inputs, mask)
            assert max(shares) <= (1 if dtype == jnp.bfloat16 else 0.2), (name, shares)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "case", [pytest.param(x, id=str(x)) for x in COVER if x.devices in (0, 1)]
)
def test_a_case_on_a_gpu(case):
    verdict = judge(case, "triton")
    assert verdict.good, verdict
