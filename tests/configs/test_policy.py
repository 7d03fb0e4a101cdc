"""A loaded policy in loops of one's own, with Gymnasium's vector environments."""

import functools

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import ring_rl
from ring_rl.agents import AgenticTransformer
from ring_rl.configs import loading
from ring_rl.configs.datasets import Derived
from ring_rl.configs.run import Gymnasium, RunConfig
from ring_rl.configs.sources import Dataset
from ring_rl.envs import make_vector
from ring_rl.evaluate.rollout import rollout
from ring_rl.mesh import MeshConfig, ShardingRules, make_mesh
from ring_rl.nn.trunk import TrunkConfig
from ring_rl.types import Discrete, Scaling, Spaces

ROWS, TRIALS, STEPS = 3, 3, 40
AGENT = AgenticTransformer(trunk=TrunkConfig(layers=1, width=8, heads=2))
CONFIG = RunConfig("pole", AGENT, Dataset(), Gymnasium("CartPole-v1"))
SPACES = Spaces(4, Discrete(2))
DERIVED = Derived(SPACES, Scaling((0.0,) * 4, (1.0,) * 4, 20.0, 1.0), 20.0, "", 1, 1)


@pytest.fixture
def policy(monkeypatch):
    model = AGENT.build(
        SPACES, DERIVED.scaling, ShardingRules(make_mesh(MeshConfig())), seed=0
    )
    monkeypatch.setattr(
        loading, "load_model", lambda run, checkpoint: (CONFIG, DERIVED, model)
    )
    policy = ring_rl.load("a run")
    policy.reset(ROWS, trials=TRIALS, steps=STEPS, seed=5)
    return policy


@pytest.fixture
def expected(policy):
    """Lengths of the episodes of our own rollout, with the seeds of its rows."""
    rows = make_vector("CartPole-v1", ROWS, seed=0, max_episode_steps=STEPS)
    found = rollout(
        AGENT,
        policy._model,
        rows,
        trials=TRIALS,
        target_return=20.0,
        temperature=1.0,
        seed=5,
    )
    assert len(set(found.lengths.sum(axis=1))) > 1, "rows end at different times"
    return found.lengths.tolist()


def pole(mode):
    make = functools.partial(gymnasium.make, "CartPole-v1", max_episode_steps=STEPS)
    environment = SyncVectorEnv([make] * ROWS, autoreset_mode=mode)
    seeds = [int(np.random.SeedSequence((0, row)).generate_state(1)[0])
             for row in range(ROWS)]  # fmt: skip
    return environment, environment.reset(seed=seeds)[0]


def test_without_automatic_resets_it_acts_as_in_a_rollout(policy, expected):
    environment, observations = pole(AutoresetMode.DISABLED)
    lengths = [[0] for _ in range(ROWS)]
    while min(map(len, lengths)) <= TRIALS:
        actions = policy.act(observations)
        observations, rewards, terminated, truncated, _ = environment.step(actions)
        policy.observe(rewards.astype(np.float32), terminated, truncated)
        over = terminated | truncated
        for row in range(ROWS):
            lengths[row][-1] += 1
            lengths[row] += [0] * int(over[row])
        if over.any():
            observations, _ = environment.reset(options={"reset_mask": over})
    assert [row[:TRIALS] for row in lengths] == expected


def test_with_automatic_resets_rows_sit_them_out(policy, expected):
    environment, observations = pole(AutoresetMode.NEXT_STEP)
    lengths, over = [[0] for _ in range(ROWS)], np.zeros(ROWS, bool)
    while min(map(len, lengths)) <= TRIALS:
        before = over
        actions = policy.act(observations, ~over)
        observations, rewards, terminated, truncated, _ = environment.step(actions)
        policy.observe(rewards.astype(np.float32), terminated, truncated)
        over = terminated | truncated
        for row in np.flatnonzero(~before):
            lengths[row][-1] += 1
            lengths[row] += [0] * int(over[row])
    # Pauses shift a row's draws: only until the first end are they the same.
    assert min(row[0] for row in lengths) == min(row[0] for row in expected)
    # What came of the last step enters the context with the next turn.
    policy.act(observations, np.zeros(ROWS, bool))
    # As many steps in the context as were taken in trials: none of a reset's.
    steps = [sum(row[:TRIALS]) for row in lengths]
    np.testing.assert_array_equal(policy._actor._state.steps, steps)
