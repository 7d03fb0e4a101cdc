"""A context that is read anew before each trial holds its trials in the order asked."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ring_rl.agents import AgenticTransformer
from ring_rl.data.tokens import TokenConfig
from ring_rl.evaluate.acting import Actor
from ring_rl.mesh import MeshConfig, ShardingRules, make_mesh
from ring_rl.nn.trunk import TrunkConfig
from ring_rl.types import Chain, Continuous, Scaling, Spaces

SPACES = Spaces(3, Continuous((-1.0, -1.0), (1.0, 1.0)))
SCALING = Scaling((0.1, 0.0, -0.2), (1.0, 2.0, 0.5), 4.0, 2.0)
# Environment steps of four trials in each row, which end at turns of their own but for
# the first, and what each of a trial's steps earns.
LENGTHS = np.array([[2, 3, 1, 2], [2, 1, 2, 4], [2, 2, 5, 1]])
REWARDS = np.array([[1.0, 0.25, -1.0, 0.0], [-0.5, 2.0, 0.5, 0.0], [0.5, 0.5, 0.1, 0]])
ROWS, TRIALS = LENGTHS.shape
LONGEST = int(LENGTHS.max())
SEEN = np.random.default_rng(0).normal(size=(ROWS, TRIALS, LONGEST, 3))
SEEN = SEEN.astype(np.float32)
TOLD = 1.5
AGENT = AgenticTransformer(trunk=TrunkConfig(layers=2, width=16, heads=2))


@dataclasses.dataclass(frozen=True)
class SmoothActions:
    """Stands in for the action head: actions that show the slightest difference."""

    space: Any

    def act(self, key, logits, temperature):
        return jnp.tanh(logits[:, :2])


@functools.cache
def build(agent, devices):
    mesh = make_mesh(MeshConfig(sequence=devices), jax.devices()[:devices])
    model = agent.build(SPACES, SCALING, ShardingRules(mesh), seed=0)
    model.head = SmoothActions(SPACES.action)
    return model


def begin(agent, devices, trials, **options):
    return Actor(
        agent,
        build(dataclasses.replace(agent, recall="played"), devices),
        ROWS,
        trials=trials,
        steps=LONGEST,
        target_return=TOLD,
        temperature=0.0,
        seed=0,
        **options,
    )


def play(agent, devices, **options):
    """Actions `[row][trial]` `[steps A]`; rows go on to their next trial at once."""
    actor = begin(agent, devices, TRIALS, **options)
    actions = [[[] for _ in range(TRIALS)] for _ in range(ROWS)]
    trial, step = np.zeros(ROWS, int), np.zeros(ROWS, int)
    while (trial < TRIALS).any():
        active = trial < TRIALS
        index = np.arange(ROWS), np.minimum(trial, TRIALS - 1)
        taken = actor.act(SEEN[*index, step], active)
        for row in np.flatnonzero(active):
            actions[row][trial[row]].append(taken[row])
        step += active
        ended = active & (step == LENGTHS[index])
        # What rows that rest are told of is to be ignored: the worst of it.
        actor.observe(np.where(active, REWARDS[index], 99), ended | ~active)
        trial, step = trial + ended, np.where(ended, 0, step)
    return [[np.stack(steps) for steps in row] for row in actions]


def chain_of(row, trials, actions):
    """The trials of a row as it played them, one after the other."""
    steps = [SEEN[row, trial, : LENGTHS[row, trial]] for trial in trials]
    acted = [actions[row][trial] for trial in trials]
    times = [np.arange(len(seen), dtype=np.int32) for seen in steps]
    earned = np.repeat(REWARDS[row, trials], LENGTHS[row, trials])
    nothing = np.zeros(len(earned), np.float32)
    return Chain(
        np.concatenate([SEEN[row, 0, :0], *steps]),
        np.concatenate([actions[row][0][:0], *acted]),
        earned.astype(np.float32),
        nothing,
        nothing,
        np.concatenate([np.zeros(0, np.int32), *times]),
        nothing,
    )


def from_one_chain(agent, devices, trial, earlier, actions):
    """Actions `[row]` of a trial by new rows that read the earlier ones in this order.

    `earlier` has the trials of each row.
    """
    chains = [chain_of(row, earlier[row], actions) for row in range(ROWS)]
    actor = begin(
        dataclasses.replace(agent, recall="played", trials_in_context=0),
        devices,
        1,
        demonstrations=chains,
    )
    found = [[] for _ in range(ROWS)]
    for step in range(LENGTHS[:, trial].max()):
        active = step < LENGTHS[:, trial]
        # The head draws nothing: it does again what it did then.
        taken = actor.act(SEEN[:, trial, step], active)
        for row in np.flatnonzero(active):
            found[row].append(taken[row])
        actor.observe(REWARDS[:, trial], ~active)
    return [np.stack(steps) for steps in found]


@pytest.mark.parametrize(
    ("changes", "devices"),
    [
        ({}, 1),
        ({"tokens": TokenConfig(layout="interleaved")}, 4),
        ({"trials_in_context": 3}, 1),
        ({"context_steps": 4, "when_full": "slide"}, 1),
    ],
    ids=["one device", "interleaved on a ring of 4", "cleared", "sliding"],
)
def test_every_trial_acts_on_the_earlier_ones_by_return(changes, devices):
    agent = dataclasses.replace(AGENT, recall="ascending", **changes)
    actions = play(agent, devices)
    size = agent.trials_in_context or TRIALS
    earned = LENGTHS * REWARDS
    # Before that there is nothing to sort.
    for trial in range(2, TRIALS):
        context = np.arange(trial - trial % size, trial)
        earlier = [context[np.argsort(earned[row, context])] for row in range(ROWS)]
        expected = from_one_chain(agent, devices, trial, earlier, actions)
        for row in range(ROWS):
            np.testing.assert_allclose(actions[row][trial], expected[row], atol=1e-5)


def test_the_order_matters():
    played = play(AGENT, 1)
    sorted_ = play(dataclasses.replace(AGENT, recall="ascending"), 1)
    # Nothing is sorted before there are two; the first row's first two are the wrong
    # way round, and the last row's lie as they should.
    np.testing.assert_allclose(sorted_[0][1], played[0][1], atol=1e-5)
    assert np.abs(sorted_[0][2] - played[0][2]).max() > 1e-3
    np.testing.assert_allclose(sorted_[2][2], played[2][2], atol=1e-5)


def test_demonstrations_are_sorted_with_the_trials():
    agent = dataclasses.replace(AGENT, recall="ascending")
    actions = play(AGENT, 1)
    # Of returns 0.75 and 2, the wrong way round.
    read = [chain_of(0, [0, 1], actions)] * ROWS
    turned = [chain_of(0, [1, 0], actions)] * ROWS
    for one, other in zip(
        play(agent, 1, demonstrations=read),
        play(agent, 1, demonstrations=turned),
        strict=True,
    ):
        for steps, same in zip(one, other, strict=True):
            np.testing.assert_allclose(steps, same, atol=1e-5)
