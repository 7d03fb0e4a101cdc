import dataclasses
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


OPTIMISER = OptimiserConfig(learning_rate=2e-2, warmup=10)


def run(
    spaces,
    stream,
    directory,
    *,
    agent=AGENT,
    optimiser=OPTIMISER,
    contents=None,
    **loop,
):
    model = agent.build(spaces, SCALING, RULES, seed=0)
    train(
        agent,
        model,
        stream,
        optimiser=optimiser,
        loop=LoopConfig(**loop),
        directory=directory,
        rules=RULES,
        seed=0,
        contents=contents,
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


def break_off(batch):
    """The batch with one observation that is no number."""
    observation = np.asarray(batch.tokens.observation).copy()
    observation[0, 0, 0] = np.nan
    broken = batch._replace(tokens=batch.tokens._replace(observation=observation))
    return jax.device_put(broken, RULES.sharding(RULES.tokens))


def breaking(*steps):
    """A stream of which the batches of some steps are broken."""
    batch = make_batch(DISCRETE)
    broken = break_off(batch)

    def stream(start, stop):
        for step in range(start, stop):
            yield broken if step in steps else batch

    return stream


def latest(directory):
    checkpoints = Checkpoints(directory / "checkpoints")
    checkpoints.close()
    return checkpoints.latest


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    with pytest.raises(FloatingPointError) as error:
        run(
            DISCRETE,
            breaking(4),
            tmp_path,
            agent=Line(),
            contents=lambda step: f"has the episodes of step {step}",
            steps=12,
            log_every=3,
            checkpoint_every=4,
        )
    # The update, its batch and what there is to go back to, though it is found later.
    assert str(error.value).startswith(
        "gradient_norm, loss: not a finite number in update 5; its batch has the "
        "episodes of step 4; the last good checkpoint is "
        f"{tmp_path / 'checkpoints' / '4'}; "
    )
    # Nothing of it is on disk: neither a line nor a checkpoint.
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [3]
    assert latest(tmp_path) == 4


def test_a_checkpoint_between_two_lines_is_never_of_a_broken_update(tmp_path):
    """Found before the line in which it would be."""
    with pytest.raises(FloatingPointError, match="in update 3; .*no checkpoint yet"):
        run(
            DISCRETE,
            breaking(2),
            tmp_path,
            agent=Line(),
            steps=12,
            log_every=6,
            checkpoint_every=4,
        )
    assert latest(tmp_path) is None


def test_a_batch_that_breaks_the_loss_is_left_out(tmp_path, capsys):
    """Training goes on as if the others were all there are."""
    sizes = {"agent": Line(), "log_every": 3, "checkpoint_every": 4}
    skip = {**sizes, "on_nonfinite": "skip"}
    model, lines = run(
        DISCRETE, breaking(2, 4, 6, 7, 8), tmp_path / "a", steps=12, **skip
    )
    assert [line["skipped"] for line in lines] == [1, 1, 3, 0]
    assert lines[2] == {"step": 9, "skipped": 3}
    said = capsys.readouterr().err
    assert "skipped update 3; its batch is that of step 2; there is no" in said
    assert "skipped update 9; " in said
    # The mean is over what was applied: updates 1 and 2 of 3.
    parameters = jax.tree.leaves(nnx.state(model))
    clean, applied = run(DISCRETE, breaking(), tmp_path / "b", steps=12, **skip)
    assert lines[0]["loss"] != applied[0]["loss"]
    assert all(np.isfinite(x).all() for x in parameters)
    # Seven updates of the same batch, whatever stood between them. The learning rate
    # is that of updates that were applied.
    _, seven = run(
        DISCRETE, breaking(), tmp_path / "c", steps=12, **{**skip, "log_every": 1}
    )
    losses = [line["loss"] for line in seven]
    np.testing.assert_allclose(lines[0]["loss"], np.mean(losses[:2]), rtol=1e-12)
    np.testing.assert_allclose(lines[1]["loss"], np.mean(losses[2:4]), rtol=1e-12)
    np.testing.assert_allclose(lines[3]["loss"], np.mean(losses[4:7]), rtol=1e-12)


def test_parts_and_an_average_go_through_the_loop_and_a_resume(tmp_path):
    sizes = {"agent": Line(), "steps": 12, "log_every": 3, "checkpoint_every": 5}
    averaged = {**sizes, "optimiser": dataclasses.replace(OPTIMISER, average=0.9)}
    plain, lines = run(DISCRETE, breaking(), tmp_path / "plain", **sizes)
    parts = {**averaged, "accumulate": 2}
    model, same = run(DISCRETE, breaking(), tmp_path / "parts", **parts)
    for one, other in zip(lines, same, strict=True):
        assert other == pytest.approx(one, rel=1e-5)
    # What acts is the average, which is somewhere else.
    acting = jax.tree.leaves(nnx.state(model))
    assert not any(
        np.allclose(one, other, rtol=1e-3)
        for one, other in zip(acting, jax.tree.leaves(nnx.state(plain)), strict=True)
    )

    def killed(start, stop):
        yield from itertools.islice(breaking()(start, stop), 7)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(DISCRETE, killed, tmp_path / "again", **parts)
    again, continued = run(DISCRETE, breaking(), tmp_path / "again", **parts)
    assert continued == same
    for one, other in zip(acting, jax.tree.leaves(nnx.state(again)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_best_metric_that_is_not_measured_is_refused(tmp_path):
    message = "best_metric must be one of gradient_norm, loss, found 'accuracy'"
    with pytest.raises(ValueError, match=message):
        run(
            DISCRETE,
            breaking(),
            tmp_path,
            agent=Line(),
            steps=2,
            best_metric="accuracy",
        )


def test_a_run_keeps_its_best_checkpoint(tmp_path):
    """By the last line up to it: that of update 2 for the checkpoint of update 3."""
    _, lines = run(
        DISCRETE, breaking(), tmp_path, agent=Line(), steps=12, log_every=2,
        checkpoint_every=3, keep=1, best_metric="loss", best_value="highest",
    )  # fmt: skip
    assert max(line["loss"] for line in lines) == lines[0]["loss"]
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {"3", "12"}


class Cliff(Line):
    """A finite loss whose gradient is not: the root of a square that is 0."""

    def loss(self, model, batch, key):
        output = model(batch.tokens.observation)
        loss = jnp.sqrt(((output - output) ** 2).sum())
        return loss, {"loss": loss}


def test_a_gradient_that_is_not_finite_never_reaches_a_checkpoint(tmp_path):
    batch = make_batch(DISCRETE)

    def stream(start, stop):
        return itertools.repeat(batch, stop - start)

    sizes = {"agent": Cliff(), "steps": 2, "log_every": 1, "checkpoint_every": 1}
    with pytest.raises(FloatingPointError, match="gradient_norm: not a finite"):
        run(DISCRETE, stream, tmp_path, **sizes)
    assert latest(tmp_path) is None
    # Nor where it is skipped: nothing changes.
    model, lines = run(DISCRETE, stream, tmp_path / "a", on_nonfinite="skip", **sizes)
    assert [line["skipped"] for line in lines] == [1, 1]
    new = Cliff().build(DISCRETE, SCALING, RULES, seed=0)
    for one, other in zip(
        jax.tree.leaves(nnx.state(model)), jax.tree.leaves(nnx.state(new)), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_a_state_that_is_not_finite_never_reaches_a_checkpoint(tmp_path):
    """Loss and gradient are; what decays by more than float32 holds is not."""
    sizes = {
        "agent": Line(),
        "optimiser": OptimiserConfig(learning_rate=1e30, weight_decay=1e30, warmup=0),
        "steps": 1,
    }
    with pytest.raises(FloatingPointError, match="not finite after update 1, though"):
        run(DISCRETE, breaking(), tmp_path, **sizes)
    assert latest(tmp_path) is None
    _, (line,) = run(DISCRETE, breaking(), tmp_path / "a", on_nonfinite="skip", **sizes)
    assert line == {"step": 1, "skipped": 1}
    assert latest(tmp_path / "a") == 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, found 0"),
        ({"log_every": 0}, "log_every must be at least 1, found 0"),
        ({"checkpoint_every": 0}, "checkpoint_every must be at least 1, found 0"),
    ],
)
def test_a_wrong_configuration_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        LoopConfig(**wrong)
