import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ring_rl.nn.heads import ActionHead
from ring_rl.types import Continuous, Discrete

LOW, HIGH = (-1.0, 0.0), (1.0, 4.0)
BOX = ActionHead(Continuous(LOW, HIGH), bins=5)
KEYS = ActionHead(Discrete(4), bins=41)
FIVE_SIGMA = 5.0


def random_logits(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def middles(head):
    """The middle of every bin, `[bins A]`."""
    low, high = np.array(head.space.low), np.array(head.space.high)
    unit = (np.arange(head.bins)[:, None] + 0.5) / head.bins
    return (low + unit * (high - low)).astype(np.float32)


def test_outputs():
    assert KEYS.outputs == 4
    assert BOX.outputs == 10


def test_probabilities_of_discrete_actions_sum_to_one():
    logits = jnp.broadcast_to(random_logits(1, 4), (4, 4))
    nats, hits = KEYS.cross_entropy(logits, jnp.arange(4, dtype=jnp.int32))
    np.testing.assert_allclose(np.exp(-nats).sum(), 1, rtol=1e-6)
    expected = -jax.nn.log_softmax(logits[0])
    np.testing.assert_allclose(nats, expected, rtol=1e-6)
    np.testing.assert_array_equal(hits, np.arange(4) == int(logits[0].argmax()))


def test_the_density_of_a_box_integrates_to_one():
    logits = jnp.broadcast_to(random_logits(1, 10), (25, 10))
    pairs = np.stack([grid.ravel() for grid in np.meshgrid(*middles(BOX).T)], 1)
    nats, _ = BOX.cross_entropy(logits, jnp.asarray(pairs))
    # Nats are a mean over the two components; the cells of the grid share the box.
    widths = (np.array(HIGH) - np.array(LOW)) / BOX.bins
    log_density = -2 * np.asarray(nats) - np.log(widths).sum()
    np.testing.assert_allclose(np.exp(log_density).sum() * widths.prod(), 1, rtol=1e-6)


@pytest.mark.parametrize("bins", [1, 7, 41])
def test_a_bin_holds_what_lies_between_its_edges(bins):
    head = ActionHead(Continuous((0.0,), (1.0,)), bins)
    unit = np.random.default_rng(bins).uniform(size=(200, 1)).astype(np.float32)
    chosen = np.asarray(head.choices(jnp.asarray(unit)))
    # A bin's edge is known to rounding only.
    slack = 1e-6
    assert (chosen / bins - slack <= unit).all()
    assert (unit <= (chosen + 1) / bins + slack).all()
    assert chosen.min() == 0 and chosen.max() == bins - 1


def test_bounds_and_what_is_beyond_them_are_in_the_outermost_bins():
    actions = jnp.array([[-1.0, 0.0], [1.0, 4.0], [-9.0, 1e6], [-0.59, 3.19]])
    expected = [[0, 0], [4, 4], [0, 4], [1, 3]]
    np.testing.assert_array_equal(BOX.choices(actions), expected)


@pytest.mark.parametrize("head", [KEYS, BOX], ids=["discrete", "box"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_samples_have_the_probabilities_of_the_logits(head, dtype):
    count = 20_000
    row = random_logits(1, head.outputs, seed=3)
    logits = jnp.broadcast_to(row, (count, head.outputs))
    act = jax.jit(lambda key, t: head.choices(head.act(key, logits, t)))
    # The logits of a model in bf16 are drawn from as exactly as others.
    logits = logits.astype(dtype)
    row = logits[:1].astype(jnp.float32)
    for temperature in (0.5, 1.0, 2.0):
        chosen = np.asarray(act(jax.random.key(0), jnp.float32(temperature)))
        own = np.asarray(row, np.float64).reshape(chosen.shape[1], -1) / temperature
        expected = np.exp(own) / np.exp(own).sum(axis=1, keepdims=True)
        for column, p in zip(chosen.T, expected, strict=True):
            share = np.bincount(column, minlength=len(p)) / count
            slack = FIVE_SIGMA * np.sqrt(p * (1 - p) / count)
            assert (np.abs(share - p) < slack).all(), (temperature, share, p)


def test_components_are_drawn_independently_and_uniformly_within_a_bin():
    count = 20_000
    # Bins 1 and 3 of both components, equally likely.
    row = np.full((1, 2, 5), -1e9, np.float32)
    row[:, :, [1, 3]] = 0
    logits = jnp.broadcast_to(jnp.asarray(row).reshape(1, 10), (count, 10))
    drawn = np.asarray(BOX.act(jax.random.key(1), logits, jnp.float32(1)))
    unit = (drawn - np.array(LOW)) / (np.array(HIGH) - np.array(LOW)) * 5
    slack = FIVE_SIGMA / np.sqrt(count)
    both = (unit[:, 0] < 2.5) == (unit[:, 1] < 2.5)
    assert abs(both.mean() - 0.5) < slack
    within = unit % 1
    assert 0 <= within.min() < 0.01 and 0.99 < within.max() <= 1
    # Mean and variance of the uniform distribution.
    np.testing.assert_allclose(within.mean(axis=0), 0.5, atol=slack)
    np.testing.assert_allclose(within.var(axis=0), 1 / 12, atol=slack)


def test_without_temperature_the_likeliest_is_taken_at_the_middle_of_its_bin():
    logits = random_logits(50, 10)
    cold = functools.partial(BOX.act, logits=logits, temperature=jnp.float32(0))
    actions = np.asarray(cold(jax.random.key(0)))
    np.testing.assert_array_equal(actions, cold(jax.random.key(1)))
    assert (actions > LOW).all() and (actions < HIGH).all()
    best = np.asarray(logits.reshape(50, 2, 5).argmax(axis=-1))
    expected = np.take_along_axis(middles(BOX), best, axis=0)
    np.testing.assert_allclose(actions, expected, rtol=1e-6, atol=1e-6)
    keys = KEYS.act(jax.random.key(0), logits[:, :4], jnp.float32(0))
    assert keys.dtype == jnp.int32
    np.testing.assert_array_equal(keys, logits[:, :4].argmax(axis=-1))


def test_likelihood_is_in_single_precision_at_least():
    logits = random_logits(3, 4).astype(jnp.bfloat16)
    nats, hits = KEYS.cross_entropy(logits, jnp.zeros(3, jnp.int32))
    assert nats.dtype == hits.dtype == jnp.float32
    expected, _ = KEYS.cross_entropy(logits.astype(jnp.float32), jnp.zeros(3, int))
    np.testing.assert_array_equal(nats, expected)
