import numpy as np
import pytest

from ring_rl.collect import GoalSeekingBehaviour, record
from ring_rl.collect.goal_seeking import _blocked, _next_bends
from ring_rl.envs import make_vector, split_hidden_tasks

OPTIONS = {"step_seconds": 0.4, "goal_radius": 0.03}
# Of noise-free runs: (environment, steps of an episode, steps that a way may take).
ARENAS = [("ring_rl/PointMass-v0", 20, 10), ("ring_rl/PointMassMaze-v0", 40, 24)]


class Straight(GoalSeekingBehaviour):
    """The behaviour without its random steps."""

    def begin(self, task, generator):
        state = super().begin(task, generator)
        state.noise = 0.0
        return state


@pytest.mark.parametrize(("name", "steps", "way"), ARENAS)
def test_every_goal_is_reached_and_held(name, steps, way):
    split = split_hidden_tasks(name, goals=24, held_out=8)
    rows = make_vector(name, 16, seed=0, max_episode_steps=steps, **OPTIONS)
    behaviour = Straight("Maze" in name, 0.4, mistaken=0.0)
    tasks = split.training + split.evaluation
    for episode in record(rows, behaviour, tasks=tasks, seed=0):
        assert (episode.rewards[way:] > 0.5).all(), episode.task


def test_returns_spread_from_nothing_to_the_best():
    split = split_hidden_tasks("ring_rl/PointMass-v0", goals=40)
    rows = make_vector(
        "ring_rl/PointMass-v0", 20, seed=0, max_episode_steps=20, **OPTIONS
    )
    behaviour = GoalSeekingBehaviour(walls=False, step_seconds=0.4)
    tasks = [task for task in split.training for _ in range(3)]
    returns = [e.rewards.sum() for e in record(rows, behaviour, tasks=tasks, seed=0)]
    low, middle, high = np.percentile(returns, [25, 65, 95])
    assert low < 1 and 1 < middle < 12 and high > 13


def test_the_mistaken_go_from_place_to_place():
    behaviour = Straight(walls=False, step_seconds=0.4, mistaken=1.0)
    rows = make_vector(
        "ring_rl/PointMass-v0", 4, seed=0, max_episode_steps=40, **OPTIONS
    )
    for episode in record(rows, behaviour, tasks=["0.1,0.1"] * 4, seed=0):
        # Half of the ways between places are longer than 0.2 metres.
        assert np.ptp(episode.observations[:, :2], axis=0).max() > 0.15
        late = episode.observations[20:, :2]
        assert np.hypot(*np.ptp(late, axis=0)) > 0.05


def test_ways_lead_round_the_walls():
    random = np.random.default_rng(0)
    places = random.uniform(-0.27, 0.27, (2, 400, 2))
    free = (np.abs(places).min(-1) > 0.04).all(0)
    here, there = places[:, free]
    aims = _next_bends(here, there)
    assert not _blocked(here, aims).any()
    direct = ~_blocked(here, there)
    np.testing.assert_array_equal(aims[direct], there[direct])
    # Across the walls, a few straight pieces arrive.
    for _ in range(5):
        here = _next_bends(here, there)
    np.testing.assert_array_equal(here, there)


def test_a_task_that_is_no_place_is_refused():
    behaviour = GoalSeekingBehaviour(walls=True, step_seconds=0.4)
    with pytest.raises(ValueError, match="expected a goal \"x,y\", found 'run'"):
        behaviour.begin("run", np.random.default_rng(0))
