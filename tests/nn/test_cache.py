"""A cache holds what it was given, however that came in, and up to its limit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ring_rl.attention import Mask, permutation
from ring_rl.data.tokens import TokenConfig, pack
from ring_rl.mesh import MeshConfig, ShardingRules, make_mesh
from ring_rl.nn.cache import Limit, enlarge
from ring_rl.nn.policy import TrajectoryTransformer
from ring_rl.nn.trunk import TrunkConfig
from ring_rl.types import Chain, Discrete, Scaling, Spaces, Tokens

SPACES = Spaces(3, Discrete(4))
# Environment steps of each row: not multiples of the devices, and none.
STEPS = (11, 4, 0, 7)
ROWS = len(STEPS)
# f32 sums in another order; logits are of size 1.
TOLERANCE = 1e-5


@functools.cache
def make_model(devices, data=1):
    mesh = make_mesh(
        MeshConfig(data=data, sequence=devices), jax.devices()[: devices * data]
    )
    return TrajectoryTransformer(
        TrunkConfig(layers=2, width=16, heads=2, kv_heads=1),
        SPACES,
        Scaling((0.0,) * 3, (1.0,) * 3, 1.0, 1.0),
        bins=2,
        rules=ShardingRules(mesh),
        rngs=nnx.Rngs(0),
    )


@functools.cache
def compiled(devices, data=1):
    """A model's prefill, and its decode of new tokens into the same memory."""
    model = make_model(devices, data)
    return jax.jit(model.prefill), jax.jit(model.decode, donate_argnums=1)


@functools.cache
def make_tokens(layout="fused", steps=STEPS):
    """Rows of one chain each, in natural order, padded at their ends."""
    random = np.random.default_rng(0)

    def chain(steps):
        def numbers(*shape):
            return random.normal(size=(steps, *shape)).astype(np.float32)

        return Chain(
            numbers(3), random.integers(4, size=steps, dtype=np.int32),
            numbers(), numbers(), numbers(),
            np.arange(steps, dtype=np.int32), np.ones(steps, np.float32),
        )  # fmt: skip

    config = TokenConfig(layout=layout)
    length = max(steps) * config.tokens_per_step
    chains = [(row, chain(n)) for row, n in enumerate(steps)]
    return pack(chains, len(steps), length, config, SPACES).tokens


@functools.cache
def at_once(layout="fused", steps=STEPS, window=None):
    """Logits of whole sequences, on one device."""
    model, tokens = make_model(1), make_tokens(layout, steps)

    @jax.jit
    def run(tokens):
        mask = Mask.self_attention(tokens.positions, tokens.segments, window=window)
        return model.logits(model.trunk(model.embedding(tokens), mask))

    return np.asarray(run(tokens))


def lengths_of(tokens):
    return (tokens.segments >= 0).sum(axis=1)


