"""Rewards for being at a goal, on positions whose distances are known."""

import numpy as np
import pytest

from ring_rl.collect import UniformBehaviour, record
from ring_rl.data.goals import GoalRewards
from ring_rl.data.relabel import relabel_episodes
from ring_rl.envs import make_vector
from ring_rl.types import Continuous, Episode, Spaces

SPACES = Spaces(4, Continuous((-1.0, -1.0), (1.0, 1.0)))


@pytest.fixture
def episode(make_episode) -> Episode:
    """Along x: 0, 1, 2, 3, and 4 in the end; y is 1, and two velocities follow."""
    path = np.array([[x, 1, 9, 9] for x in range(5)], np.float32)
    return make_episode(
        4, spaces=SPACES, observations=path[:-1], final_observation=path[-1], extras={}
    )


def rewards_of(relabelling: GoalRewards, episode: Episode) -> list[float]:
    return relabelling.rewards(*relabelling.inputs(episode)).tolist()


def test_a_step_is_paid_for_where_it_ends(episode):
    assert rewards_of(GoalRewards((3.0, 1.0), 0.5), episode) == [0, 0, 1, 0]
    # The last step ends at the final observation.
    assert rewards_of(GoalRewards((4.0, 1.0), 0.0), episode) == [0, 0, 0, 1]
    # Where the episode starts brings nothing.
    assert rewards_of(GoalRewards((0.0, 1.0), 0.5), episode) == [0, 0, 0, 0]
    # The radius itself is inside.
    assert rewards_of(GoalRewards((2.0, 1.0), 1.0), episode) == [1, 1, 1, 0]


def test_the_margin_leaves_a_tenth_at_its_end(episode):
    goal = GoalRewards((4.0, 1.0), 1.0, margin=2.0)
    # Beyond the radius by 2, 1, 0 and nothing; half the margin leaves the root of root.
    expected = [0.1, 0.1**0.25, 1, 1]
    assert rewards_of(goal, episode) == pytest.approx(expected)


def test_columns_are_taken_in_the_order_of_the_goal(episode):
    swapped = GoalRewards((1.0, 3.0), 0.0, columns=(1, 0))
    assert rewards_of(swapped, episode) == [0, 0, 1, 0]
    assert swapped.task(episode) == "goal 1,3"


def test_positions_can_be_in_an_extra_after_the_step(episode):
    physics = np.array([[0.0, 7.0], [0.0, 8.0], [0.0, 9.0], [0.0, 9.5]])
    episode = episode._replace(extras={"physics": physics}, has_final_observation=False)
    goal = GoalRewards((9.0,), 0.4, columns=(1,), extra="physics")
    assert rewards_of(goal, episode) == [0, 0, 1, 0]


def test_the_goal_can_be_the_one_that_was_recorded(episode):
    goals = np.tile(np.float32([2, 1]), (4, 1))
    episode = episode._replace(extras={"infos/goal": goals})
    recorded = GoalRewards("infos/goal", 0.1)
    assert rewards_of(recorded, episode) == [0, 1, 0, 0]
    assert recorded.task(episode) == "goal 2,1"
    goals[3] = 0
    with pytest.raises(
        ValueError, match="one goal an episode, found another at step 3"
    ):
        recorded.inputs(episode)


def test_a_dark_room_relabelled_is_the_room_of_that_goal():
    def recorded(task: str) -> list[Episode]:
        room = make_vector("ring_rl/DarkRoom-v0", 4, seed=0, size=3, max_steps=12)
        behaviour = UniformBehaviour(room.spaces.action)
        return list(record(room, behaviour, tasks=[task] * 20, seed=0))

    # Cells are one-hot x and y: two that differ are at least the root of 2 apart.
    cell = tuple(float(column in (2, 3 + 1)) for column in range(6))
    goal = GoalRewards(cell, radius=0.5, name="2,1")
    relabelled = list(relabel_episodes(recorded("0,2"), goal))
    online = recorded("2,1")
    assert sum(episode.rewards.sum() for episode in online) > 0
    for one, other in zip(relabelled, online, strict=True):
        np.testing.assert_array_equal(one.rewards, other.rewards, strict=True)
        assert one.task == other.task


@pytest.mark.parametrize(
    "goal, message",
    [
        (GoalRewards((1.0, 1.0), 1.0, columns=(0, 4)), "columns 0, 4, found 0 to 3$"),
        (GoalRewards((1.0,) * 5, 1.0), "columns 0, 1, 2, 3, 4, found 0 to 3$"),
        (GoalRewards((1.0,), 1.0, extra="physics"), r"'physics', found \[\]$"),
        (GoalRewards("infos/goal", 1.0), r"'infos/goal', found \[\]$"),
    ],
)
def test_what_an_episode_lacks_is_named(episode, goal, message):
    with pytest.raises(ValueError, match=message):
        goal.inputs(episode)


def test_a_last_step_that_ended_nobody_knows_where_is_refused(episode):
    with pytest.raises(ValueError, match="^final_observation: expected one"):
        GoalRewards((1.0,), 1.0).inputs(episode._replace(has_final_observation=False))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"goal": (), "radius": 1.0}, "finite coordinates"),
        ({"goal": (np.inf,), "radius": 1.0}, "finite coordinates"),
        ({"goal": (1.0,), "radius": -1.0}, "from 0, found -1.0"),
        ({"goal": (1.0,), "radius": np.nan}, "from 0, found nan"),
        ({"goal": (1.0,), "radius": 1.0, "margin": -1.0}, "0, found 1.0 and -1.0"),
        ({"goal": (1.0,), "radius": 1.0, "columns": (0, 1)}, "expected 1, .*found 2"),
    ],
)
def test_impossible_goals_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        GoalRewards(**arguments)
