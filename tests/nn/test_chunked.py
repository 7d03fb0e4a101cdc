import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ring_rl.mesh import MeshConfig, ShardingRules, make_mesh
from ring_rl.nn.chunked import over_tokens

ROWS, LENGTH, WIDTH = 2, 24, 3


def make_rules(devices):
    mesh = make_mesh(MeshConfig(sequence=devices), jax.devices()[:devices])
    return ShardingRules(mesh)


def function(parameters, x, label):
    """Two results of different rank, and an integer argument without gradient."""
    y = jnp.tanh(x @ parameters["matrix"]) + parameters["offset"][None, None]
    return y, (y**2).sum(axis=-1) * label


@pytest.fixture(scope="module")
def arguments():
    random = np.random.default_rng(0)

    def numbers(*shape):
        return jnp.asarray(random.normal(size=shape), jnp.float32)

    parameters = {"matrix": numbers(WIDTH, 4), "offset": numbers(4)}
    label = jnp.asarray(random.integers(1, 4, (ROWS, LENGTH)), jnp.int32)
    weights = numbers(ROWS, LENGTH, 4), numbers(ROWS, LENGTH)
    return parameters, numbers(ROWS, LENGTH, WIDTH), label, weights


# Tokens of a chunk, rows included: of 24 (or 6) a device a half, a part that leaves a
# rest, one token, less than one token a row, all of them, and more than there are.
@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("chunk", [6, 10, 2, 1, 12, 48, 1000])
def test_chunks_change_nothing_forward_or_backward(arguments, devices, chunk):
    parameters, x, label, (first, second) = arguments
    rules = make_rules(devices)

    def chunked(parameters, x):
        return over_tokens(function, parameters, x, label, rules=rules, chunk=chunk)

    def scalar(outputs):
        return (outputs[0] * first).sum() + (outputs[1] * second).sum()

    def both(apply):
        def run(parameters, x):
            outputs, back = jax.vjp(apply, parameters, x)
            return outputs, back(jax.grad(scalar)(outputs))

        return jax.jit(run)(parameters, x)

    outputs, gradients = both(chunked)
    expected, expected_gradients = both(lambda p, x: function(p, x, label))
    assert outputs[0].shape == (ROWS, LENGTH, 4)
    # Sums of at most 48 single-precision terms in another order.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
        (outputs, gradients),
        (expected, expected_gradients),
    )


def test_no_more_than_a_chunk_is_held():
    rules = make_rules(1)
    seen = []

    def spy(parameters, x):
        seen.append(x.shape)
        return x * parameters

    x = jnp.ones((ROWS, LENGTH, WIDTH))
    over_tokens(spy, jnp.float32(2), x, rules=rules, chunk=10)
    assert set(seen) == {(ROWS, 5, WIDTH)}


def test_results_stay_on_their_devices():
    rules = make_rules(4)
    x = jax.device_put(jnp.ones((ROWS, LENGTH, WIDTH)), rules.sharding(rules.tokens))
    y = jax.jit(
        lambda x: over_tokens(lambda p, x: x * p, 2.0, x, rules=rules, chunk=4)
    )(x)
    assert y.sharding.is_equivalent_to(rules.sharding(rules.tokens), y.ndim)
    np.testing.assert_array_equal(y, 2 * x)
