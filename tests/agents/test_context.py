"""How much a context holds when acting: it grows, is full, and then fails or slides."""

import jax
import numpy as np
import pytest

from ring_rl.agents import AgenticTransformer, DecisionTransformer, transformer_policy
from ring_rl.data.tokens import TokenConfig
from ring_rl.evaluate.acting import Actor
from ring_rl.mesh import MeshConfig, ShardingRules, make_mesh
from ring_rl.nn.trunk import TrunkConfig
from ring_rl.types import Continuous, Scaling, Spaces

SPACES = Spaces(3, Continuous((-1.0, -1.0), (1.0, 1.0)))
TRUNK = TrunkConfig(layers=1, width=16, heads=2)
ROWS, TRIALS, STEPS = 3, 3, 4


def make_actor(agent, devices=2, trials=TRIALS):
    mesh = make_mesh(MeshConfig(sequence=devices), jax.devices()[:devices])
    scaling = Scaling((0.0,) * 3, (1.0,) * 3, 1.0, 1.0)
    model = agent.build(SPACES, scaling, ShardingRules(mesh), seed=0)
    return Actor(
        agent, model, ROWS, trials=trials, steps=STEPS, target_return=1.0,
        temperature=0.5, seed=0,
    )  # fmt: skip


def play(actor, steps, resting=()):
    """Actions `[steps B A]` of trials of `STEPS` steps; `resting` rows are left out."""
    random, found = np.random.default_rng(0), []
    active = ~np.isin(np.arange(ROWS), resting)
    for step in range(steps):
        observations = random.normal(size=(ROWS, 3)).astype(np.float32)
        found.append(actor.act(observations, active))
        ended = np.full(ROWS, (step + 1) % STEPS == 0)
        actor.observe(random.normal(size=ROWS).astype(np.float32), ended)
    return np.array(found)


@pytest.mark.parametrize("layout", ["fused", "interleaved"])
def test_a_context_grows_as_it_is_acted_in(layout, monkeypatch):
    agent = AgenticTransformer(trunk=TRUNK, tokens=TokenConfig(layout=layout))
    expected = play(make_actor(agent), TRIALS * STEPS)
    monkeypatch.setattr(transformer_policy, "_FIRST_TOKENS", 3)
    places = []
    monkeypatch.setattr(
        AgenticTransformer, "check", lambda _, state: places.append(state.cache.places)
    )
    found = play(make_actor(agent), TRIALS * STEPS)
    # Components are drawn; that many equal ones would be no accident.
    np.testing.assert_array_equal(found, expected)
    stride = agent.tokens.tokens_per_step
    assert 2 < len(set(places)) < 6
    assert places[-1] == TRIALS * STEPS * stride
    for step, count in enumerate(places):
        assert count >= (step + 1) * stride


@pytest.mark.parametrize(("layout", "stride"), [("fused", 1), ("interleaved", 5)])
def test_a_full_context_fails_before_it_acts_on_less(layout, stride):
    tokens = TokenConfig(layout=layout)
    agent = AgenticTransformer(trunk=TRUNK, tokens=tokens, context_steps=6)
    assert len(play(make_actor(agent), 6)) == 6
    message = (
        rf"at most {6 * stride} tokens \({stride} a step\), found longer ones in rows "
        r"0, 2; give a larger context_steps"
    )
    with pytest.raises(ValueError, match=message):
        play(make_actor(agent), 7, resting=[1])
    # As long as trials of their own are, contexts never are full.
    fields = ("target_return", "observation", "action")
    alone = DecisionTransformer(trunk=TRUNK, tokens=TokenConfig(layout, fields))
    assert len(play(make_actor(alone), TRIALS * STEPS)) == TRIALS * STEPS


def test_more_than_was_announced_fails_too():
    actor = make_actor(AgenticTransformer(trunk=TRUNK), trials=1)
    with pytest.raises(ValueError, match="at most 4 tokens"):
        play(actor, STEPS + 1)


def test_a_context_that_slides_goes_on():
    agent = AgenticTransformer(trunk=TRUNK, context_steps=3, when_full="slide")
    long = AgenticTransformer(trunk=TRUNK)
    slid, whole = (play(make_actor(one), TRIALS * STEPS) for one in (agent, long))
    np.testing.assert_array_equal(slid[:3], whole[:3])
    assert (slid[3:] != whole[3:]).any()


@pytest.mark.parametrize(
    "given", [{"context_steps": -1}, {"bins": 1}, {"trials_in_context": -1}]
)
def test_sizes_that_make_no_sense(given):
    ((name, value),) = given.items()
    with pytest.raises(ValueError, match=rf"{name}.* at least .*{value}"):
        AgenticTransformer(**given)