def prefill(devices, tokens, lengths, limit, layout="contiguous", data=1, places=None):
    """Reads the first tokens of each row; their logits in natural order, the cache."""
    length = -(-int(max(1, *lengths)) // (2 * devices)) * 2 * devices
    size = tokens.segments.shape[1]

    def resize(array):
        widths = [(0, 0), (0, max(0, length - size))] + [(0, 0)] * (array.ndim - 2)
        return np.pad(array, widths)[:, :length]

    resized = jax.tree.map(resize, tokens)
    there = np.arange(length)[None] < np.reshape(lengths, (-1, 1))
    segments = np.where(there, resized.segments, -1)
    # Padding stands at the beginning too, where there is any.
    order = (permutation(layout, length, devices) - 3) % length
    ordered = jax.tree.map(lambda x: x[:, order], resized._replace(segments=segments))
    model = make_model(devices, data)
    empty = model.make_cache(len(lengths), limit, places)
    found, cache = compiled(devices, data)[0](ordered, empty)
    logits = np.full((len(lengths), size, 4), np.nan, np.float32)
    natural = np.asarray(found)[:, np.argsort(order)][:, :size]
    logits[:, : natural.shape[1]] = natural
    return logits, cache


def decode(devices, tokens, begun, cache, *, together=1, data=1):
    """Logits of the tokens after the first `begun` of each row, NaN before; cache."""
    lengths, size = lengths_of(tokens), tokens.segments.shape[1]
    logits = np.full((len(lengths), size, 4), np.nan, np.float32)
    rows, begun = np.arange(len(lengths))[:, None], np.array(begun)
    while (begun < lengths).any():
        index = begun[:, None] + np.arange(together)
        there = index < lengths[:, None]
        taken = rows, np.minimum(index, size - 1)
        new = Tokens(*(x[taken] for x in tokens))
        new = new._replace(segments=np.where(there, new.segments, -1))
        found, cache = compiled(devices, data)[1](new, cache)
        row, place = np.nonzero(there)
        logits[row, index[row, place]] = np.asarray(found)[row, place]
        begun = np.minimum(begun + together, lengths)
    return logits, cache


def assert_close(found, expected, tokens, begun=0, end=10**9):
    index = np.arange(tokens.segments.shape[1])[None]
    looked_at = (tokens.segments >= 0) & (index >= np.reshape(begun, (-1, 1)))
    looked_at &= index < np.reshape(end, (-1, 1))
    assert looked_at.any()
    np.testing.assert_allclose(
        found[looked_at], expected[looked_at], rtol=0, atol=TOLERANCE
    )


def positions_of(cache, row):
    kept = np.asarray(cache.segments)[row] >= 0
    return np.sort(np.asarray(cache.positions)[row][kept])


@pytest.mark.parametrize("layout", ["contiguous", "zigzag"])
@pytest.mark.parametrize(
    ("devices", "tokens_layout"),
    [(1, "interleaved"), (4, "fused"), (4, "interleaved"), (8, "fused")],
)
def test_reading_at_once_and_then_one_by_one_is_reading(devices, tokens_layout, layout):
    tokens, expected = make_tokens(tokens_layout), at_once(tokens_layout)
    lengths = lengths_of(tokens)
    # A part of one row, all of another, nothing of the last.
    begun = np.array([lengths[0] // 2 + 1, lengths[1], 0, 0])
    limit = Limit(int(lengths.max()))
    logits, cache = prefill(devices, tokens, begun, limit, layout)
    assert_close(logits, expected, tokens, end=begun)
    for row in range(ROWS):
        np.testing.assert_array_equal(positions_of(cache, row), np.arange(begun[row]))
    fill = np.asarray(cache.fill)
    np.testing.assert_array_equal(fill.sum(axis=1), begun)
    written = (np.asarray(cache.segments) >= 0).reshape(ROWS, devices, -1)
    # One behind the other on each device.
    ahead = np.arange(written.shape[2])[None, None] < fill[:, :, None]
    np.testing.assert_array_equal(written, ahead)
    uneven = np.ptp(fill, axis=1)
    logits, cache = decode(devices, tokens, begun, cache)
    assert_close(logits, expected, tokens, begun)
    # As even as could be made of what each device was given at once.
    even = np.ptp(np.asarray(cache.fill), axis=1)
    assert (even <= np.maximum(uneven, 1)).all()
    assert (even[uneven <= lengths - begun] <= 1).all()
    assert not np.asarray(cache.lost).any()


@pytest.mark.parametrize("devices", [1, 4])
def test_reading_one_by_one_is_reading(devices):
    tokens = make_tokens()
    cache = make_model(devices).make_cache(ROWS, Limit(max(STEPS)))
    logits, _ = decode(devices, tokens, np.zeros(ROWS, int), cache)
    assert_close(logits, at_once(), tokens)


def test_rows_of_a_mesh_with_a_data_axis():
    tokens, begun = make_tokens(), np.array([6, 4, 0, 2])
    logits, cache = prefill(2, tokens, begun, Limit(11), "zigzag", data=2)
    assert_close(logits, at_once(), tokens, end=begun)
    logits, _ = decode(2, tokens, begun, cache, data=2)
    assert_close(logits, at_once(), tokens, begun)
    three = jax.tree.map(lambda x: x[:3, :4], tokens)
    with pytest.raises(ValueError, match=r"mesh\.data x mesh\.fsdp=2, found 3"):
        make_model(2, 2).prefill(three, make_model(2, 2).make_cache(3, Limit(4)))


def test_what_a_cache_held_before_is_forgotten_by_a_prefill():
    tokens = make_tokens()
    _, used = prefill(4, tokens, lengths_of(tokens), Limit(11))
    few = jax.tree.map(lambda x: x[:, :4], tokens)
    _, cache = compiled(4)[0](few, used)
    for row, steps in enumerate(STEPS):
        np.testing.assert_array_equal(
            positions_of(cache, row), np.arange(min(steps, 4))
        )
    begun = np.minimum(STEPS, 4)
    logits, _ = decode(4, tokens, begun, cache)
    assert_close(logits, at_once(), tokens, begun)


def test_a_cache_is_enlarged_without_a_change_to_what_it_holds():
    tokens, model = make_tokens(), make_model(4)
    cache = model.make_cache(ROWS, Limit(11), places=1)
    assert cache.places == 4
    begun, logits = np.zeros(ROWS, int), np.full((ROWS, 11, 4), np.nan)
    for end in (4, 9, 11):
        cache = enlarge(cache, end, rules=model.rules)
        assert cache.places == -(-end // 4) * 4
        part = tokens._replace(
            segments=np.where(np.arange(11) < end, tokens.segments, -1)
        )
        found, cache = decode(4, part, begun, cache)
        logits = np.where(np.isnan(found), logits, found)
        begun = np.minimum(STEPS, end)
    assert_close(logits, at_once(), tokens)
    assert enlarge(cache, 12, rules=model.rules) is cache


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize(
    ("together", "begun"),
    [(1, (0, 0, 0)), (3, (0, 0, 0)), (1, (4, 12, 0)), (3, (5, 17, 9))],
    ids=str,
)
def test_a_full_row_that_slides_sees_its_last_tokens_and_no_others(
    devices, together, begun
):
    # Rows that are full several times over, from the first on, and never.
    steps, capacity = (40, 23, 9), 10
    tokens, expected = make_tokens(steps=steps), at_once("fused", steps, capacity)
    limit = Limit(capacity, "slide", at_once=together)
    if any(begun):
        logits, cache = prefill(devices, tokens, begun, limit, "zigzag")
        assert_close(logits, expected, tokens, end=begun)
    else:
        cache = make_model(devices).make_cache(3, limit)
    logits, cache = decode(devices, tokens, begun, cache, together=together)
    assert_close(logits, expected, tokens, begun)
    # What else there is, in places left over, is too old to be seen.
    for row, length in enumerate(steps):
        held = positions_of(cache, row)
        np.testing.assert_array_equal(held, np.arange(length - len(held), length))
        assert len(held) >= min(length, capacity)
    assert not np.asarray(cache.lost).any()
    # It makes a difference: without the window the logits are others.
    apart = np.abs(expected - at_once("fused", steps))
    assert (apart[0, capacity:].max(axis=1) > 100 * TOLERANCE).all()


@pytest.mark.parametrize("devices", [1, 4])
def test_a_full_row_keeps_what_it_has_and_counts_what_it_loses(devices):
    tokens = make_tokens()
    cache = make_model(devices).make_cache(ROWS, Limit(5))
    logits, cache = decode(devices, tokens, np.zeros(ROWS, int), cache)
    assert_close(logits, at_once(), tokens, end=5)
    assert np.asarray(cache.lost).tolist() == [6, 0, 0, 2]
    for row, steps in enumerate(STEPS):
        np.testing.assert_array_equal(
            positions_of(cache, row), np.arange(min(steps, 5))
        )
    # Whatever there is room for beyond the limit, for devices to share it evenly.
    _, cache = prefill(devices, tokens, lengths_of(tokens), Limit(5))
    assert np.asarray(cache.lost).tolist() == [6, 0, 0, 2]
    cleared = cache.forget(jnp.array([True, False, False, False]))
    assert np.asarray(cleared.lost).tolist() == [0, 0, 0, 2]
    assert not len(positions_of(cleared, 0))


def test_a_cache_that_is_too_small_for_its_limit_counts_what_it_overwrites():
    tokens = make_tokens()
    limit = Limit(8, "slide", at_once=1)
    small = make_model(4).make_cache(ROWS, limit, places=4)
    _, cache = decode(4, tokens, np.zeros(ROWS, int), small)
    assert np.asarray(cache.lost).tolist() == [7, 0, 0, 3]
    # Three at once where one was announced: the first would see what the last took.
    whole = make_model(4).make_cache(ROWS, limit)
    _, cache = decode(4, tokens, np.zeros(ROWS, int), whole, together=3)
    assert np.asarray(cache.lost).tolist() == [2, 0, 0, 0]


def test_one_step_copies_no_keys_or_values_and_gathers_none():
    model = make_model(4)
    limit = Limit(4096, "slide")
    tokens = jax.tree.map(lambda x: x[:1, :1], make_tokens())
    cache = jax.eval_shape(lambda: model.make_cache(1, limit))
    program = compiled(4)[1].lower(tokens, model.make_cache(1, limit)).compile()
    share = sum(x.size * x.dtype.itemsize for x in cache.k + cache.v) // 4
    memory = program.memory_analysis()
    # All of the cache is updated where it lies, and what one layer's keys would take
    # is not there: the least of what is held are notes and scores, 4 bytes a place.
    assert memory.alias_size_in_bytes >= share
    assert memory.temp_size_in_bytes < share // 4
    text = program.as_text()
    assert "all-gather" not in text and "collective-permute" not in text


def test_limits_that_make_no_sense():
    with pytest.raises(ValueError, match="must be at least 1, found 0 and 1"):
        Limit(0)
