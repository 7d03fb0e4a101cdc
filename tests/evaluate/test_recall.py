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
SORTS = dataclasses.replace(AGENT, recall="ascending")
# Steps that a context which slides holds.
ROOM = 5
# Rows that are left out of a turn: in a trial, and before the first step of one.
PAUSED = {1: 2, 2: 0, 3: 0, 5: 1}


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
    """Actions `[row][trial]` `[steps A]` of rows that play trials of their lengths."""
    actor = begin(agent, devices, TRIALS, **options)
    actions = [[[] for _ in range(TRIALS)] for _ in range(ROWS)]
    trial, step = np.zeros(ROWS, int), np.zeros(ROWS, int)
    turn = 0
    while (trial < TRIALS).any():
        active = (trial < TRIALS) & (np.arange(ROWS) != PAUSED.get(turn))
        turn += 1
        index = np.arange(ROWS), np.minimum(trial, TRIALS - 1)
        taken = actor.act(SEEN[*index, step], active)
        for row in np.flatnonzero(active):
            actions[row][trial[row]].append(taken[row])
        step += active
        ended = active & (step == LENGTHS[index])
        # What rows that do not act are told of is to be ignored: the worst of it.
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


def best(row, trials):
    """The last of a row's trials, as many as there is room for; at least one."""
    steps = np.cumsum(LENGTHS[row, trials][::-1])
    return trials[len(trials) - max(1, (steps <= ROOM).sum()) :]


@pytest.mark.parametrize(
    ("changes", "devices"),
    [
        ({}, 1),
        ({"tokens": TokenConfig(layout="interleaved")}, 4),
        ({"trials_in_context": 3}, 1),
        ({"context_steps": ROOM, "when_full": "slide"}, 1),
    ],
    ids=["one device", "interleaved on a ring of 4", "cleared", "sliding"],
)
def test_every_trial_acts_on_the_earlier_ones_by_return(changes, devices):
    agent = dataclasses.replace(SORTS, **changes)
    actions = play(agent, devices)
    size = agent.trials_in_context or TRIALS
    earned = LENGTHS * REWARDS
    # Before that there is nothing to sort.
    for trial in range(2, TRIALS):
        context = np.arange(trial - trial % size, trial)
        earlier = [context[np.argsort(earned[row, context])] for row in range(ROWS)]
        if "when_full" in changes:
            earlier = [best(row, trials) for row, trials in enumerate(earlier)]
        expected = from_one_chain(agent, devices, trial, earlier, actions)
        for row in range(ROWS):
            np.testing.assert_allclose(actions[row][trial], expected[row], atol=1e-5)


def test_the_order_matters():
    played, by_return = play(AGENT, 1), play(SORTS, 1)
    # Nothing is sorted before there are two; the first row's first two are the wrong
    # way round, and the last row's lie as they should.
    np.testing.assert_allclose(by_return[0][1], played[0][1], atol=1e-5)
    assert np.abs(by_return[0][2] - played[0][2]).max() > 1e-3
    np.testing.assert_allclose(by_return[2][2], played[2][2], atol=1e-5)


def test_demonstrations_are_sorted_with_the_trials():
    # Of returns 2 and 0.75, the wrong way round.
    other = play(AGENT, 1)
    read = chain_of(0, [0, 1], other)
    actions = play(SORTS, 1, demonstrations=[read] * ROWS)
    # After the second row's first two trials, of -1 and 2.
    parts = [
        chain_of(1, [0], actions),
        chain_of(0, [1, 0], other),
        chain_of(1, [1], actions),
    ]
    chain = Chain(*map(np.concatenate, zip(*parts, strict=True)))
    actor = begin(AGENT, 1, 1, demonstrations=[chain] * ROWS)
    everyone, found = np.ones(ROWS, bool), []
    for step in range(LENGTHS[1, 2]):
        found.append(actor.act(np.tile(SEEN[1, 2, step], (ROWS, 1)), everyone)[0])
        actor.observe(np.full(ROWS, REWARDS[1, 2]), ~everyone)
    np.testing.assert_allclose(actions[1][2], np.stack(found), atol=1e-5)


def test_rows_that_cannot_be_read_are_refused_before_they_act():
    mesh = make_mesh(MeshConfig(data=2), jax.devices()[:2])
    model = SORTS.build(SPACES, SCALING, ShardingRules(mesh), seed=0)
    asked = {"trials": 4, "steps": 4, "target_return": 1.0, "temperature": 0.0}
    with pytest.raises(ValueError, match=f"multiple of .*=2, found {ROWS}"):
        Actor(SORTS, model, ROWS, seed=0, **asked)


@pytest.mark.parametrize(
    "changes",
    [
        {"trials_in_context": 2},
        {"tokens": TokenConfig(fields=("observation",), memory="step")},
    ],
)
def test_where_there_is_nothing_to_sort(changes):
    with pytest.raises(ValueError, match="expects several earlier trials"):
        dataclasses.replace(SORTS, **changes)
