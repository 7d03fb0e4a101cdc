"""What a training step of the model holds, sends and computes again."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ring_rl.attention import permutation
from ring_rl.data.tokens import empty_batch
from ring_rl.mesh import MeshConfig, ShardingRules, make_mesh
from ring_rl.nn.policy import TrajectoryTransformer
from ring_rl.nn.trunk import TrunkConfig
from ring_rl.types import Batch, Continuous, Scaling, Spaces

from ..attention.program import executions, read_computations

# Widths that nothing else has: 3 x 151 outputs, 452 hidden, 67 numbers observed.
SPACES = Spaces(67, Continuous((-1.0,) * 3, (1.0,) * 3))
BINS, HIDDEN = 151, 452
ROWS, TOKENS = 2, 128  # of each row and device


def make_model(devices, **options):
    mesh = make_mesh(MeshConfig(sequence=devices), jax.devices()[:devices])
    config = {"layers": 2, "width": 16, "heads": 2, "feed_forward": HIDDEN, "chunk": 64}
    return TrajectoryTransformer(
        TrunkConfig(**(config | options)),
        SPACES,
        Scaling((0.0,) * 67, (1.0,) * 67, 1.0, 1.0),
        bins=BINS,
        rules=ShardingRules(mesh),
        rngs=nnx.Rngs(0),
    )


def make_batch(length, layout="contiguous", devices=1):
    """Two chains and some padding in each row."""
    random = np.random.default_rng(0)
    tokens = empty_batch(ROWS, length, SPACES).tokens
    cuts = np.array([length // 3, length - 3])
    index = np.tile(np.arange(length, dtype=np.int32), (ROWS, 1))
    second = index >= cuts[0]
    tokens = tokens._replace(
        observation=random.normal(size=tokens.observation.shape).astype(np.float32),
        present=np.ones_like(tokens.present),
        positions=np.where(second, index - cuts[0], index).astype(np.int32),
        segments=np.where(index < cuts[1], second, -1).astype(np.int32),
    )
    label = random.uniform(-1, 1, empty_batch(ROWS, length, SPACES).label.shape)
    weight = (tokens.segments >= 0).astype(np.float32)
    batch = Batch(tokens, label.astype(np.float32), weight)
    order = permutation(layout, length, devices)
    return jax.tree.map(lambda array: array[:, order], batch)


def loss_of(model):
    graph, parameters = nnx.split(model)

    def loss(parameters, batch, key=None):
        nats, _ = nnx.merge(graph, parameters).losses(batch, key)
        return (nats * batch.weight).sum() / batch.weight.sum()

    return loss, parameters


@functools.cache
def compiled_step(devices, **options):
    """The compiled gradient of a batch of `TOKENS` a row and device."""
    model = make_model(devices, **options)
    loss, parameters = loss_of(model)
    batch = jax.device_put(
        make_batch(TOKENS * devices), model.rules.sharding(model.rules.tokens)
    )
    return jax.jit(jax.grad(loss)).lower(parameters, batch).compile()


def permutes(program):
    """How often the compiled program sends something to the next device."""
    found = executions(read_computations(program))
    return sum(times for name, _, times, _ in found if name == "collective-permute")


@pytest.mark.parametrize(("remat", "forward_passes"), [("block", 1), ("all", 2)])
def test_how_often_the_ring_is_run(remat, forward_passes):
    R, layers = 4, 2
    # Forward and backward send keys and values R - 1 times, backward gradients R times.
    once = (forward_passes + 1) * (R - 1) + R
    program = compiled_step(R, layers=layers, remat=remat).as_text()
    assert permutes(program) == layers * once


@pytest.mark.parametrize("remat", ["none", "block"])
def test_no_array_has_a_row_of_hidden_units_or_outputs_for_each_token(remat):
    program = compiled_step(1, remat=remat).as_text()
    shapes = set(re.findall(r"(?:f32|bf16|pred|s32)\[([\d,]+)\]", program))
    shapes = [tuple(map(int, shape.split(","))) for shape in shapes]
    for widths in ((HIDDEN,), (3 * BINS, BINS), (67,)):
        tokens = [
            math.prod(shape) // max(widths)
            for shape in shapes
            if set(shape) & set(widths)
        ]
        # What a chunk has, which is there, or what is no token's: parameters.
        assert 64 in tokens
        given = 67 in widths  # the observations themselves are an argument
        assert max(n for n in tokens if not (given and n == ROWS * TOKENS)) <= 128


def test_a_layer_keeps_its_input_and_what_attention_returns():
    four, eight = (
        compiled_step(1, layers=layers, feed_forward=16, chunk=16)
        .memory_analysis()
        .temp_size_in_bytes
        for layers in (4, 8)
    )
    # Two arrays of width D, and two sums for each of two heads. Without
    # rematerialisation a layer keeps five times as much.
    kept = ROWS * TOKENS * (16 + 16 + 4) * 4
    # And its parameters and their gradients, once each in the stack.
    parameters = 2 * (4 * 16 * 16 + 2 * 16 * 16 + 2 * 16) * 4
    assert kept <= (eight - four) / 4 <= 1.25 * (kept + parameters)


def test_what_is_computed_again_is_the_same():
    batch = make_batch(TOKENS)

    def run(remat):
        loss, parameters = loss_of(make_model(1, remat=remat))
        return jax.jit(jax.value_and_grad(loss))(parameters, batch)

    value, gradients = run("none")
    for remat in ("block", "all"):
        again, gradients_again = run(remat)
        # f32 sums in another order, of gradients up to 1.
        np.testing.assert_allclose(again, value, rtol=1e-6)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
            gradients_again,
            gradients,
        )


def test_another_implementation_of_attention_trains_the_same():
    batch = make_batch(TOKENS)

    def run(attention):
        model = make_model(1, layers=1, attention=attention, dropout=0.1)
        loss, parameters = loss_of(model)
        key = jax.random.key(0)
        return jax.jit(jax.value_and_grad(loss))(parameters, batch, key)

    value, gradients = run("ring")
    for attention in ("reference", "memory_efficient", "blockwise"):
        again, gradients_again = run(attention)
        np.testing.assert_allclose(again, value, rtol=1e-6)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
            gradients_again,
            gradients,
        )


def test_another_implementation_of_attention_is_of_one_device():
    with pytest.raises(ValueError, match="must be ring where the sequence is on sever"):
        compiled_step(2, attention="reference")


def test_dropout_is_the_same_on_any_devices_in_any_layout():
    def run(devices, layout, *keys):
        loss, parameters = loss_of(make_model(devices, dropout=0.2))
        batch = make_batch(TOKENS, layout, devices)
        step = jax.jit(jax.value_and_grad(loss))
        return [step(parameters, batch, key) for key in keys]

    one, other, none = jax.random.key(1), jax.random.key(2), None
    (value, gradients), *others = run(1, "contiguous", one, other, none)
    for another, _ in others:
        assert abs(another - value) > 1e-4
    ((spread, spread_gradients),) = run(4, "zigzag", one)
    # f32 sums in another order.
    np.testing.assert_allclose(spread, value, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
        spread_gradients,
        gradients,
    )


def test_layers_and_chains_drop_other_weights():
    # Two chains of a row that are the same: without dropout, so are their features.
    model = make_model(1, dropout=0.5, layers=1)
    half = TOKENS // 2
    batch = make_batch(TOKENS)
    tokens = jax.tree.map(
        lambda x: np.concatenate([x[:, :half]] * 2, axis=1), batch.tokens
    )
    positions = np.tile(np.arange(half, dtype=np.int32), (ROWS, 2))
    segments = np.repeat(np.arange(2, dtype=np.int32), half)[None].repeat(ROWS, 0)
    tokens = tokens._replace(positions=positions, segments=segments)

    def apart(key):
        features = np.asarray(jax.jit(model.features)(tokens, key))
        return np.abs(features[:, :half] - features[:, half:]).max(axis=(0, 2))

    assert apart(None).max() < 1e-5
    # The first token sees only itself: it is dropped or not, and may agree.
    assert (apart(jax.random.key(0))[8:] > 1e-3).all()


def test_a_dropout_that_makes_no_sense():
    with pytest.raises(ValueError, match="dropout must be at least 0 and below 1"):
        TrunkConfig(dropout=1.0)


def test_other_types_are_kept():
    model = make_model(1, dtype="bfloat16", dropout=0.1)
    loss, parameters = loss_of(model)
    batch = make_batch(TOKENS)
    value, gradients = jax.jit(jax.value_and_grad(loss))(
        parameters, batch, jax.random.key(0)
    )
    assert value.dtype == jnp.float32 and jnp.isfinite(value)
    assert all(g.dtype == jnp.float32 for g in jax.tree.leaves(gradients))
