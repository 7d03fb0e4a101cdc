"""A batch in parts is the whole batch: the same gradient and metrics, to rounding."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ring_rl.agents import AgenticTransformer
from ring_rl.configs import presets
from ring_rl.data.tokens import pack
from ring_rl.mesh import MeshConfig, ShardingRules, make_mesh
from ring_rl.nn.trunk import TrunkConfig
from ring_rl.train.optimiser import OptimiserConfig, make_optimiser
from ring_rl.train.step import initial_state, make_step
from ring_rl.types import Chain, Discrete, Scaling, Spaces

SPACES = Spaces(3, Discrete(3))
SCALING = Scaling((0.0,) * 3, (1.0,) * 3, 1.0, 1.0)
AGENT = AgenticTransformer(
    trunk=TrunkConfig(layers=1, width=8, heads=2, dtype="float64")
)
ROWS = 8


def make_batch(rules):
    """Rows of which each counts for another weight, one for none, one for a half."""
    random = np.random.default_rng(0)
    chains = []
    for row in range(ROWS):
        steps = 6
        weights = np.zeros(steps, np.float32)
        weights[:row] = 1
        if row == 1:
            weights[0] = 0.5
        actions = random.integers(3, size=steps, dtype=np.int32)
        numbers = random.normal(size=(3, steps)).astype(np.float32)
        observations = random.normal(size=(steps, 3)).astype(np.float32)
        timesteps = np.arange(steps, dtype=np.int32)
        chains.append((row, Chain(observations, actions, *numbers, timesteps, weights)))
    batch = pack(chains, ROWS, 8, AGENT.tokens, SPACES)
    return jax.device_put(batch, rules.sharding(rules.tokens))


def widened(tree):
    def wide(x):
        return x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(wide, tree)


def updated(parts):
    """Metrics of an update in so many parts, and what became of the parameters."""
    with jax.enable_x64(True):
        rules = ShardingRules(
            make_mesh(MeshConfig(data=2, sequence=2), jax.devices()[:4])
        )
        model = AGENT.build(SPACES, SCALING, rules, seed=0)
        nnx.update(model, widened(nnx.state(model)))
        # Not divided by the gradient's size, nor clipped: the gradient itself.
        config = OptimiserConfig("sgd", learning_rate=1.0, warmup=0, clip=1e9)
        rule = make_optimiser(config, 2)
        step = make_step(AGENT, model, rule, rules, accumulate=parts)
        state = initial_state(model, rule, rules, seed=0)
        compiled = step.lower(state, widened(make_batch(rules))).compile()
        temporary = compiled.memory_analysis().temp_size_in_bytes
        state, metrics = compiled(state, widened(make_batch(rules)))
        return (
            {name: float(value) for name, value in metrics.items()},
            [np.asarray(leaf) for leaf in jax.tree.leaves(state.parameters)],
            temporary,
        )


@pytest.mark.slow
def test_the_update_is_that_of_the_whole_batch():
    """Of a transformer, with rows and tokens shared out, in less memory."""
    metrics, parameters, temporary = updated(1)
    found, changed, less = updated(4)
    assert found.keys() == metrics.keys()
    # Every row of another weight: 0 + 0.5 + 2 + 3 + 4 + 5 + 6 + 6.
    assert found["actions"] == metrics["actions"] == 26.5
    for name, value in metrics.items():
        assert found[name] == pytest.approx(value, rel=1e-10), name
    for one, other in zip(changed, parameters, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)
    assert less < temporary


class Line(AgenticTransformer):
    """A linear loss of the kind that agents have, compiled in no time."""

    def loss(self, model, batch, key):
        values = (model(batch.tokens.observation)[..., 0] - 1) ** 2
        loss = (values * batch.weight).sum() / jnp.maximum(batch.weight.sum(), 1)
        noise = jax.random.uniform(key)
        return loss, {"loss": loss, "actions": batch.weight.sum(), "noise": noise}


@pytest.mark.parametrize(("parts", "scale"), [(2, 1.0), (8, 1.0), (4, 0.01)])
def test_parts_count_by_their_weight(parts, scale):
    """Also where all of it is less than the weight of one action."""
    rules = ShardingRules(make_mesh(MeshConfig(data=2, sequence=1), jax.devices()[:2]))
    model = nnx.Linear(3, 1, rngs=nnx.Rngs(0))
    rule = make_optimiser(OptimiserConfig("sgd", learning_rate=1.0, warmup=0), 2)
    batch = make_batch(rules)
    batch = batch._replace(weight=batch.weight * scale)

    def update(parts):
        step = make_step(Line(), model, rule, rules, accumulate=parts)
        return step(initial_state(model, rule, rules, seed=0), batch)

    state, metrics = update(1)
    found, same = update(parts)
    for name in ("loss", "actions", "gradient_norm"):
        assert float(same[name]) == pytest.approx(float(metrics[name]), rel=1e-5)
    for one, other in zip(
        jax.tree.leaves(found.parameters),
        jax.tree.leaves(state.parameters),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
    # Each part draws its own numbers.
    assert float(same["noise"]) != float(metrics["noise"])


def test_rows_that_do_not_divide_are_refused():
    preset = presets()["dark-room"]
    loop = dataclasses.replace(preset.loop, accumulate=3)
    with pytest.raises(ValueError, match="loop.accumulate=3, found 8"):
        dataclasses.replace(preset, loop=loop)
