import itertools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ring_rl.agents import AgenticTransformer
from ring_rl.data.tokens import pack
from ring_rl.mesh import MeshConfig, ShardingRules, make_mesh
from ring_rl.nn.trunk import TrunkConfig
from ring_rl.train.checkpoint import Checkpoints
from ring_rl.train.loop import LoopConfig, train
from ring_rl.train.optimiser import OptimiserConfig
from ring_rl.types import Chain, Continuous, Discrete, Scaling, Spaces

RULES = ShardingRules(make_mesh(MeshConfig(sequence=2), jax.devices()[:2]))
SCALING = Scaling((0.0,) * 3, (1.0,) * 3, 1.0, 1.0)
DISCRETE = Spaces(3, Discrete(3))
CONTINUOUS = Spaces(3, Continuous((-1.0,), (1.0,)))
AGENT = AgenticTransformer(trunk=TrunkConfig(layers=1, width=16, heads=2), bins=5)
STEPS = 6


def make_batch(spaces):
    """Two chains of random steps, and actions with nothing to generalise from."""
    random = np.random.default_rng(0)
    chains = []
    for row in range(2):
        if spaces is DISCRETE:
            actions = random.integers(3, size=STEPS, dtype=np.int32)
        else:
            actions = random.uniform(-1, 1, (STEPS, 1)).astype(np.float32)
        numbers = random.normal(size=(5, STEPS)).astype(np.float32)
        observations = random.normal(size=(STEPS, 3)).astype(np.float32)
        timesteps = np.arange(STEPS, dtype=np.int32)
        ones = np.ones(STEPS, np.float32)
        chain = Chain(observations, actions, *numbers[:3], timesteps, ones)
        chains.append((row, chain))
    batch = pack(chains, 2, STEPS + 2, AGENT.tokens, spaces)
    return jax.device_put(batch, RULES.sharding(RULES.tokens))


def run(spaces, stream, directory, *, agent=AGENT, **loop):
    model = agent.build(spaces, SCALING, RULES, seed=0)
    train(
        agent,
        model,
        stream,
        optimiser=OptimiserConfig(learning_rate=2e-2, warmup=10),
        loop=LoopConfig(**loop),
        directory=directory,
        rules=RULES,
        seed=0,
    )
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return model, [json.loads(line) for line in lines]


@pytest.mark.parametrize("spaces", [DISCRETE, CONTINUOUS], ids=["discrete", "box"])
def test_one_batch_is_learnt_by_heart(spaces, tmp_path):
    batch = make_batch(spaces)
    model, lines = run(
        spaces,
        lambda start, stop: itertools.repeat(batch, stop - start),
        tmp_path,
        steps=120,
        log_every=10,
        checkpoint_every=120,
    )
    assert [line["step"] for line in lines] == list(range(10, 121, 10))
    assert all(math.isfinite(value) for line in lines for value in line.values())
    assert all(line["actions"] == 2 * STEPS for line in lines)
    choices = 3 if spaces is DISCRETE else AGENT.bins
    # It begins near chance and ends knowing every action.
    assert lines[0]["loss"] > 0.5 * math.log(choices)
    assert lines[-1]["loss"] < 0.02
    assert lines[-1]["accuracy"] == 1
    # The model that was passed in holds what was learnt.
    nats, hits = jax.jit(lambda batch: model.losses(batch))(batch)
    weight = np.asarray(batch.weight)
    assert (np.asarray(nats) * weight).sum() / weight.sum() < 0.02
    assert (np.asarray(hits)[weight > 0] == 1).all()


class Line(AgenticTransformer):
    """Learns one linear map, which is compiled in no time."""

    def build(self, spaces, scaling, rules, *, seed):
        return nnx.Linear(3, 1, rngs=nnx.Rngs(seed))

    def loss(self, model, batch, key):
        loss = (model(batch.tokens.observation) ** 2).mean()
        return loss, {"loss": loss}


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    batch = make_batch(DISCRETE)
    observation = np.asarray(batch.tokens.observation).copy()
    observation[0, 0, 0] = np.nan
    broken = batch._replace(tokens=batch.tokens._replace(observation=observation))
    broken = jax.device_put(broken, RULES.sharding(RULES.tokens))

    def stream(start, stop):
        for step in range(start, stop):
            yield broken if step == 4 else batch

    message = "loss: not a finite number in updates 5 to 6"
    with pytest.raises(FloatingPointError, match=message):
        run(
            DISCRETE,
            stream,
            tmp_path,
            agent=Line(),
            steps=8,
            log_every=2,
            checkpoint_every=2,
        )
    # Nothing of it is on disk: neither a line nor a checkpoint.
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4]
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.latest == 4
    checkpoints.close()


class Cliff(Line):
    """A finite loss whose gradient is not: the root of a square that is 0."""

    def loss(self, model, batch, key):
        output = model(batch.tokens.observation)
        loss = jnp.sqrt(((output - output) ** 2).sum())
        return loss, {"loss": loss}


def test_a_gradient_that_is_not_finite_never_reaches_a_checkpoint(tmp_path):
    batch = make_batch(DISCRETE)
    with pytest.raises(FloatingPointError, match="gradient_norm: not a finite"):
        run(
            DISCRETE,
            lambda start, stop: itertools.repeat(batch, stop - start),
            tmp_path,
            agent=Cliff(),
            steps=2,
            log_every=1,
            checkpoint_every=1,
        )
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.latest is None
    checkpoints.close()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "steps and log_every must be at least 1"),
        ({"log_every": 0}, "steps and log_every must be at least 1"),
        ({"log_every": 3, "checkpoint_every": 10}, "a multiple of log_every=3"),
        ({"checkpoint_every": 0}, "checkpoint_every must be a multiple"),
    ],
)
def test_a_wrong_configuration_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        LoopConfig(**wrong)
