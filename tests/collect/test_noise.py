"""The ladder of noise: what its rungs are."""

import numpy as np
import pytest

from ring_rl.collect import NoiseLadder
from ring_rl.types import Continuous, Discrete

BOX = Continuous((-2.0, 0.0), (2.0, 1.0))
STEADY = np.array([0.5, 0.25], np.float32)


class Steady:
    """Always does the same; its state counts the steps that it was asked for."""

    def begin(self, task, generator):
        return [task, 0]

    def act(self, observations, states):
        for state in states:
            state[1] += 1
        return np.tile(STEADY, (len(states), 1))


def played(ladder, rate, steps, rows=1):
    """Actions `[rows steps A]` of episodes on a rung."""
    states = []
    for row in range(rows):
        state = ladder.begin("walk", np.random.default_rng((1, row)))
        state.rate = rate
        states.append(state)
    seen = np.zeros((rows, 3), np.float32)
    actions = np.stack([ladder.act(seen, states) for _ in range(steps)], 1)
    assert all(state.base == ["walk", steps] for state in states)
    assert actions.dtype == np.float32
    return actions


@pytest.mark.parametrize("noise", ["sticky", "gaussian"])
def test_the_lowest_rung_is_the_base_alone(noise):
    assert (played(NoiseLadder(Steady(), BOX, noise), 0.0, 20) == STEADY).all()


def test_sticky_actions_are_held_as_often_as_the_rung_says():
    ladder = NoiseLadder(Steady(), BOX, hold=4)
    spans = played(ladder, 0.3, 40, rows=100).reshape(1000, 4, 2)
    assert (spans == spans[:, :1]).all()
    disturbed = (spans[:, 0] != STEADY).any(1)
    # Five standard errors of a thousand draws.
    assert abs(disturbed.mean() - 0.3) < 5 * np.sqrt(0.3 * 0.7 / 1000)
    drawn = spans[disturbed, 0]
    assert len(np.unique(drawn[:, 0])) == len(drawn)
    assert (drawn >= [-2, 0]).all() and (drawn <= [2, 1]).all()
    assert drawn[:, 0].min() < -1.5 and drawn[:, 0].max() > 1.5
    highest = played(ladder, 1.0, 40)
    assert (highest != STEADY).any(-1).all()


def test_gaussian_noise_scales_with_the_rung_and_the_range():
    ladder = NoiseLadder(Steady(), BOX, "gaussian")
    noise = played(ladder, 0.1, 200, rows=10) - STEADY
    count = noise[..., 0].size
    for column, half in enumerate([2.0, 0.5]):
        spread = 0.1 * half
        # Five standard errors of a deviation; clipping is 5 deviations away.
        found = noise[..., column].std()
        assert abs(found - spread) < 5 * spread / np.sqrt(2 * count)
    wild = played(ladder, 1.0, 200)
    assert (wild >= [-2, 0]).all() and (wild <= [2, 1]).all()


def test_every_rung_is_drawn_and_the_draw_is_the_episodes_own():
    ladder = NoiseLadder(Steady(), BOX, rungs=5)
    generators = [np.random.default_rng((0, i)) for i in range(200)]
    rates = [ladder.begin("", generator).rate for generator in generators]
    assert sorted(set(rates)) == [0, 0.25, 0.5, 0.75, 1]
    again = [ladder.begin("", np.random.default_rng((0, i))).rate for i in range(200)]
    assert rates == again


def test_discrete_actions_take_sticky_noise_only():
    class Zero(Steady):
        def act(self, observations, states):
            return np.zeros(len(states), np.int32)

    ladder = NoiseLadder(Zero(), Discrete(5))
    state = ladder.begin("", np.random.default_rng(0))
    state.rate = 1.0
    actions = [int(ladder.act(np.zeros((1, 1)), [state])[0]) for _ in range(100)]
    assert set(actions) == {0, 1, 2, 3, 4}
    for options in ({"noise": "gaussian"}, {"noise": "pink"}, {"rungs": 1}):
        with pytest.raises(ValueError, match="expected"):
            NoiseLadder(Zero(), Discrete(5), **options)
