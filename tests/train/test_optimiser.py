"""Learning rates by update, and the running average of parameters."""

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from ring_rl.agents import AgenticTransformer
from ring_rl.mesh import MeshConfig, ShardingRules, make_mesh
from ring_rl.train.optimiser import OptimiserConfig, make_schedule
from ring_rl.train.step import initial_state, make_step
from ring_rl.types import Batch, Tokens

RULES = ShardingRules(make_mesh(MeshConfig(sequence=1), jax.devices()[:1]))


def rates(steps, **config):
    schedule = make_schedule(OptimiserConfig(**config), steps)
    return np.array([float(schedule(done)) for done in range(steps)])


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
def test_a_schedule_rises_and_falls_as_it_says(kind):
    found = rates(20, schedule=kind, learning_rate=2.0, warmup=5, final=0.1)
    np.testing.assert_allclose(found[:6], np.arange(6) * 2 / 5, rtol=1e-6)
    done = np.arange(5, 20) - 5
    expected = {
        "cosine": 0.2 + 1.8 * (1 + np.cos(np.pi * done / 15)) / 2,
        "linear": 2 - 1.8 * done / 15,
        "constant": np.full(15, 2.0),
    }[kind]
    np.testing.assert_allclose(found[5:], expected, rtol=1e-6)


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
@pytest.mark.parametrize(("steps", "warmup"), [(10, 0), (1, 0), (1, 100), (3, 100)])
def test_a_schedule_of_a_short_run_is_finite_and_trains(kind, steps, warmup):
    found = rates(steps, schedule=kind, learning_rate=2.0, warmup=warmup)
    assert np.isfinite(found).all() and (found >= 0).all()
    # The last update has a rate above 0 whatever the warm-up.
    assert found[-1] > 0
    if not warmup:
        assert found[0] == 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"average": 1.0}, "average must be at least 0 and below 1, found 1.0"),
        ({"average": -0.1}, "average must be at least 0 and below 1, found -0.1"),
        ({"average": float("nan")}, "average must be at least 0"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"final": -1.0}, "final must be at least 0"),
    ],
)
def test_a_wrong_configuration_is_refused(wrong, message):
    with pytest.raises(ValueError, match=f"^optimiser: {message}"):
        OptimiserConfig(**wrong)


class Pull(AgenticTransformer):
    """Pulls one number towards 1."""

    def loss(self, model, batch, key):
        loss = ((model.kernel[...] - 1) ** 2).sum()
        return loss, {"loss": loss}


def test_an_average_follows_the_parameters():
    model = nnx.Linear(1, 1, use_bias=False, rngs=nnx.Rngs(0))
    nothing = np.zeros((1, 1), np.float32)
    batch = Batch(Tokens(*[nothing] * 9), nothing, nothing)
    rate = optax.sgd(0.1)
    step = make_step(Pull(), model, rate, RULES, average=0.3)
    state = initial_state(model, rate, RULES, seed=0, average=True)

    def number(tree):
        (leaf,) = jax.tree.leaves(tree)
        return float(leaf[0, 0])

    expected = number(state.parameters)
    assert number(state.average) == expected
    for done in range(8):
        state, _ = step(state, batch)
        # At first it forgets faster.
        decay = min(0.3, (1 + done) / (10 + done))
        expected = decay * expected + (1 - decay) * number(state.parameters)
        np.testing.assert_allclose(number(state.average), expected, rtol=1e-5)
    assert number(state.evaluated) == number(state.average) != number(state.parameters)
    # Without one there is nothing to keep.
    plain = initial_state(model, rate, RULES, seed=0)
    assert plain.evaluated is plain.parameters
    assert len(jax.tree.leaves(plain)) == len(jax.tree.leaves(state)) - 1
